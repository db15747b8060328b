package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"drover/hypervisor"
	"drover/precopy"
)

// Settle returns the snapshot with every completed migration applied that its hosts' reports may not show
// yet: what a person or the planner sees right after a move is the fleet as it is, not as it was last
// reported. The source's report may still have the domain, or neither report may have it, as when the
// source has looked again and the target has not; its order says then what has moved. One that is between
// the two, its migration's end not on record yet, stays with the source. The snapshot itself is not written
// to.
//
// Where a domain is its last completed migration says; of earlier ones only that it is no longer where they
// took it from. A host that a domain left and came back to has the same facts as before, and so no newer
// report of them than the move away, which would be made again.
func Settle(s *Snapshot) *Snapshot {
	if s == nil {
		return nil
	}
	newest := s.LastMoves()
	var late []precopy.Stored
	for _, m := range s.Migrations {
		if m.Phase == precopy.Done && s.lags(m, newest[m.UUID]) || s.between(m) {
			late = append(late, m)
		}
	}
	// In order, so that the same picture always gives the same sums.
	slices.SortFunc(late, older)
	e := edit{s, map[string]*Host{}}
	for _, m := range late {
		last := newest[m.UUID]
		if m.Phase != precopy.Done {
			e.stay(m)
		} else if m.ID == last.ID {
			e.move(m)
		} else if m.Source != last.Source && m.Source != last.Target {
			e.leave(m.Source, last)
		}
	}
	if len(e.hosts) == 0 {
		return s
	}
	out := *s
	out.Hosts = maps.Clone(s.Hosts)
	maps.Copy(out.Hosts, e.hosts)
	return &out
}

// LastMoves returns each domain's last completed migration: the one that was begun last, for a domain has
// one at a time, and a word may be added to an earlier one after it.
func (s *Snapshot) LastMoves() map[hypervisor.DomainID]precopy.Stored {
	last := map[hypervisor.DomainID]precopy.Stored{}
	for _, m := range s.Migrations {
		if m.Phase == precopy.Done && (last[m.UUID].ID == "" || older(last[m.UUID], m) < 0) {
			last[m.UUID] = m
		}
	}
	return last
}

// older compares migrations by when they were begun.
func older(a, b precopy.Stored) int {
	return cmp.Or(cmp.Compare(a.Born, b.Born), strings.Compare(a.ID, b.ID))
}

// lags reports whether the reports of a migration's hosts may be older than the domain's last one. The facts
// are reported only when they change: those of a host that a domain left and came back to may be older than
// both moves.
func (s *Snapshot) lags(m, last precopy.Stored) bool {
	src, dst := s.Hosts[m.Source], s.Hosts[m.Target]
	if m.ID != last.ID {
		return !src.shows(last)
	}
	return dst.reported() && (!src.shows(m) || !dst.shows(m) || dst.FactsRevision < m.EndedAt())
}

// between reports whether the source has looked after the domain went, and its migration's end is not on
// record yet.
func (s *Snapshot) between(m precopy.Stored) bool {
	src, dst := s.Hosts[m.Source], s.Hosts[m.Target]
	if !m.Phase.Started() || m.Phase == precopy.Unknown || m.Order == nil || m.Order.Domain == nil || m.Order.Load == nil ||
		!src.reported() || !dst.reported() {
		return false
	}
	load, sampled := src.loadOf(m.UUID)
	_, listed := src.factsOf(m.UUID)
	return !sampled || !listed || load.State == hypervisor.StateShutoff
}

// edit is copies of those hosts of a snapshot whose reports are not the last word.
type edit struct {
	of    *Snapshot
	hosts map[string]*Host
}

// host returns the copy of a host, whose lists of domains may be changed.
func (e edit) host(name string) *Host {
	if h := e.hosts[name]; h != nil {
		return h
	}
	out := *e.of.Hosts[name]
	facts, load := *out.Facts, *out.Load
	facts.Domains = slices.Clone(facts.Domains)
	load.Domains = slices.Clone(load.Domains)
	out.Facts, out.Load = &facts, &load
	e.hosts[name] = &out
	return &out
}

// leave takes the domain out of the reports of a host that it was on before the migration, if they are of
// that time.
func (e edit) leave(name string, m precopy.Stored) {
	if !e.of.Hosts[name].shows(m) {
		e.host(name).drop(m.UUID)
	}
}

// stay has the source keep a domain that is between it and the target, unless the target says that it runs
// there.
func (e edit) stay(m precopy.Stored) {
	h := e.host(m.Source)
	h.drop(m.UUID)
	dst := cmp.Or(e.hosts[m.Target], e.of.Hosts[m.Target])
	if load, sampled := dst.loadOf(m.UUID); sampled && load.State == hypervisor.StateRunning {
		e.list(m.Target, *m.Order.Domain)
		return
	}
	load := *m.Order.Load
	load.Migrating = true
	h.addLoad(load)
	e.list(m.Source, *m.Order.Domain)
}

