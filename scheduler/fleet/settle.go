package fleet

import (
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// Settle returns the snapshot with every completed migration applied that is newer, by the store's
// revisions, than the reports of its hosts: what a person or the planner sees right after a move is
// the fleet as it is, not as it was last reported. The snapshot itself is not written to.
//
// Only a domain's newest migration has a say. A host that a domain left and came back to has the same
// facts as before, and so no newer report of them than the move away, which would be made again.
func Settle(s *Snapshot) *Snapshot {
	if s == nil {
		return nil
	}
	newest := map[hypervisor.DomainID]precopy.Stored{}
	for _, m := range s.Migrations {
		if m.Phase == precopy.Done && m.Revision > newest[m.UUID].Revision {
			newest[m.UUID] = m
		}
	}
	maps.DeleteFunc(newest, func(_ hypervisor.DomainID, m precopy.Stored) bool { return !s.lags(m) })
	if len(newest) == 0 {
		return s
	}
	out := *s
	out.Hosts = maps.Clone(s.Hosts)
	for _, m := range newest {
		out.move(m)
	}
	return &out
}

// lags reports whether the hosts' reports may not show the migration yet. The load, sampled every few
// seconds, says where a domain runs; the facts are reported only when they change, and those of a host
// that a domain left and came back to may be older than both moves.
func (s *Snapshot) lags(m precopy.Stored) bool {
	src, dst := s.Hosts[m.Source], s.Hosts[m.Target]
	if !src.reported() || !dst.reported() {
		return false
	}
	return src.LoadRevision < m.Revision || dst.FactsRevision < m.Revision
}

// arrivalGrace is how long a host's report may trail a migration that ended there: one period of reports,
// on a busy host, and what the clocks differ by.
const arrivalGrace = 15 * time.Second

// Arriving returns the host to which a migration has brought the domain so lately that no report may show
// it yet, neither the target's nor, any more, the source's; empty when there is none.
func (s *Snapshot) Arriving(id hypervisor.DomainID) string {
	var last precopy.Stored
	for _, m := range s.Migrations {
		if m.UUID == id && m.Phase == precopy.Done && m.Revision > last.Revision {
			last = m
		}
	}
	if last.Finished == nil || s.Now.Sub(*last.Finished).Abs() > arrivalGrace {
		return ""
	}
	return last.Target
}

// move takes the domain from the source's reports into the target's, on copies of both.
func (s *Snapshot) move(m precopy.Stored) {
	src, dst := s.Hosts[m.Source].copied(), s.Hosts[m.Target].copied()
	isIt := func(id hypervisor.DomainID) bool { return id == m.UUID }
	factsOf := func(h *Host) int {
		return slices.IndexFunc(h.Facts.Domains, func(d hypervisor.DomainFacts) bool { return isIt(d.ID) })
	}
	loadOf := func(h *Host) int {
		return slices.IndexFunc(h.Load.Domains, func(d hypervisor.DomainLoad) bool { return isIt(d.ID) })
	}
	i, j := factsOf(src), loadOf(src)
	here := j >= 0 && src.Load.Domains[j].State != hypervisor.StateShutoff
	if i < 0 || here && src.LoadRevision > m.Revision {
		return // the source's reports say already that it has left, or that it is back
	}
	if !here && dst.LoadRevision > m.Revision && factsOf(dst) >= 0 {
		return // and the target's that it has come
	}
	if factsOf(dst) < 0 {
		dst.Facts.Domains = append(dst.Facts.Domains, src.Facts.Domains[i])
	}
	src.Facts.Domains = slices.Delete(src.Facts.Domains, i, i+1)
	if j >= 0 {
		load := src.Load.Domains[j]
		src.Load.Domains = slices.Delete(src.Load.Domains, j, j+1)
		if here && dst.LoadRevision < m.Revision {
			load.Migrating = false
			if load.State == hypervisor.StatePaused {
				load.State = hypervisor.StateRunning // sampled during the switchover
			}
			dst.Load.Domains = slices.DeleteFunc(dst.Load.Domains, func(d hypervisor.DomainLoad) bool { return isIt(d.ID) })
			dst.Load.Domains = append(dst.Load.Domains, load)
		}
	}
	s.Hosts[m.Source], s.Hosts[m.Target] = src, dst
}

// reported reports whether there are both of a host's reports.
func (h *Host) reported() bool { return h != nil && h.Facts != nil && h.Load != nil }

// copied returns a host whose lists of domains may be changed; nil without reports.
func (h *Host) copied() *Host {
	if !h.reported() {
		return nil
	}
	out, facts, load := *h, *h.Facts, *h.Load
	facts.Domains = slices.Clone(facts.Domains)
	load.Domains = slices.Clone(load.Domains)
	out.Facts, out.Load = &facts, &load
	return &out
}
