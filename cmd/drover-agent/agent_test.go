package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
)

// TestPokeOnEvents: a domain that came or went is reported at once, one that is being switched over only when
// that is over, and once.
func TestPokeOnEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events, pokes := make(chan hypervisor.Event, 8), 0
		go func() { _ = pokeOnEvents(ctx, events, func() { pokes++ }) }()
		after := func(wait time.Duration, want int, when string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if pokes != want {
				t.Errorf("%s: %d reports were asked for, want %d", when, pokes, want)
			}
		}
		events <- hypervisor.Event{Kind: hypervisor.EventStopped}
		after(0, 1, "stopped")
		events <- hypervisor.Event{Kind: hypervisor.EventRound, Migration: true}
		after(time.Minute, 1, "a round")
		for _, k := range []hypervisor.EventKind{hypervisor.EventStarted, hypervisor.EventSuspended, hypervisor.EventResumed} {
			events <- hypervisor.Event{Kind: k, Migration: true}
			after(pokeAfter/4, 1, string(k))
		}
		after(pokeAfter, 2, "after the switchover")
		events <- hypervisor.Event{Kind: hypervisor.EventStopped, Migration: true}
		after(2*pokeAfter, 3, "another")
	})
}
