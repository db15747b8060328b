package app

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/cmd/internal/cliargs"
)

// What stands behind the host (and name) is somebody else's command line.
func TestForeign(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"exec kvm1 virsh list --all", "exec -- kvm1 virsh list --all"},
		{"exec kvm1 -- virsh --lab y", "exec -- kvm1 virsh --lab y"},
		{"exec kvm1 --lab x -- ls -o", "exec --lab=x -- kvm1 ls -o"},
		{"exec --lab x kvm1 ls -o json", "exec --lab=x -- kvm1 ls -o json"},
		{"exec kvm1 sh -c -- true", "exec -- kvm1 sh -c -- true"},
		{"spawn kvm1 agent --restart -- prog --restart x", "spawn --restart -- kvm1 agent prog --restart x"},
		{"spawn --restart kvm1 agent prog --lab y", "spawn --restart -- kvm1 agent prog --lab y"},
		{"drover run host list -o json", "drover run -- host list -o json"},
		{"drover run --lab x host list -o json", "drover run --lab=x -- host list -o json"},
		{"signal kvm1 agent -9 --lab x", "signal --lab=x -- kvm1 agent -9"},
	} {
		got, err := cliargs.Arrange(newApp(io.Discard, io.Discard), strings.Fields("drover-lab "+tc.in), foreign)
		if err != nil || strings.Join(got[1:], " ") != tc.want {
			t.Errorf("%s: got %q, %v, want %q", tc.in, got, err, tc.want)
		}
	}
}

func TestFlagsTakeEffectAfterArguments(t *testing.T) {
	// An impossible lab name makes the flag's effect visible without a lab.
	for _, line := range []string{
		"env kvm1 --lab IMPOSSIBLE", "guest stop g1 --lab IMPOSSIBLE", "cut kvm1 --lab IMPOSSIBLE", "probe g1 --lab IMPOSSIBLE",
		"kill --lab IMPOSSIBLE kvm1", "--lab IMPOSSIBLE down",
	} {
		a := newApp(io.Discard, io.Discard)
		err := run(t.Context(), a, strings.Fields("drover-lab "+line))
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "IMPOSSIBLE") {
			t.Errorf("%s: got %v, want a complaint about the lab's name", line, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]syscall.Signal{"KILL": 9, "sigterm": 15, "Stop": syscall.SIGSTOP, "9": 9} {
		if got, err := parseSignal(in); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-9", "NONE", "99"} {
		if _, err := parseSignal(in); !errors.Is(err, errUsage) {
			t.Errorf("parseSignal(%q): got %v, want a usage error", in, err)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, line := range []string{
		"nonsense", "guest nonsense", "up --bogus", "up extra", "up --shape fast", "up --memory much", "up --cpus -1", "up --hosts 0", "up --hosts 1000", "down extra",
	} {
		a := newApp(io.Discard, io.Discard)
		if err := run(t.Context(), a, strings.Fields("drover-lab "+line)); !errors.Is(err, errUsage) {
			t.Errorf("%s: got %v, want a usage error", line, err)
		}
	}
}

func TestNetworks(t *testing.T) {
	var names []string
	for _, in := range []string{"both", "mgmt", "migration"} {
		ns, err := networks(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range ns {
			names = append(names, n.Name)
		}
	}
	if diff := cmp.Diff([]string{"mgmt", "migration", "mgmt", "migration"}, names); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	if _, err := networks("wifi"); !errors.Is(err, errUsage) {
		t.Errorf("networks(wifi): got %v, want a usage error", err)
	}
}
