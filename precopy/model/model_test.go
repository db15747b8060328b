package model

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
)

const mib = hypervisor.MiB

func drawGrowth(t *rapid.T) Growth {
	return Growth{
		Set:  hypervisor.Bytes(rapid.Int64Range(1, 4096).Draw(t, "set")) * mib,
		Rate: hypervisor.BytesPerSecond(rapid.Int64Range(1, 4096).Draw(t, "rate")) * hypervisor.BytesPerSecond(mib),
	}
}

func drawRate(t *rapid.T, name string) hypervisor.BytesPerSecond {
	return hypervisor.BytesPerSecond(rapid.Int64Range(1, 2048).Draw(t, name)) * hypervisor.BytesPerSecond(mib)
}

func TestDirtiedGrowsAndSaturates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGrowth(t)
		a := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "a"))
		b := a + time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "b"))
		da, db := g.Dirtied(a), g.Dirtied(b)
		switch {
		case da > db:
			t.Fatalf("%s after %s, %s after %s", da, a, db, b)
		case db > g.Set:
			t.Fatalf("%s of a set of %s", db, g.Set)
		case float64(da) > float64(g.Rate)*a.Seconds()+1:
			t.Fatalf("%s after %s at %s", da, a, g.Rate)
		}
	})
}

// The floor is a fixed point of the rounds, and rounds below the rate have none.
func TestFloorIsAFixedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, b := drawGrowth(t), drawRate(t, "bandwidth")
		floor := g.Floor(b)
		if g.Rate <= b {
			if floor != 0 {
				t.Fatalf("floor %s although %s <= %s", floor, g.Rate, b)
			}
			return
		}
		again := g.Dirtied(b.Time(floor))
		if d := math.Abs(float64(again - floor)); d > float64(g.Set)/1000+4096 {
			t.Fatalf("floor %s becomes %s", floor, again)
		}
	})
}

// At the share that is said to suffice, the floor fits; a tenth more does not, unless none was needed.
func TestShareIsJustEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, b := drawGrowth(t), drawRate(t, "bandwidth")
		limit := time.Duration(rapid.Int64Range(1, 2000).Draw(t, "limit")) * time.Millisecond
		fits := float64(b) * limit.Seconds()
		share := g.Share(b, limit)
		if share <= 0 || share > 1 {
			t.Fatalf("share %v", share)
		}
		if floor := g.Slowed(share).Floor(b); float64(floor) > fits*1.01+float64(g.Set)/1000 {
			t.Fatalf("at share %.3f the floor %s does not fit %.0f bytes", share, floor, fits)
		}
		if share < 0.9 {
			more := g.Slowed(share * 1.1)
			if more.Rate > b && float64(more.Floor(b)) < fits*0.99 {
				t.Fatalf("share %.3f is less than needed: at a tenth more the floor is %s of %.0f", share, more.Floor(b), fits)
			}
		}
	})
}

// More bandwidth, a higher limit or a slower guest never makes it worse.
func TestPredictIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{
			Growth: drawGrowth(t), Rest: hypervisor.Bytes(rapid.Int64Range(1, 8192).Draw(t, "rest")) * mib,
			Bandwidth: drawRate(t, "bandwidth"),
			Limit:     time.Duration(rapid.Int64Range(1, 1000).Draw(t, "limit")) * time.Millisecond,
			Overhead:  30 * time.Millisecond,
		}
		base := Predict(in)
		if base.Converges && base.Pause > in.Overhead+in.Limit+time.Millisecond {
			t.Fatalf("pause %s over the limit of %s", base.Pause, in.Limit)
		}
		if base.Bytes < in.Rest || base.Duration < in.Bandwidth.Time(in.Rest) {
			t.Fatalf("less than one pass: %+v", base)
		}
		for name, change := range map[string]func(*Input){
			"bandwidth": func(i *Input) { i.Bandwidth *= 2 },
			"limit":     func(i *Input) { i.Limit *= 2 },
			"slower":    func(i *Input) { i.Growth = i.Growth.Slowed(0.5) },
		} {
			better := in
			change(&better)
			f := Predict(better)
			if base.Converges && (!f.Converges || f.Duration > base.Duration+in.Limit) {
				t.Fatalf("%s made it worse: %+v, was %+v", name, f, base)
			}
		}
	})
}

