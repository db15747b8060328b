package kvm

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

func quietTracker() *tracker { return newTracker(slog.New(slog.DiscardHandler)) }

// blocked runs a call that takes the given time in a goroutine and returns its error.
func blocked(ctx context.Context, tr *tracker, r request, d time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := ask(ctx, tr, r, func() (int, error) { time.Sleep(d); return 1, nil })
		done <- err
	}()
	return done
}

func TestAskStragglers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, lane := quietTracker(), newSlots(2)
		r := request{op: "x", domain: "d", limit: time.Second, slots: lane}
		err := <-blocked(t.Context(), tr, r, time.Minute)
		wantClass(t, err, hypervisor.ClassUnknownOutcome)
		if !errors.Is(err, context.DeadlineExceeded) || tr.count() != 1 || len(lane) != 1 {
			t.Errorf("%v, %d stragglers, %d slots taken: want the deadline, 1, 1", err, tr.count(), len(lane))
		}
		// The domain takes no more calls, its neighbours do, and abort gets through.
		wantClass(t, <-blocked(t.Context(), tr, r, 0), hypervisor.ClassBusy)
		other := r
		other.domain = "e"
		if err := <-blocked(t.Context(), tr, other, 0); err != nil {
			t.Errorf("another domain: %v", err)
		}
		way := r
		way.despite = true
		if err := <-blocked(t.Context(), tr, way, 0); err != nil {
			t.Errorf("the way out: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if tr.count() != 0 || len(lane) != 0 {
			t.Errorf("%d stragglers, %d slots taken after libvirt answered: want none", tr.count(), len(lane))
		}
		if err := <-blocked(t.Context(), tr, r, 0); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestAskNeverPilesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, lane := quietTracker(), newSlots(2)
		for _, id := range []hypervisor.DomainID{"a", "b"} {
			<-blocked(t.Context(), tr, request{domain: id, limit: time.Second, slots: lane}, time.Hour)
		}
		released := 0
		r := request{domain: "c", limit: time.Second, slots: lane, release: func() { released++ }}
		wantClass(t, <-blocked(t.Context(), tr, r, 0), hypervisor.ClassBusy)
		if tr.count() != 2 || released != 1 {
			t.Errorf("%d stragglers, released %d times: want 2, and the call that never began released", tr.count(), released)
		}
		time.Sleep(time.Hour)
	})
}

func TestAskEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := quietTracker()
		ctx, cancel := context.WithCancel(t.Context())
		var dropped atomic.Int64
		done := make(chan error, 1)
		go func() {
			r := request{op: "connect", slots: newSlots(1)}
			_, err := askOrDrop(ctx, tr, r, func() (int, error) { time.Sleep(time.Minute); return 7, nil }, func(v int) { dropped.Add(int64(v)) })
			done <- err
		}()
		time.Sleep(time.Second)
		cancel()
		err := <-done
		wantClass(t, err, hypervisor.ClassUnknownOutcome)
		if !errors.Is(err, context.Canceled) || dropped.Load() != 0 {
			t.Errorf("%v, dropped %d: want the cancel at once", err, dropped.Load())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if dropped.Load() != 7 {
			t.Errorf("dropped %d: want the late value disposed of", dropped.Load())
		}
	})
}

func TestAskSurvivesPanic(t *testing.T) {
	tr := quietTracker()
	_, err := ask(t.Context(), tr, request{op: "load", slots: newSlots(1)}, func() (int, error) {
		var none []int
		return none[len(none)], nil
	})
	wantClass(t, err, hypervisor.ClassUnknownOutcome)
}

func TestWrap(t *testing.T) {
	tests := []struct {
		code libvirt.ErrorNumber
		want hypervisor.Class
	}{
		{libvirt.ERR_NO_DOMAIN, hypervisor.ClassNoDomain},
		{libvirt.ERR_OPERATION_INVALID, hypervisor.ClassInvalid},
		{libvirt.ERR_OPERATION_ABORTED, hypervisor.ClassAborted},
		{libvirt.ERR_OPERATION_FAILED, hypervisor.ClassFailed},
		{libvirt.ERR_OPERATION_TIMEOUT, hypervisor.ClassBusy},
		{libvirt.ERR_MIGRATE_UNSAFE, hypervisor.ClassUnsafe},
		{libvirt.ERR_CPU_INCOMPATIBLE, hypervisor.ClassIncompatible},
		{libvirt.ERR_NO_SUPPORT, hypervisor.ClassUnsupported},
		{libvirt.ERR_INVALID_ARG, hypervisor.ClassArgument},
		{libvirt.ERR_AUTH_FAILED, hypervisor.ClassDenied},
		{libvirt.ERR_RPC, hypervisor.ClassUnknownOutcome},
		{libvirt.ErrorNumber(9999), hypervisor.ClassUnknownOutcome},
	}
	for _, tt := range tests {
		lv := libvirt.Error{Code: tt.code, Message: "what it says"}
		err := wrap("op", "d", lv)
		wantClass(t, err, tt.want)
		var e *hypervisor.Error
		if !errors.As(err, &e) || e.Code != int(tt.code) || e.Message != "what it says" || !errors.Is(err, tt.code) {
			t.Errorf("%d: %+v", tt.code, e)
		}
		if again := wrap("outer", "d", err); again != err {
			t.Errorf("wrapped twice: %v", again)
		}
	}
	wantClass(t, wrap("op", "", errors.New("other")), hypervisor.ClassUnknownOutcome)
	if wrap("op", "", nil) != nil {
		t.Error("nil became an error")
	}
}

func TestFanoutTellsWhatWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanout()
		slow, fast := f.subscribe(), f.subscribe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		observed := 0
		go func() { f.run(ctx, func(hypervisor.Event) { observed++ }); close(done) }()
		const sent = subscriberLength + 50
		for i := range sent {
			f.push(hypervisor.Event{Kind: hypervisor.EventRound, Round: i})
			synctest.Wait()
			<-fast
		}
		if observed != sent {
			t.Errorf("observed %d, want %d", observed, sent)
		}
		for range subscriberLength {
			<-slow
		}
		f.push(hypervisor.Event{Kind: hypervisor.EventStopped})
		synctest.Wait()
		if a, b := <-slow, <-slow; a.Kind != hypervisor.EventReset || b.Kind != hypervisor.EventStopped {
			t.Errorf("after a gap: %q, %q, want reset, stopped", a.Kind, b.Kind)
		}
		if e := <-fast; e.Kind != hypervisor.EventStopped {
			t.Errorf("the fast reader: %q, want no reset", e.Kind)
		}
		cancel()
		<-done
		if _, open := <-slow; open {
			t.Error("the channel outlived its fanout")
		}
	})
}

func TestFanoutQueueOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFanout()
		for range queueLength + 1 {
			f.push(hypervisor.Event{Kind: hypervisor.EventRound})
		}
		var kinds []hypervisor.EventKind
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.run(ctx, func(e hypervisor.Event) { kinds = append(kinds, e.Kind) }); close(done) }()
		synctest.Wait()
		cancel()
		<-done
		if len(kinds) != queueLength+1 || kinds[0] != hypervisor.EventReset {
			t.Errorf("%d events, the first %q: want a reset before what is left", len(kinds), kinds[0])
		}
	})
}
