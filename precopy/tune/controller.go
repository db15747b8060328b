package tune

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
)

const (
	leastLimit = time.Millisecond // libvirt's unit; 0 would never be met
	// batch is the least time between two judgements: a poll can't tell shorter passes apart.
	batch = 500 * time.Millisecond
	// patience is how long passes that do not shrink are watched before the guest or the promise pays
	// for it, where they differ from each other: periodic load has dips.
	patience = 6 * time.Second
	// reserve is the part of the slowdown that the intent allows which is planned with: forecasts err.
	reserve = 0.93
	// lastChance is that part where it is too late when the next pass begins.
	lastChance = 0.99
	// lastPart is the part of it from which a slowed guest is rather paused for longer than slowed for longer, where there is no
	// time for another attempt. When it is used up in lastMoment, what passes seem to need is allowed at once: what is seen of
	// short ones may be several.
	lastPart   = 0.9
	lastMoment = 2 * batch
	// nearly is the part of what was left when the guest was slowed at which it is slowed for as long as the intent allows,
	// whatever is forecast.
	nearly = 4
	// guess is the part of the budget by which it must be over for a guest that is slowed on a guess of how it writes, and
	// decided that part where it is decided at the last moment that slowing it will do.
	guess, decided = 0.8, 0.75
	// doubted is that part for a guest whose last migration was given up.
	doubted = 0.6
	// doubt is the relative error that is thought possible before a guest is given up.
	doubt = 0.15
	// settle is how long a higher limit is given before it is raised further for a slowed guest.
	settle = 500 * time.Millisecond
	// hover is how long passes of a slowed guest are watched, of which none is shorter than those before, until the pause
	// may be longer than promised, or short ones are no longer taken to shrink: those of few times what may be sent in it.
	hover = 3 * time.Second
	few   = 4
	// dearer is how much more than was lost until the guest had to be let go slowing it is taken to cost, dearest how many
	// times what is forecast at most. attempts is how often a guest is slowed in one migration: in the last one it is rather
	// paused for longer than promised.
	dearer   = 1.15
	dearest  = 3
	attempts = 3
	samples  = 6 // passes that the growth is fitted to
	// remembered is the relative error of what earlier migrations have shown of the growth.
	remembered = 0.1
	// contended is the part of what a migration could have alone below which others are said to have the rest: changes that
	// matter little are not written (scheduler/budget), neither of what it may use nor of what it could have. outweighed is
	// that part where all of it would not do: others, such as tenants, need not end.
	contended, outweighed = 0.75, 0.5
	// mostSlowdown is the most that a class may allow.
	mostSlowdown = 0.95
	// scatter is the relative error from which passes are taken not to follow one growth.
	scatter = 0.2
	// spared is how much of what XBZRLE need not send by the model is reckoned with (model.Growth.Sent).
	spared = 0.5
	xbzrle = "xbzrle"
	// mostPacked is how much longer than the pause that is allowed sending would take if nothing packed.
	mostPacked = 150 * time.Millisecond
	// nearEnd is how long before its expected end a migration is about to switch over.
	nearEnd = 1500 * time.Millisecond
)

