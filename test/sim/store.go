package sim

import (
	"fmt"
	"maps"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// records is what the store holds, with revisions that are compared as the real one's are.
type records struct {
	rev        int64
	migrations map[string]precopy.Stored
	history    []precopy.Stored
	active     map[hypervisor.DomainID]string
	runs       map[string]fleet.StoredRun
	plans      map[string]fleet.StoredPlan
	pause      *fleet.Pause
	shares     map[string]fleet.StoredShare
	progress   map[string]fleet.SeenProgress
	profiles   map[hypervisor.DomainID]forecast.Profile
	policy     policy.Stored
	vms        map[hypervisor.DomainID]policy.VMRecord
	leader     *fleet.LeaderInfo
	writes     map[string]int
	wrongs     []string
	shared     bool // migrations and runs were handed out
}

func newRecords() *records {
	return &records{
		rev: 1, migrations: map[string]precopy.Stored{}, active: map[hypervisor.DomainID]string{}, runs: map[string]fleet.StoredRun{},
		plans: map[string]fleet.StoredPlan{}, shares: map[string]fleet.StoredShare{}, progress: map[string]fleet.SeenProgress{}, profiles: map[hypervisor.DomainID]forecast.Profile{}, vms: map[hypervisor.DomainID]policy.VMRecord{},
		writes: map[string]int{},
	}
}

// wrote counts a write of a kind and returns its revision.
func (r *records) wrote(kind string) int64 {
	r.writes[kind]++
	r.rev++
	return r.rev
}

func (r *records) own() {
	if r.shared {
		r.migrations, r.runs, r.shared = maps.Clone(r.migrations), maps.Clone(r.runs), false
	}
}

// put writes a migration's record over the one of that revision. It is false when that has changed.
func (r *records) put(kind string, actor precopy.Actor, old int64, m precopy.Migration) (precopy.Stored, bool) {
	was, there := r.migrations[m.ID]
	if !there || was.Revision != old || was.Phase.Final() && m.Phase != was.Phase {
		return was, false
	}
	if err := precopy.CheckTransition(was.Phase, m.Phase, actor); err != nil {
		r.wrongs = append(r.wrongs, fmt.Sprintf("%s of %s: %v", m.ID, m.Domain, err))
		return was, false
	}
	r.own()
	if was.Phase.Final() {
		m.EndRevision = was.EndedAt()
	}
	s := precopy.Stored{Migration: m, Revision: r.wrote(kind), Born: was.Born}
	r.migrations[m.ID] = s
	if m.Phase.Final() {
		r.shares, r.progress = maps.Clone(r.shares), maps.Clone(r.progress)
		delete(r.shares, m.ID)
		delete(r.progress, m.ID)
		if r.active[m.UUID] == m.ID {
			delete(r.active, m.UUID)
		}
	}
	return s, true
}

// share writes a migration's share over the one of that revision. It is false when that has changed.
func (r *records) share(old int64, s precopy.Share, revision int64) bool {
	if r.shares[s.ID].Revision != old {
		return false
	}
	r.shares = maps.Clone(r.shares)
	r.shares[s.ID] = fleet.StoredShare{Share: s, Revision: revision}
	return true
}

// create makes a migration's record, unless it is there or its domain has an unfinished one.
func (r *records) create(kind string, m precopy.Migration) bool {
	if _, there := r.migrations[m.ID]; there || r.active[m.UUID] != "" {
		return false
	}
	r.own()
	r.active[m.UUID] = m.ID
	born := r.wrote(kind)
	r.migrations[m.ID] = precopy.Stored{Migration: m, Revision: born, Born: born}
	return true
}

// putRun writes a run's record over the one of that revision; 0 is that there is none.
func (r *records) putRun(old int64, run fleet.Run) bool {
	if r.runs[run.ID].Revision != old {
		return false
	}
	r.own()
	r.runs[run.ID] = fleet.StoredRun{Run: run, Revision: r.wrote("run")}
	return true
}

// putPlan writes a plan over the one of the revision that it carries.
func (r *records) putPlan(p fleet.StoredPlan) {
	if r.plans[p.ID].Revision != p.Revision {
		return
	}
	r.plans = maps.Clone(r.plans)
	p.Revision = r.wrote("plan")
	r.plans[p.ID] = p
}

// retire moves a finished migration to the history.
func (r *records) retire(m precopy.Stored) {
	r.own()
	delete(r.migrations, m.ID)
	r.history = append(r.history, m)
	r.wrote("history")
}

// Writes is how many writes the store has taken, by kind, reports and progress among them.
func (w *World) Writes() map[string]int { return maps.Clone(w.store.writes) }

// SetPolicy is what people want of migrations from now on.
func (w *World) SetPolicy(d policy.Document) {
	w.store.policy = policy.Stored{Document: d, Revision: w.store.wrote("policy")}
}

// SetVM is what people decide about one guest.
func (w *World) SetVM(g *Guest, r policy.VMRecord) {
	w.store.wrote("policy")
	vms := maps.Clone(w.store.vms)
	vms[g.ID] = r
	w.store.vms = vms
}

// Snapshot is the fleet as the store shows it now.
func (w *World) Snapshot() *fleet.Snapshot {
	w.store.shared = true
	s := &fleet.Snapshot{
		Revision: w.store.rev, Now: w.Time(), Hosts: make(map[string]*fleet.Host, len(w.hosts)), Migrations: w.store.migrations,
		Runs: w.store.runs, Plans: w.store.plans, Pause: w.store.pause, Shares: w.store.shares, Progress: w.store.progress, Leader: w.store.leader, Policy: w.store.policy, VMs: w.store.vms,
	}
	for name, h := range w.hosts {
		f := &fleet.Host{Name: name, Record: h.record, RecordRevision: h.revision, Session: h.session}
		if h.session != nil && h.load != nil {
			f.Facts, f.Load, f.FactsRevision, f.LoadRevision, f.LoadAsOf = h.facts, h.load, h.factsRev, h.loadRev, h.loadAsOf
			f.LoadSeen = s.Now
			f.Link, f.LinkSeen = h.sampled(), s.Now
			if h.cut || !h.agent { // nothing comes any more, and the lease has not run out yet
				f.LoadSeen = h.load.At
			}
		}
		s.Hosts[name] = f
	}
	return fleet.Settle(s)
}

// Migrations are all that ever were, those in the history too.
func (w *World) Migrations() []precopy.Stored {
	out := append([]precopy.Stored(nil), w.store.history...)
	for _, id := range sortedKeys(w.store.migrations) {
		out = append(out, w.store.migrations[id])
	}
	return out
}

// Run is a run's record.
func (w *World) RunRecord(id string) fleet.Run { return w.store.runs[id].Run }
