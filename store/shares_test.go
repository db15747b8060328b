package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// A share is made with its order, changed only as it was read and by the leader, and gone with its migration.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s, _ := w.client()
		ctx := context.Background()
		leader := lead(t, s, "one")
		view, err := s.OpenView(ctx)
		must(t, err)
		defer view.Close()
		var recs []precopy.Stored
		for n, domain := range []string{"d1", "d2"} {
			m, err := s.CreateMigration(ctx, request(n+1, hypervisor.DomainID(domain)))
			must(t, err)
			next := step(m, precopy.Queued)
			next.Target = "h2"
			m, err = s.OrderWithShare(ctx, leader.Fence(), m, next, 0, precopy.Share{ID: m.ID, Source: m.Source, Bandwidth: 40 << 20, Serial: 1})
			must(t, err)
			recs = append(recs, m)
		}
		synctest.Wait()
		before := view.Snapshot().Shares
		if len(before) != 2 || before[recs[0].ID].Bandwidth != 40<<20 {
			t.Fatalf("shares after two orders: %+v", before)
		}
		write := func(fence Fence, ids ...int) (int, error) {
			var list []ShareWrite
			for _, i := range ids {
				old := before[recs[i].ID]
				list = append(list, ShareWrite{Old: old, New: old.Next(20<<20, 1, time.Now())})
			}
			n, _, err := s.WriteShares(ctx, fence, list)
			return n, err
		}
		if n, err := write(leader.Fence(), 0); n != 1 || err != nil {
			t.Fatalf("one share: %d, %v", n, err)
		}
		// The first is no longer as it was read: only the second is written.
		if n, err := write(leader.Fence(), 0, 1); n != 1 || err != nil {
			t.Errorf("one of two: %d, %v", n, err)
		}
		got, err := s.GetShare(ctx, recs[1].ID)
		must(t, err)
		if got == nil || got.Bandwidth != 20<<20 || got.From != 40<<20 || got.Serial != 2 {
			t.Errorf("a share that shrank: %+v", got)
		}
		if _, err := write(Fence{Key: leaderKey, Create: 1}, 1); !errors.Is(err, ErrFenced) {
			t.Errorf("a deposed leader: %v", err)
		}
		_, err = s.UpdateMigration(ctx, precopy.ActorSource, nil, recs[1], step(recs[1], precopy.Failed))
		must(t, err)
		synctest.Wait()
		before = map[string]fleet.StoredShare{recs[0].ID: view.Snapshot().Shares[recs[0].ID], recs[1].ID: {Share: *got, Revision: before[recs[1].ID].Revision + 100}}
		if share, err := s.GetShare(ctx, recs[1].ID); share != nil || err != nil {
			t.Errorf("the share of a migration that has ended: %+v, %v", share, err)
		}
		if n, err := write(leader.Fence(), 1); n != 0 || err != nil {
			t.Errorf("a share of a migration that has ended was made anew: %d, %v", n, err)
		}
		if n := len(view.Snapshot().Shares); n != 1 {
			t.Errorf("%d shares in the picture, want 1", n)
		}
		must(t, leader.Resign(ctx))
	})
}
