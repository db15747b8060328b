package auto

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/scheduler/signal"
)

// ErrFrozen: what a plan was made from can't be read.
var ErrFrozen = errors.New("input of a plan")

// frozen is what a plan was made from, as it is kept.
type frozen struct {
	Schema     int                                     `json:"schema"`
	At         time.Time                               `json:"at"`
	Now        time.Time                               `json:"now"` // the snapshot's
	Revision   int64                                   `json:"revision"`
	Hosts      []frozenHost                            `json:"hosts"`
	Migrations []precopy.Migration                     `json:"migrations,omitempty"` // unfinished
	Runs       []fleet.Run                             `json:"runs,omitempty"`       // unfinished
	Policy     policy.Document                         `json:"policy"`
	VMs        map[hypervisor.DomainID]policy.VMRecord `json:"vms,omitempty"`
	// Of automatic moves, the leader's memory.
	Slot  policy.Duration    `json:"slot,omitempty"`
	Load  [][]byte           `json:"load,omitempty"`
	Trail []signal.Departure `json:"trail,omitempty"`
}

type frozenHost struct {
	Name     string                `json:"name"`
	Record   fleet.HostRecord      `json:"record"`
	Session  *fleet.Session        `json:"session,omitempty"`
	Facts    *hypervisor.HostFacts `json:"facts,omitempty"`
	Load     *hypervisor.HostLoad  `json:"load,omitempty"`
	LoadSeen time.Time             `json:"load_seen,omitzero"`
}

// Freeze renders all that a plan is made from. A nil memory is that of a person's plan, which goes by the reports.
func Freeze(s *fleet.Snapshot, m *Memory, now time.Time) ([]byte, error) {
	f := frozen{Schema: Schema, At: now, Now: s.Now, Revision: s.Revision, Policy: s.Policy.Document, VMs: s.VMs}
	for _, name := range s.HostNames() {
		h := s.Hosts[name]
		f.Hosts = append(f.Hosts, frozenHost{name, h.Record, h.Session, h.Facts, h.Load, h.LoadSeen})
	}
	for _, one := range s.Unfinished() {
		f.Migrations = append(f.Migrations, one.Migration)
	}
	for _, r := range s.UnfinishedRuns() {
		f.Runs = append(f.Runs, r.Run)
	}
	if m != nil {
		f.Slot = policy.Duration(m.Load.Slot())
		for n := range signal.Chunks {
			if text := m.Load.Chunk(n); text != nil {
				f.Load = append(f.Load, text)
			}
		}
		f.Trail = m.Trail.Departures()
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrozen, err)
	}
	return text, nil
}

// Frozen is a fleet as it was when a plan was made.
type Frozen struct {
	Fleet *fleet.Snapshot
	// Memory is nil for a person's plan.
	Memory *Memory
	At     time.Time
}

// Thaw reads what [Freeze] has rendered. Errors match [ErrFrozen].
func Thaw(text []byte) (*Frozen, error) {
	var f frozen
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrozen, err)
	}
	s := &fleet.Snapshot{
		Revision: f.Revision, Now: f.Now, Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{},
		Runs: map[string]fleet.StoredRun{}, Policy: policy.Stored{Document: f.Policy}, VMs: f.VMs,
	}
	for _, h := range f.Hosts {
		s.Hosts[h.Name] = &fleet.Host{
			Name: h.Name, Record: h.Record, Session: h.Session, Facts: h.Facts, Load: h.Load, LoadSeen: h.LoadSeen,
		}
	}
	for _, m := range f.Migrations {
		s.Migrations[m.ID] = precopy.Stored{Migration: m}
	}
	for _, r := range f.Runs {
		s.Runs[r.ID] = fleet.StoredRun{Run: r}
	}
	out := &Frozen{Fleet: s, At: f.At}
	if f.Slot > 0 {
		out.Memory = NewMemory(time.Duration(f.Slot))
		out.Memory.Trail.Add(f.Trail...)
		for _, text := range f.Load {
			if err := out.Memory.Load.Restore(text); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrFrozen, err)
			}
		}
	}
	return out, nil
}

// Replay makes the automatic plan that another policy would have led to. A host that is above its mark counts as
// hot, as if it had been for long enough; levels and windows do not matter. Moves is empty when nothing would have
// been worth it.
func (f *Frozen) Replay(doc policy.Document) (fleet.Plan, error) {
	settings, err := SettingsOf(doc.Automation)
	if err != nil {
		return fleet.Plan{}, err
	}
	if f.Memory == nil {
		return fleet.Plan{}, fmt.Errorf("%w: it is of a person's plan", ErrFrozen)
	}
	s := *f.Fleet
	s.Policy = policy.Stored{Document: doc}
	m := *f.Memory
	m.heat = map[string]signal.Heat{}
	for name, h := range s.Hosts {
		load := m.sum(placed(&s)[name], f.At, settings.Rule)
		hot := feasible.Up(&s, h) == nil && settings.Rule.Overload(load, h.Capacity().Cores) >= settings.Rule.Least
		m.heat[name] = signal.Heat{Hot: hot}
	}
	p := &pass{Inputs: Inputs{Fleet: &s, Memory: &m, Settings: settings, Now: f.At}}
	if err := p.propose(); err != nil || len(p.decisions) == 0 {
		return fleet.Plan{Schema: Schema, Created: f.At, By: Scheduler, Reason: "no move is worth it"}, err
	}
	return p.decisions[0].Plan.Plan, nil
}