// list adds a domain to a host's facts, if it is not there.
func (e edit) list(name string, d hypervisor.DomainFacts) {
	if _, listed := cmp.Or(e.hosts[name], e.of.Hosts[name]).factsOf(d.ID); !listed {
		h := e.host(name)
		h.Facts.Domains = append(h.Facts.Domains, d)
	}
}

// move takes the domain from the source's reports into the target's, as far as they do not speak for
// themselves. A source without reports has nothing to say.
func (e edit) move(m precopy.Stored) {
	src, dst := e.of.Hosts[m.Source], e.of.Hosts[m.Target]
	load, _ := src.loadOf(m.UUID)
	if settled(load) && src.shows(m) {
		return // it is back
	}
	facts, known := src.factsOf(m.UUID)
	if m.Order != nil && m.Order.Load != nil && m.Order.Domain != nil {
		// As it was before: not slowed, not the definition that was left, not the half of another migration.
		facts, load, known = *m.Order.Domain, *m.Order.Load, true
	}
	before, arrived := dst.loadOf(m.UUID)
	_, listed := dst.factsOf(m.UUID)
	if !known && !listed {
		return
	}
	e.leave(m.Source, m)
	if dst.shows(m) && !arrived {
		return // it has left there since
	}
	if !dst.shows(m) && !(arrived && settled(before)) {
		// Not there yet, or sampled while it came.
		load.ID, load.Migrating, load.State = m.UUID, false, stateOf(m)
		e.host(m.Target).dropLoad(m.UUID)
		e.host(m.Target).addLoad(load)
	}
	e.list(m.Target, facts)
}

// settled reports whether a domain lives where it was sampled: it is no half of a migration.
func settled(l hypervisor.DomainLoad) bool {
	return l.State == hypervisor.StateRunning || l.State == hypervisor.StatePaused && !l.Migrating
}

// stateOf is how a domain came to its target: as it was when the migration was ordered.
func stateOf(m precopy.Stored) hypervisor.DomainState {
	if m.Order != nil && m.Order.Load != nil && m.Order.Load.State == hypervisor.StatePaused {
		return hypervisor.StatePaused
	}
	return hypervisor.StateRunning
}

// reported reports whether there are both of a host's reports.
func (h *Host) reported() bool { return h != nil && h.Facts != nil && h.Load != nil }

// shows reports whether the host's load was taken after the migration's end was on record. Where there are no
// reports there is nothing to correct.
func (h *Host) shows(m precopy.Stored) bool { return !h.reported() || h.LoadAsOf >= m.EndedAt() }

func (h *Host) factsOf(id hypervisor.DomainID) (d hypervisor.DomainFacts, ok bool) {
	if !h.reported() {
		return d, false
	}
	i := slices.IndexFunc(h.Facts.Domains, func(d hypervisor.DomainFacts) bool { return d.ID == id })
	if i < 0 {
		return d, false
	}
	return h.Facts.Domains[i], true
}

func (h *Host) loadOf(id hypervisor.DomainID) (l hypervisor.DomainLoad, ok bool) {
	if !h.reported() {
		return l, false
	}
	i := slices.IndexFunc(h.Load.Domains, func(l hypervisor.DomainLoad) bool { return l.ID == id })
	if i < 0 {
		return l, false
	}
	return h.Load.Domains[i], true
}

// drop takes a domain out of a copy's reports.
func (h *Host) drop(id hypervisor.DomainID) {
	h.Facts.Domains = slices.DeleteFunc(h.Facts.Domains, func(d hypervisor.DomainFacts) bool { return d.ID == id })
	h.dropLoad(id)
}

// dropLoad takes a domain out of a copy's load, and what it uses out of the host's sums.
func (h *Host) dropLoad(id hypervisor.DomainID) {
	l, ok := h.loadOf(id)
	if !ok {
		return
	}
	h.Load.Domains = slices.DeleteFunc(h.Load.Domains, func(l hypervisor.DomainLoad) bool { return l.ID == id })
	h.Load.CPU, h.Load.Memory = max(h.Load.CPU-l.CPU, 0), max(h.Load.Memory-l.Memory, 0)
}

// addLoad adds a domain to a copy's load, and what it uses to the host's sums.
func (h *Host) addLoad(l hypervisor.DomainLoad) {
	h.Load.Domains = append(h.Load.Domains, l)
	h.Load.CPU, h.Load.Memory = h.Load.CPU+l.CPU, h.Load.Memory+l.Memory
}
