package model

import (
	"cmp"
	"math"
	"slices"
	"time"

	"drover/hypervisor"
)

// Growth is how the dirtied set grows after a bitmap sync. The zero value is a guest that writes
// nothing.
type Growth struct {
	Set  hypervisor.Bytes          `json:"set"`  // the writable working set, where it saturates
	Rate hypervisor.BytesPerSecond `json:"rate"` // at which it begins to grow
	// Linear says that it grows at Rate until it saturates, as under a sweep, and not ever slower.
	Linear bool `json:"linear,omitempty"`
}

// Dirtied is the expected size of the set after t.
func (g Growth) Dirtied(t time.Duration) hypervisor.Bytes {
	if g.Set <= 0 || g.Rate <= 0 || t <= 0 {
		return 0
	}
	s, wt := float64(g.Set), float64(g.Rate)*t.Seconds()
	if g.Linear {
		return hypervisor.Bytes(min(s, wt))
	}
	return hypervisor.Bytes(-s * math.Expm1(-wt/s))
}

// Slowed is the growth while the vCPUs run only the share (0 to 1) of the time.
func (g Growth) Slowed(share float64) Growth {
	g.Rate = hypervisor.BytesPerSecond(float64(g.Rate) * min(max(share, 0), 1))
	return g
}

// Anew is the part of the pages dirtied in a pass that takes t that were written after they were sent in that pass.
// The others are dirty, but the target has them as they are: XBZRLE finds them unchanged and sends nothing
// (save_xbzrle_page of QEMU's migration/ram.c), other streams send them again. A page that is written at random with
// x = Rate t / Set writes expected, and sent at any moment of the pass, was written after it with the probability
// 1 - (1 - e^-x) / x, out of the 1 - e^-x that are dirty: from a half for short passes to all for long ones. Under a
// sweep it is any part, by who is ahead of whom: all is said.
func (g Growth) Anew(t time.Duration) float64 {
	if g.Linear || g.Set <= 0 || g.Rate <= 0 || t <= 0 {
		return 1
	}
	x := float64(g.Rate) * t.Seconds() / float64(g.Set)
	dirty := -math.Expm1(-x)
	if x < 1e-4 {
		return 0.5 // the limit, where the difference is all rounding
	}
	return (1 - dirty/x) / dirty
}

// sparing is how long a pass takes from which on it is spared as much as one that takes longer.
const sparing = 2 * time.Second

// Sent is the part of the pages dirtied in a pass that takes t that goes over the link in the next, where so much is spared
// of what has not changed since it was sent ([Growth.Anew]), 0 to 1, and less in proportion of what short passes leave:
// under XBZRLE over 200 Mbit/s, of guests that write pages at random, 0.73 to 0.88 of what passes at full speed left was
// sent that took 3 to 11 s, 0.52 to 0.67 of passes at a third of it that took 2 to 7 s, and then 0.64 to 0.75 where they
// took a second and 0.8 to 0.94 where it was half of that.
func (g Growth) Sent(t time.Duration, spared float64) float64 {
	return 1 - spared*min(1, t.Seconds()/sparing.Seconds())*(1-g.Anew(t))
}

// Floor is the size at which rounds stop shrinking at the bandwidth; 0 when they shrink to nothing.
func (g Growth) Floor(bandwidth hypervisor.BytesPerSecond) hypervisor.Bytes {
	if g.Rate <= bandwidth || g.Set <= 0 {
		return 0
	}
	if bandwidth <= 0 || g.Linear {
		return g.Set
	}
	// x = R*/S solves x = 1 - e^(-a x) with a = w/B > 1; the root in (0, 1] is unique.
	a := float64(g.Rate) / float64(bandwidth)
	low, high := 0.0, 1.0
	for range 60 {
		x := (low + high) / 2
		if -math.Expm1(-a*x) > x {
			low = x
		} else {
			high = x
		}
	}
	return hypervisor.Bytes(high * float64(g.Set))
}

// Share is the largest share of time that the vCPUs may run for the floor to fit into the downtime
// limit at the bandwidth: 1 when they need not be slowed, 0 when nothing helps.
func (g Growth) Share(bandwidth hypervisor.BytesPerSecond, limit time.Duration) float64 {
	fits := float64(bandwidth) * limit.Seconds()
	if fits <= 0 {
		return 0
	}
	s, w := float64(g.Set), float64(g.Rate)
	if fits >= s || w <= float64(bandwidth) {
		return 1
	}
	if g.Linear {
		return float64(bandwidth) / w
	}
	return min(1, -s/(w*limit.Seconds())*math.Log1p(-fits/s))
}

// Sample is one observation: the set's size when the window after a sync ended.
type Sample struct {
	Window  time.Duration    `json:"window"`
	Dirtied hypervisor.Bytes `json:"dirtied"`
	// Error is the relative standard error of Dirtied, besides that of a pass that was seen.
	Error float64 `json:"error,omitempty"`
}

// weight is that of a sample in a fit: 1 for a pass that was seen.
func (s Sample) weight() float64 {
	return seenError * seenError / (seenError*seenError + s.Error*s.Error)
}

// seenError is the relative standard error of the dirtied set that a pass of a steady load leaves.
const seenError = 0.05

// Fit finds the growth that explains the samples best, in the least squares of their logarithms, each weighted by the
// inverse of its variance.
// total bounds the working set. Spread is the root mean square of the relative error. One window
// alone cannot show where the set saturates: the fit is then linear up to total, which forecasts
// too much rather than too little. Where all windows were long enough to saturate the set, they say
// only how fast it grows at least; the fit is the slowest growth that explains them as well. False
// when no sample says anything.
func Fit(samples []Sample, total hypervisor.Bytes) (g Growth, spread float64, ok bool) {
	return Slowest(samples, total, tolerance)
}

