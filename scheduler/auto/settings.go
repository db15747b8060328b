package auto

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"drover/hypervisor"
	"drover/scheduler/calendar"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/scheduler/signal"
)

// Schema is the version of plans and pauses that this program writes.
const Schema = 1

// Scheduler is who makes automatic plans.
const Scheduler = fleet.Scheduler

// Level is how much is done without being asked.
type Level = policy.Level

// The levels.
const (
	Manual  = policy.LevelManual  // plans, which only recommend
	Partial = policy.LevelPartial // plans, which a person approves
	Full    = policy.LevelFull    // plans, and their runs
)

// Settings is what people want of automatic moves.
type Settings struct {
	Level Level
	// Stopped says why nothing may move; "" lets it.
	Stopped string
	// Calendar says when; nil is always.
	Calendar *calendar.Calendar
	Rule     Rule
	// Slot is the span over which load is averaged.
	Slot time.Duration
	// PlanLife is how long a plan may wait and its run may take; AtOnce how many moves of a run are under
	// way together, besides the limits of each host.
	PlanLife time.Duration
	AtOnce   int
}

// DefaultSettings recommends, and does nothing by itself.
func DefaultSettings() Settings {
	return Settings{Level: Manual, Rule: DefaultRule(), Slot: signal.Slot, PlanLife: 24 * time.Hour, AtOnce: 4}
}

// SettingsOf are the settings of a policy: the default where it says nothing. The error is of its calendar.
func SettingsOf(a policy.Automation) (Settings, error) {
	s := DefaultSettings()
	s.Level = cmp.Or(a.Level, Manual)
	if a.Mark != nil {
		s.Rule.Mark = a.Mark.Fraction()
	}
	for _, d := range []struct {
		to   *time.Duration
		said *policy.Duration
	}{{&s.Rule.Horizon, a.Horizon}, {&s.Rule.Hold, a.Hold}, {&s.Slot, a.Slot}, {&s.PlanLife, a.PlanExpiry}} {
		if d.said != nil {
			*d.to = time.Duration(*d.said)
		}
	}
	if a.MinGain != nil {
		s.Rule.Least = float64(*a.MinGain)
	}
	if a.MaxMoves != nil {
		s.Rule.Moves = *a.MaxMoves
	}
	if a.MaxGiB != nil {
		s.Rule.Bytes = hypervisor.Bytes(*a.MaxGiB) * hypervisor.GiB
	}
	if a.AtOnce != nil {
		s.AtOnce = *a.AtOnce
	}
	if len(a.Windows)+len(a.Blackouts) == 0 {
		return s, nil
	}
	var err error
	if s.Calendar, err = calendar.New(a.Spec()); err != nil {
		return s, fmt.Errorf("automation: %w", err)
	}
	return s, nil
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
