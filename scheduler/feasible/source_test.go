package feasible

import (
	"testing"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

// Only a state that rules a live migration out refuses it: libvirt does not tell the state of a
// domain that has just come in.
func TestOnlyCertainStatesRefuse(t *testing.T) {
	for state, refused := range map[hypervisor.DomainState]bool{
		hypervisor.StateRunning: false, hypervisor.StatePaused: false, hypervisor.StateOther: false, "": false,
		hypervisor.StateShutoff: true, hypervisor.StateCrashed: true, hypervisor.StateAbsent: true,
	} {
		h := &fleet.Host{Name: "h1", Session: &fleet.Session{}, Facts: &hypervisor.HostFacts{}, Load: &hypervisor.HostLoad{}}
		d := fleet.Domain{Host: h, Facts: hypervisor.DomainFacts{ID: "id", Name: "vm"}, Load: hypervisor.DomainLoad{State: state}}
		s := &fleet.Snapshot{Hosts: map[string]*fleet.Host{"h1": h}}
		if got := len(Source(s, Request{Domain: d})) > 0; got != refused {
			t.Errorf("state %q: refused %v, want %v", state, got, refused)
		}
	}
}
