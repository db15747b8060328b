package netns

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
)

func TestAddressPlan(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range Networks() {
		for h := 0; h <= MaxHosts; h++ {
			a := n.Addr(h)
			if !n.prefix.Contains(a) || seen[a.String()] {
				t.Fatalf("%s address of host %d is %v: outside or taken", n.Name, h, a)
			}
			seen[a.String()] = true
		}
		if p := n.Port(fmt.Sprintf("kvm%d", MaxHosts)); len(p) > 15 {
			t.Errorf("interface name %q is longer than the kernel takes", p)
		}
	}
	if got := Mgmt.Addr(1).String(); got != "10.77.0.11" {
		t.Errorf("first host is at %s, want 10.77.0.11", got)
	}
}

func TestHostsFile(t *testing.T) {
	want := "127.0.0.1 localhost\n10.77.0.1 control\n10.77.0.11 kvm1\n10.78.0.11 kvm1-mig\n10.77.0.12 kvm2\n10.78.0.12 kvm2-mig\n"
	if diff := cmp.Diff(want, HostsFile([]string{"kvm1", "kvm2"})); diff != "" {
		t.Errorf("hosts file (-want +got):\n%s", diff)
	}
}

func TestShapeBatch(t *testing.T) {
	for _, tc := range []struct {
		rate hypervisor.BytesPerSecond
		want string
	}{
		{50_000_000, "qdisc replace dev mig0 root tbf rate 400000000bit burst 524288 latency 100ms\n"},
		{1_250_000_000, "qdisc replace dev mig0 root tbf rate 10000000000bit burst 12500000 latency 100ms\n"},
		{0, "qdisc del dev mig0 root\n"},
	} {
		if got := shapeBatch("mig0", tc.rate); got != tc.want {
			t.Errorf("shapeBatch(%v) = %q, want %q", tc.rate, got, tc.want)
		}
	}
}

func TestParseCounters(t *testing.T) {
	table := `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  mig0:164000123    3064    0    2    0     0          0         0   172000    2648    0    7    0     0       0          0
`
	got, err := parseCounters(table, "mig0")
	want := Counters{RxBytes: 164000123, RxPackets: 3064, RxDropped: 2, TxBytes: 172000, TxPackets: 2648, TxDropped: 7}
	if err != nil || got != want {
		t.Errorf("parseCounters = %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseCounters(table, "mig"); err == nil {
		t.Error("parseCounters of a missing interface: want an error")
	}
	if _, err := parseCounters("mig0: 1 2 3", "mig0"); err == nil {
		t.Error("parseCounters of a short line: want an error")
	}
}

func TestDoLeavesThisProcessAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("entering a namespace needs root")
	}
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("from inside")
	if err := Do(os.Getpid(), Net, func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do = %v, want the function's error", err)
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("network namespace changed from %s to %s", before, after)
	}
	// Higher than any pid the kernel gives out.
	if err := Do(1<<23, Net, func() error { return nil }); !errors.Is(err, ErrGone) {
		t.Errorf("Do of a missing process: got %v, want ErrGone", err)
	}
}

func TestBatchesNameEveryInterface(t *testing.T) {
	text := attachBatch("kvm7", 4711)
	for _, want := range []string{"kvm7-mgmt", "kvm7-mig", "mgmt0", "mig0", "netns 4711", "master br-mgmt", "master br-mig", "mtu 1500"} {
		if !strings.Contains(text, want) {
			t.Errorf("attach lacks %q:\n%s", want, text)
		}
	}
}
