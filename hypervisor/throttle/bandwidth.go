package throttle

import (
	"math"
	"time"

	"drover/hypervisor"
)

// Bandwidth is the CPU time that a control group may use: Quota in each Period. A Quota that is not
// positive means no limit. The kernel counts whole microseconds.
type Bandwidth struct {
	Quota  time.Duration
	Period time.Duration
}

const (
	// slice is the quota that a busy vCPU is given where a spent one is noticed at the kernel's tick. It is longer than
	// a tick of a 250 Hz kernel: an overrun of one tick then never costs a whole further period.
	slice = 5 * time.Millisecond
	// piece is the least quota where a spent one is noticed at once: what a guest needs for a sign of life in one go, as a
	// rule. In smaller pieces it needs more of it, for timers and switches. README.md has the figures.
	piece = 1200 * time.Microsecond
	// leastQuota is the shortest that the kernel takes, and burst the work that a vCPU which is mostly
	// idle does in one go: what its timers owe for so long. Periods need not be shorter than that either.
	leastQuota = time.Millisecond
	burst      = 10 * time.Millisecond
	// leastShare is the smallest share ever set: below it a guest's own clocks and watchdogs suffer.
	leastShare = 0.01
)

// silentPeriods is how many periods a vCPU may stand still at most where a spent quota is noticed at the tick: one that
// comes late on a loaded host lets a vCPU run over by more than a quota, and it misses the next period.
const silentPeriods = 2

// timing says how soon it is noticed that a quota is spent.
type timing int

const (
	ticking timing = iota + 1 // at the kernel's tick
	beating                   // at each beat of a metronome, which is shorter than any quota
)

// pieces returns the quota that suits a vCPU which uses so much of a core when it is not throttled and shall have
// that share of one, and the longest period for it. At ticks a busy one runs until the tick that finds its
// quota spent; one that is mostly idle stops by itself before, so that a short quota, and with it a small share, costs
// no longer silence. At beats the quota is what makes a period short.
func (t timing) pieces(share, use float64, pause time.Duration) (quota, longest time.Duration) {
	if t == beating {
		longest = longestPeriod(pause, piece, 1)
		quota = time.Duration(share * float64(min(burst, longest))).Truncate(time.Microsecond)
		return min(slice, max(piece, quota)), longest
	}
	quota = min(slice, max(leastQuota, time.Duration(use*float64(burst)).Truncate(time.Microsecond)))
	return quota, longestPeriod(pause, quota, silentPeriods)
}

// Share returns how many cores the group may use, +Inf without a limit.
func (b Bandwidth) Share() float64 {
	if b.Quota <= 0 || b.Period <= 0 {
		return math.Inf(1)
	}
	return float64(b.Quota) / float64(b.Period)
}

// least returns the smallest share of a core that can be set without silencing for the pause or longer
// a vCPU that uses so much of a core when it is not throttled. It is 1 for pauses too short to
// throttle within.
func (t timing) least(pause time.Duration, use hypervisor.Cores) float64 {
	quota, longest := t.pieces(leastShare, float64(use), pause)
	return min(1, quota.Seconds()/longest.Seconds())
}

// Least is the smallest share of a core that can be set without silencing for the pause or longer the vCPUs of a guest,
// each of which uses so much of a core at most when it is not throttled, on a host whose agent may schedule in real time:
// what models of hosts reckon with. [Throttle.Least] is this host's.
func Least(pause time.Duration, use hypervisor.Cores, vcpus int) float64 {
	if vcpus > mostBeaten {
		return ticking.least(pause, use)
	}
	return beating.least(pause, use)
}

// longestPeriod returns the period that keeps a silence of so many strictly below the pause, with a fifth of
// it left for what a host with other work adds. It is never less than the quota, which means no
// throttling.
func longestPeriod(pause, quota time.Duration, silent int64) time.Duration {
	p := ((pause - 1) / 5 * 4 / time.Duration(silent)).Truncate(time.Microsecond)
	return min(max(p, quota), time.Duration(float64(quota)/leastShare), time.Second)
}

// plan returns the bandwidth for a vCPU that uses so much of a core, may use the share of one, and must
// not be silenced for the pause by that. ceiling is the share that the group's own original limit and those above it leave;
// where they are as strict as the plan, or nothing can be done within the pause, the original stands.
func (t timing) plan(share, use float64, pause time.Duration, original Bandwidth, ceiling float64) Bandwidth {
	quota, longest := t.pieces(share, use, pause)
	period := time.Duration(math.Ceil(quota.Seconds()/max(share, leastShare)*1e6)) * time.Microsecond
	b := Bandwidth{Quota: quota, Period: min(max(period, leastQuota), longest)}
	if b.Share() >= min(1, ceiling) {
		return original
	}
	return b
}

// periodFirst says which of the two v1 files to write first on the way between two bandwidths, so that
// the group never has more in between than the greater of the two: more could exceed its parent, which
// the kernel refuses.
func periodFirst(from, to Bandwidth) bool {
	switch {
	case to.Quota <= 0:
		return false
	case from.Quota <= 0:
		return true
	}
	return to.Period >= from.Period
}
