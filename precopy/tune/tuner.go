package tune

import (
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// Start is what is known when a migration begins, or is adopted.
type Start struct {
	MaxPause time.Duration // the promised pause
	Ceiling  time.Duration // never to be exceeded; at least MaxPause
	Budget   time.Duration // how long the migration may take; 0 computes it from memory and Bandwidth
	// MaxSlowdown is the share of guest work that may be lost over the migration's time, 0 to 1.
	MaxSlowdown float64
	// PostCopy allows a switch to post-copy when nothing else is left.
	PostCopy bool
	// Memory is what there is to send; the job's own figure counts where it is larger, as it is all
	// that an adopting agent has.
	Memory hypervisor.Bytes
	// Bandwidth is the cap on the stream.
	Bandwidth hypervisor.BytesPerSecond
	// Strategy is how the stream is sent; Prior what is known of the domain.
	Strategy hypervisor.Strategy
	Prior    forecast.Prior
	// Limit is the downtime limit in force, and Lost the guest work lost, when an attempt is adopted.
	Limit time.Duration
	Lost  time.Duration
	// Attempts is how many attempts of the same migration were made before.
	Attempts int
}

// Reading is one look at a running migration.
type Reading struct {
	hypervisor.JobStats
	// Share is what the guest is left of its own CPU use at present: 1 when it is not slowed.
	Share float64
	// Silence is how long the guest may be silent at a time for being slowed as it is; 0 when it is not.
	Silence time.Duration
	// Warming says that it is to be slowed more than it is by now.
	Warming bool
	// Least is the smallest share that it can be brought to now while its silences stay well within the promised pause; 1
	// when it can't be slowed.
	Least float64
	// ShortQueue says that the queue in front of the link is kept short where QEMU writes into it
	// (hypervisor/sockets): nothing is to be done about it by the stream's cap.
	ShortQueue bool
	Now        time.Time
}

// Action is what to do now.
type Action int

// The actions. Limits and shares are no actions: they are to be kept as the tuner has them.
const (
	Wait Action = iota
	Abort
	StartPostCopy
	// Restart ends the attempt for another one with the strategy Next.
	Restart
)

// Reason is the stable word for why.
type Reason string

// The reasons.
const (
	Copying      Reason = "copying"        // the first pass, or passes that gain
	Stalled      Reason = "stalled"        // passes do not gain within the limit: it rises
	AtPromise    Reason = "at-promise"     // the limit is as high as promised: waiting for a dip
	Slowing      Reason = "slowing"        // the guest is slowed
	AtCeiling    Reason = "at-ceiling"     // the limit is beyond the promise, up to the ceiling
	Sharing      Reason = "sharing"        // others have the bandwidth that it would take
	NotConverged Reason = "not-converging" // gave up: nothing within the intent is enough
	OverBudget   Reason = "over-budget"    // gave up: out of time
	Restarting   Reason = "restarting"     // ended, to be begun again with another strategy
)

// Decision is one step's outcome.
type Decision struct {
	Action Action
	Reason Reason
	Text   string           // for people
	Next   *forecast.Option // with Restart
	// Need is the least bandwidth by which it would end within the promise, by what was seen; 0 is not
	// known. Near says that it is about to switch over.
	Need hypervisor.BytesPerSecond
	Near bool
}

// Tuner decides during one attempt of a migration.
type Tuner interface {
	// Strategy is how the attempt must be started.
	Strategy() hypervisor.Strategy
	// Limit is the downtime limit that should be in force.
	Limit() time.Duration
	// Share is what the guest should be left of its own CPU use; 1 is not slowed.
	Share() float64
	// Bandwidth is the cap on the stream that should be in force; 0 leaves it as it was ordered.
	Bandwidth() hypervisor.BytesPerSecond
	// Allow says what the stream may use from now on, at most what was ordered, and the most that it could be if nobody
	// else used the links; 0 is not known.
	Allow(bandwidth, alone hypervisor.BytesPerSecond)
	// Step takes one reading.
	Step(r Reading) Decision
	// Lost is the guest's work that slowing it has cost so far.
	Lost() time.Duration
	// Learned is what the attempt has shown of the domain so far: the fields that the readings tell.
	Learned() forecast.Receipt
}
