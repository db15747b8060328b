package tune

import (
	"cmp"
	"math"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
)

// What the controller makes of the readings: passes, and how fast they are sent.

type rate struct {
	at   time.Duration
	sent hypervisor.Bytes
}

// note takes in what a reading shows.
func (c *Controller) note(r Reading) {
	step := max(r.Elapsed-c.prevAt, 0)
	share := r.Share
	if share <= 0 || share > 1 {
		share = 1
	}
	c.lost += time.Duration((1 - share) * float64(step))
	if c.allowed < c.alone {
		c.waited += time.Duration((1 - float64(c.allowed)/float64(c.alone)) * float64(step))
	}
	if c.allowed < c.start.Bandwidth {
		c.slower += time.Duration((1 - float64(c.allowed)/float64(c.start.Bandwidth)) * float64(step))
	}
	c.least = min(c.least, share)
	if r.Least > 0 && r.Least < 1 {
		c.possible = r.Least
	}
	c.highest, c.disks = max(c.highest, r.DirtyRate), max(c.disks, r.DiskTotal)
	defer func() { c.prev, c.prevAt = r, r.Elapsed }()
	if r.MemTotal == 0 {
		return
	}
	c.rates = append(c.rates, rate{r.Elapsed, r.MemProcessed})
	for len(c.rates) > 2 && r.Elapsed-c.rates[1].at >= 2*time.Second {
		c.rates = c.rates[1:]
	}
	if o := c.rates[0]; r.Elapsed > o.at && r.MemProcessed > o.sent {
		c.wire = hypervisor.Rate(r.MemProcessed-o.sent, r.Elapsed-o.at)
		if c.start.Bandwidth > 0 {
			c.wire = min(c.wire, c.start.Bandwidth)
		}
		if r.Elapsed-o.at >= time.Second {
			c.best = max(c.best, c.wire)
		}
	}
	c.pace.note(c.prev, r)
	if r.Round == c.round || r.Round <= 1 {
		c.ran += time.Duration(share * float64(step))
		c.within(r, step)
		c.round = max(c.round, min(r.Round, 1))
		return
	}
	c.next(r, step, share)
}

// within measures how fast dirtied memory is sent during a pass.
func (c *Controller) within(r Reading, step time.Duration) {
	if r.Round <= 1 || step <= 0 || r.MemRemaining >= c.prev.MemRemaining {
		return
	}
	gone, sent := c.prev.MemRemaining-r.MemRemaining, max(r.MemProcessed-c.prev.MemProcessed, 0)
	now := hypervisor.Rate(gone, step)
	if w := hypervisor.Rate(sent, step); c.allowed > 0 && w > c.allowed {
		// QEMU keeps to a cap in slices of 100 ms, and sends what is less than that at once.
		now = hypervisor.BytesPerSecond(float64(now) * float64(c.allowed) / float64(w))
	}
	if r.Round > 2 {
		c.resent += gone
		c.packed += sent
	}
	if c.drain <= 0 {
		c.drain = now
	}
	// Smoothed over about a second, however often it is read.
	w := min(1, step.Seconds())
	c.drain = hypervisor.BytesPerSecond(w*float64(now) + (1-w)*float64(c.drain))
}

// next notes that another pass has begun since the last reading, perhaps several.
func (c *Controller) next(r Reading, step time.Duration, share float64) {
	passes := r.Round - max(c.round, 1)
	speed := c.speed()
	// When the pass began lies between the two readings: what was left at the last one was sent first.
	sync := c.prevAt
	if speed > 0 && passes == 1 {
		sync = min(c.prevAt+speed.Time(c.prev.MemRemaining), r.Elapsed)
	}
	since := r.Elapsed - sync
	size := r.MemRemaining
	if passes == 1 && speed > 0 {
		size += hypervisor.Bytes(float64(speed) * since.Seconds())
		size = min(size, r.MemTotal)
	}
	ran := c.ran + time.Duration(share*float64(step-since))
	if c.round == 0 {
		passes, c.adopted = 2, true // nothing is known of the passes before
	}
	if c.round == 1 {
		c.first, c.firstWhole = r.MemProcessed, r.MemNormal
		ran = max(ran-r.Setup, 0)
	}
	// Passes too short for the poll: their mean length, and the most that was seen of them. What the
	// last long pass left unsent is nothing that a short one dirtied.
	known := passes == 1 || c.quick
	if c.quick = passes > 1; c.quick && known {
		ran /= time.Duration(passes)
		size = max(size, c.prev.MemRemaining, hypervisor.Bytes(c.unpacked()*float64(r.MemProcessed-c.prev.MemProcessed)/float64(passes)))
		size = min(size, r.MemTotal)
	}

	if ran > 0 && c.round > 0 && !c.blind && known {
		if c.landing > 0 {
			// How much a slowed guest really dirties only a whole pass at that speed tells.
			if c.round > c.landing && !c.warming {
				c.braked = keep(c.braked, model.Sample{Window: max(sync-c.began, time.Millisecond) / time.Duration(passes), Dirtied: size})
			}
		} else {
			s := model.Sample{Window: ran, Dirtied: size}
			c.score(s)
			c.see(s)
		}
	}
	if c.freed {
		c.freed, c.sizes = false, nil // a guest at full speed leaves more
	}
	c.sizes = keep(c.sizes, size)
	c.before, c.fresh = c.fresh, 1
	if c.compares() && r.Round > 2 {
		if g, _, ok := c.growth(); ok {
			took := max(sync-c.began, time.Millisecond) / time.Duration(passes)
			c.fresh = g.Slowed(float64(ran)/float64(took)).Sent(took, spared)
		}
	}
	c.blind, c.warming = c.round == 0, r.Warming || share == 1
	c.round, c.began, c.size = r.Round, sync, size
	c.ran = time.Duration(share * float64(since))
}

