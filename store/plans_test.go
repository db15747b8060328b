package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

func planID(at time.Time, n byte) string {
	id := uuid.UUID{15: n}
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = 0x70, 0x80
	return id.String()
}

// A plan's life: made by the leader, approved by a person, run in the transaction that says so, and retired; the
// view shows it, and nobody writes over what has changed.
func TestPlans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		person, _ := w.client()
		ctx := t.Context()
		l := lead(t, s, "s1")
		fence := l.Fence()
		v, err := s.OpenView(ctx)
		must(t, err)
		defer v.Close()
		id := planID(time.Now(), 1)
		p := fleet.Plan{Schema: 1, ID: id, By: fleet.Scheduler, Moves: []fleet.PlanMove{{Domain: "a", UUID: "u1", From: "h1", To: "h2"}}}
		must(t, s.PutPlan(ctx, &fence, 0, p, nil))
		if err := s.PutPlan(ctx, &fence, 0, p, nil); !errors.Is(err, ErrConflict) {
			t.Errorf("made twice: %v", err)
		}
		row, err := person.Plans().Update(ctx, nil, id, func(p *fleet.Plan) error {
			p.Approved = &fleet.Act{By: "ada"}
			return nil
		})
		must(t, err)
		time.Sleep(time.Second)
		seen := v.Snapshot().Plans[id]
		if diff := cmp.Diff(row.Value, seen.Plan); diff != "" || seen.Revision != row.Revision {
			t.Errorf("the view (-want +got):\n%s", diff)
		}
		began := row.Value
		began.Run = id
		run := fleet.Run{Schema: 1, ID: id, Kind: fleet.RunRebalance}
		must(t, s.PutPlan(ctx, &fence, row.Revision, began, &run))
		time.Sleep(time.Second)
		snap := v.Snapshot()
		if snap.Runs[id].Kind != fleet.RunRebalance || snap.Plans[id].Run != id || snap.Runs[id].Revision != snap.Plans[id].Revision {
			t.Errorf("run and plan: %+v, %+v", snap.Runs, snap.Plans)
		}
		if err := s.PutPlan(ctx, &fence, row.Revision, began, &run); !errors.Is(err, ErrConflict) {
			t.Errorf("begun twice: %v", err)
		}
		if err := s.RetirePlan(ctx, fence, id, row.Revision); !errors.Is(err, ErrConflict) {
			t.Errorf("retired though it has changed: %v", err)
		}
		must(t, s.RetirePlan(ctx, fence, id, snap.Plans[id].Revision))
		time.Sleep(time.Second)
		past, err := s.PastPlans(ctx, 10)
		if err != nil || len(past) != 1 || past[0].Run != id || len(v.Snapshot().Plans) != 0 {
			t.Errorf("past: %+v, %v", past, err)
		}
		// A leader that is deposed writes nothing.
		must(t, l.Resign(ctx))
		if err := s.PutPlan(ctx, &fence, 0, fleet.Plan{Schema: 1, ID: planID(time.Now(), 2)}, nil); !errors.Is(err, ErrFenced) {
			t.Errorf("without leadership: %v", err)
		}
		if err := s.SaveLoad(ctx, fence, 1, []byte("x")); !errors.Is(err, ErrFenced) {
			t.Errorf("load without leadership: %v", err)
		}
	})
}

// A pause is seen, and one that can't be read is one.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx := t.Context()
		row, err := s.Pauses().Replace(ctx, nil, PauseID, 0, fleet.Pause{Schema: 1, Act: fleet.Act{By: "ada"}})
		must(t, err)
		if snap := must2(s.ReadSnapshot(ctx)); snap.Pause == nil || snap.Pause.By != "ada" {
			t.Errorf("%+v", snap.Pause)
		}
		must(t, s.Pauses().Remove(ctx, nil, PauseID, row.Revision))
		if snap := must2(s.ReadSnapshot(ctx)); snap.Pause != nil {
			t.Errorf("%+v", snap.Pause)
		}
		_, _, err = s.kv.Txn(ctx, nil, []kv.Op{kv.Put(fleetPrefix+PauseID, []byte("{"))})
		must(t, err)
		if snap := must2(s.ReadSnapshot(ctx)); snap.Pause == nil {
			t.Error("a pause that can't be read stops nothing")
		}
	})
}

// Inputs come back as they were, however large; one that was written in part is none; old ones go.
func TestInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx := t.Context()
		fence := lead(t, s, "s1").Fence()
		r := rand.New(rand.NewPCG(1, 2))
		large := make([]byte, 2<<20) // noise: several parts
		for i := range large {
			large[i] = byte(r.Uint32())
		}
		var ids []string
		for n, text := range [][]byte{nil, []byte("{}"), large} {
			id := planID(time.Now(), byte(n))
			ids = append(ids, id)
			must(t, s.SaveInput(ctx, &fence, id, text))
			got, err := s.Input(ctx, id)
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d bytes came back as %d, %v", len(text), len(got), err)
			}
		}
		_, _, err := s.kv.Txn(ctx, nil, []kv.Op{kv.Delete(inputKey(ids[2], 0))})
		must(t, err)
		if _, err := s.Input(ctx, ids[2]); !errors.Is(err, ErrInput) {
			t.Errorf("without its first part: %v", err)
		}
		if _, err := s.Input(ctx, planID(time.Now(), 9)); !errors.Is(err, ErrInput) {
			t.Errorf("of no plan: %v", err)
		}
		if err := s.SaveInput(ctx, &fence, "a/b", nil); !errors.Is(err, ErrBadName) {
			t.Errorf("a bad name: %v", err)
		}
		old, late := planID(time.Now().Add(-InputLife-time.Hour), 7), planID(time.Now().Add(-InputLife+time.Hour), 8)
		for _, id := range []string{old, late} {
			must(t, s.SaveInput(ctx, &fence, id, []byte("{}")))
		}
		must(t, s.PrunePlans(ctx, fence))
		for id, want := range map[string]bool{ids[0]: true, old: false, late: true} {
			if _, err := s.Input(ctx, id); (err == nil) != want {
				t.Errorf("%s after the others were pruned: %v", id, err)
			}
		}
	})
}

func TestLoadParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		ctx := t.Context()
		fence := lead(t, s, "s1").Fence()
		must(t, s.SaveLoad(ctx, fence, 3, bytes.Repeat([]byte("a"), 10_000)))
		must(t, s.SaveLoad(ctx, fence, 1, []byte("b")))
		must(t, s.SaveLoad(ctx, fence, 2, []byte("c")))
		must(t, s.SaveLoad(ctx, fence, 2, nil))
		parts, err := s.Load(ctx)
		if err != nil || len(parts) != 2 || string(parts[0]) != "b" || len(parts[1]) != 10_000 {
			t.Errorf("%d parts, %v", len(parts), err)
		}
	})
}
