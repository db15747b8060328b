package tune

import (
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
)

// A guest that is slowed until what is left fits into the pause.

// firmest is the smallest share that a guest may be brought to: its silences stay well within the promised pause.
func firmest(r Reading) float64 { return max(forecast.LeastShare, r.Least) }

// slowed is what slowing the guest would do from now on, by the way of planning (try or sparing); false when that is not
// allowed, or no use.
func (c *Controller) slowed(g model.Growth, by func(g model.Growth, share float64, pause time.Duration) plan) (plan, bool) {
	least := firmest(c.prev)
	if c.prev.Least <= 0 || least > forecast.MostShare || c.start.MaxSlowdown <= 0 || c.landing == 0 && c.attempts >= attempts {
		return plan{}, false
	}
	try := func(share float64, pause time.Duration) plan {
		p := by(g, share, pause)
		p.Duration, p.lost = time.Duration(c.dear*float64(p.Duration)), time.Duration(c.dear*float64(p.lost))
		return p
	}
	p := try(least, forecast.Sending(c.start.MaxPause, c.fixed, true))
	// Where there is the time for it, it is slowed less, for longer, if it loses less by that: as it does where it writes
	// more slowly than the link takes it.
	for share := 0.7; share > least && p.Converges && g.Rate < c.speed(); share -= 0.1 {
		m := try(share, p.pause)
		if m.Converges && float64(m.lost) <= forecast.Milder*float64(p.lost) && m.Duration <= forecast.Longer*p.Duration && c.prevAt+m.Duration <= c.budget()/2 {
			return m, true
		}
	}
	return p, p.Converges
}

func (c *Controller) slow(r Reading, p plan) Decision {
	c.expected = p.lost
	c.brake(r, p.share)
	// What a guest at full speed was allowed, or found to need, says nothing of one whose silences come on top.
	c.pause, c.limit = p.pause, c.limitFor(p.pause)
	return c.slowing(p)
}

func (c *Controller) brake(r Reading, share float64) {
	if c.landing == 0 {
		c.landed, c.slowedAt, c.lostAt = c.size, r.Elapsed, c.lost
		c.attempts++
	}
	c.share, c.landing, c.braked, c.raised, c.low, c.shortest = share, r.Round, nil, r.Elapsed, r.Elapsed, c.size
}

// letGo lets the guest run on at full speed. What a slowed one may send in a pause, and is not yet beyond the promise, is
// too much then. What it would have lost further tells what to expect of another attempt; 0 is no reason to expect more.
func (c *Controller) letGo(further time.Duration) {
	slowed := c.landing > 0
	if slowed && further > 0 && c.expected > 0 {
		c.dear = min(max(c.dear, c.dear*float64(c.lost-c.lostAt+further)/float64(c.expected)), dearest)
	}
	c.freed = c.freed || slowed
	c.share, c.landing, c.braked = 1, 0, nil
	if most := c.sending(c.start.MaxPause); slowed && c.beyond == 0 && c.pause > most {
		c.pause, c.limit = most, c.limitFor(most)
	}
}

func (c *Controller) slowing(p plan) Decision {
	return Decision{Reason: Slowing, Text: fmt.Sprintf(
		"the guest runs at %.0f %% so that passes leave less: about %s more", 100*c.share, p.Duration.Round(time.Second))}
}

