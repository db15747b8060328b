package scheduler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/policy"
)

// A request that carries no policy is ordered under the one that applies to the domain, which its record
// then has; one that carries its own keeps it.
func TestOrderCarriesThePolicy(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB))
	s.Policy.Default.MaxPause = new(policy.Duration(80 * time.Millisecond))
	m := add(s, "m1", "a", "h1", "h2", precopy.Requested)
	in := inputs(s)
	in.Memory.Preflights[Key{"m1", "h2"}] = Result{At: t0}
	want := precopy.DefaultPolicy()
	want.Class, want.MaxPauseMS = "default", 80
	if diff := cmp.Diff(want, Decide(in)[0].Write.New.Policy); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	m.Policy = precopy.Policy{MaxPauseMS: 7}
	s.Migrations["m1"] = m
	if diff := cmp.Diff(m.Policy, Decide(in)[0].Write.New.Policy); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}
