package app

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReorder(t *testing.T) {
	a := newApp(io.Discard, io.Discard)
	for _, tc := range []struct{ in, want string }{
		{"up --hosts 3", "up --hosts 3"},
		{"--lab x up --hosts 3", "up --lab x --hosts 3"},
		{"env kvm1 -o json", "env -o json -- kvm1"},
		{"env -o json kvm1", "env -o json -- kvm1"},
		{"env kvm1 -o=json --lab x", "env -o=json --lab x -- kvm1"},
		{"guest start g1 --host kvm2 --transient --lab x", "guest start --host kvm2 --transient --lab x -- g1"},
		{"guest --lab x start --transient g1 --host kvm2", "guest start --lab x --transient --host kvm2 -- g1"},
		{"shape all 400mbit --lab x", "shape --lab x -- all 400mbit"},
		{"signal kvm1 agent -9 --lab x", "signal --lab x -- kvm1 agent -9"},
		{"probe g1 --for 3s", "probe --for 3s -- g1"},
		// Everything behind the host (and name) is somebody else's command line.
		{"exec kvm1 virsh list --all", "exec -- kvm1 virsh list --all"},
		{"exec kvm1 -- virsh --lab y", "exec -- kvm1 virsh --lab y"},
		{"exec kvm1 --lab x -- ls -o", "exec --lab x -- kvm1 ls -o"},
		{"exec --lab x kvm1 ls -o json", "exec --lab x -- kvm1 ls -o json"},
		{"exec kvm1 sh -c -- true", "exec -- kvm1 sh -c -- true"},
		{"spawn kvm1 agent --restart -- prog --restart x", "spawn --restart -- kvm1 agent prog --restart x"},
		{"spawn --restart kvm1 agent prog --lab y", "spawn --restart -- kvm1 agent prog --lab y"},
		{"drover run host list -o json", "drover run -- host list -o json"},
		// Mistakes are left to the library.
		{"up --bogus x", "up --bogus -- x"},
		{"nonsense --lab x", "nonsense --lab x"},
		{"guest", "guest"},
		{"env --lab", "env --lab"},
	} {
		got := strings.Join(reorder(a, strings.Fields("drover-lab "+tc.in))[1:], " ")
		if got != tc.want {
			t.Errorf("reorder(%q)\n got %q\nwant %q", tc.in, got, tc.want)
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
		err := a.Run(reorder(a, strings.Fields("drover-lab "+line)))
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
		"nonsense", "guest nonsense", "up --bogus", "up extra", "up --shape fast", "up --memory much", "up --cpus -1", "down extra",
	} {
		a := newApp(io.Discard, io.Discard)
		if err := a.Run(reorder(a, strings.Fields("drover-lab "+line))); !errors.Is(err, errUsage) {
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