// see adds a sample of a pass at full speed. One of a pass that is hardly longer than a poll is noise
// beside those of longer ones, unless it shows more than they do: then it is they that do not tell.
func (c *Controller) see(s model.Sample) {
	longer := func(o model.Sample) bool { return o.Window >= batch && o.Dirtied >= s.Dirtied }
	if s.Window < batch && slices.ContainsFunc(c.seen, longer) {
		return
	}
	c.seen = keep(c.seen, s)
}

// score notes by how much a pass is not what those before it, or what was known before, let the model expect;
// one alone does not say where the set saturates.
func (c *Controller) score(s model.Sample) {
	if c.quick || len(c.missed) == 64 || c.stops(s) {
		return
	}
	known := c.evidence()
	if g, _, ok := model.Fit(known, c.prev.MemTotal); ok && len(known) > 1 {
		c.missed = append(c.missed, math.Abs(math.Log(float64(max(g.Dirtied(s.Window), 1))/float64(max(s.Dirtied, 1)))))
	}
}

// stops reports whether what a pass left fits into the limit: then it was no whole pass, if QEMU has stopped the
// guest for it before all of the one before was sent.
func (c *Controller) stops(s model.Sample) bool {
	return s.Dirtied <= hypervisor.Bytes(float64(c.speed())*c.limit.Seconds())
}

// passes are the samples seen, without those at the end that may be of no whole pass if there are others.
func (c *Controller) passes() []model.Sample {
	n := len(c.seen)
	for n > 0 && c.stops(c.seen[n-1]) {
		n--
	}
	if n == 0 {
		return c.seen
	}
	return c.seen[:n]
}

// unpacked is the dirtied memory that each byte on the link stands for, as far as that is known.
func (c *Controller) unpacked() float64 {
	if c.packed < 4*hypervisor.MiB {
		return 1
	}
	return min(max(float64(c.resent)/float64(c.packed), 1), forecast.MostPacked)
}

// keep appends to the latest few.
func keep[T any](list []T, x T) []T {
	list = append(list, x)
	return list[max(0, len(list)-samples):]
}

// speed is how much dirtied memory is sent per second: measured, or what the link and the strategy's
// ratio give. The end of the first pass is no measure of a link: it is often memory that holds nothing.
func (c *Controller) speed() hypervisor.BytesPerSecond {
	if c.drain > 0 {
		return c.drain
	}
	ratio := c.start.Prior.Ratio
	if ratio <= 0 {
		ratio = 1
	}
	return hypervisor.BytesPerSecond(float64(max(c.best, c.wire)) / ratio)
}

// growth fits what was seen, helped by what was known before while there is little.
func (c *Controller) growth() (model.Growth, float64, bool) {
	return model.Fit(c.evidence(), c.prev.MemTotal)
}

// evidence is what was seen, and before that what was known before while that is little and nothing that was
// seen contradicts it: a guest may do something else by now.
func (c *Controller) evidence() []model.Sample { return c.with(c.seen) }

// with are the passes seen, and what was known before as long as these are few, or so long that each met all of
// the working set and none says how fast it fills, and agree with it.
func (c *Controller) with(seen []model.Sample) []model.Sample {
	p := c.start.Prior.Growth
	if p.Rate <= 0 || len(seen) >= 3 && !saturated(seen) {
		return seen
	}
	both := slices.Clone(c.start.Prior.Samples)
	if len(both) == 0 {
		for _, w := range []time.Duration{time.Second, 5 * time.Second} {
			both = append(both, model.Sample{Window: w, Dirtied: p.Dirtied(w), Error: remembered})
		}
	}
	both = append(both, seen...)
	if _, spread, ok := model.Fit(both, c.prev.MemTotal); ok && spread > scatter && len(seen) > 0 {
		return seen
	}
	return both
}

// saturated reports whether all passes left about as much, however long they were.
func saturated(seen []model.Sample) bool {
	by := func(a, b model.Sample) int { return cmp.Compare(a.Dirtied, b.Dirtied) }
	least, most := slices.MinFunc(seen, by).Dirtied, slices.MaxFunc(seen, by).Dirtied
	return float64(most) <= 1.25*float64(least)
}

// shrinking reports whether the last passes each began with less than the one before them.
func (c *Controller) shrinking() bool {
	n := len(c.sizes)
	return n < 3 || float64(c.sizes[n-1]) < 0.96*float64(max(c.sizes[n-2], c.sizes[n-3]))
}

// varied reports whether the last passes differ as they do under periodic load: some far smaller than
// a later one.
func (c *Controller) varied() bool {
	low := hypervisor.Bytes(math.MaxInt64)
	for _, s := range c.sizes {
		if float64(s) > 1.5*float64(low) {
			return true
		}
		low = min(low, s)
	}
	return false
}

// floor is what passes come down to: what the model says, or what the last ones began with, if less.
func (c *Controller) floor(g model.Growth) hypervisor.Bytes {
	low := slices.Min(c.sizes)
	if f := g.Slowed(c.share).Floor(c.speed()); f > 0 {
		return min(low, f)
	}
	return low
}
