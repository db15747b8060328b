package sim_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/test/sim"
)

func made(t *testing.T, c sim.Config, f sim.Fleet) *sim.World {
	t.Helper()
	w := sim.New(c)
	if err := w.Make(f); err != nil {
		t.Fatal(err)
	}
	w.Run(time.Minute)
	return w
}

// over lets time pass until the run is.
func over(t *testing.T, w *sim.World, id string) fleet.Run {
	t.Helper()
	if !w.Until(6*time.Hour, func() bool { return w.RunRecord(id).Phase.Final() }) {
		t.Fatalf("the run does not end: %+v", w.RunRecord(id))
	}
	return w.RunRecord(id)
}

func sound(t *testing.T, w *sim.World) {
	t.Helper()
	if bad := w.Faults(); len(bad) > 0 {
		t.Errorf("%d faults, the first of them: %s", len(bad), bad[0])
	}
}

func TestDrainAndRestore(t *testing.T) {
	w := made(t, sim.Config{Seed: 1}, sim.Fleet{Hosts: 20, VMs: 300})
	before := len(w.Host("h001").Guests())
	run := over(t, w, w.Drain("h001"))
	r := w.Report(0)
	if run.Phase != fleet.RunDone || len(w.Host("h001").Guests()) > 0 || r.Moves != before || r.Narrow > 0 {
		t.Errorf("%s (%s): %+v", run.Phase, run.Reason, r)
	}
	if r.WorstPause > 150*time.Millisecond {
		t.Errorf("a pause of %s", r.WorstPause)
	}
	// The bytes can't have gone faster than the host's link, nor taken twice as long.
	took, least := run.Finished.Sub(run.Created), w.Host("h001").Link.Time(r.Bytes)
	if took < least || took > 2*least {
		t.Errorf("%s took %s, the link alone %s", r.Bytes, took, least)
	}
	back := over(t, w, w.Restore("h001"))
	r = w.Report(0)
	if back.Phase != fleet.RunDone || r.Thrash < 0.9 || r.Moves < 3*before/2 || w.Host("h001").Cordoned() {
		t.Errorf("restore: %s (%s): %+v", back.Phase, back.Reason, r)
	}
	sound(t, w)
}

// TestSameTwice: the same seed gives the same figures, another one others.
func TestSameTwice(t *testing.T) {
	play := func(seed uint64) sim.Report {
		w := made(t, sim.Config{Seed: seed}, sim.Fleet{Hosts: 6, VMs: 60})
		over(t, w, w.Drain("h002", "h003"))
		return w.Report(0)
	}
	a, b := play(3), play(3)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("the same seed twice (-first +second):\n%s", diff)
	}
	if cmp.Equal(a, play(4)) {
		t.Errorf("another seed gives the same figures: %+v", a)
	}
}

// TestFaults: whatever dies while two hosts are drained, the run ends, no guest is lost or doubled, and no record
// lies.
func TestFaults(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := made(t, sim.Config{Seed: seed}, sim.Fleet{Hosts: 6, VMs: 50})
			random := rand.New(rand.NewPCG(seed, 9))
			id := w.Drain("h001", "h002")
			dead := false
			for range 6 {
				host := fmt.Sprintf("h%03d", 1+random.IntN(6))
				at := time.Duration(random.IntN(90)) * time.Second
				away := time.Duration(1+random.IntN(40)) * time.Second
				switch random.IntN(5) {
				case 0:
					w.After(at, w.KillLeader)
				case 1, 2:
					w.After(at, func() { _ = w.KillAgent(host, away) })
				case 3:
					w.After(at, func() { _ = w.CutAgent(host, away) })
				case 4:
					if !dead {
						dead = true
						w.After(at, func() { _ = w.KillHost("h006") })
						w.After(at+3*time.Minute, func() { _ = w.StartHost("h006") })
					}
				}
			}
			run := over(t, w, id)
			w.Run(5 * time.Minute)
			sound(t, w)
			for _, m := range w.Migrations() {
				if !m.Phase.Final() {
					t.Errorf("after %s (%s), %s is %s: %s", run.Phase, run.Reason, m.Domain, m.Phase, m.Reason)
				}
			}
			if left := len(w.Host("h001").Guests()) + len(w.Host("h002").Guests()); left > 0 && run.Phase == fleet.RunDone {
				t.Errorf("the run is done, and %d guests are left", left)
			}
		})
	}
}

