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
	// slice is the quota that a busy vCPU is given. It is longer than a tick of a 250 Hz kernel: an
	// overrun of one tick then never costs a whole further period.
	slice = 5 * time.Millisecond
	// leastQuota is the shortest that the kernel takes, and burst the work that a vCPU which is mostly
	// idle does in one go: what its timers owe for so long.
	leastQuota = time.Millisecond
	burst      = 10 * time.Millisecond
	// silentPeriods is how many periods a vCPU may stand still at most: a tick that comes late on a
	// loaded host lets it run over by more than a quota, and it then misses the next period.
	silentPeriods = 2
	// leastShare is the smallest share ever set: below it a guest's own clocks and watchdogs suffer.
	leastShare = 0.01
)

// quotaFor returns the quota that suits a vCPU which uses so much of a core when it is not throttled.
// A busy one runs until the tick that finds its quota spent; one that is mostly idle stops by itself
// before, so that a short quota, and with it a small share, costs no longer silence.
func quotaFor(use float64) time.Duration {
	return min(slice, max(leastQuota, time.Duration(use*float64(burst)).Truncate(time.Microsecond)))
}

// Share returns how many cores the group may use, +Inf without a limit.
func (b Bandwidth) Share() float64 {
	if b.Quota <= 0 || b.Period <= 0 {
		return math.Inf(1)
	}
	return float64(b.Quota) / float64(b.Period)
}

// Least returns the smallest share of a core that can be set without silencing for the pause or longer
// a vCPU that uses so much of a core when it is not throttled. It is 1 for pauses too short to
// throttle within.
func Least(pause time.Duration, use hypervisor.Cores) float64 {
	quota := quotaFor(float64(use))
	return min(1, quota.Seconds()/longestPeriod(pause, quota).Seconds())
}

// longestPeriod returns the period that keeps every silence strictly below the pause, with a fifth of
// it left for what a host with other work adds. It is never less than the quota, which means no
// throttling.
func longestPeriod(pause, quota time.Duration) time.Duration {
	p := ((pause - 1) / 5 * 4 / silentPeriods).Truncate(time.Microsecond)
	return min(max(p, quota), time.Duration(float64(quota)/leastShare), time.Second)
}

// plan returns the bandwidth for a vCPU that may use the share of a core, in pieces of quota, and must
// not be silenced for the pause by it. ceiling is the share that the group's own original limit and those above it leave;
// where they are as strict as the plan, or nothing can be done within the pause, the original stands.
func plan(share float64, quota, pause time.Duration, original Bandwidth, ceiling float64) Bandwidth {
	period := time.Duration(math.Ceil(quota.Seconds()/max(share, leastShare)*1e6)) * time.Microsecond
	b := Bandwidth{Quota: quota, Period: min(max(period, leastQuota), longestPeriod(pause, quota))}
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