// Samples drawn from a growth give it back, where the windows show its bend.
func TestFitFindsWhatMadeTheSamples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Growth{
			Set:  hypervisor.Bytes(rapid.Int64Range(16, 1024).Draw(t, "set")) * mib,
			Rate: hypervisor.BytesPerSecond(rapid.Int64Range(16, 1024).Draw(t, "rate")) * hypervisor.BytesPerSecond(mib),
		}
		bend := time.Duration(float64(g.Set) / float64(g.Rate) * float64(time.Second))
		var samples []Sample
		for _, f := range []float64{0.1, 0.5, 1, 2} {
			w := time.Duration(f * float64(bend))
			noise := 1 + 0.02*rapid.Float64Range(-1, 1).Draw(t, "noise")
			samples = append(samples, Sample{Window: w, Dirtied: hypervisor.Bytes(float64(g.Dirtied(w)) * noise)})
		}
		got, spread, ok := Fit(samples, 8*hypervisor.GiB)
		if !ok || spread > 0.05 {
			t.Fatalf("fit %+v, spread %.3f", got, spread)
		}
		if r := float64(got.Set) / float64(g.Set); r < 0.8 || r > 1.25 {
			t.Fatalf("set %s, want %s", got.Set, g.Set)
		}
		if r := float64(got.Rate) / float64(g.Rate); r < 0.85 || r > 1.18 {
			t.Fatalf("rate %s, want %s", got.Rate, g.Rate)
		}
	})
}

func TestFitOfOneWindowPromisesLittle(t *testing.T) {
	g, _, ok := Fit([]Sample{{Window: time.Second, Dirtied: 50 * mib}}, 4*hypervisor.GiB)
	if !ok || g.Set < 3*hypervisor.GiB {
		t.Errorf("one sample gave %+v, want a set up to all memory", g)
	}
	if d := g.Dirtied(time.Second); d < 45*mib || d > 55*mib {
		t.Errorf("the sample itself is explained as %s, want 50 MiB", d)
	}
	if _, _, ok := Fit(nil, hypervisor.GiB); ok {
		t.Error("no samples gave a fit")
	}
}

func TestPredictKnownCases(t *testing.T) {
	link := 50 * hypervisor.BytesPerSecond(mib)
	tests := []struct {
		name      string
		in        Input
		converges bool
		min, max  time.Duration
	}{
		{"idle", Input{Rest: 512 * mib, Bandwidth: link, Limit: 20 * time.Millisecond}, true, 10 * time.Second, 11 * time.Second},
		{"half the link", Input{Growth: Growth{Set: 256 * mib, Rate: link / 2}, Rest: 512 * mib, Bandwidth: link, Limit: 100 * time.Millisecond}, true, 12 * time.Second, 20 * time.Second},
		{"twice the link, wide", Input{Growth: Growth{Set: 512 * mib, Rate: 2 * link}, Rest: 1024 * mib, Bandwidth: link, Limit: 900 * time.Millisecond}, false, 20 * time.Second, 80 * time.Second},
		{"twice the link, small set", Input{Growth: Growth{Set: 16 * mib, Rate: 2 * link}, Rest: 1024 * mib, Bandwidth: link, Limit: 400 * time.Millisecond}, true, 20 * time.Second, 23 * time.Second},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := Predict(tc.in)
			if f.Converges != tc.converges || f.Duration < tc.min || f.Duration > tc.max {
				t.Errorf("%+v, want converges %v within %s to %s", f, tc.converges, tc.min, tc.max)
			}
		})
	}
}

// A sweep grows at its rate until its set is full: one short window and one long one tell.
func TestFitOfASweep(t *testing.T) {
	rate := 35 * hypervisor.BytesPerSecond(mib)
	g, spread, ok := Fit([]Sample{{Window: time.Second, Dirtied: 35 * mib}, {Window: 24 * time.Second, Dirtied: 512 * mib}, {Window: 22 * time.Second, Dirtied: 511 * mib}}, 2*hypervisor.GiB)
	if !ok || !g.Linear || spread > 0.05 {
		t.Fatalf("%+v, spread %.2f: want it linear", g, spread)
	}
	if r := float64(g.Rate) / float64(rate); r < 0.9 || r > 1.1 {
		t.Errorf("rate %s, want %s", g.Rate, rate)
	}
	if g.Floor(2*rate) != 0 || g.Floor(rate/2) != g.Set {
		t.Errorf("floor %s at twice the rate, %s at half of it: want none, and the whole set", g.Floor(2*rate), g.Floor(rate/2))
	}
	if s := g.Share(rate/2, 100*time.Millisecond); s < 0.45 || s > 0.55 {
		t.Errorf("share %.2f at half the rate, want about a half", s)
	}
}

