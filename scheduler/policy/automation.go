package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"drover/scheduler/calendar"
)

// Level is how much is done without being asked.
type Level string

// The levels; none said is manual.
const (
	LevelManual  Level = "manual"  // plans, which only recommend
	LevelPartial Level = "partial" // plans, which a person approves
	LevelFull    Level = "full"    // plans, and their runs
)

// Automation is what people want of automatic moves. What is not said is left to package auto.
type Automation struct {
	Level Level `json:"level,omitempty"`
	// Mark is the utilisation of a host's CPU above which its VMs begin to wait.
	Mark *Percent `json:"mark,omitempty"`
	// Horizon is how far ahead is looked, and MinGain the CPU asked for above the mark in it, in
	// core-minutes, that a move must avoid.
	Horizon *Duration `json:"horizon,omitempty"`
	MinGain *int      `json:"min_gain,omitempty"`
	// Hold is for how long a host must be hot before that counts.
	Hold *Duration `json:"hold,omitempty"`
	// Slot is the span over which reports of load are averaged; a VM is known after twelve.
	Slot *Duration `json:"slot,omitempty"`
	// PlanExpiry is how long a plan may wait, and its run take.
	PlanExpiry *Duration `json:"plan_expiry,omitempty"`
	// MaxMoves and MaxGiB bound the moves of one plan and the memory of the VMs that it moves, AtOnce how many
	// of them are under way together.
	MaxMoves *int `json:"max_moves,omitempty"`
	MaxGiB   *int `json:"max_gib,omitempty"`
	AtOnce   *int `json:"at_once,omitempty"`
	// Windows are when moves may begin, Blackouts when they may not.
	Windows   []calendar.Window `json:"windows,omitempty"`
	Blackouts []calendar.Window `json:"blackouts,omitempty"`
}

// Spec is the automation's calendar.
func (a Automation) Spec() calendar.Spec {
	return calendar.Spec{Windows: a.Windows, Blackouts: a.Blackouts}
}

func (f *Faults) automation(a Automation) {
	const at = "automation"
	switch a.Level {
	case "", LevelManual, LevelPartial, LevelFull:
	default:
		f.add(at+".level", "%q: want %s, %s or %s", a.Level, LevelManual, LevelPartial, LevelFull)
	}
	if v := a.Mark; v != nil && *v < 10 {
		f.add(at+".mark", "%s: want 10%% to 100%%", v)
	}
	for _, p := range []struct {
		field     string
		value     *Duration
		low, high time.Duration
	}{
		{"horizon", a.Horizon, 10 * time.Minute, 48 * time.Hour},
		{"hold", a.Hold, 0, 24 * time.Hour},
		{"slot", a.Slot, 10 * time.Second, time.Hour},
		{"plan_expiry", a.PlanExpiry, 5 * time.Minute, 30 * 24 * time.Hour},
	} {
		if v := p.value; v != nil && (time.Duration(*v) < p.low || time.Duration(*v) > p.high) {
			f.add(join(at, p.field), "%s: want %s to %s", v, Duration(p.low), Duration(p.high))
		}
	}
	for _, p := range []struct {
		field string
		value *int
		high  int
	}{{"min_gain", a.MinGain, 1_000_000}, {"max_moves", a.MaxMoves, 10_000}, {"max_gib", a.MaxGiB, 1_000_000}, {"at_once", a.AtOnce, 1000}} {
		if v := p.value; v != nil && (*v < 1 || *v > p.high) {
			f.add(join(at, p.field), "%d: want 1 to %d", *v, p.high)
		}
	}
	var faults calendar.Faults
	if _, err := calendar.New(a.Spec()); errors.As(err, &faults) {
		for _, one := range faults {
			f.add(join(at, one.Path), "%s", one.Text)
		}
	}
}

// automationValues are the fields that are said, as text, with their names; windows by the name that they have.
func automationValues(a Automation) []Change {
	var out []Change
	add := func(field string, v fmt.Stringer) { out = append(out, Change{Field: field, New: v.String()}) }
	if a.Level != "" {
		out = append(out, Change{Field: "level", New: string(a.Level)})
	}
	if a.Mark != nil {
		add("mark", a.Mark)
	}
	for _, p := range []struct {
		field string
		value *Duration
	}{{"horizon", a.Horizon}, {"hold", a.Hold}, {"slot", a.Slot}, {"plan_expiry", a.PlanExpiry}} {
		if p.value != nil {
			add(p.field, p.value)
		}
	}
	for _, p := range []struct {
		field string
		value *int
	}{{"min_gain", a.MinGain}, {"max_moves", a.MaxMoves}, {"max_gib", a.MaxGiB}, {"at_once", a.AtOnce}} {
		if p.value != nil {
			out = append(out, Change{Field: p.field, New: fmt.Sprint(*p.value)})
		}
	}
	for _, p := range []struct {
		what string
		list []calendar.Window
	}{{"window", a.Windows}, {"blackout", a.Blackouts}} {
		for _, w := range p.list {
			out = append(out, Change{Field: p.what + " " + w.Name, New: WindowText(w)})
		}
	}
	return out
}

// WindowText is "30 1 * * MON-FRI for 4h, Europe/Berlin".
func WindowText(w calendar.Window) string {
	zone := w.Zone
	if zone == "" {
		zone = "UTC"
	}
	return strings.TrimSpace(w.Cron+w.At) + " for " + w.Duration + ", " + zone
}

// diffAutomation tells what is said otherwise, field by field.
func diffAutomation(a, b Automation) []Change {
	index := map[string]string{}
	for _, c := range automationValues(a) {
		index[c.Field] = c.New
	}
	var out []Change
	for _, c := range automationValues(b) {
		if old := index[c.Field]; old != c.New {
			out = append(out, Change{What: "automation", Field: c.Field, Old: old, New: c.New})
		}
		delete(index, c.Field)
	}
	for _, c := range automationValues(a) {
		if old, gone := index[c.Field]; gone {
			out = append(out, Change{What: "automation", Field: c.Field, Old: old})
		}
	}
	return out
}
