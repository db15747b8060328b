package kvm

import (
	"testing"
	"time"

	"drover/hypervisor"
)

func TestDirtyLeavesSilentAlone(t *testing.T) {
	s := newDirtySampler(time.Minute)
	o := newOutgoing(8)
	o.settled()
	loads := []hypervisor.DomainLoad{{ID: "a", State: hypervisor.StateRunning}, {ID: "b", State: hypervisor.StateRunning}}
	now := time.Now()
	s.offer(loads, map[hypervisor.DomainID]bool{"a": true}, o)
	if id, _, ok := s.next(now); id != "b" || !ok {
		t.Errorf("next is %q: want b, since a is silent", id)
	}
	if id, _, ok := s.next(now); ok {
		t.Errorf("next is %q: want none", id)
	}
	// It speaks again, but its last question was never answered.
	first, second := s.ask("a"), s.ask("a")
	s.offer(loads, nil, o)
	first()
	if id, _, ok := s.next(now); ok {
		t.Errorf("next is %q: want none while a question is open", id)
	}
	second()
	if id, _, ok := s.next(now); id != "a" || !ok {
		t.Errorf("next is %q: want a, all of whose questions are answered", id)
	}
}

// Guests that hang in the middle of a probe must cost nothing but probes.
func TestHangingProbesLeaveControlFree(t *testing.T) {
	h := openHost(t, nil)
	h.outgoing.settled()
	ctx := soon(t)
	well := guest{name: "probe-well", uuid: "6c1f0000-0000-4000-8000-000000000026"}
	well.start(t, true)
	stuck := []guest{
		{name: "probe-stuck1", uuid: "6c1f0000-0000-4000-8000-000000000027"},
		{name: "probe-stuck2", uuid: "6c1f0000-0000-4000-8000-000000000028"},
	}
	for _, g := range stuck {
		g.start(t, false)
		goOn := hang(t, g)
		_, err := h.estimateDirty(ctx, g.id(), shortWindow)
		wantClass(t, err, hypervisor.ClassUnknownOutcome)
		defer goOn()
	}
	if n := h.Stragglers(); n != len(stuck) {
		t.Errorf("stragglers: got %d, want one per probe", n)
	}
	if s, err := h.Sight(ctx, well.id()); err != nil || s.State != hypervisor.StateRunning {
		t.Errorf("Sight of another guest: %+v, %v", s, err)
	}
	if err := h.SetAutostart(ctx, well.id(), true); err != nil {
		t.Errorf("SetAutostart of another guest: %v", err)
	}
	begun := time.Now()
	_, err := h.estimateDirty(ctx, well.id(), shortWindow)
	wantClass(t, err, hypervisor.ClassBusy)
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("the probe that finds no place took %s", d)
	}
}