// Controller is drover's own tuner. It fits how the guest dirties memory to the passes seen
// (precopy/model), and takes the mildest means that lets the migration end within the intent: a
// downtime limit within the promise, then a slower guest, then a limit up to the ceiling, then
// post-copy where allowed. It gives up as soon as none is enough. It is not safe for concurrent use.
type Controller struct {
	start Start
	limit time.Duration
	fixed time.Duration // of a pause, whatever there is to send
	share float64

	// The present pass: number, when and with how much to send it began, and what was seen of it.
	round    int
	began    time.Duration // Elapsed
	size     hypervisor.Bytes
	prev     Reading       // the last one
	prevAt   time.Duration // its Elapsed
	ran      time.Duration // guest time at full speed since the pass before began
	judgedAt time.Duration

	seen   []model.Sample            // of passes at full speed
	braked []model.Sample            // of passes while slowed as at present, in time of the clock
	missed []float64                 // by how much the model was off for passes at full speed, relative
	sizes  []hypervisor.Bytes        // what the latest passes began with
	drain  hypervisor.BytesPerSecond // dirtied memory sent per second
	pace   pace
	rates  []rate // bytes on the link, for the last seconds
	wire   hypervisor.BytesPerSecond
	best   hypervisor.BytesPerSecond // the most that was on the link for so long

	disks      hypervisor.Bytes // that are copied too, the most that was told of them
	first      hypervisor.Bytes // sent in the first pass
	firstWhole hypervisor.Bytes // of it, before compression
	// Of passes from the third on, before which XBZRLE has nothing to compare with: the dirtied bytes that
	// there were to send, and what they took on the link.
	resent, packed hypervisor.Bytes
	// The part of the present pass, and of the one before, that has to go over the link: the rest is as it was sent before.
	fresh, before float64
	quick         bool             // passes are too short for the poll
	stuck         time.Duration    // Elapsed since when passes do not shrink; 0 while they do
	due           time.Duration    // Elapsed by which it was to be over at full speed; 0 until that was in sight
	pause         time.Duration    // the sending in the pause that the limit was raised to
	lost          time.Duration    // guest work lost to being slowed
	least         float64          // share
	possible      float64          // the least share that it could be brought to when that was last known; 0 is not
	adopted       bool             // from its middle on
	blind         bool             // nothing is known of how the present pass began
	warming       bool             // the guest was not slowed as much as it is to be when the present pass began
	hoped         bool             // slowing was tried on a hopeful guess
	beyond        time.Duration    // Elapsed since when the limit is above the promise; 0 while it is not
	landing       int              // the pass in which the guest was slowed; 0 when it is not
	landed        hypervisor.Bytes // what was left when it began to be slowed
	slowedAt      time.Duration    // Elapsed then
	lostAt        time.Duration    // lost then
	expected      time.Duration    // what it was to lose
	dear          float64          // how many times what is forecast slowing it costs; at least 1
	attempts      int              // how often it was slowed
	freed         bool             // it was let go in the present pass
	shortest      hypervisor.Bytes // what the least of the passes judged began with while the guest is slowed as at present
	low           time.Duration    // Elapsed then
	raised        time.Duration    // Elapsed when the guest was slowed, or the limit last raised for that
	highest       hypervisor.BytesPerSecond
	present       Decision

	allowed hypervisor.BytesPerSecond // what the stream may use now
	alone   hypervisor.BytesPerSecond // the most that it could be if nobody else used the links
	waited  time.Duration             // by which it took longer for using less than that
	slower  time.Duration             // by which it took longer for using less than was ordered
	ends    time.Duration             // Elapsed by which it is expected to be over; 0 while that is not in sight
	need    hypervisor.BytesPerSecond
	// hopeless says that even all of the bandwidth is not what it needs.
	hopeless bool
}

// New returns a controller for one attempt.
func New(s Start) *Controller {
	s.MaxPause = max(s.MaxPause, leastLimit)
	s.Ceiling = max(s.Ceiling, s.MaxPause)
	c := &Controller{start: s, share: 1, least: 1, fresh: 1, before: 1, dear: 1, lost: s.Lost, pace: newPace(s.Bandwidth, s.Strategy.Compression), allowed: s.Bandwidth, alone: s.Bandwidth, fixed: cmp.Or(s.Prior.Switchover, forecast.Switchover)}
	c.limit = min(forecast.FirstLimit, c.sending(s.MaxPause))
	if p := s.Prior; p.Receipts > 0 && p.Limit > 0 {
		// What the last migration ended with, if the promise allows, spares the passes to find it.
		c.limit = min(max(c.limit, p.Limit), c.sending(s.MaxPause))
	}
	if s.Limit > 0 {
		c.limit = s.Limit
	}
	// Of a limit that was raised for what packs well, what it may have been raised for.
	c.pause = min(c.limit, c.sending(s.MaxPause))
	c.present = Decision{Reason: Copying, Text: "first pass over memory"}
	return c
}

// sending is the part of a pause that a downtime limit bounds.
func (c *Controller) sending(pause time.Duration) time.Duration {
	return forecast.Sending(pause, c.fixed, c.share < 1)
}