// Slowest is the slowest growth whose relative error is at most the tolerance worse than the best
// fit's.
func Slowest(samples []Sample, total hypervisor.Bytes, tolerance float64) (g Growth, spread float64, ok bool) {
	use := slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool { return s.Window <= 0 || s.Dirtied <= 0 })
	if len(use) == 0 {
		return Growth{}, 0, false
	}
	most, slowest, fastest := hypervisor.Bytes(0), math.Inf(1), 0.0
	for _, s := range use {
		most = max(most, hypervisor.Bytes(float64(s.Dirtied)*math.Exp(-2*s.Error))) // at least, nearly for sure
		slowest = min(slowest, float64(s.Dirtied)/s.Window.Seconds())
		fastest = max(fastest, float64(s.Dirtied)/s.Window.Seconds())
	}
	if len(use) == 1 {
		total = max(total, use[0].Dirtied+use[0].Dirtied/8+1)
		set := float64(total)
		rate := -set / use[0].Window.Seconds() * math.Log1p(-float64(use[0].Dirtied)/set)
		return Growth{Set: total, Rate: hypervisor.BytesPerSecond(rate)}, 0, true
	}
	most = max(most, 1)
	total = max(total, most+most/8+1)
	type fit struct {
		Growth
		misfit float64
	}
	var found []fit
	// The set lies between the most that was seen and all memory; in steps of 6 %.
	for set := float64(most) * 1.005; ; set *= 1.06 {
		set = min(set, float64(total))
		for rate := slowest; rate < 6*fastest; rate *= 1.04 {
			g := Growth{Set: hypervisor.Bytes(set), Rate: hypervisor.BytesPerSecond(rate)}
			found = append(found, fit{g, misfit(use, g)})
		}
		if set >= float64(total) {
			break
		}
	}
	weight := 0.0
	for _, s := range use {
		weight += s.weight()
	}
	slack := tolerance * tolerance * weight
	best := slices.MinFunc(found, func(a, b fit) int { return cmp.Compare(a.misfit, b.misfit) })
	for _, f := range found {
		if f.misfit <= best.misfit+slack && f.Rate < best.Rate {
			best.Growth = f.Growth
		}
	}
	best.misfit = misfit(use, best.Growth)
	for rate := slowest; rate < 1.5*fastest; rate *= 1.02 {
		g := Growth{Set: most, Rate: hypervisor.BytesPerSecond(rate), Linear: true}
		if e := misfit(use, g); e < best.misfit-slack {
			best = fit{g, e}
		}
	}
	return best.Growth, math.Sqrt(best.misfit / weight), true
}

// tolerance is the relative error by which a fit must be better to be preferred to a slower growth.
const tolerance = 0.02

func misfit(samples []Sample, g Growth) float64 {
	e := 0.0
	for _, s := range samples {
		d := math.Log(float64(max(g.Dirtied(s.Window), 1)) / float64(s.Dirtied))
		e += s.weight() * d * d
	}
	return e
}

// Input is what a forecast starts from.
type Input struct {
	Growth Growth
	// Rest is what has to be sent before the next sync: all memory that is in use, at the start.
	Rest      hypervisor.Bytes
	Bandwidth hypervisor.BytesPerSecond // of the stream while it copies
	Limit     time.Duration             // the downtime limit
	Overhead  time.Duration             // of a switchover with nothing left to send
	// Sent is the part of Rest that goes over the link, 0 for all; Spared is for later passes ([Growth.Sent]).
	Sent, Spared float64
}

// Forecast is what is to be expected.
type Forecast struct {
	Converges bool
	// Duration and Bytes are until the guest runs on the target, or until the floor is reached.
	Duration time.Duration
	Bytes    hypervisor.Bytes
	Pause    time.Duration // of a switchover then
	Rounds   int
	Floor    hypervisor.Bytes // what is left when rounds no longer shrink; 0 when it converges
}

// maxRounds bounds a forecast; rounds that shrink so slowly do not converge in practice.
const maxRounds = 60

// Predict plays the rounds forward.
func Predict(in Input) Forecast {
	f := Forecast{}
	if in.Bandwidth <= 0 {
		return Forecast{Duration: math.MaxInt64, Pause: math.MaxInt64, Floor: in.Rest}
	}
	fits := hypervisor.Bytes(float64(in.Bandwidth) * in.Limit.Seconds())
	rest, part := in.Rest, cmp.Or(in.Sent, 1)
	for f.Rounds = 1; f.Rounds <= maxRounds; f.Rounds++ {
		sent := hypervisor.Bytes(part * float64(rest))
		t := in.Bandwidth.Time(sent)
		f.Duration, f.Bytes = satAdd(f.Duration, t), f.Bytes+sent
		next := in.Growth.Dirtied(t)
		if next <= fits {
			f.Converges, rest = true, next
			break
		}
		part = in.Growth.Sent(t, in.Spared)
		if part*float64(next) > 0.98*float64(sent) {
			rest = next
			break
		}
		rest = next
	}
	if !f.Converges {
		f.Floor = rest
	}
	f.Pause = satAdd(in.Overhead, in.Bandwidth.Time(rest))
	f.Duration, f.Bytes = satAdd(f.Duration, f.Pause), f.Bytes+rest
	return f
}

func satAdd(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
