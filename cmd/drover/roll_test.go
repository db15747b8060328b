package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// A roll with the real scheduler, store and election in virtual time: schedulers are cut off at random moments,
// their successors go on, every host is done, and no VM moves more often than it must.
func TestRollOutlivesSchedulers(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 2))
				w := newDrainWorld(t, "web-1", "web-2", "web-3")
				roll := &fleet.Roll{Headroom: 1, Listed: true, Return: seed%2 == 1, Hooks: []fleet.Hook{
					{Name: "patch-ok", On: fleet.OnAgent, Timeout: policy.Duration(time.Minute)},
				}}
				id := w.ask(fleet.Run{ID: "m1", Kind: fleet.RunMaintenance, Hosts: []string{"kvm1", "kvm2"}, Roll: roll})
				var ends []func()
				for i := range 5 {
					cut, end := w.lead(fmt.Sprint("ctl", i))
					ends = append(ends, end)
					time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second))))
					if i > 0 {
						time.Sleep(leaderTTL)
					}
					w.check()
					cut()
				}
				_, end := w.lead("last")
				r := w.until(id, 10*time.Minute)
				time.Sleep(5 * time.Second)
				w.check()
				if r.Phase != fleet.RunDone || rolledCount(r) != 2 {
					t.Errorf("%s (%s), %v", r.Phase, r.Reason, rolledTexts(r))
				}
				// Those of kvm1 land on kvm3, as kvm2 is to be rolled, and may be brought back.
				want := "kvm1 to kvm3: done"
				if roll.Return {
					want += "; kvm3 to kvm1: done"
				}
				for _, vm := range w.vms {
					if got := w.story(vm); got != want {
						t.Errorf("%s went from %s; want %s", vm, got, want)
					}
				}
				snap, err := w.store.ReadSnapshot(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for name, h := range snap.Hosts {
					if len(h.Record.Cordons) > 0 {
						t.Errorf("%s is closed: %+v", name, h.Record.Cordons)
					}
				}
				for _, e := range append(ends, end) {
					e()
				}
				w.close()
			})
		})
	}
}

// story is where the VM has gone, in a line; what was refused or failed is left out.
func (w *drainWorld) story(vm string) string {
	all, err := w.store.ListMigrations(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	past, err := w.store.History(w.t.Context(), 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range all {
		past = append(past, m.Migration)
	}
	slices.SortFunc(past, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	var out []string
	for _, m := range past {
		if m.Domain == vm && m.Phase == precopy.Done {
			out = append(out, fmt.Sprintf("%s to %s: %s", m.Source, m.Target, m.Phase))
		}
	}
	return strings.Join(slices.Compact(out), "; ")
}