// TestPeers: other managers' limits are what they are said to be, at each moment.
func TestPeers(t *testing.T) {
	for _, p := range []sim.Peer{
		{Name: "nova", Outgoing: 1},
		{Name: "ovirt", Outgoing: 2, Incoming: 2, Tuning: "vdsm-minimal"},
		{Name: "kubevirt", Fleet: 5, Outgoing: 2, Tuning: "kubevirt", Place: sim.FewestVMs{}, Retarget: true},
		{Name: "all at once"},
	} {
		t.Run(p.Name, func(t *testing.T) {
			w := made(t, sim.Config{Seed: 5, Rule: p}, sim.Fleet{Hosts: 10, VMs: 40, Fill: 0.2})
			id := w.Ask(fleet.Run{Kind: fleet.RunDrain, Hosts: []string{"h001", "h002", "h003", "h004"}, OnBlocked: fleet.BlockedSkip, MaxParallel: p.Outgoing})
			most := 0
			w.Hooks.Poll = func(w *sim.World, _ *sim.Running) {
				all, out, in := w.Running(), map[*sim.Host]int{}, map[*sim.Host]int{}
				most = max(most, len(all))
				for _, r := range all {
					out[r.Source()]++
					in[r.Target()]++
				}
				for h, n := range out {
					if p.Outgoing > 0 && n > p.Outgoing || p.Fleet > 0 && len(all) > p.Fleet || p.Incoming > 0 && in[h] > p.Incoming {
						t.Fatalf("%d leave %s, %d come, %d in all", n, h.Name, in[h], len(all))
					}
				}
			}
			over(t, w, id)
			r := w.Report(0)
			want := map[string]int{"nova": 4, "ovirt": 8, "kubevirt": 5, "all at once": 9}[p.Name]
			if most < want || r.Moves != 16 || r.Failed > 0 && p.Outgoing > 0 {
				t.Errorf("at most %d at once, want %d: %+v", most, want, r)
			}
			sound(t, w)
		})
	}
}

// TestGrant: a share caps a stream within a write's time, and a tenant's traffic leaves less for migrations.
func TestGrant(t *testing.T) {
	w := made(t, sim.Config{Seed: 1}, sim.Fleet{Hosts: 3, VMs: 6})
	vm := w.Host("h001").Guests()[0].Name
	id, err := w.Migrate(vm, "h002")
	if err != nil {
		t.Fatal(err)
	}
	if !w.Until(time.Minute, func() bool { r := w.Running(); return len(r) == 1 && r[0].Rate() > 0 }) {
		t.Fatalf("it does not begin: %+v", w.Migrations())
	}
	rate := func() hypervisor.BytesPerSecond { return w.Running()[0].Rate() }
	w.Grant(id, 100<<20)
	w.Run(20 * time.Millisecond)
	if rate() != 100<<20 {
		t.Errorf("%s after a share of 100 MiB/s", rate())
	}
	w.Grant(id, 0)
	if err := w.Tenants("h002", 0, w.Host("h002").Link*3/4); err != nil {
		t.Fatal(err)
	}
	w.Run(20 * time.Millisecond)
	if want := w.Host("h002").Link / 4; rate() != want {
		t.Errorf("%s beside a tenant, want %s", rate(), want)
	}
	w.Until(time.Hour, func() bool { return len(w.Running()) == 0 })
	if m := w.Migrations()[0]; m.Phase != precopy.Done || w.Writes()["grant"] != 2 {
		t.Errorf("%+v, %v", m, w.Writes())
	}
}
