package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/memstore"
)

// drainWorld is hosts with fake agents, in virtual time.
type drainWorld struct {
	t      *testing.T
	server *memstore.Server
	store  *store.Store
	fleet  *fakeFleet
	vms    []string
	stores []*store.Store
	ends   []func()
}

// newDrainWorld starts three hosts; the VMs are on the first.
func newDrainWorld(t *testing.T, vms ...string) *drainWorld {
	w := &drainWorld{t: t, server: memstore.New(), fleet: &fakeFleet{domains: map[string][]hypervisor.DomainFacts{}}, vms: vms}
	w.store = w.open(w.server.Client())
	for i, vm := range vms {
		w.fleet.domains["kvm1"] = append(w.fleet.domains["kvm1"], hypervisor.DomainFacts{
			ID: fakeID(i + 1), Name: vm, VCPUs: 1, Memory: 512 * hypervisor.MiB, Persistent: true,
		})
	}
	for _, name := range []string{"kvm1", "kvm2", "kvm3"} {
		ctx, cancel := context.WithCancel(t.Context())
		a, err := startFakeAgent(ctx, w.fleet, w.open(w.server.Client()), name)
		if err != nil {
			t.Fatal(err)
		}
		w.ends = append(w.ends, func() { cancel(); a.stop() })
	}
	return w
}

func (w *drainWorld) open(c *memstore.Client) *store.Store {
	s := store.New(c)
	w.stores = append(w.stores, s)
	return s
}

// lead starts a scheduler on a connection of its own and returns what cuts its connection, which is as good as
// its death for all others, and what ends it.
func (w *drainWorld) lead(name string) (cut func(), end func()) {
	client := w.server.Client()
	terms := newTerms(w.open(client), name)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = terms.run(ctx) }()
	return func() { client.Partition(true) }, func() { cancel(); client.Partition(false); <-done }
}

func (w *drainWorld) close() {
	for _, end := range w.ends {
		end()
	}
	for _, s := range w.stores {
		_ = s.Close()
	}
	w.server.Close()
}

func (w *drainWorld) ask(r fleet.Run) string {
	r.Schema, r.Phase, r.RequestedBy, r.Created, r.Moves = 1, fleet.RunRequested, "ada", time.Now(), []fleet.RunMove{}
	if _, err := w.store.Runs().Replace(w.t.Context(), nil, r.ID, 0, r); err != nil {
		w.t.Fatal(err)
	}
	return r.ID
}

// until waits for the run's end.
func (w *drainWorld) until(id string, limit time.Duration) fleet.Run {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) {
		r, err := w.store.Runs().Get(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Value.Phase.Final() {
			return r.Value
		}
		if time.Since(began) > limit {
			w.t.Fatalf("not over within %s: %+v", limit, r.Value)
		}
	}
}

// check wants every VM on one host, and at most one unfinished migration of each.
func (w *drainWorld) check() {
	w.t.Helper()
	on, under := map[string]int{}, map[string]int{}
	for _, h := range []string{"kvm1", "kvm2", "kvm3"} {
		for _, d := range w.fleet.on(h) {
			on[d.Name]++
		}
	}
	all, err := w.store.ListMigrations(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range all {
		if !m.Phase.Final() {
			under[m.Domain]++
		}
		if m.Run != "" && m.Target == "kvm1" && m.Reason == "drain, drain" {
			w.t.Errorf("%s was sent to the draining host", m.Domain)
		}
	}
	for _, vm := range w.vms {
		if on[vm] != 1 || under[vm] > 1 {
			w.t.Errorf("%s is on %d hosts, with %d unfinished migrations", vm, on[vm], under[vm])
		}
	}
}

// migrations are how many each VM has had, also those in the history.
func (w *drainWorld) migrations() map[string]int {
	w.t.Helper()
	seen := map[string]string{}
	all, err := w.store.ListMigrations(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range all {
		seen[m.ID] = m.Domain
	}
	past, err := w.store.History(w.t.Context(), 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range past {
		seen[m.ID] = m.Domain
	}
	out := map[string]int{}
	for _, vm := range seen {
		out[vm]++
	}
	return out
}

func (w *drainWorld) names(h string) []string {
	var out []string
	for _, d := range w.fleet.on(h) {
		out = append(out, d.Name)
	}
	slices.Sort(out)
	return out
}

// The whole of it with the real scheduler, store and election in virtual time: schedulers are cut off at random
// moments of a drain, their successors go on, and nothing is done twice.
func TestDrainOutlivesSchedulers(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				w := newDrainWorld(t, "web-1", "web-2", "web-3", "web-4", "bad-1")
				id := w.ask(fleet.Run{ID: "r1", Kind: fleet.RunDrain, Hosts: []string{"kvm1"}})
				var ends []func()
				for i := range 4 {
					cut, end := w.lead(fmt.Sprint("ctl", i))
					ends = append(ends, end)
					time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
					if i > 0 {
						time.Sleep(leaderTTL)
					}
					w.check()
					cut()
				}
				_, end := w.lead("last")
				r := w.until(id, 5*time.Minute)
				w.check()
				if left := w.names("kvm1"); r.Phase != fleet.RunPartial || !slices.Equal(left, []string{"bad-1"}) || len(r.Blocked) != 1 {
					t.Errorf("%s (%s), on kvm1: %v, blocked %+v; want only bad-1 there, and named", r.Phase, r.Reason, left, r.Blocked)
				}
				for vm, n := range w.migrations() {
					if want := map[bool]int{true: 3, false: 1}[vm == "bad-1"]; n != want {
						t.Errorf("%d migrations of %s were made, want %d", n, vm, want)
					}
				}
				back := w.until(w.ask(fleet.Run{ID: "r2", Kind: fleet.RunRestore, Hosts: []string{"kvm1"}}), 5*time.Minute)
				if home := w.names("kvm1"); back.Phase != fleet.RunDone || len(home) != len(w.vms) {
					t.Errorf("restore: %s (%s), on kvm1: %v", back.Phase, back.Reason, home)
				}
				w.check()
				for _, e := range append(ends, end) {
					e()
				}
				w.close()
			})
		})
	}
}

// A drain that is cancelled at any moment ends, with every VM on one host and nothing under way.
func TestDrainCancelledAnytime(t *testing.T) {
	for tenths := range 30 {
		synctest.Test(t, func(t *testing.T) {
			w := newDrainWorld(t, "web-1", "slow-1", "web-2")
			_, end := w.lead("ctl")
			time.Sleep(2 * time.Second)
			id := w.ask(fleet.Run{ID: "r1", Kind: fleet.RunDrain, Hosts: []string{"kvm1"}})
			time.Sleep(time.Duration(tenths) * 100 * time.Millisecond)
			_, err := w.store.Runs().Update(t.Context(), nil, id, func(r *fleet.Run) error {
				r.Cancel = &fleet.RunCancel{By: "eve", At: time.Now(), Abort: true, Uncordon: true}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			r := w.until(id, time.Minute)
			time.Sleep(10 * time.Second)
			w.check()
			all, err := w.store.ListMigrations(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(all, func(m precopy.Stored) bool { return !m.Phase.Final() }) {
				t.Errorf("after %d tenths: %s, and something is under way: %+v", tenths, r.Phase, all)
			}
			snap, err := w.store.ReadSnapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c := snap.Hosts["kvm1"].Record.Cordons; r.Phase != fleet.RunCancelled || len(c) > 0 {
				t.Errorf("after %d tenths: %s, cordons %v; want it cancelled and the host open", tenths, r.Phase, c)
			}
			end()
			w.close()
		})
	}
}
