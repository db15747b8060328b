package auto

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"drover/hypervisor"
	"drover/scheduler/calendar"
)

// Schema is the version of [Plan] and [Pause] that this program writes.
const Schema = 1

// Level is how much is done without being asked.
type Level string

// The levels.
const (
	Manual  Level = "manual"  // nothing
	Partial Level = "partial" // plans, which a person approves
	Full    Level = "full"    // plans, and their runs
)

// Settings is what people want of automatic moves.
type Settings struct {
	Level Level
	// Calendar says when; nil is always.
	Calendar *calendar.Calendar
	Rule     Rule
	// PlanLife is how long a plan may wait and its run may take; AtOnce how many moves of a run are under
	// way together, besides the limits of each host.
	PlanLife time.Duration
	AtOnce   int
}

// DefaultSettings does nothing by itself.
func DefaultSettings() Settings {
	return Settings{Level: Manual, Rule: DefaultRule(), PlanLife: 24 * time.Hour, AtOnce: 4}
}

// Act is a person's word.
type Act struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Pause stops automatic moves in the whole fleet while it is there. It is the record fleet/paused.
type Pause struct {
	Schema int `json:"schema"`
	Act
}

// Plan is a proposal: the record plans/ID. Its moves never change.
type Plan struct {
	Schema  int       `json:"schema"`
	ID      string    `json:"id"` // UUID version 7: sorts by age
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// By is who made it: [Scheduler], or a person, whose run no pause or window stops.
	By     string `json:"by"`
	Reason string `json:"reason"`
	Moves  []Move `json:"moves"`
	// Approved and Withdrawn are the words that it waits for.
	Approved  *Act `json:"approved,omitempty"`
	Withdrawn *Act `json:"withdrawn,omitempty"`
	// Run is what carries it out, of the same ID: a plan is run once. Ended is when it came to its end, and
	// Ending how.
	Run    string     `json:"run,omitempty"`
	Ended  *time.Time `json:"ended,omitempty"`
	Ending string     `json:"ending,omitempty"` // done, expired, withdrawn
}

// Scheduler is who makes automatic plans, and approves them at level full.
const Scheduler = "scheduler"

// Move is one move of a plan.
type Move struct {
	Domain string              `json:"domain"` // name, for people
	UUID   hypervisor.DomainID `json:"uuid"`
	From   string              `json:"from"`
	To     string              `json:"to"`
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

// Records is what the store has of automatic moves, besides runs. Ended plans may be left out.
type Records struct {
	Plans []StoredPlan
	Pause *Pause
}

// idAt is a UUID of version 7 for the time, made of what it is for: the same inputs give the same decisions.
func idAt(now time.Time, what ...string) string {
	sum := sha256.New()
	for _, w := range what {
		sum.Write([]byte(w))
		sum.Write([]byte{0})
	}
	binary.Write(sum, binary.BigEndian, now.UnixNano()) // to a hash: never fails
	id := uuid.UUID(sum.Sum(nil)[:16])
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id.String()
}
