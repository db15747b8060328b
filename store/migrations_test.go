package store

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/kv"
	"drover/store/memstore"
)

func TestCreateMigration(t *testing.T) {
	w := newWorld(t)
	s, c := w.client()
	ctx := context.Background()
	first, err := s.CreateMigration(ctx, request(1, "d1"))
	must(t, err)
	got, err := s.GetMigration(ctx, first.ID)
	must(t, err)
	if d := cmp.Diff(first, got); d != "" {
		t.Errorf("what create returns is not what get returns (-create +get):\n%s", d)
	}
	var active *ActiveError
	_, err = s.CreateMigration(ctx, request(2, "d1"))
	if !errors.Is(err, ErrActive) || !errors.As(err, &active) || active.ID != first.ID {
		t.Errorf("second migration of the domain: %v", err)
	}
	again, err := s.CreateMigration(ctx, request(1, "d1"))
	must(t, err)
	if again.Revision != first.Revision {
		t.Errorf("creating again wrote again: revision %d, then %d", first.Revision, again.Revision)
	}
	if _, err := s.CreateMigration(ctx, request(1, "d2")); !errors.Is(err, ErrConflict) {
		t.Errorf("same ID for another domain: %v", err)
	}
	queued := request(3, "d3")
	queued.Phase = precopy.Queued
	if _, err := s.CreateMigration(ctx, queued); err == nil {
		t.Error("a migration was created as queued")
	}
	n := 10
	for _, f := range []memstore.Fault{memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest} {
		n++
		c.FailTxns(f)
		m := request(n, hypervisor.DomainID("d-fault-"+string(rune('a'+n))))
		st, err := s.CreateMigration(ctx, m)
		must(t, err)
		if got, err := s.GetMigration(ctx, m.ID); err != nil || got.Revision != st.Revision {
			t.Errorf("fault %d: created at %d, stored at %d (%v)", f, st.Revision, got.Revision, err)
		}
	}
	c.FailTxns(memstore.Unavailable)
	if _, err := s.CreateMigration(ctx, request(99, "d99")); !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrMaybeApplied) {
		t.Errorf("store away: %v", err)
	}
}

// An order is written only by the target's record that the leader decided by.
func TestOrderMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx := t.Context()
		fence := lead(t, s, "s1").Fence()
		requested, err := s.CreateMigration(ctx, request(1, "d1"))
		must(t, err)
		order := step(requested, precopy.Queued)
		order.Target = "h2"
		if _, err := s.OrderMigration(ctx, fence, requested, order, 7); !errors.Is(err, ErrConflict) {
			t.Errorf("order by a record that does not exist: %v, want ErrConflict", err)
		}
		must(t, s.BindHost(ctx, fence, "h2", "machine-2"))
		if _, err := s.OrderMigration(ctx, fence, requested, order, 0); !errors.Is(err, ErrConflict) {
			t.Errorf("order to a host that was bound since: %v, want ErrConflict", err)
		}
		bound, err := s.hosts().Get(ctx, "h2")
		must(t, err)
		_, err = s.UpdateHost(ctx, nil, "h2", func(h *fleet.HostRecord) error {
			h.Cordons = []fleet.Cordon{{Holder: "admin"}}
			return nil
		})
		must(t, err)
		if _, err := s.OrderMigration(ctx, fence, requested, order, bound.Revision); !errors.Is(err, ErrConflict) || errors.Is(err, ErrFenced) {
			t.Errorf("order to a host cordoned since: %v, want ErrConflict", err)
		}
		cordoned, err := s.hosts().Get(ctx, "h2")
		must(t, err)
		queued, err := s.OrderMigration(ctx, fence, requested, order, cordoned.Revision)
		must(t, err)
		if queued.Phase != precopy.Queued || queued.Target != "h2" {
			t.Errorf("ordered: %s to %q", queued.Phase, queued.Target)
		}
	})
}

func TestUpdateMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, c := w.client()
		ctx := t.Context()
		l := lead(t, s, "s1")
		leader := l.Fence()
		requested, err := s.CreateMigration(ctx, request(1, "d1"))
		must(t, err)

		if _, err := s.UpdateMigration(ctx, precopy.ActorSource, nil, requested, step(requested, precopy.Done)); err == nil {
			t.Error("an illegal step was written")
		}
		queued, err := s.UpdateMigration(ctx, precopy.ActorLeader, &leader, requested, step(requested, precopy.Queued))
		must(t, err)
		if _, err := s.UpdateMigration(ctx, precopy.ActorLeader, &leader, requested, step(requested, precopy.Refused)); !errors.Is(err, ErrConflict) || errors.Is(err, ErrFenced) {
			t.Errorf("update of an outdated record: %v, want ErrConflict", err)
		}
		a := register(t, s, "h1", "machine-1", "i1")
		agent := a.Fence()
		claimed, err := s.UpdateMigration(ctx, precopy.ActorSource, &agent, queued, step(queued, precopy.Claimed))
		must(t, err)
		must(t, a.Progress(ctx, precopy.Progress{ID: claimed.ID}))
		must(t, a.Close(ctx))
		if _, err := s.UpdateMigration(ctx, precopy.ActorSource, &agent, claimed, step(claimed, precopy.Preparing)); !errors.Is(err, ErrFenced) || errors.Is(err, ErrConflict) {
			t.Errorf("update under a lost session: %v, want ErrFenced", err)
		}
		if id, err := s.ActiveMigration(ctx, "d1"); err != nil || id != claimed.ID {
			t.Errorf("active migration: %q, %v", id, err)
		}
		// The end is written without a lease, and repeated by somebody who got no answer.
		c.FailTxns(memstore.LostAnswer)
		done := step(claimed, precopy.Aborted)
		over, err := s.UpdateMigration(ctx, precopy.ActorSource, nil, claimed, done)
		must(t, err)
		again, err := s.UpdateMigration(ctx, precopy.ActorSource, nil, claimed, done)
		must(t, err)
		if d := cmp.Diff(over, again); d != "" {
			t.Errorf("repeated final write (-first +second):\n%s", d)
		}
		if _, err := s.UpdateMigration(ctx, precopy.ActorSource, nil, claimed, step(claimed, precopy.Failed)); !errors.Is(err, ErrConflict) {
			t.Errorf("another end after the end: %v, want ErrConflict", err)
		}
		if id, err := s.ActiveMigration(ctx, "d1"); err != nil || id != "" {
			t.Errorf("active migration after the end: %q, %v", id, err)
		}
		if _, err := s.GetProgress(ctx, claimed.ID); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("progress after the end: %v", err)
		}
		// A remark on the end leaves the domain's next migration alone.
		next, err := s.CreateMigration(ctx, request(2, "d1"))
		must(t, err)
		noted := over.Migration
		noted.Notes = []string{"late"}
		_, err = s.UpdateMigration(ctx, precopy.ActorSource, nil, over, noted)
		must(t, err)
		if id, err := s.ActiveMigration(ctx, "d1"); err != nil || id != next.ID {
			t.Errorf("active migration after a remark on the former one: %q, %v", id, err)
		}
		must(t, l.Resign(ctx))
	})
}

// TestUpdateKeepsUnknownFields goes the whole way through the store.
func TestUpdateKeepsUnknownFields(t *testing.T) {
	w := newWorld(t)
	s, c := w.client()
	ctx := context.Background()
	st, err := s.CreateMigration(ctx, request(1, "d1"))
	must(t, err)
	var fields map[string]any
	must(t, json.Unmarshal(st.Raw, &fields))
	fields["schema"], fields["colour"] = 9, "blue"
	fields["policy"].(map[string]any)["shade"] = "dark"
	raw, err := json.Marshal(fields)
	must(t, err)
	_, _, err = c.Txn(ctx, nil, []kv.Op{kv.Put(migrationKey(st.ID), raw)})
	must(t, err)

	st, err = s.GetMigration(ctx, st.ID)
	must(t, err)
	out, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, st, step(st, precopy.Aborted))
	must(t, err)
	must(t, json.Unmarshal(out.Raw, &fields))
	if fields["schema"] != 9.0 || fields["colour"] != "blue" || fields["policy"].(map[string]any)["shade"] != "dark" || fields["phase"] != "aborted" {
		t.Errorf("stored %s", out.Raw)
	}
}

func TestWatchMigrationsAndProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		st, err := s.CreateMigration(ctx, request(1, "d1"))
		must(t, err)
		ch := s.WatchMigrations(ctx)
		b := <-ch
		if !b.Reset || len(b.Records) != 1 || b.Records[0].ID != st.ID {
			t.Errorf("first batch %+v", b)
		}
		news, other := s.MigrationNews(ctx, st.ID), s.MigrationNews(ctx, "m7")
		synctest.Wait()
		for _, n := range []<-chan struct{}{news, other} {
			select {
			case <-n: // how it stands is news too
			default:
			}
		}
		over, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, st, step(st, precopy.Aborted))
		must(t, err)
		synctest.Wait()
		if len(news) != 1 || len(other) != 0 {
			t.Errorf("%d signals of the record that changed, %d of another", len(news), len(other))
		}
		b = <-ch
		if d := cmp.Diff([]precopy.Stored{over}, b.Records); d != "" || b.Reset {
			t.Errorf("change (-want +got):\n%s", d)
		}
		l := lead(t, s, "s1")
		must(t, s.Retire(ctx, l.Fence(), over))
		if b = <-ch; len(b.Removed) != 1 || b.Removed[0] != st.ID {
			t.Errorf("after pruning: %+v", b)
		}

		a := register(t, s, "h1", "m1", "i1")
		progress := s.WatchProgress(ctx, "m7")
		for round := 1; round <= 3; round++ {
			must(t, a.Progress(ctx, precopy.Progress{ID: "m7", Round: round}))
		}
		must(t, a.Progress(ctx, precopy.Progress{ID: "m77", Round: 100}))
		synctest.Wait()
		if p := <-progress; p.Round != 3 {
			t.Errorf("progress of round %d, want only the latest, 3", p.Round)
		}
		must(t, a.Close(ctx))
		must(t, l.Resign(ctx))
		cancel()
		for range progress {
		}
		for range news {
		}
		for range other {
		}
		for range ch {
		}
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx := t.Context()
		l := lead(t, s, "s1")
		var last precopy.Stored
		for n := range 6 {
			st, err := s.CreateMigration(ctx, request(n, hypervisor.DomainID(rune('a'+n))))
			must(t, err)
			if n < 5 {
				next := step(st, precopy.Aborted)
				at := time.Now()
				next.Finished = &at
				last, err = s.UpdateMigration(ctx, precopy.ActorCLI, nil, st, next)
				must(t, err)
			}
			time.Sleep(time.Hour)
		}
		all, err := s.ListMigrations(ctx)
		must(t, err)
		for _, m := range all[:4] {
			must(t, s.Retire(ctx, l.Fence(), m))
		}
		if err := s.Retire(ctx, l.Fence(), all[0]); !errors.Is(err, ErrConflict) {
			t.Errorf("moved to the history twice: %v, want ErrConflict", err)
		}
		if err := s.Retire(ctx, l.Fence(), all[5]); err == nil {
			t.Error("an unfinished migration was moved to the history")
		}
		left, err := s.ListMigrations(ctx)
		must(t, err)
		if len(left) != 2 || left[0].ID != last.ID || left[0].Past {
			t.Errorf("left: %v, want the unfinished one and the newest finished one", left)
		}
		past, err := s.History(ctx, 2)
		must(t, err)
		if len(past) != 2 || past[0].ID != request(3, "").ID || past[1].ID != request(2, "").ID {
			t.Errorf("history: %+v", past)
		}
		got, err := s.GetMigration(ctx, request(0, "").ID)
		must(t, err)
		if got.Phase != precopy.Aborted || !got.Past {
			t.Errorf("from the history: %+v", got)
		}
		if _, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, got, got.Migration); !errors.Is(err, ErrConflict) {
			t.Errorf("update of a record in the history: %v, want ErrConflict", err)
		}
		// An ID that is in the history is not used again.
		if st, err := s.CreateMigration(ctx, request(0, "a")); err != nil || st.Phase != precopy.Aborted {
			t.Errorf("creating a pruned migration again: %s, %v", st.Phase, err)
		}
		for range 5 {
			must(t, s.Record(ctx, Event{Actor: "a", Kind: "k", Subject: "s"}))
			time.Sleep(time.Second)
		}
		must(t, s.Prune(ctx, l.Fence(), Retention{HistoryKeep: 1, EventsKeep: 3}))
		if past, err = s.History(ctx, 10); err != nil || len(past) != 1 {
			t.Errorf("history after pruning: %d, %v", len(past), err)
		}
		events, err := s.Events(ctx, 10)
		must(t, err)
		if len(events) != 3 || !events[0].At.After(events[2].At) {
			t.Errorf("events after pruning: %+v", events)
		}
		must(t, l.Resign(ctx))
		if err := s.Prune(ctx, l.Fence(), Retention{}); !errors.Is(err, ErrFenced) {
			t.Errorf("pruning by a deposed leader: %v", err)
		}
		if past, err = s.History(ctx, 10); err != nil || len(past) != 1 {
			t.Errorf("a deposed leader pruned: %d left, %v", len(past), err)
		}
	})
}
