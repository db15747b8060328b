package tune

import (
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
)

const (
	// again is what ending an attempt and beginning another takes.
	again = 1500 * time.Millisecond
	// clearly is the factor on its cost by which another strategy must be better than going on.
	clearly = 0.75
	// early is the part of the budget by which it must have shown whether it may do at all, as must a strategy of which
	// nothing is known for this domain: after that nobody may be left waiting for a guess.
	early = 0.25
)

// restart ends the attempt for the sake of another with another strategy, where what was seen of the
// guest says that this pays: where the present strategy can't end it within the intent, or where the
// other is known to do it at clearly less of a cost. Nothing is restarted twice.
func (c *Controller) restart(r Reading, g model.Growth) (Decision, bool) {
	if c.start.Attempts > 0 || c.adopted || c.first == 0 || c.wire <= 0 || c.landing > 0 {
		return Decision{}, false
	}
	stay, possible := c.staying(r, g)
	var next *forecast.Option
	var best, price time.Duration
	for i, o := range c.start.Prior.Others {
		took, cost, ok := c.anew(g, o)
		total := r.Elapsed + took
		switch {
		case !ok || total > c.budget()-c.budget()/10:
		case !o.Tried && (possible || r.Elapsed+again+c.wire.Time(c.whole(o)) > time.Duration(early*float64(c.budget()))):
		case possible && float64(cost) > clearly*float64(stay):
		case next == nil || cost < price:
			next, best, price = &c.start.Prior.Others[i], took, cost
		}
	}
	if next == nil {
		return Decision{}, false
	}
	c.share = 1
	return Decision{Action: Restart, Reason: Restarting, Next: next, Text: fmt.Sprintf(
		"the guest rewrites %s in a working set of %s, faster than %s sends it: it is begun again with %s, which takes about %s",
		g.Rate, g.Set, c.start.Strategy.Name(), next.Strategy.Name(), best.Round(time.Second))}, true
}

// staying is what going on as now costs, a lost second of guest work counting as [forecast.Worth]; false when the
// attempt would be given up.
func (c *Controller) staying(r Reading, g model.Growth) (time.Duration, bool) {
	if p, ok := c.slowed(g, c.sparing); ok {
		took := p.Duration
		if !c.affordable(r, p, reserve) {
			whole := time.Duration(float64(c.lost+p.lost) / (reserve * c.start.MaxSlowdown))
			took = max(took, whole-r.Elapsed)
		}
		if r.Elapsed+took <= c.budget()-c.budget()/10 {
			return took + time.Duration(forecast.Worth*float64(p.lost)), true
		}
	}
	if c.start.PostCopy && c.Strategy().PostCopy {
		return c.speed().Time(c.floor(g)), true
	}
	need := time.Duration(forecast.Margin * float64(c.speed().Time(c.floor(g))))
	return patience, need <= c.sending(c.start.Ceiling) && c.start.Ceiling > c.start.MaxPause
}

// anew is what another attempt with a strategy takes and costs; false when that would not end within
// the promise either.
func (c *Controller) anew(g model.Growth, o forecast.Option) (took, cost time.Duration, ok bool) {
	drain := hypervisor.BytesPerSecond(float64(c.wire) / max(o.Ratio, 0.01))
	first := c.wire.Time(c.whole(o))
	p := model.Predict(model.Input{
		Growth: g, Rest: g.Dirtied(first), Bandwidth: drain, Limit: c.sending(c.start.MaxPause), Overhead: c.fixed,
	})
	took = again + first + p.Duration
	return took, took, p.Converges
}

// whole is what the first pass of another attempt sends.
func (c *Controller) whole(o forecast.Option) hypervisor.Bytes {
	packed := 1.0
	if c.start.Strategy.Connections > 0 && c.start.Prior.First > 0 {
		packed = c.start.Prior.First
	}
	return hypervisor.Bytes(float64(c.first) / packed * max(o.First, 0.01))
}
