package tune

import (
	"fmt"
	"math"
	"time"

	"drover/hypervisor"
)

// Start is what is known when a migration begins, or is adopted.
type Start struct {
	MaxPause time.Duration // the promised pause
	Ceiling  time.Duration // never to be exceeded; at least MaxPause
	Budget   time.Duration // how long the migration may take; 0 computes it from memory and Bandwidth
	// Memory is what there is to send; the job's own figure counts where it is larger, as it is all
	// that an adopting agent has.
	Memory hypervisor.Bytes
	// Bandwidth is the cap on the stream.
	Bandwidth hypervisor.BytesPerSecond
	// Limit is the downtime limit in force when an attempt is adopted; 0 for a new one.
	Limit time.Duration
}

// Action is what to do now.
type Action int

// The actions.
const (
	Wait Action = iota
	SetDowntime
	Abort
	StartPostCopy
)

// Reason is the stable word for why.
type Reason string

// The reasons.
const (
	Copying      Reason = "copying"        // the first pass, or a pass that still gains
	Stalled      Reason = "stalled"        // no new low of the rest: the limit rises
	AtPromise    Reason = "at-promise"     // the limit is as high as promised: waiting for a dip
	AtCeiling    Reason = "at-ceiling"     // the limit is at the ceiling
	NotConverged Reason = "not-converging" // gave up: no limit within the promise is enough
	OverBudget   Reason = "over-budget"    // gave up: out of time
)

// Decision is one step's outcome. Limit is set for SetDowntime.
type Decision struct {
	Action Action
	Limit  time.Duration
	Reason Reason
	Text   string // for people
}

const (
	firstLimit = 20 * time.Millisecond
	leastLimit = time.Millisecond // libvirt's unit; 0 would never be met
	gain       = 0.96             // a new low must beat the old by 4 %
	stallAfter = 3 * time.Second  // without a new low, below the promise
	stallAtMax = 15 * time.Second // without a new low, before leaving the promise, or giving up
	raise      = 1.6
)

// Controller holds what one migration's readings have shown. It is not safe for concurrent use.
type Controller struct {
	start Start
	limit time.Duration

	round   int
	low     hypervisor.Bytes // the least that any round began with
	lowIn   int              // the round that did
	lowAt   time.Time
	highest hypervisor.BytesPerSecond // highest dirty rate seen, for the advice
}

// New returns a controller for one attempt.
func New(s Start) *Controller {
	s.MaxPause = max(s.MaxPause, leastLimit)
	s.Ceiling = max(s.Ceiling, s.MaxPause)
	c := &Controller{start: s, limit: min(firstLimit, s.MaxPause)}
	if s.Limit > 0 {
		c.limit = s.Limit
	}
	return c
}

// budget is how long the migration may take: what was ordered, or twelve passes at the cap and a
// minute for what is not copying.
func (c *Controller) budget(total hypervisor.Bytes) time.Duration {
	if c.start.Budget > 0 {
		return c.start.Budget
	}
	pass := c.start.Bandwidth.Time(max(c.start.Memory, total))
	if pass > math.MaxInt64/24 {
		return math.MaxInt64 // no bandwidth known: no end in sight either
	}
	return time.Minute + 12*pass
}

// Limit is the downtime limit that should be in force.
func (c *Controller) Limit() time.Duration { return c.limit }

// Step takes one reading. Call it at every poll; it acts only when the evidence calls for it.
func (c *Controller) Step(s hypervisor.JobStats, now time.Time) Decision {
	if c.lowAt.IsZero() {
		c.lowAt = now
	}
	c.highest = max(c.highest, s.DirtyRate)
	if budget := c.budget(s.MemTotal); s.Elapsed > budget && s.MemTotal > 0 {
		return Decision{Action: Abort, Reason: OverBudget, Text: fmt.Sprintf(
			"not done within %s: %s", budget.Round(time.Second), c.advice(s))}
	}
	if s.Round <= 1 || s.MemTotal == 0 {
		c.lowAt = now
		return Decision{Reason: Copying, Text: "first pass over memory"}
	}
	if s.Round != c.round {
		// What a round begins with is what the guest wrote during the one before: the only figure
		// that tells whether rounds shrink. Within a round the rest always falls to nearly nothing.
		c.round = s.Round
		if c.lowIn == 0 || float64(s.MemRemaining) < gain*float64(c.low) {
			c.low, c.lowIn, c.lowAt = s.MemRemaining, s.Round, now
		}
	}
	if c.lowIn == s.Round {
		// Whether this round gains shows when the next begins. However long it is, it is progress.
		c.lowAt = now
		return Decision{Reason: Copying, Text: "each pass leaves less to send"}
	}
	return c.stalled(s, now)
}

func (c *Controller) stalled(s hypervisor.JobStats, now time.Time) Decision {
	still := now.Sub(c.lowAt)
	switch {
	case c.limit < c.start.MaxPause:
		if still < stallAfter {
			return Decision{Reason: Copying, Text: "waiting for a pass that leaves less to send"}
		}
		return c.raise(now, min(time.Duration(float64(c.limit)*raise), c.start.MaxPause), Stalled)
	case still < stallAtMax:
		return Decision{Reason: AtPromise, Text: fmt.Sprintf("memory is rewritten at %s, waiting for a dip", s.DirtyRate)}
	case c.limit < c.start.Ceiling:
		return c.raise(now, min(time.Duration(float64(c.limit)*raise), c.start.Ceiling), AtCeiling)
	}
	return Decision{Action: Abort, Reason: NotConverged, Text: "the guest rewrites memory faster than it can be sent: " + c.advice(s)}
}

func (c *Controller) raise(now time.Time, to time.Duration, why Reason) Decision {
	c.limit, c.lowAt = to, now
	return Decision{
		Action: SetDowntime, Limit: to, Reason: why,
		Text: fmt.Sprintf("passes no longer leave less: pause limit raised to %s", to.Round(time.Millisecond)),
	}
}

// advice says what would have to change for it to succeed.
func (c *Controller) advice(s hypervisor.JobStats) string {
	if c.lowIn == 0 {
		return fmt.Sprintf("memory was not even sent once: it needs more time, or more bandwidth than %s", c.start.Bandwidth)
	}
	pause := c.start.Bandwidth.Time(c.low)
	return fmt.Sprintf("it dirties up to %s and the link gives %s; it would take a pause of about %s, or more bandwidth",
		c.highest, s.Bandwidth, pause.Round(10*time.Millisecond))
}
