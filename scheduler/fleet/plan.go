package fleet

import (
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
)

// Act is a person's word.
type Act struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Pause stops automatic moves in the whole fleet while it is there.
type Pause struct {
	Schema int `json:"schema"`
	Act
}

// Scheduler is who makes automatic plans, and approves them at level full. The command line lets nobody ask for
// moves by that name.
const Scheduler = "scheduler"

// Plan is a proposal of moves. Its moves never change. The names of the fields are a contract with outside tools.
type Plan struct {
	Schema  int       `json:"schema"`
	ID      string    `json:"id"` // UUID version 7: sorts by age
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// By is who made it: [Scheduler], or a person, whose run no pause or window stops.
	By     string     `json:"by"`
	Reason string     `json:"reason"`
	Moves  []PlanMove `json:"moves"`
	// Approved and Withdrawn are the words that it waits for.
	Approved  *Act `json:"approved,omitempty"`
	Withdrawn *Act `json:"withdrawn,omitempty"`
	// Run is what carries it out, of the same ID: a plan is run once. Ended is when it came to its end, and
	// Ending how.
	Run    string     `json:"run,omitempty"`
	Ended  *time.Time `json:"ended,omitempty"`
	Ending PlanEnding `json:"ending,omitempty"`
	// Why says more about the end, where there is more to say.
	Why string `json:"why,omitempty"`
}

// PlanEnding is how a plan came to its end.
type PlanEnding string

// The endings.
const (
	PlanDone      PlanEnding = "done"      // its run is over
	PlanExpired   PlanEnding = "expired"   // nobody approved it in time
	PlanWithdrawn PlanEnding = "withdrawn" // a person said no
	PlanOutdated  PlanEnding = "outdated"  // none of its moves is worth it any more
)

// PlanMove is one move of a plan.
type PlanMove struct {
	Domain string              `json:"domain"` // name, for people
	UUID   hypervisor.DomainID `json:"uuid"`
	From   string              `json:"from"`
	To     string              `json:"to"`
	Cause  string              `json:"cause,omitempty"` // as the planner's; empty is "balance"
	Reason string              `json:"reason"`
	// Gain is the overload that it avoids, in core-minutes over the rule's horizon.
	Gain float64 `json:"gain_core_minutes,omitempty"`
	// Seconds and Bytes are the forecast, Memory the VM's allotment.
	Seconds float64          `json:"seconds,omitempty"`
	Bytes   hypervisor.Bytes `json:"bytes,omitempty"`
	Memory  hypervisor.Bytes `json:"memory"`
	// After are indexes of moves that must be done before.
	After []int `json:"after,omitempty"`
}

// StoredPlan is a plan as the store holds it.
type StoredPlan struct {
	Plan
	Revision int64 `json:"-"`
}

// PlansInOrder returns the plans of the snapshot, oldest first.
func (s *Snapshot) PlansInOrder() []StoredPlan {
	out := make([]StoredPlan, 0, len(s.Plans))
	for _, id := range slices.Sorted(maps.Keys(s.Plans)) {
		out = append(out, s.Plans[id])
	}
	return out
}
