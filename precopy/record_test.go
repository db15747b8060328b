package precopy

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// troubledQueue is a Queue whose next writes go wrong in the ways given.
type troubledQueue struct {
	*session
	trouble []string
	before  func() // runs right before the next write
}

func (q *troubledQueue) Update(ctx context.Context, old Stored, m Migration) (Stored, error) {
	if q.before != nil {
		f := q.before
		q.before = nil
		f()
	}
	how := ""
	if len(q.trouble) > 0 {
		how, q.trouble = q.trouble[0], q.trouble[1:]
	}
	switch how {
	case "away":
		return Stored{}, errAway
	case "answer lost":
		_, err := q.session.Update(ctx, old, m)
		return Stored{}, errors.Join(err, errAway)
	}
	return q.session.Update(ctx, old, m)
}

func recordIn(store *memStore, phase Phase) Stored {
	return store.create(Migration{Schema: Schema, ID: "m1", UUID: vm, Source: "a", Target: "b", Phase: phase, Order: &Order{}})
}

// TestRecordMerges interleaves the driver's changes with those of others, through a store that drops
// writes and answers: nothing that anybody wrote may be lost, and a final phase stays.
func TestRecordMerges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		trouble := rapid.SliceOfN(rapid.SampledFrom([]string{"", "away", "answer lost"}), 0, 8).Draw(rt, "trouble")
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"copying", "switching", "note", "flush", "cancel", "unknown", "told"}), 1, 15).Draw(rt, "steps")
		end := rapid.SampledFrom([]Phase{Done, Failed, Aborted}).Draw(rt, "end")
		var problem string
		synctest.Test(t, func(t *testing.T) {
			store := newMemStore()
			q := &troubledQueue{session: store.register("a"), trouble: trouble}
			r := newRecord(q, recordIn(store, Copying))
			notes, cancelled := 0, false
			enter := func(p Phase) {
				r.change(func(m *Migration) {
					if CheckTransition(m.Phase, p, ActorSource) == nil {
						m.Phase = p
					}
				})
			}
			for _, s := range steps {
				switch s {
				case "copying":
					enter(Copying)
				case "switching":
					enter(Switching)
				case "note":
					n := string(rune('a' + notes))
					notes++
					r.change(func(m *Migration) { m.Notes = appendNew(m.Notes, n) })
				case "flush":
					if err := r.flush(t.Context()); err != nil {
						problem = err.Error()
					}
				case "cancel":
					cancelled = true
					_ = store.edit("m1", ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice"} })
				case "unknown":
					_ = store.edit("m1", ActorLeader, func(m *Migration) { m.Phase = Unknown })
				case "told":
					r.told(store.get("m1"))
				}
			}
			e := Spooled{ID: "m1", Phase: end, Reason: "r", Notes: []string{"last"}}
			r.change(e.apply)
			if err := r.flush(t.Context()); err != nil {
				problem = err.Error()
			}
			got := store.get("m1")
			switch {
			case problem != "":
			case got.Phase != end:
				problem = "phase " + string(got.Phase)
			case cancelled != (got.Cancel != nil):
				problem = "the cancel request was lost"
			case len(got.Notes) != notes+1:
				problem = "notes " + string(rune('0'+len(got.Notes)))
			case len(r.pending) > 0:
				problem = "changes are left"
			case len(store.illegal) > 0:
				problem = store.illegal[0]
			case r.current().Revision != got.Revision:
				problem = "the record here is not the one in the store"
			}
		})
		if problem != "" {
			rt.Fatalf("%s", problem)
		}
	})
}

// TestRecordFinishedBySomebodyElse is of an outcome that comes after a person resolved it otherwise.
func TestRecordFinishedBySomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		q := &troubledQueue{session: store.register("a")}
		r := newRecord(q, recordIn(store, Unknown))
		q.before = func() { _ = store.edit("m1", ActorCLI, func(m *Migration) { m.Phase = Failed }) }
		r.change(func(m *Migration) { m.Phase = Done })
		if err := r.flush(t.Context()); !errors.Is(err, errGone) {
			t.Errorf("flush: %v, want %v", err, errGone)
		}
		if got := store.get("m1"); got.Phase != Failed {
			t.Errorf("phase %s, want what the person said", got.Phase)
		}
		if len(r.pending) > 0 {
			t.Error("the change is still tried")
		}
	})
}

func TestRecordGone(t *testing.T) {
	for name, vanish := range map[string]func(*memStore){
		"deleted":        func(s *memStore) { delete(s.records, "m1") },
		"in the history": func(s *memStore) { s.retire("m1") },
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newMemStore()
			r := newRecord(store.register("a"), recordIn(store, Done))
			vanish(store)
			r.change(func(m *Migration) { m.Notes = appendNew(m.Notes, "late") })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := r.flush(ctx); !errors.Is(err, errGone) || !r.isGone() {
				t.Errorf("%s: flush: %v, gone %v, want %v", name, err, r.isGone(), errGone)
			}
		})
	}
}

// TestRecordFlushEndsWithItsContext holds one write up in the store; a second flush must not wait for
// it longer than it may.
func TestRecordFlushEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		r := newRecord(store.register("a"), recordIn(store, Copying))
		store.goAway()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.writeLoop(ctx)
		}()
		r.change(func(m *Migration) { m.Phase = Switching })
		time.Sleep(time.Millisecond)
		short, stop := context.WithTimeout(t.Context(), 3*time.Second)
		defer stop()
		began := time.Now()
		if err := r.flush(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flush: %v, want its deadline", err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("flush took %s of its 3s", d)
		}
		if r.current().Phase != Switching {
			t.Error("the change is not seen here before it is written")
		}
		store.comeBack()
		time.Sleep(5 * time.Second)
		if got := store.get("m1").Phase; got != Switching {
			t.Errorf("after the store came back: %s", got)
		}
		cancel()
		<-done
	})
}

func TestBeginTakesNoConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		q := store.register("a")
		r := newRecord(q, recordIn(store, Queued))
		_ = store.edit("m1", ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice"} })
		claim := func(m *Migration) { m.Phase = Claimed }
		if err := r.begin(t.Context(), claim); !errors.Is(err, ErrConflict) {
			t.Errorf("begin over a cancel request: %v, want a conflict", err)
		}
		r.told(store.get("m1"))
		q.setAlive(false)
		if err := r.begin(t.Context(), claim); !errors.Is(err, ErrFenced) {
			t.Errorf("begin without a lease: %v, want to be fenced off", err)
		}
		if got := store.phases(); !slices.Equal(got, []Phase{Queued}) {
			t.Errorf("phases %v were written", got)
		}
	})
}
