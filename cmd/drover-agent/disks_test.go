package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// world is the records and the files of a test; files take a while to make.
type world struct {
	mu     sync.Mutex
	phase  precopy.Phase
	target string
	away   error
	takes  time.Duration
	did    []string
}

func (w *world) GetMigration(context.Context, string) (precopy.Stored, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return precopy.Stored{Migration: precopy.Migration{Phase: w.phase, Target: w.target}}, w.away
}

func (w *world) CreateDisks(context.Context, string, []hypervisor.Disk) error {
	time.Sleep(w.takes)
	w.note("create")
	return nil
}

func (w *world) RemoveDisks(context.Context, string) error {
	w.note("remove")
	return nil
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.did = append(w.did, what)
}

func (w *world) become(p precopy.Phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = p
}

func TestNoDisksForWhatIsOver(t *testing.T) {
	away := errors.New("store away")
	for _, tt := range []struct {
		name string
		w    *world
		made bool
	}{
		{"preparing", &world{phase: precopy.Preparing, target: "kvm2"}, true},
		{"failed meanwhile", &world{phase: precopy.Failed, target: "kvm2"}, false},
		{"aborted meanwhile", &world{phase: precopy.Aborted, target: "kvm2"}, false},
		{"done", &world{phase: precopy.Done, target: "kvm2"}, false},
		{"to another host", &world{phase: precopy.Preparing, target: "kvm3"}, false},
		{"not known", &world{away: away}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.w
			err := newDisks("kvm2", w, w).create(t.Context(), precopy.Question{Migration: "m"})
			if made := len(w.did) > 0; made != tt.made || (err == nil) != tt.made {
				t.Errorf("made %v, %v: want %v", made, err, tt.made)
			}
			if w.away != nil && !errors.Is(err, away) {
				t.Errorf("%v: want the reason in it", err)
			}
		})
	}
}

func TestDisksOfOneMigrationInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{phase: precopy.Preparing, target: "kvm2", takes: time.Minute}
		d := newDisks("kvm2", w, w)
		q := precopy.Question{Migration: "m"}
		go func() { _ = d.create(t.Context(), q) }()
		synctest.Wait()
		// Asked twice, and failed while the first is at it: the second makes nothing, and the
		// discarding comes after the first.
		second := make(chan error, 1)
		go func() { second <- d.create(t.Context(), q) }()
		synctest.Wait()
		w.become(precopy.Failed)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.discard(short, q); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beside the making: %v, want it to wait", err)
		}
		if err := d.discard(t.Context(), precopy.Question{Migration: "other"}); err != nil {
			t.Errorf("another migration's: %v", err)
		}
		if err := d.discard(t.Context(), q); err != nil {
			t.Error(err)
		}
		if err := <-second; err == nil {
			t.Error("files were made for a migration that had failed")
		}
		synctest.Wait()
		if want := []string{"remove", "create", "remove"}; !slices.Equal(w.did, want) {
			t.Errorf("did %v, want %v", w.did, want)
		}
		if len(d.turns) != 0 {
			t.Errorf("%d turns left", len(d.turns))
		}
	})
}
