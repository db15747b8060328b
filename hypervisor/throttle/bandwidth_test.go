package throttle

import (
	"math"
	"testing"
	"time"

	"drover/hypervisor"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func TestPlan(t *testing.T) {
	half := Bandwidth{Quota: 50 * ms, Period: 100 * ms}
	inf := math.Inf(1)
	for _, tc := range []struct {
		name     string
		share    float64
		pause    time.Duration
		original Bandwidth
		ceiling  float64
		ticks    Bandwidth
		beats    Bandwidth
	}{
		{"a third", 0.3, 150 * ms, unlimited(), inf, Bandwidth{5 * ms, 16667 * time.Microsecond}, Bandwidth{3 * ms, 10 * ms}},
		{"all", 1, 150 * ms, unlimited(), inf, unlimited(), unlimited()},
		{"a twentieth", 0.05, 150 * ms, unlimited(), inf, Bandwidth{5 * ms, 59999 * time.Microsecond}, Bandwidth{piece, 24 * ms}},
		{"less than the pause allows", 0.01, 100 * ms, unlimited(), inf, Bandwidth{5 * ms, 39999 * time.Microsecond}, Bandwidth{piece, 79999 * time.Microsecond}},
		{"less than is ever set", 0.0001, time.Hour, unlimited(), inf, Bandwidth{5 * ms, 500 * ms}, Bandwidth{piece, 120 * ms}},
		{"hardly a pause", 0.5, 10 * ms, unlimited(), inf, unlimited(), Bandwidth{3999 * time.Microsecond, 7998 * time.Microsecond}},
		{"no pause", 0.5, 0, unlimited(), inf, unlimited(), unlimited()},
		{"above the original", 0.6, 150 * ms, half, 0.5, half, half},
		{"the original", 0.5, 150 * ms, half, 0.5, half, half},
		{"below the original", 0.4, 150 * ms, half, 0.5, Bandwidth{5 * ms, 12500 * time.Microsecond}, Bandwidth{4 * ms, 10 * ms}},
		{"above the parent", 0.9, 150 * ms, unlimited(), 0.8, unlimited(), unlimited()},
		{"below the parent", 0.7, 150 * ms, unlimited(), 0.8, Bandwidth{5 * ms, 7143 * time.Microsecond}, Bandwidth{5 * ms, 7143 * time.Microsecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for how, want := range map[timing]Bandwidth{ticking: tc.ticks, beating: tc.beats} {
				if got := how.plan(tc.share, 1, tc.pause, tc.original, tc.ceiling); got != want {
					t.Errorf("timing %d: got %v, want %v", how, got, want)
				}
			}
		})
	}
}

func TestLeast(t *testing.T) {
	for pause, want := range map[time.Duration][2]float64{
		0: {1, 1}, 10 * ms: {1, 0.15}, 12 * ms: {1, 0.125}, 20 * ms: {0.625, 0.075}, 50 * ms: {0.25, 0.03},
		150 * ms: {1.0 / 12, 0.01}, 900 * ms: {1.0 / 72, 0.01}, time.Hour: {0.01, 0.01},
	} {
		for i, how := range []timing{ticking, beating} {
			if got := how.least(pause, 1); !near(got, want[i]) {
				t.Errorf("timing %d, within %s, of a busy vCPU: got %v, want %v", how, pause, got, want[i])
			}
		}
	}
	for use, want := range map[hypervisor.Cores]float64{0: 1.0 / 60, 0.1: 1.0 / 60, 0.3: 1.0 / 20, 0.5: 1.0 / 12, 1: 1.0 / 12} {
		if got := ticking.least(150*ms, use); !near(got, want) {
			t.Errorf("at a use of %v: got %v, want %v", use, got, want)
		}
	}
}

func genTiming(t *rapid.T) timing {
	return rapid.SampledFrom([]timing{ticking, beating}).Draw(t, "timing")
}

func genBandwidth(name string) *rapid.Generator[Bandwidth] {
	return rapid.Custom(func(t *rapid.T) Bandwidth {
		if rapid.Bool().Draw(t, name+" unlimited") {
			return unlimited()
		}
		return Bandwidth{
			Quota:  time.Duration(rapid.IntRange(1000, 2_000_000).Draw(t, name+" quota")) * time.Microsecond,
			Period: time.Duration(rapid.IntRange(1000, 1_000_000).Draw(t, name+" period")) * time.Microsecond,
		}
	})
}

// Whatever is asked for: either the original stands, or the kernel takes the plan, it gives no more
// than was asked for (unless the pause forbids so little), no more than any limit, and no silence as
// long as the pause.
func TestPlanBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := rapid.Float64Range(1e-6, 1).Draw(t, "share")
		use := hypervisor.Cores(rapid.Float64Range(0, 1).Draw(t, "use"))
		how := genTiming(t)
		pause := time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "pause"))
		original := genBandwidth("original").Draw(t, "original")
		ceiling := min(genBandwidth("parent").Draw(t, "parent").Share(), original.Share())
		got := how.plan(share, float64(use), pause, original, ceiling)
		if got == original {
			if share < min(1, ceiling)-0.001 && how.least(pause, use) < min(1, ceiling)-0.001 {
				t.Fatalf("nothing is done for a share of %v below %v", share, ceiling)
			}
			return
		}
		if got.Quota < ms || got.Period < ms || got.Period > time.Second {
			t.Fatalf("the kernel refuses %v", got)
		}
		if s := got.Share(); s > max(share, how.least(pause, use))+1e-9 || s >= min(1, ceiling) {
			t.Fatalf("share %v: asked for %v, least %v, ceiling %v", s, share, how.least(pause, use), ceiling)
		}
		silence := got.Period
		if how == ticking {
			silence *= silentPeriods
		}
		if silence >= pause*4/5 || got.Period-got.Quota >= pause {
			t.Fatalf("silent for %s, promised less than %s", silence, pause)
		}
	})
}

// More is asked for, more is given.
func TestPlanMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Float64Range(0.001, 1).Draw(t, "a")
		b := rapid.Float64Range(a, 1).Draw(t, "b")
		use, how := rapid.Float64Range(0, 1).Draw(t, "use"), genTiming(t)
		pause := time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "pause"))
		pa, pb := how.plan(a, use, pause, unlimited(), 1), how.plan(b, use, pause, unlimited(), 1)
		if pa.Share() > pb.Share() {
			t.Fatalf("%v gives %v, %v gives %v", a, pa, b, pb)
		}
	})
}

// On the way from one v1 bandwidth to another the group never has more than the greater of the two.
func TestPeriodFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := genBandwidth("from").Draw(t, "from"), genBandwidth("to").Draw(t, "to")
		between := Bandwidth{Quota: to.Quota, Period: from.Period}
		if periodFirst(from, to) {
			between = Bandwidth{Quota: from.Quota, Period: to.Period}
		}
		if between.Share() > max(from.Share(), to.Share()) {
			t.Fatalf("%v on the way from %v to %v", between, from, to)
		}
	})
}