// Strategy implements Tuner.
func (c *Controller) Strategy() hypervisor.Strategy {
	s := c.start.Strategy
	s.PostCopy = s.PostCopy || c.start.PostCopy && s.Connections == 0
	return s
}

// Limit implements Tuner.
func (c *Controller) Limit() time.Duration { return c.limit }

// Share implements Tuner.
func (c *Controller) Share() float64 { return c.share }

// Bandwidth implements Tuner.
func (c *Controller) Bandwidth() hypervisor.BytesPerSecond { return c.pace.cap }

// Allow implements Tuner.
func (c *Controller) Allow(bandwidth, alone hypervisor.BytesPerSecond) {
	if bandwidth <= 0 {
		return
	}
	bandwidth = min(bandwidth, c.start.Bandwidth)
	// A link may have become slower than it was when the migration was ordered.
	c.alone = max(min(cmp.Or(alone, c.start.Bandwidth), c.start.Bandwidth), bandwidth)
	if bandwidth != c.allowed {
		c.allowed, c.due, c.best, c.dear = bandwidth, 0, 0, 1
	}
	c.pace.allow(c.allowed)
}

// held reports whether others have the bandwidth that the migration would take to converge: no reason to
// make the guest pay for it, nor to give up. What converges by no bandwidth alone waits only while others have most of it.
func (c *Controller) held() bool {
	part := contended
	if c.need > c.alone || c.hopeless {
		part = outweighed
	}
	return float64(c.allowed) < part*float64(c.alone) && (c.need == 0 || c.need > c.allowed)
}

// Lost implements Tuner.
func (c *Controller) Lost() time.Duration { return c.lost }

// Learned implements Tuner.
func (c *Controller) Learned() forecast.Receipt {
	r := forecast.Receipt{
		Strategy: c.start.Strategy.Name(), Bandwidth: min(c.start.Bandwidth, c.alone), Achieved: c.wire,
		Memory: c.prev.MemTotal, FirstPass: c.first, FirstWhole: c.firstWhole, Setup: c.prev.Setup,
		LeastShare: c.least, FloorShare: c.possible, Limit: c.limit, Waited: c.waited,
	}
	if c.allowed > 0 && c.allowed < c.alone {
		// Of a part of the link, what it would have carried of the whole.
		r.Achieved = min(c.alone, hypervisor.BytesPerSecond(float64(c.wire)*float64(c.alone)/float64(c.allowed)))
	}
	if c.first == 0 && !c.adopted {
		r.FirstPass, r.FirstWhole = c.prev.MemProcessed, c.prev.MemNormal
	}
	g, _, ok := model.Fit(c.with(c.passes()), c.prev.MemTotal)
	if ok {
		r.Growth = g
	}
	if len(c.sizes) > 0 && c.speed() > 0 {
		r.Sending = min(c.speed().Time(c.floor(g)), c.limit)
		if p := c.try(g, c.share, c.pause); ok && p.Converges {
			// What is left once it fits is anything up to what fits.
			r.Sending = min(p.Pause-c.fixed, c.pause/2)
		}
		r.Sending = max(r.Sending, 1)
	}
	if n := len(c.missed); n > 0 {
		r.PassError = slices.Sorted(slices.Values(c.missed))[n/2]
	}
	if c.resent > 4*hypervisor.MiB {
		r.Ratio = float64(c.packed) / float64(c.resent)
	}
	if c.prevAt > 0 {
		r.Slowdown = c.lost.Seconds() / c.prevAt.Seconds()
	}
	return r
}

// budget is how long the migration may take: what was ordered, or what is computed at the cap, and the time that it has
// waited for as much. Disks are copied before memory, and libvirt's clock runs meanwhile.
func (c *Controller) budget() time.Duration {
	if c.start.Budget > 0 {
		return c.start.Budget
	}
	// By what could be had alone at present, or by the whole cap and the time in which it had less: what it could have may grow,
	// as when a window of the policy ends, and what was in time until then is not late because of that.
	of := func(b hypervisor.BytesPerSecond, waited time.Duration) time.Duration {
		whole := forecast.Budget(b, max(c.start.Memory, c.prev.MemTotal), c.disks)
		return whole + min(waited, math.MaxInt64-whole)
	}
	return max(of(c.alone, c.waited), of(c.start.Bandwidth, c.slower))
}

