package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/fleet"
)

// finished adds a migration that is over and has shown something.
func finished(s *fleet.Snapshot, id, vm string) {
	m := add(s, id, vm, "h1", "h2", precopy.Done)
	m.Outcome = &precopy.Outcome{Receipt: &forecast.Receipt{Seconds: 3}}
	s.Migrations[id] = m
}

func TestLessons(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB), host("h2", 8*hypervisor.GiB))
	finished(s, "m1", "b")
	finished(s, "m3", "a")
	finished(s, "m2", "a")
	finished(s, "m4", "a")
	add(s, "m5", "c", "h1", "h2", precopy.Done) // has shown nothing
	in := inputs(s)
	in.Memory.Learned = map[string]bool{"m4": true}
	if diff := cmp.Diff([]string{"learn id-a m2 m3", "learn id-b m1"}, brief(Decide(in))); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	for i := range 3 * lessonsAtOnce {
		finished(s, fmt.Sprintf("n%03d", i), fmt.Sprintf("vm%03d", i))
	}
	if got := len(lessons(s, nil)); got != lessonsAtOnce {
		t.Errorf("%d lessons in one pass, want %d", got, lessonsAtOnce)
	}
}

// ledger is a State, and Orders and Profiles that can fail.
type ledger struct {
	Orders
	mu      sync.Mutex
	snap    *fleet.Snapshot
	fault   error
	learned []string
	retired []string
	tended  []map[hypervisor.DomainID]bool
}

func (l *ledger) Snapshot() *fleet.Snapshot   { l.mu.Lock(); defer l.mu.Unlock(); return l.snap }
func (l *ledger) Changed() <-chan struct{}    { return nil }
func (l *ledger) Prune(context.Context) error { return nil }
func (l *ledger) set(f func())                { l.mu.Lock(); defer l.mu.Unlock(); f() }
func (l *ledger) look() (learned, ret []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.learned)), slices.Sorted(slices.Values(l.retired))
}

func (l *ledger) Retire(_ context.Context, m precopy.Stored) error {
	l.set(func() { l.retired = append(l.retired, m.ID) })
	return nil
}

func (l *ledger) Profile(context.Context, hypervisor.DomainID) (forecast.Profile, error) {
	return forecast.Profile{}, nil
}

func (l *ledger) Learn(_ context.Context, x Lesson) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range x.Receipts {
		l.learned = append(l.learned, r.ID)
	}
	return l.fault
}

func (l *ledger) Tend(_ context.Context, reported map[hypervisor.DomainID]bool) error {
	l.set(func() { l.tended = append(l.tended, reported) })
	return nil
}

// Each leader files each receipt until that has worked, and moves nothing to the history before.
func TestLearnedBeforeRetired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := snapshot(host("h1", 8*hypervisor.GiB), host("h2", 8*hypervisor.GiB, "a:2"))
		finished(s, "m1", "a")
		add(s, "m2", "b", "h1", "h2", precopy.Aborted) // has shown nothing
		l := &ledger{snap: s, fault: errors.New("away")}
		loop := NewLoop(Config{State: l, Orders: l, Profiles: l, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		time.Sleep(30 * time.Second)
		learned, retired := l.look()
		if len(learned) < 20 || slices.Contains(retired, "m1") {
			t.Errorf("while it fails: %d tries, retired %v", len(learned), retired)
		}
		l.set(func() { l.fault, l.learned = nil, nil })
		time.Sleep(2 * time.Hour)
		learned, retired = l.look()
		if !slices.Equal(learned, []string{"m1"}) || !slices.Contains(retired, "m1") || !slices.Contains(retired, "m2") {
			t.Errorf("learned %v, retired %v", learned, slices.Compact(retired))
		}
		if diff := cmp.Diff(map[hypervisor.DomainID]bool{"id-a": true}, l.tended[0]); diff != "" {
			t.Errorf("reported (-want +got):\n%s", diff)
		}
		l.set(func() { l.fault = precopy.ErrFenced; finished(s, "m3", "a") })
		if err := <-done; !errors.Is(err, precopy.ErrFenced) {
			t.Errorf("deposed: %v", err)
		}
		cancel()
	})
}
