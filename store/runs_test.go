package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

// runsRound is a run's life: what people and the leader do with its record, and what a view shows of it.
func runsRound(t *testing.T, control, person *Store) {
	t.Helper()
	ctx := t.Context()
	l := lead(t, control, "s1")
	fence := l.Fence()
	v, err := control.OpenView(ctx)
	must(t, err)
	defer v.Close()
	shows := func(want *fleet.Run) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			got, ok := v.Snapshot().Runs["r1"]
			if want == nil && !ok || want != nil && cmp.Equal(*want, got.Run) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the view shows %+v, want %+v", got, want)
			}
		}
	}
	asked := fleet.Run{Schema: 1, ID: "r1", Kind: fleet.RunDrain, Phase: fleet.RunRequested, Hosts: []string{"h1"}, Moves: []fleet.RunMove{}}
	row, err := person.Runs().Replace(ctx, nil, "r1", 0, asked)
	must(t, err)
	shows(&asked)
	if _, err := person.Runs().Replace(ctx, nil, "r1", 0, asked); !errors.Is(err, ErrConflict) {
		t.Errorf("made twice: %v, want a conflict", err)
	}
	running := asked
	running.Phase = fleet.RunRunning
	running.Moves = []fleet.RunMove{{VM: "a", UUID: "u1", From: "h1", To: "h2", Cause: "drain", State: fleet.MoveAsked, Migration: "m1"}}
	next, err := control.Runs().Replace(ctx, &fence, "r1", row.Revision, running)
	must(t, err)
	shows(&running)
	if _, err := control.Runs().Replace(ctx, &fence, "r1", row.Revision, running); !errors.Is(err, ErrConflict) {
		t.Errorf("write over an outdated record: %v, want a conflict", err)
	}
	_, err = person.Runs().Update(ctx, nil, "r1", func(r *fleet.Run) error {
		r.Cancel = &fleet.RunCancel{By: "eve"}
		return nil
	})
	must(t, err)
	over := errors.New("run r1 is over already")
	if _, err := person.Runs().Update(ctx, nil, "r1", func(*fleet.Run) error { return over }); err != over {
		t.Errorf("refused by the caller: %v, want that as it is", err)
	}
	if err := control.Runs().Remove(ctx, &fence, "r1", next.Revision); !errors.Is(err, ErrConflict) {
		t.Errorf("removed though it changed: %v, want a conflict", err)
	}
	got, err := person.Runs().Get(ctx, "r1")
	must(t, err)
	if got.Value.Cancel == nil || len(got.Value.Moves) != 1 {
		t.Errorf("after the cancel: %+v", got.Value)
	}
	must(t, l.Resign(ctx))
	if _, err := control.Runs().Replace(ctx, &fence, "r1", got.Revision, running); !errors.Is(err, ErrFenced) {
		t.Errorf("write of a deposed leader: %v, want fenced", err)
	}
	if err := control.Runs().Remove(ctx, &fence, "r1", got.Revision); !errors.Is(err, ErrFenced) {
		t.Errorf("removed by a deposed leader: %v, want fenced", err)
	}
	must(t, person.Runs().Remove(ctx, nil, "r1", got.Revision))
	shows(nil)
}

func TestRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		control, _ := w.client()
		person, _ := w.client()
		runsRound(t, control, person)
	})
}

func TestLiveRuns(t *testing.T) {
	_, open := liveStore(t)
	runsRound(t, open(), open())
}

// A run that can't be read is left out, and the key is named.
func TestViewBrokenRun(t *testing.T) {
	w := newWorld(t)
	s, c := w.client()
	for _, value := range []string{`{"id":"r1","phase":"running","moves":[]}`, `{"id":`} {
		_, _, err := c.Txn(context.Background(), nil, []kv.Op{kv.Put(runsPrefix+"r1", []byte(value))})
		must(t, err)
		snap, err := s.ReadSnapshot(context.Background())
		must(t, err)
		if _, there := snap.Runs["r1"]; there != (value[len(value)-1] == '}') {
			t.Errorf("%s: in the picture: %v", value, there)
		}
	}
}