// Step implements Tuner. Call it at every poll; it judges when a pass begins.
func (c *Controller) Step(r Reading) Decision {
	c.note(r)
	switch {
	case r.Postcopy, r.MemTotal == 0 && (c.start.Budget == 0 || r.Elapsed <= c.start.Budget):
		return c.present
	case r.Elapsed > c.budget():
		c.share = 1
		c.present = Decision{Action: Abort, Reason: OverBudget, Text: fmt.Sprintf(
			"not done within %s: %s", c.budget().Round(time.Second), c.advice())}
	case c.landing > 0 && c.overdrew(r):
		// A plan that is kept seldom comes here: the pass takes far longer than was thought.
		c.letGo(c.overdrawn())
		c.judgedAt = r.Elapsed // not by the passes of the slowed guest
		c.present = Decision{Reason: AtPromise, Text: "the guest was slowed for as long as the intent allows by now: it runs on at full speed"}
	case c.round > 1 && c.size > 0 && c.judgedAt < c.began && (c.began-c.judgedAt >= batch || c.judgedAt == 0):
		c.judgedAt = r.Elapsed
		c.present = c.judge(r)
	default:
		c.present.Action = Wait
	}
	c.present.Need = c.need
	c.present.Near = c.round > 1 && c.ends > 0 && c.ends-r.Elapsed < nearEnd
	return c.present
}

// judge decides at the beginning of a pass.
func (c *Controller) judge(r Reading) Decision {
	g, spread, ok := c.growth()
	if !ok || c.speed() <= 0 {
		return Decision{Reason: Copying, Text: "passes leave next to nothing to send"}
	}
	promise := c.sending(c.start.MaxPause)
	c.ends = 0
	c.need = c.needs(g, promise)
	if limit := c.limitFor(c.pause); limit < c.limit-c.limit/5 {
		c.limit = limit // pages no longer pack as well as when it was raised
	}
	if c.landing > 0 {
		if c.held() {
			return c.sharing()
		}
		return c.land(r, g)
	}
	shrinks, periodic := c.shrinking(), spread > scatter || c.varied()
	easy := c.try(g, 1, promise)
	if easy.Converges && shrinks && !c.overdue(r, easy) {
		c.stuck = 0
		return c.converging(r, g, easy, periodic)
	}
	if c.held() {
		return c.sharing()
	}
	if c.stuck == 0 {
		c.stuck = max(r.Elapsed, 1)
	}
	c.raise(promise)
	if periodic && r.Elapsed-c.stuck < patience || len(c.evidence()) < 2 && shrinks {
		return Decision{Reason: AtPromise, Text: fmt.Sprintf("memory is rewritten at %s, waiting for a dip", g.Rate)}
	}
	if d, ok := c.restart(r, g); ok {
		return d
	}
	return c.pay(r, g)
}

// overdue reports whether the end that was in sight has not come: where passes come down to about what the
// limit allows, what is seen is not exact enough to tell that they never will.
func (c *Controller) overdue(r Reading, easy plan) bool {
	if c.size > 2*hypervisor.Bytes(float64(c.speed())*easy.pause.Seconds()) {
		c.due = 0
		return false
	}
	if c.due == 0 {
		c.due = r.Elapsed + 2*easy.Duration + patience
	}
	return r.Elapsed > c.due
}

// sharing waits for more bandwidth.
func (c *Controller) sharing() Decision {
	if c.landing > 0 {
		c.attempts-- // it did not fail
	}
	c.letGo(0)
	c.stuck, c.due = 0, 0
	return Decision{Reason: Sharing, Text: fmt.Sprintf("it has %s of the link, and waits for more of it", c.allowed)}
}

