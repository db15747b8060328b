package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store"
)

// quickly is automation that decides within minutes, as tests want it.
func quickly(level policy.Level) policy.Document {
	return policy.Document{Schema: 1, Automation: policy.Automation{
		Level: level, Slot: new(policy.Duration(10 * time.Second)), Hold: new(policy.Duration(30 * time.Second)),
	}}
}

func (w *drainWorld) apply(d policy.Document) {
	w.t.Helper()
	row, err := store.Policy[policy.Document](w.store).Get(w.t.Context(), store.PolicyID)
	if err != nil {
		row.Revision = 0
	}
	if _, err := store.Policy[policy.Document](w.store).Replace(w.t.Context(), nil, store.PolicyID, row.Revision, d); err != nil {
		w.t.Fatal(err)
	}
}

// newHotWorld is three hosts of 8 cores, of which the first has five VMs of 2.5 cores each.
func newHotWorld(t *testing.T) *drainWorld {
	names := []string{"web-1", "web-2", "web-3", "web-4", "web-5"}
	w := newDrainWorld(t, names...)
	w.fleet.mu.Lock()
	w.fleet.every = 2 * time.Second
	w.fleet.cpu = map[string]hypervisor.Cores{}
	for _, n := range names {
		w.fleet.cpu[n] = 2.5
	}
	w.fleet.mu.Unlock()
	return w
}

func (w *drainWorld) plans() []fleet.StoredPlan {
	w.t.Helper()
	snap, err := w.store.ReadSnapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	out := snap.PlansInOrder()
	past, err := w.store.PastPlans(w.t.Context(), 100)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range past {
		out = append(out, fleet.StoredPlan{Plan: p})
	}
	return out
}

// once wants that every VM was moved at most once, and none to where it came from.
func (w *drainWorld) once() (moved int) {
	w.t.Helper()
	left := map[string]string{}
	all, err := w.store.ListMigrations(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	past, err := w.store.History(w.t.Context(), 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	done := map[string]bool{}
	for _, m := range all {
		past = append(past, m.Migration)
	}
	for _, m := range past {
		if m.Phase != precopy.Done || done[m.ID] {
			continue
		}
		done[m.ID] = true
		if from, twice := left[m.Domain]; twice {
			w.t.Errorf("%s left %s, and then %s, within minutes", m.Domain, from, m.Source)
		}
		left[m.Domain] = m.Source
	}
	return len(done)
}

// The leader sees that a host is hot, moves what is to be moved, and then nothing any more. Leaders are cut off at
// random moments, and their successors, who know nothing but what is in the store, go on.
func TestBalanceRestoredByItself(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 2))
				w := newHotWorld(t)
				w.apply(quickly(policy.LevelFull))
				var ends []func()
				_, end := w.lead("ctl0")
				ends = append(ends, end)
				began := time.Now()
				for len(w.plans()) == 0 {
					time.Sleep(100 * time.Millisecond)
					if time.Since(began) > 5*time.Minute {
						t.Fatal("no plan within five minutes")
					}
				}
				if took := time.Since(began); took < 2*time.Minute {
					t.Errorf("a plan after %s: before the load was known", took)
				}
				// The first leaders end at some moment of the run.
				ends[0]()
				ends = nil
				for i := range 3 {
					cut, end := w.lead(fmt.Sprint("ctl", i+1))
					ends = append(ends, end)
					time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
					if i > 0 {
						time.Sleep(leaderTTL)
					}
					w.check()
					cut()
				}
				_, end = w.lead("last")
				ends = append(ends, end)
				time.Sleep(3 * time.Minute)
				w.check()
				moved := w.once()
				if n := len(w.names("kvm1")); n > 2 || moved < 2 || moved > 3 {
					t.Errorf("%d VMs are on the hot host, %d moved: want 2 or fewer there; plans %+v", n, moved, w.plans())
				}
				time.Sleep(10 * time.Minute)
				if again := w.once(); again != moved {
					t.Errorf("moves go on: %d, then %d", moved, again)
				}
				for _, e := range ends {
					e()
				}
				w.close()
			})
		})
	}
}

// At level partial nothing moves before a person says so, and a pause stops even that.
func TestPlanWaitsForApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHotWorld(t)
		w.apply(quickly(policy.LevelPartial))
		_, end := w.lead("ctl")
		time.Sleep(10 * time.Minute)
		plans := w.plans()
		if len(plans) != 1 || len(w.names("kvm1")) != 5 {
			t.Fatalf("%d plans, %v on the hot host; want one plan that waits", len(plans), w.names("kvm1"))
		}
		if _, err := w.store.Input(t.Context(), plans[0].ID); err != nil {
			t.Error(err)
		}
		pause := fleet.Pause{Schema: 1, Act: fleet.Act{By: "bob", At: time.Now()}}
		if _, err := w.store.Pauses().Replace(t.Context(), nil, store.PauseID, 0, pause); err != nil {
			t.Fatal(err)
		}
		_, err := w.store.Plans().Update(t.Context(), nil, plans[0].ID, func(p *fleet.Plan) error {
			p.Approved = &fleet.Act{By: "ada", At: time.Now()}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if w.once() != 0 {
			t.Error("moved while paused")
		}
		row, err := w.store.Pauses().Get(t.Context(), store.PauseID)
		if err == nil {
			err = w.store.Pauses().Remove(t.Context(), nil, store.PauseID, row.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		r := w.until(plans[0].ID, 5*time.Minute)
		if r.Phase != fleet.RunDone || len(w.names("kvm1")) > 3 || w.once() == 0 {
			t.Errorf("run %s: %s; on the hot host: %v", r.Phase, r.Reason, w.names("kvm1"))
		}
		time.Sleep(time.Minute)
		events, err := w.store.Events(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"plan-made", "run-begun", "run-done", "plan-done"} {
			if !slices.ContainsFunc(events, func(e store.Event) bool { return e.Kind == kind }) {
				t.Errorf("no event %s: %+v", kind, events)
			}
		}
		end()
		w.close()
	})
}