// land watches a guest that is slowed: passes must shrink now.
func (c *Controller) land(r Reading, g model.Growth) Decision {
	promise := c.sending(c.start.MaxPause)
	if (r.Warming || r.Share == 1) && r.Elapsed-c.slowedAt < 2*patience {
		// It is not slowed as it is to be by now: what could not be set is tried again.
		return c.slowing(c.try(g, c.share, promise))
	}
	p := c.try(g, r.Share, promise)
	if seen, _, ok := model.Fit(c.braked, r.MemTotal); ok {
		p = c.goOn(seen, r.Share, promise)
	}
	// The silence before the switchover comes on top.
	ceiling := max(c.sending(c.start.Ceiling)-max(r.Silence-forecast.Braked, 0), promise)
	need := time.Duration(forecast.Margin * float64(c.speed().Time(slices.Min(c.sizes))))
	if !c.affordable(r, p, 1) {
		// It takes longer than was thought. Slower still is sooner over, and costs less.
		if d := c.try(g, firmest(r), p.pause); c.share > firmest(r) && c.affordable(r, d, 1) {
			c.brake(r, firmest(r))
			return c.slowing(d)
		}
		// What the guest has lost is lost for nothing once it runs on at full speed: not for a forecast, while so little
		// is left, nor where nothing but a longer pause is left to try.
		if p.Duration > 2*time.Second && c.size > c.landed/nearly && (need > ceiling || c.another()) {
			further := c.overdrawn()
			if p.Converges {
				further = p.lost
			}
			c.letGo(further)
			return Decision{Reason: AtPromise, Text: "the guest was slowed for as long as the intent allows by now: it runs on at full speed"}
		}
	}
	allowed := c.start.MaxSlowdown * float64(r.Elapsed)
	last := float64(c.lost) > lastPart*allowed && need <= ceiling && !c.another()
	if float64(c.size) < 0.96*float64(c.shortest) {
		c.shortest, c.low = c.size, r.Elapsed
	}
	// Passes scatter, short ones most, as it makes a difference whether the guest had one piece of its time in them or two: one
	// that fits into the pause will come, but not if there was none shorter for a while.
	short := c.size < few*hypervisor.Bytes(float64(c.speed())*c.pause.Seconds())
	hovers := r.Elapsed-c.low < hover
	comes := p.Converges && c.shrinking() && (hovers || !short)
	switch {
	case last && !(comes && c.affordable(r, p, 1)):
	case comes || r.Round-c.landing < 4:
		return c.slowing(p)
	case c.share > firmest(r):
		c.brake(r, firmest(r))
		return c.slowing(c.try(g, c.share, p.pause))
	case !last && hovers:
		return c.slowing(p)
	}
	moment := max(lastMoment, c.speed().Time(c.size)+batch) // the next judgement may come after this pass
	if !c.longer(r, need, ceiling, last && allowed-float64(c.lost) < (1-r.Share-c.start.MaxSlowdown)*float64(moment)) {
		return c.giveUp(r, g)
	}
	return Decision{Reason: AtCeiling, Text: fmt.Sprintf("slowing the guest is not enough: the pause limit is %s by now", c.limit.Round(time.Millisecond))}
}

// another reports whether there is time to slow the guest another time, once the intent allows what it has lost by now and
// a little more than as much again, after another pass at full speed.
func (c *Controller) another() bool {
	most := dearer * float64(c.lost-c.lostAt)
	return c.attempts < attempts && (float64(c.lost)+most)/(reserve*c.start.MaxSlowdown)+float64(c.speed().Time(c.landed)) < 0.95*float64(c.budget())
}

// overdrawn is what slowing the guest is taken to cost beyond what it has lost when that is all that the intent allows.
func (c *Controller) overdrawn() time.Duration {
	return time.Duration((dearer - 1) * float64(c.lost-c.lostAt))
}

// longer allows a slowed guest a longer pause, up to the ceiling, and reports whether that may still help. It goes
// by steps: passes this short are seen in part only, and one of them may be less than seems to be needed. In a
// hurry, what is needed is allowed at once.
func (c *Controller) longer(r Reading, need, ceiling time.Duration, hurry bool) bool {
	if need > ceiling {
		return false
	}
	hurry = hurry && need > c.pause
	if !hurry && r.Elapsed-c.raised < max(settle, 2*c.pause) { // at least a pass of what is allowed
		return true
	}
	next := min(c.pause*3/2, ceiling)
	if hurry {
		next = max(next, need)
	}
	if next <= c.pause {
		return false
	}
	c.raised = r.Elapsed
	c.raise(next)
	return true
}
