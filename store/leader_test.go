package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/kv"
	"drover/store/memstore"
)

func TestCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s1, _ := w.client()
		s2, _ := w.client()
		if l, err := s1.Leader(t.Context()); l != nil || err != nil {
			t.Errorf("leader of an empty store: %+v, %v", l, err)
		}
		first := lead(t, s1, "s1")
		info, err := s2.Leader(t.Context())
		must(t, err)
		if info.Identity != "s1" || info.Fence != first.Fence().Create {
			t.Errorf("leader is %+v, want s1 at %d", info, first.Fence().Create)
		}
		elected := make(chan *Leadership)
		go func() { elected <- lead(t, s2, "s2") }()
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-elected:
			t.Fatal("two leaders")
		case <-first.Done():
			t.Fatal("the leader lost its leadership for nothing")
		default:
		}
		start := time.Now()
		must(t, first.Resign(t.Context()))
		second := <-elected
		if took := time.Since(start); took > time.Second {
			t.Errorf("the second leader took %s after the first resigned", took)
		}
		if second.Fence().Create <= first.Fence().Create {
			t.Errorf("fence %d after %d does not rise", second.Fence().Create, first.Fence().Create)
		}
		must(t, second.Resign(t.Context()))
	})
}

// TestDeposedLeader cuts the leader off until another leads: it knows in time, and whatever it still
// tries when it is back changes nothing.
func TestDeposedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s1, c1 := w.client()
		s2, c2 := w.client()
		first := lead(t, s1, "s1")
		must(t, s1.BindHost(t.Context(), first.Fence(), "h1", "machine-1"))
		st, err := s1.CreateMigration(t.Context(), request(1, "d1"), first.Fence())
		must(t, err)
		over, err := s1.CreateMigration(t.Context(), request(2, "d2"))
		must(t, err)
		over, err = s1.UpdateMigration(t.Context(), precopy.ActorCLI, nil, over, step(over, precopy.Aborted))
		must(t, err)

		c1.Partition(true)
		<-first.Done()
		second := lead(t, s2, "s2")
		c1.Partition(false)
		before := dump(t, c2)

		fence := first.Fence()
		ctx := t.Context()
		for name, f := range map[string]func() error{
			"update": func() error {
				_, err := s1.UpdateMigration(ctx, precopy.ActorLeader, &fence, st, step(st, precopy.Queued))
				return err
			},
			"create": func() error { _, err := s1.CreateMigration(ctx, request(3, "d3"), fence); return err },
			"bind":   func() error { return s1.BindHost(ctx, fence, "h2", "machine-2") },
			"host": func() error {
				_, err := s1.UpdateHost(ctx, &fence, "h1", func(h *fleet.HostRecord) error { h.Labels = map[string]string{"a": "b"}; return nil })
				return err
			},
			"retire": func() error { return s1.Retire(ctx, fence, over) },
			"replace": func() error {
				_, err := VMs[map[string]any](s1).Replace(ctx, &fence, "d1", 0, map[string]any{"a": 1})
				return err
			},
		} {
			if err := f(); !errors.Is(err, ErrFenced) {
				t.Errorf("%s by a deposed leader: %v, want ErrFenced", name, err)
			}
		}
		if after := dump(t, c2); after != before {
			t.Errorf("a deposed leader changed the store:\nbefore %s\nafter %s", before, after)
		}
		_, err = s2.UpdateMigration(ctx, precopy.ActorLeader, ptr(second.Fence()), st, step(st, precopy.Queued))
		must(t, err)
		must(t, second.Resign(ctx))
	})
}

func ptr[T any](v T) *T { return &v }

// dump is everything that does not stand under a lease.
func dump(t testing.TB, c kv.KV) string {
	t.Helper()
	entries, _, err := c.List(context.Background(), "/")
	must(t, err)
	out := ""
	for _, e := range entries {
		if e.Lease == 0 {
			out += e.Key + "=" + string(e.Value) + "\n"
		}
	}
	return out
}

func TestCampaignLostAnswers(t *testing.T) {
	faults := []memstore.Fault{0, memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest, memstore.Unavailable}
	for _, f := range faults {
		for _, g := range faults {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s, c := w.client()
				c.FailTxns(f, g)
				l := lead(t, s, "s1")
				c.FailTxns()
				if err := s.BindHost(t.Context(), l.Fence(), "h1", "m1"); err != nil {
					t.Errorf("faults %d, %d: write as leader: %v", f, g, err)
				}
				time.Sleep(time.Minute)
				select {
				case <-l.Done():
					t.Errorf("faults %d, %d: leadership is lost", f, g)
				default:
				}
				must(t, l.Resign(t.Context()))
			})
		}
	}
}

func TestCampaignEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s1, _ := w.client()
		s2, _ := w.client()
		l := lead(t, s1, "s1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s2.Campaign(ctx, "s2", 10*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		must(t, l.Resign(t.Context()))
	})
}
