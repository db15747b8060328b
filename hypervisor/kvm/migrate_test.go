package kvm

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"drover/hypervisor"
)

func TestMigrateAsksBeforeItBegins(t *testing.T) {
	h := openHost(t, nil)
	g := guest{name: "proceed", uuid: "6c1f0000-0000-4000-8000-000000000030"}
	g.start(t, true)
	spec := hypervisor.MigrateSpec{
		Domain: g.id(), PeerURI: "qemu+tcp://127.0.0.1:1/system", Bandwidth: hypervisor.BytesPerSecond(hypervisor.MiB),
		Downtime: 100 * time.Millisecond, Persistent: true,
	}
	asked := 0
	no := errors.New("the lease is gone")
	spec.Proceed = func() error { asked++; return no }
	err := h.Migrate(soon(t), spec)
	wantClass(t, err, hypervisor.ClassUnavailable)
	if !errors.Is(err, no) || asked != 1 {
		t.Errorf("%v after %d questions: want the answer to one", err, asked)
	}
	// The place is free again, and a yes reaches libvirt: nothing listens at the peer.
	spec.Proceed = func() error { asked++; return nil }
	err = h.Migrate(soon(t), spec)
	if err == nil || hypervisor.IsClass(err, hypervisor.ClassUnavailable) || hypervisor.IsClass(err, hypervisor.ClassBusy) || asked != 2 {
		t.Errorf("%v after %d questions: want libvirt's own refusal", err, asked)
	}
	if _, own := h.outgoing.tuning(g.id()); own != nil {
		t.Error("the failed migrations keep their place")
	}
}

func TestNothingBeginsForCallerWhoLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	spec := hypervisor.MigrateSpec{Domain: "d", Proceed: func() error { t.Error("asked though nobody waits"); return nil }}
	wantClass(t, lastWord(ctx, spec), hypervisor.ClassUnknownOutcome)
}

func TestMigrateNotBegunIsKnown(t *testing.T) {
	h := openHost(t, nil)
	// An ended context makes the look that comes before the call give up, now and then while it runs.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 50 {
		spec := hypervisor.MigrateSpec{
			Domain:  hypervisor.DomainID(fmt.Sprintf("6c1f0000-0000-4000-8000-0000000001%02d", i)),
			PeerURI: "qemu+tcp://127.0.0.1:1/system", Downtime: time.Second, Bandwidth: hypervisor.BytesPerSecond(hypervisor.MiB),
		}
		if err := h.Migrate(ctx, spec); err == nil || hypervisor.IsClass(err, hypervisor.ClassUnknownOutcome) {
			t.Fatalf("%v: want the outcome known, since nothing was begun", err)
		}
	}
}