// converging finds the least limit that hardly delays the end, and slows the guest for the landing
// where that saves far more time than the guest loses, or there is no time for less. Of periodic load nobody knows what it
// saves: a dip may come.
func (c *Controller) converging(r Reading, g model.Growth, easy plan, periodic bool) Decision {
	easy = c.leastPause(g, easy)
	c.raise(easy.pause)
	c.ends = r.Elapsed + easy.Duration
	pays := func(p plan) bool {
		if len(c.evidence()) > 1 && forecast.MustSlow(easy.Duration, p.Duration, c.speed().Time(c.size), r.Elapsed, c.start.Budget) {
			return c.affordable(r, p, reserve)
		}
		return !c.overdrew(r) && forecast.WorthSlowing(easy.Duration, p.Duration, p.share, c.lost, r.Elapsed, c.start.MaxSlowdown, cmp.Or(c.start.Prior.Lean, 1))
	}
	if p, ok := c.slowed(g, c.try); ok && !c.held() && !periodic && !c.compressesNext(r) && pays(p) {
		return c.slow(r, p)
	}
	return Decision{Reason: Copying, Text: fmt.Sprintf("each pass leaves less to send: about %s more", easy.Duration.Round(time.Second))}
}

// compressesNext reports whether pages are compressed from the next pass on only: XBZRLE has nothing to compare with
// before they were sent a second time (QEMU's xbzrle_started), and how fast dirtied memory is sent shows only then.
func (c *Controller) compressesNext(r Reading) bool {
	return c.compares() && r.Round <= 2
}

// compares reports whether pages are compared with what was sent of them before.
func (c *Controller) compares() bool { return c.start.Strategy.Compression == xbzrle }

// pay takes what the intent allows beyond a limit within the promise.
func (c *Controller) pay(r Reading, g model.Growth) Decision {
	budget := c.budget()
	p, ok := c.slowed(g, c.sparing)
	if c.compressesNext(r) && r.Elapsed+c.speed().Time(c.size) < budget/3 && (!c.decides(r) || ok && c.intime(r, p)) {
		return Decision{Reason: AtPromise, Text: fmt.Sprintf("memory is rewritten at %s; pages that were sent before are compressed from the next pass on", g.Rate)}
	}
	if ok && r.Elapsed+p.Duration <= budget {
		if c.affordable(r, p, reserve) {
			return c.slow(r, p)
		}
		// A guest is best slowed from the beginning of a pass: what it has written before has to be sent anyway.
		switch whole, late := c.later(r, p); {
		case late && c.affordable(r, p, lastChance):
			return c.slow(r, p)
		case !late:
			return waiting(g, p, whole)
		}
	}
	hopeful, _, fits := model.Slowest(c.evidence(), r.MemTotal, doubt)
	if fits && !c.hoped && hopeful.Rate < g.Rate {
		// Long passes hardly tell how fast memory is dirtied. Slowing the guest would.
		if p, ok := c.slowed(hopeful, c.sparing); ok && c.affordable(r, p, reserve) && float64(r.Elapsed+p.Duration) <= guess*float64(budget) {
			c.hoped = true
			d := c.slow(r, p)
			c.expected = 0 // what that was too little by says nothing of what is likely
			return d
		}
	}
	ceiling := c.sending(c.start.Ceiling)
	need := time.Duration(forecast.Margin * float64(c.speed().Time(c.floor(g))))
	if c.due > 0 && r.Elapsed > c.due {
		need = max(need, time.Duration(forecast.Margin*float64(c.pause)))
	}
	if need <= ceiling {
		c.raise(max(need, c.sending(c.start.MaxPause)))
		if c.beyond == 0 {
			c.beyond = r.Elapsed
		}
		if r.Elapsed-c.beyond < 4*patience {
			return Decision{Reason: AtCeiling, Text: fmt.Sprintf("passes no longer leave less: pause limit raised to %s", c.limit.Round(time.Millisecond))}
		}
	}
	if fits && len(c.seen) < 3 && c.mayDo(r, hopeful) {
		// One or two passes do not tell so exactly.
		return Decision{Reason: AtPromise, Text: fmt.Sprintf("memory is rewritten at about %s, which may just be sent: another pass will tell", g.Rate)}
	}
	return c.giveUp(r, g)
}

// waiting is for the time by which the intent allows a plan.
func waiting(g model.Growth, p plan, whole time.Duration) Decision {
	return Decision{Reason: AtPromise, Text: fmt.Sprintf(
		"memory is rewritten at %s; the guest will be slowed for about %s, which the intent allows once %s have passed",
		g.Rate, p.Duration.Round(time.Second), (whole - p.Duration).Round(time.Second))}
}

