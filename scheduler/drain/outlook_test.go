package drain

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// timed plays a run with moves that take what the law says over what was forecast, and as long again between
// moves as gap; it returns the run.
func (w *world) timed(t *testing.T, id string, law func(vm string) float64, gap time.Duration) fleet.Run {
	t.Helper()
	began, free := map[string]time.Time{}, map[string]time.Time{}
	for range 10_000 {
		r := w.runs[id]
		if r.Phase.Final() {
			return r.Run
		}
		w.step(id, 1<<30)
		for mid, m := range w.migs {
			switch {
			case m.Phase == "requested" && !w.now.Before(free[m.Source]):
				w.admit(mid)
				began[mid] = w.now
			case m.Phase == "copying":
				if takes := time.Duration(law(m.Domain) * w.slow[m.Domain] * float64(time.Second)); w.now.Sub(began[mid]) >= takes {
					w.end(mid, "done", "")
					free[m.Source] = w.now.Add(gap)
				}
			}
		}
		w.now = w.now.Add(time.Second)
	}
	t.Fatal("the run does not end")
	return fleet.Run{}
}

// What was told after a tenth of a drain is within a fifth of what came in nine of ten, also where all moves take
// longer than forecast: earlier runs have shown by how much.
func TestToldEarly(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bias  float64
		noise float64
		gap   time.Duration
		first bool // without earlier runs
	}{
		{"as forecast", 1, 0.3, 0, true},
		{"slower by half", 1.5, 0.3, 2 * time.Second, false},
		{"faster by a third", 0.67, 0.3, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good, of := 0, 0
			for seed := range uint64(10) {
				rng := rand.New(rand.NewPCG(seed, 3))
				spec := "h1:64"
				for i := range 10 + rng.IntN(6) {
					spec += fmt.Sprintf(" vm%d:1", i)
				}
				w := newWorld(spec, "h2:64", "h3:64")
				for vm := range w.hosts["h1"].vms {
					w.slow[vm] = 3 + 20*rng.Float64()
				}
				factor := map[string]float64{}
				law := func(vm string) float64 {
					if factor[vm] == 0 {
						factor[vm] = tt.bias * (1 + tt.noise*(2*rng.Float64()-1))
					}
					return factor[vm]
				}
				if !tt.first {
					w.request(fleet.Run{ID: "r0", Kind: fleet.RunDrain, Hosts: []string{"h1"}})
					w.timed(t, "r0", law, tt.gap)
					for _, back := range []string{"h2", "h3"} { // as a restore would
						for vm, size := range w.hosts[back].vms {
							w.hosts["h1"].vms[vm] = size
							delete(w.hosts[back].vms, vm)
						}
					}
					w.hosts["h1"].cordons = nil
					clear(factor)
				}
				w.request(fleet.Run{ID: "r1", Kind: fleet.RunDrain, Hosts: []string{"h1"}})
				r := w.timed(t, "r1", law, tt.gap)
				if r.Phase != fleet.RunDone || len(r.Forecasts) == 0 || r.Pace <= 0 {
					t.Fatalf("%s (%s), %d forecasts, pace %v", r.Phase, r.Reason, len(r.Forecasts), r.Pace)
				}
				of++
				if off, known := r.Told(0.1); known && off >= -0.2 && off <= 0.2 {
					good++
				}
			}
			if 10*good < 9*of {
				t.Errorf("%d of %d forecasts after a tenth were within a fifth, want nine of ten", good, of)
			}
		})
	}
}

// Of very many forecasts some are kept, the first and the last always.
func TestForecastsAreBounded(t *testing.T) {
	spec := "h1:512"
	for i := range 110 {
		spec += fmt.Sprintf(" vm%d:1", i)
	}
	w := newWorld(spec, "h2:512", "h3:512")
	w.request(drainOf("h1"))
	w.step("r1", 1<<30)
	first := w.runs["r1"].Forecasts[0]
	got := w.play(t, "r1")
	if n := len(got.Forecasts); n > keptForecasts || got.Forecasts[0] != first || got.Forecasts[n-1].Left > 1 {
		t.Errorf("%d forecasts, the first %+v, the last %+v", n, got.Forecasts[0], got.Forecasts[n-1])
	}
}

// Of a drain whose next VMs are asked for early no more are taken to be on their way than are sent: what is told is
// the same as if the others had not been asked for.
func TestAskedAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lanes := rapid.IntRange(1, 3).Draw(t, "lanes")
		n := rapid.IntRange(4, 8).Draw(t, "VMs")
		spec := "h1:64"
		for i := range n {
			spec += fmt.Sprintf(" vm%d:1", i)
		}
		w := newWorld(spec, "h2:64", "h3:64", "h4:64", "h5:64")
		for i := range n {
			w.slow[fmt.Sprintf("vm%d", i)] = float64(rapid.IntRange(1, 60).Draw(t, "seconds"))
		}
		r := drainOf("h1")
		r.MaxParallel = lanes
		w.request(r)
		take := func() fleet.Run {
			next, requests := Step(Input{Run: w.runs["r1"], Fleet: w.snapshot(), Now: w.now, Outgoing: 1, Incoming: 2, Ahead: true, Foresee: w.foresee})
			w.rev++
			w.runs["r1"] = fleet.StoredRun{Run: next, Revision: w.rev}
			for _, q := range requests {
				w.carryOut(q)
			}
			return next
		}
		for range 4 {
			take()
		}
		ids := slices.Sorted(maps.Keys(w.migs))
		if want := min(n, lanes+ahead); len(ids) != want {
			t.Fatalf("%d of %d asked for, want %d", len(ids), n, want)
		}
		for _, id := range ids[:lanes] {
			w.admit(id)
		}
		one := take()
		s := &step{Input: Input{Fleet: w.snapshot(), Now: w.now, Incoming: 2, Ahead: true}, r: one}
		asked := s.rest(one.Moves, lanes, 1)
		moves := slices.Clone(one.Moves)
		for i, m := range moves {
			if m.State == fleet.MoveAsked && w.migs[m.Migration].Phase == precopy.Requested {
				moves[i].State = fleet.MovePlanned
			}
		}
		// Another order of those that wait may end a little sooner or later, by no more than one of them takes.
		if planned := s.rest(moves, lanes, 1); (asked-planned).Abs() > time.Minute || lanes == 1 && asked != planned {
			t.Fatalf("%s are left, and %s if nobody had asked for more than %d at once", asked, planned, lanes)
		}
	})
}
