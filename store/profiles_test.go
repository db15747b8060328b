package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/store/kv"
)

func receipts(numbers ...int) []forecast.Receipt {
	var out []forecast.Receipt
	for _, n := range numbers {
		out = append(out, forecast.Receipt{ID: fmt.Sprintf("m%03d", n), Seconds: float64(n)})
	}
	return out
}

func idsOf(p forecast.Profile) []string {
	var out []string
	for _, r := range p.Receipts {
		out = append(out, r.ID)
	}
	return out
}

// What leaders learn: each receipt once, whoever files it and how often, and the newest of them; it
// outlives its migrations and its leader, whose last writes no longer count.
func TestLearn(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) *Store{
		"memory": func(t *testing.T) *Store { s, _ := newWorld(t).client(); return s },
		"etcd":   func(t *testing.T) *Store { _, open := liveStore(t); return open() },
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := open(t), context.Background()
			old := lead(t, s, "ctl1")
			learn := func(l *Leadership, want bool, numbers ...int) {
				t.Helper()
				isNew, err := s.Learn(ctx, l.Fence(), "d1", receipts(numbers...))
				must(t, err)
				if isNew != want {
					t.Errorf("learning %v: new %v, want %v", numbers, isNew, want)
				}
			}
			if p, err := s.Profile(ctx, "d1"); err != nil || len(p.Receipts) > 0 {
				t.Fatalf("a domain that was never moved: %+v, %v", p, err)
			}
			learn(old, true, 5, 3)
			learn(old, false, 3)
			must(t, old.Resign(ctx))
			next := lead(t, s, "ctl2")
			learn(next, false, 3, 5)
			learn(next, true, 4, 6, 7, 8, 9, 10, 11)
			learn(next, false, 3)
			p, err := s.Profile(ctx, "d1")
			must(t, err)
			if got := idsOf(p); !slices.Equal(got, idsOf(forecast.Profile{Receipts: receipts(4, 5, 6, 7, 8, 9, 10, 11)})) {
				t.Errorf("learned %v, want the newest 8 in order", got)
			}
			if p.UUID != "d1" || p.Schema != Schema || time.Since(p.Seen) > time.Minute {
				t.Errorf("profile %+v", p)
			}
			if _, err := s.Learn(ctx, old.Fence(), "d1", receipts(12)); !errors.Is(err, ErrFenced) {
				t.Errorf("a deposed leader's lesson: %v, want ErrFenced", err)
			}
			// No reader of the fleet's picture gets them.
			entries, _, err := s.kv.List(ctx, live)
			must(t, err)
			for _, e := range entries {
				if e.Key != leaderKey {
					t.Errorf("%s is in the picture", e.Key)
				}
			}
		})
	}
}

func TestLearnMendsWhatCanNotBeRead(t *testing.T) {
	s, ctx := func() (*Store, context.Context) { s, _ := newWorld(t).client(); return s, context.Background() }()
	l := lead(t, s, "ctl1")
	_, _, err := s.kv.Txn(ctx, nil, []kv.Op{kv.Put(profilesPrefix+"d1", []byte("{"))})
	must(t, err)
	if _, err := s.Profile(ctx, "d1"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("profile: %v, want ErrCorrupt", err)
	}
	isNew, err := s.Learn(ctx, l.Fence(), "d1", receipts(1))
	if err != nil || !isNew {
		t.Errorf("learn: %v, %v", isNew, err)
	}
	if p, err := s.Profile(ctx, "d1"); err != nil || len(p.Receipts) != 1 {
		t.Errorf("profile %+v, %v", p, err)
	}
}

// A profile goes when its domain was not reported for 30 days, and not before.
func TestTendProfiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s, ctx := func() (*Store, context.Context) { s, _ := w.client(); return s, context.Background() }()
		l := lead(t, s, "ctl1")
		for _, id := range []hypervisor.DomainID{"here", "gone", "back"} {
			_, err := s.Learn(ctx, l.Fence(), id, receipts(1))
			must(t, err)
		}
		days := func(n int, reported ...hypervisor.DomainID) {
			for range n {
				time.Sleep(25 * time.Hour)
				set := map[hypervisor.DomainID]bool{"never moved": true}
				for _, id := range reported {
					set[id] = true
				}
				must(t, s.TendProfiles(ctx, l.Fence(), set))
			}
		}
		left := func() (ids []string) {
			rows, err := s.profiles().List(ctx)
			must(t, err)
			for _, r := range rows {
				ids = append(ids, r.ID)
			}
			return ids
		}
		days(20, "here")
		days(1, "here", "back")
		if got := left(); !slices.Equal(got, []string{"back", "gone", "here"}) {
			t.Errorf("after 22 days: %v", got)
		}
		days(10, "here")
		if got := left(); !slices.Equal(got, []string{"back", "here"}) {
			t.Errorf("after 32 days: %v, want gone gone", got)
		}
		must(t, l.Resign(ctx))
		if err := s.TendProfiles(ctx, l.Fence(), map[hypervisor.DomainID]bool{"here": true}); err != nil {
			t.Errorf("nothing to write: %v", err)
		}
		time.Sleep(40 * 24 * time.Hour)
		if err := s.TendProfiles(ctx, l.Fence(), nil); !errors.Is(err, ErrFenced) {
			t.Errorf("a deposed leader's removal: %v, want ErrFenced", err)
		}
	})
}