// mayDo reports whether a guest that writes so would let it end, by itself or slowed later on.
func (c *Controller) mayDo(r Reading, g model.Growth) bool {
	if p := c.try(g, 1, c.sending(c.start.MaxPause)); p.Converges && r.Elapsed+p.Duration <= c.budget() && (!c.decides(r) || len(c.sizes) <= 3) {
		return true
	}
	p, ok := c.slowed(g, c.sparing)
	return ok && !c.decides(r) && c.intime(r, p)
}

// decides reports whether there is no later beginning of a pass to give up at in good time.
func (c *Controller) decides(r Reading) bool {
	return r.Elapsed+max(c.speed().Time(c.size), batch) > time.Duration(early*float64(c.budget()))
}

func (c *Controller) stalledFor(r Reading) time.Duration { return r.Elapsed - c.stuck }

// giveUp ends the attempt, or lets post-copy end it where that is allowed. Short passes are watched
// for a while before.
func (c *Controller) giveUp(r Reading, g model.Growth) Decision {
	if n := len(c.seen); c.stalledFor(r) < patience && (n == 0 || c.seen[n-1].Window < patience) {
		return Decision{Reason: AtPromise, Text: "passes do not leave less to send, waiting for a dip"}
	}
	if c.start.Prior.Ended && len(c.sizes) < 3 && c.landing == 0 && r.Elapsed < c.budget()/2 {
		return Decision{Reason: AtPromise, Text: "passes do not leave less to send, although it ended before: another pass will tell"}
	}
	if p := c.try(g, 1, c.sending(c.start.MaxPause)); c.landing == 0 && c.stuck == r.Elapsed && p.Converges && r.Elapsed+p.Duration <= c.budget() {
		return Decision{Reason: AtPromise, Text: "this pass did not leave less to send, although others do: another pass will tell"}
	}
	c.letGo(0)
	if c.start.PostCopy && c.Strategy().PostCopy {
		return Decision{Action: StartPostCopy, Reason: NotConverged, Text: "the guest rewrites memory faster than it can be sent: the rest follows after the switch"}
	}
	return Decision{Action: Abort, Reason: NotConverged, Text: "the guest rewrites memory faster than it can be sent: " + c.advice()}
}

// raise brings the limit up to what lets the sending in the pause take so long.
func (c *Controller) raise(pause time.Duration) {
	c.pause = max(c.pause, pause)
	c.limit = max(c.limit, c.limitFor(pause))
}

// advice says what would have to change for it to succeed.
func (c *Controller) advice() string {
	g, _, ok := c.growth()
	b := c.speed()
	if c.round <= 1 || !ok || b <= 0 {
		return fmt.Sprintf("memory was not even sent once: it needs more time, or more bandwidth than %s", c.start.Bandwidth)
	}
	pause := c.fixed + b.Time(c.floor(g))
	text := fmt.Sprintf("it dirties up to %s and the link gives %s; it would take a pause of about %s, or %s of bandwidth",
		max(c.highest, g.Rate), b, pause.Round(10*time.Millisecond), g.Rate)
	p, ok := c.slowed(g, c.sparing)
	if it := float64(c.lost+p.lost) / (reserve * float64(c.prevAt+p.Duration)); ok && it > c.start.MaxSlowdown && it <= mostSlowdown && c.prevAt+p.Duration <= c.budget() {
		return text + fmt.Sprintf(", or a max_slowdown of %.0f %%: the guest would be slowed to %.0f %% of its speed for %s",
			math.Ceil(100*it), 100*p.share, p.Duration.Round(time.Second))
	}
	switch share := g.Share(b, forecast.Sending(c.start.MaxPause, c.fixed, true)); {
	case share >= 1 || share <= 0:
	case c.start.MaxSlowdown <= 0 || share >= firmest(c.prev):
		text += fmt.Sprintf(", or the guest slowed to %.0f %% of its speed", 100*share)
	case c.prev.Least < 1:
		text += fmt.Sprintf(", or a longer max_pause, for the guest to be slowed to %.0f %% of its speed", 100*share)
	}
	return text
}
