package tune

import (
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
)

// What a migration could come to from here on, and whether the intent allows that.

// plan is a way to end the migration from the present pass on.
type plan struct {
	share float64
	pause time.Duration // the sending in the pause that is allowed
	model.Forecast
	lost time.Duration // further guest work
}

// try is the plan to slow the guest to the share.
func (c *Controller) try(g model.Growth, share float64, pause time.Duration) plan {
	return c.goOn(g.Slowed(share), share, pause)
}

// sparing is that plan, where what need not be sent again is reckoned with. The speed was measured of a pass of which only
// a part was sent itself.
func (c *Controller) sparing(g model.Growth, share float64, pause time.Duration) plan {
	if !c.compares() || g.Linear || c.drain <= 0 && c.start.Prior.Ratio > 0 {
		return c.try(g, share, pause)
	}
	return c.plan(share, model.Input{
		Growth: g.Slowed(share), Bandwidth: hypervisor.BytesPerSecond(c.before * float64(c.speed())),
		Limit: time.Duration(float64(pause) / c.before), Sent: c.fresh, Spared: spared,
	}, pause)
}

// goOn is the plan to slow the guest as it is, which leaves passes that grow so.
func (c *Controller) goOn(slowed model.Growth, share float64, pause time.Duration) plan {
	return c.plan(share, model.Input{Growth: slowed, Bandwidth: c.speed(), Limit: pause}, pause)
}

func (c *Controller) plan(share float64, in model.Input, pause time.Duration) plan {
	in.Rest, in.Overhead = c.prev.MemRemaining, c.fixed
	p := plan{share: share, pause: pause, Forecast: model.Predict(in)}
	p.lost = time.Duration((1 - share) * float64(p.Duration))
	return p
}

// limitFor is the downtime limit for which QEMU lets the sending in the pause take so long. QEMU
// compares what is left, uncompressed, with the bytes that go over the link. The last pages may not pack as well as those
// before them: then the pause is longer by no more than mostPacked.
func (c *Controller) limitFor(pause time.Duration) time.Duration {
	packed := 1.0
	if c.wire > 0 && c.start.Strategy.Compression != "" {
		packed = min(max(float64(c.speed())/float64(c.wire), 1), forecast.MostPacked)
	}
	limit := min(time.Duration(packed*float64(pause)), pause+mostPacked)
	return max(limit.Truncate(time.Millisecond), leastLimit)
}

// needs is the least bandwidth, in whole MiB/s, by which passes would come down to what a pause sends, all of it if none
// would; 0 while too little was seen.
func (c *Controller) needs(g model.Growth, pause time.Duration) hypervisor.BytesPerSecond {
	const unit = hypervisor.BytesPerSecond(hypervisor.MiB)
	if len(c.seen) < 2 || c.wire <= 0 || c.start.Bandwidth < 2*unit {
		return c.need
	}
	packed := float64(c.speed()) / float64(c.wire)
	converges := func(n hypervisor.BytesPerSecond) bool {
		return model.Predict(model.Input{
			Growth: g, Rest: c.size, Bandwidth: hypervisor.BytesPerSecond(packed * float64(n*unit)), Limit: pause, Overhead: c.fixed,
		}).Converges
	}
	low, high := hypervisor.BytesPerSecond(0), c.start.Bandwidth/unit
	c.hopeless = !converges(high)
	for low+1 < high {
		mid := (low + high) / 2
		if converges(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high * unit
}

// leastPause is the plan with the least pause that hardly delays the end.
func (c *Controller) leastPause(g model.Growth, p plan) plan {
	for pause := min(forecast.FirstLimit, p.pause); pause < p.pause; pause = min(pause*3/2, p.pause) {
		if low := c.try(g, p.share, pause); low.Converges && low.Duration <= p.Duration+p.Duration/20+300*time.Millisecond {
			return low
		}
	}
	return p
}

// later is the time of the whole migration by which a plan is affordable that is not now, as the intent is a share of
// that; late when the passes until then would be too many for the budget. With what is to be decided now, and has never
// been done, there must be time for forecasts to err.
func (c *Controller) later(r Reading, p plan) (whole time.Duration, late bool) {
	budget := c.budget()
	end := budget - budget/20
	if c.decides(r) && r.Elapsed <= time.Duration(early*float64(budget)) && !c.start.Prior.Ended && c.attempts == 0 {
		if end = time.Duration(decided * float64(budget)); c.start.Prior.GaveUp {
			end = time.Duration(doubted * float64(budget))
		}
	}
	// Before what it has lost by now is within what is allowed, it is not slowed at all.
	whole = time.Duration(min(max(float64(c.lost+p.lost)/reserve, float64(c.lost)+c.start.MaxSlowdown*float64(p.Duration))/c.start.MaxSlowdown, float64(budget)))
	pass := max(c.speed().Time(c.size), batch)
	passes := max(whole-p.Duration-r.Elapsed+pass-1, 0) / pass
	return whole, r.Elapsed+passes*pass+p.Duration > end
}

// intime reports whether a plan is affordable in time.
func (c *Controller) intime(r Reading, p plan) bool {
	_, late := c.later(r, p)
	return !late
}

// affordable reports whether the part of what the intent allows covers what the guest would have lost
// by the plan's end. A guest that has lost more by now is not slowed, whatever is allowed then: it would be let go at once.
func (c *Controller) affordable(r Reading, p plan, part float64) bool {
	return !c.overdrew(r) && float64(c.lost+p.lost) <= part*c.start.MaxSlowdown*float64(r.Elapsed+p.Duration)
}

// overdrew reports whether the guest has lost more than the intent allows by now.
func (c *Controller) overdrew(r Reading) bool {
	return float64(c.lost) > c.start.MaxSlowdown*float64(r.Elapsed)
}