// Windows that all saturate the set leave open how fast it grows: nothing worse is assumed than needed.
func TestFitOfSaturatedWindowsIsTheSlowest(t *testing.T) {
	g, _, ok := Fit([]Sample{{Window: 20 * time.Second, Dirtied: 512 * mib}, {Window: 21 * time.Second, Dirtied: 512 * mib}}, 2*hypervisor.GiB)
	if !ok || g.Rate > 120*hypervisor.BytesPerSecond(mib) || g.Dirtied(20*time.Second) < 480*mib {
		t.Errorf("%+v: want a slow growth that fills the set in 20 s", g)
	}
}

// A sample that errs is outweighed by passes that do not, also where it saw more than there is: of a load that comes and
// goes it shows one side only.
func TestFitWeighsSamples(t *testing.T) {
	passes := []Sample{{Window: 12400 * time.Millisecond, Dirtied: 165 * mib}, {Window: 7900 * time.Millisecond, Dirtied: 140 * mib}}
	for _, tc := range []struct {
		name    string
		sampled Sample
		low     hypervisor.BytesPerSecond // MiB/s
		high    hypervisor.BytesPerSecond
	}{
		{"exact", Sample{Window: time.Second, Dirtied: 67 * mib}, 65, 120},
		{"erring", Sample{Window: time.Second, Dirtied: 67 * mib, Error: 0.5}, 25, 45},
		{"too much", Sample{Window: time.Second, Dirtied: 400 * mib, Error: 0.7}, 25, 60},
	} {
		g, spread, ok := Fit(append([]Sample{tc.sampled}, passes...), 512*mib)
		if rate := g.Rate / hypervisor.BytesPerSecond(mib); !ok || rate < tc.low || rate > tc.high {
			t.Errorf("%s: %+v, spread %.2f, want %d to %d MiB/s", tc.name, g, spread, tc.low, tc.high)
		}
	}
	// Of one sample alone nothing is taken off for its error.
	if g, _, ok := Fit([]Sample{{Window: time.Second, Dirtied: 16 * mib, Error: 0.35}}, 512*mib); !ok || g.Dirtied(time.Second) < 15*mib {
		t.Errorf("one sample: %+v", g)
	}
	if _, _, ok := Fit([]Sample{{Window: time.Second, Dirtied: 1, Error: 1}, {Window: 5 * time.Second, Dirtied: 1, Error: 1}}, 0); !ok {
		t.Error("two of hardly anything: no fit")
	}
}

// TestAnew plays random writes beside a stream that sends one page after another.
func TestAnew(t *testing.T) {
	const pages = 20_000
	rng := rand.New(rand.NewPCG(1, 2))
	for _, writes := range []float64{0.05, 0.3, 1, 2.5, 6} { // expected of each page
		dirty, after := 0, 0
		for page := range pages {
			sent := float64(page) / pages
			last := 0.0
			for v := rng.ExpFloat64() / writes; v < 1; v += rng.ExpFloat64() / writes {
				last = v
			}
			if last > 0 {
				dirty++
			}
			if last > sent {
				after++
			}
		}
		g := Growth{Set: pages, Rate: pages}
		took := time.Duration(writes * float64(time.Second))
		if want, got := float64(after)/float64(dirty), g.Anew(took); math.Abs(want-got) > 0.04 {
			t.Errorf("%g writes: %.3f of what is dirty was written after it was sent, not %.3f", writes, want, got)
		}
		if g.Linear = true; g.Anew(took) != 1 {
			t.Errorf("%g writes: a sweep spares something", writes)
		}
	}
}

// What is spared hastens the end, and less of short passes.
func TestSpared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGrowth(t)
		a := time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "a"))
		spared := rapid.Float64Range(0, 1).Draw(t, "spared")
		if x := g.Anew(a); x < 0.499 || x > 1 || g.Anew(2*a) < x-1e-9 {
			t.Fatalf("%v after %s, then %v", x, a, g.Anew(2*a))
		}
		if x := g.Sent(a, spared); x < g.Anew(a)-1e-9 || x > 1 || a < 200*time.Millisecond && x < 0.95 {
			t.Fatalf("%v sent after %s", x, a)
		}
		in := Input{Growth: g, Rest: g.Set, Bandwidth: drawRate(t, "bandwidth"), Limit: 50 * time.Millisecond}
		all := Predict(in)
		in.Spared = spared
		if less := Predict(in); all.Converges && (!less.Converges || less.Duration > all.Duration+time.Millisecond) {
			t.Fatalf("%+v, and where something is spared %+v", all, less)
		}
	})
}
