package store

import (
	"log/slog"
	"maps"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store/kv"
)

// picture is the fleet as its keys say, kept up to date key by key. Only changed values are decoded.
// What it hands out is never written to again. It is not safe for concurrent use.
type picture struct {
	log        *slog.Logger
	rev        int64
	mods       map[string]int64 // revision of every key that the picture is made of
	hosts      map[string]*fleet.Host
	migrations map[string]precopy.Stored
	runs       map[string]fleet.StoredRun
	plans      map[string]fleet.StoredPlan
	pause      *fleet.Pause
	shares     map[string]fleet.StoredShare
	progress   map[string]fleet.SeenProgress
	vms        map[hypervisor.DomainID]policy.VMRecord
	policy     policy.Stored
	leader     *fleet.LeaderInfo
	shared     bool // hosts, migrations, runs, plans and shares were handed out
	sharedBars bool // progress was; it changes all the time
	sharedVMs  bool // vms was; it is larger, and changes seldom
	broken     map[string]error
}

func newPicture(log *slog.Logger) *picture {
	return &picture{
		log:        log,
		mods:       map[string]int64{},
		hosts:      map[string]*fleet.Host{},
		migrations: map[string]precopy.Stored{},
		runs:       map[string]fleet.StoredRun{},
		plans:      map[string]fleet.StoredPlan{},
		shares:     map[string]fleet.StoredShare{},
		progress:   map[string]fleet.SeenProgress{},
		vms:        map[hypervisor.DomainID]policy.VMRecord{},
		broken:     map[string]error{},
	}
}

// snapshot hands the picture out.
func (p *picture) snapshot(now time.Time) *fleet.Snapshot {
	p.shared, p.sharedVMs, p.sharedBars = true, true, true
	return &fleet.Snapshot{
		Revision: p.rev, Now: now, Hosts: p.hosts, Migrations: p.migrations, Runs: p.runs, Plans: p.plans,
		Pause: p.pause, Leader: p.leader, Policy: p.policy, VMs: p.vms,
		Shares: p.shares, Progress: p.progress,
	}
}

// own makes the maps the picture's own again, before a change.
func (p *picture) own() {
	if p.shared {
		p.hosts, p.migrations = maps.Clone(p.hosts), maps.Clone(p.migrations)
		p.runs, p.plans = maps.Clone(p.runs), maps.Clone(p.plans)
		p.shares = maps.Clone(p.shares)
		p.shared = false
	}
}

func (p *picture) ownVMs() map[hypervisor.DomainID]policy.VMRecord {
	if p.sharedVMs {
		p.vms, p.sharedVMs = maps.Clone(p.vms), false
	}
	return p.vms
}

// apply takes a batch in and reports whether the picture changed. now is when the batch came.
func (p *picture) apply(b kv.Batch, now time.Time) bool {
	changed := false
	var stale map[string]int64
	if b.Reset {
		stale = maps.Clone(p.mods)
	}
	for _, e := range b.Events {
		delete(stale, e.Entry.Key)
		if id, ok := strings.CutPrefix(e.Entry.Key, progressPrefix); ok {
			changed = p.bar(id, e, now) || changed
			continue
		}
		switch {
		case e.Deleted:
			changed = p.remove(e.Entry.Key) || changed
		case p.mods[e.Entry.Key] != e.Entry.Mod:
			before := p.linkOf(e.Entry.Key)
			changed = p.put(e.Entry, now) && !sameTenants(before, p.linkOf(e.Entry.Key)) || changed
		}
	}
	if b.Reset {
		p.dropBars(b)
	}
	for key := range stale {
		changed = p.remove(key) || changed
	}
	p.rev = max(b.Rev, p.rev)
	if b.Reset {
		p.rev = b.Rev // of another history, after a restore
	}
	return changed
}

// put takes one value in.
func (p *picture) put(e kv.Entry, now time.Time) bool {
	set := p.part(e.Key)
	if set == nil {
		return false
	}
	p.own()
	p.mods[e.Key] = e.Mod
	delete(p.broken, e.Key)
	if err := set(&e, now); err != nil {
		// As good as absent, but not in silence.
		p.log.Error("value left out of the fleet's picture", "key", e.Key, "err", err)
		p.broken[e.Key] = err
		_ = set(nil, now)
		p.doubt(e, err)
	}
	return true
}

// doubt leaves word of intent that can't be read: what is promised to a VM is then not known, which is
// not the same as nothing being promised. A pause that can't be read is one: somebody wanted it.
func (p *picture) doubt(e kv.Entry, err error) {
	if e.Key == fleetPrefix+PauseID {
		p.pause = &fleet.Pause{Act: fleet.Act{By: "a record that can't be read"}}
	} else if e.Key == policyKey {
		p.policy = policy.Stored{Revision: e.Mod, Fault: err.Error()}
	} else if id, ok := strings.CutPrefix(e.Key, vmsPrefix); ok {
		p.ownVMs()[hypervisor.DomainID(id)] = policy.VMRecord{Fault: err.Error()}
	}
}

// remove takes one value out.
func (p *picture) remove(key string) bool {
	if _, known := p.mods[key]; !known {
		return false
	}
	p.own()
	delete(p.mods, key)
	delete(p.broken, key)
	_ = p.part(key)(nil, time.Time{})
	return true
}

// setter writes one value into the picture; a nil entry takes it out.
type setter func(e *kv.Entry, now time.Time) error

// part returns who is in charge of a key; nil for keys that are no part of the picture.
func (p *picture) part(key string) setter {
	if key == leaderKey {
		return p.setLeader
	}
	if name, ok := strings.CutPrefix(key, hostsPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setRecord(name, e) }
	}
	if id, ok := strings.CutPrefix(key, migrationsPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setMigration(id, e) }
	}
	if id, ok := strings.CutPrefix(key, runsPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setRun(id, e) }
	}
	if id, ok := strings.CutPrefix(key, sharesPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setShare(id, e) }
	}
	if id, ok := strings.CutPrefix(key, plansPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setPlan(id, e) }
	}
	switch key {
	case policyKey:
		return p.setPolicy
	case fleetPrefix + PauseID:
		return p.setPause
	}
	if id, ok := strings.CutPrefix(key, vmsPrefix); ok {
		return func(e *kv.Entry, _ time.Time) error { return p.setVM(hypervisor.DomainID(id), e) }
	}
	rest, ok := strings.CutPrefix(key, reportsPrefix)
	if !ok {
		return nil
	}
	name, part, _ := strings.Cut(rest, "/")
	switch part {
	case partSession:
		return func(e *kv.Entry, _ time.Time) error { return p.setSession(name, e) }
	case partFacts:
		return func(e *kv.Entry, _ time.Time) error { return p.setFacts(name, e) }
	case partSeen:
		return func(e *kv.Entry, _ time.Time) error { return p.setSeen(name, e) }
	case partLoad:
		return func(e *kv.Entry, now time.Time) error { return p.setLoad(name, e, now) }
	case partLink:
		return func(e *kv.Entry, now time.Time) error { return p.setLink(name, e, now) }
	}
	return nil
}

func (p *picture) setLeader(e *kv.Entry, _ time.Time) (err error) {
	p.leader = nil
	if e != nil {
		p.leader, err = decodeLeader(*e)
	}
	return err
}

func (p *picture) setMigration(id string, e *kv.Entry) error {
	if e == nil {
		delete(p.migrations, id)
		return nil
	}
	m := precopy.Stored{Revision: e.Mod, Born: e.Create, Raw: e.Value}
	if err := decode(e.Value, &m.Migration); err != nil {
		return err
	}
	p.migrations[id] = m
	return nil
}

func (p *picture) setRun(id string, e *kv.Entry) error {
	delete(p.runs, id)
	if e == nil {
		return nil
	}
	r := fleet.StoredRun{Revision: e.Mod}
	if err := decode(e.Value, &r.Run); err != nil {
		return err
	}
	p.runs[id] = r
	return nil
}

func (p *picture) setPlan(id string, e *kv.Entry) error {
	delete(p.plans, id)
	if e == nil {
		return nil
	}
	r := fleet.StoredPlan{Revision: e.Mod}
	if err := decode(e.Value, &r.Plan); err != nil {
		return err
	}
	p.plans[id] = r
	return nil
}

func (p *picture) setPause(e *kv.Entry, _ time.Time) error {
	p.pause = nil
	if e == nil {
		return nil
	}
	var r fleet.Pause
	if err := decode(e.Value, &r); err != nil {
		return err
	}
	p.pause = &r
	return nil
}

func (p *picture) setPolicy(e *kv.Entry, _ time.Time) error {
	p.policy = policy.Stored{}
	if e == nil {
		return nil
	}
	var s policy.Stored
	if err := decode(e.Value, &s.Document); err != nil {
		return err
	}
	s.Revision = e.Mod
	p.policy = s
	return nil
}

func (p *picture) setVM(id hypervisor.DomainID, e *kv.Entry) error {
	if e == nil {
		delete(p.ownVMs(), id)
		return nil
	}
	var r policy.VMRecord
	if err := decode(e.Value, &r); err != nil {
		return err
	}
	p.ownVMs()[id] = r
	return nil
}

// change replaces a host by a changed copy, and drops it once nothing is known of it any more.
func (p *picture) change(name string, f func(*fleet.Host)) {
	h := fleet.Host{Name: name, Record: fleet.HostRecord{Name: name}}
	if old := p.hosts[name]; old != nil {
		h = *old
	}
	f(&h)
	_, recorded := p.mods[hostKey(name)]
	if !recorded && h.Session == nil && h.Facts == nil && h.Load == nil && h.Link == nil && h.SeenRevision == 0 {
		delete(p.hosts, name)
		return
	}
	p.hosts[name] = &h
}

func (p *picture) setRecord(name string, e *kv.Entry) error {
	r, revision := fleet.HostRecord{Name: name}, int64(0)
	if e != nil {
		if err := decode(e.Value, &r); err != nil {
			return err
		}
		revision = e.Mod
	}
	p.change(name, func(h *fleet.Host) { h.Record, h.RecordRevision = r, revision })
	return nil
}

func (p *picture) setSession(name string, e *kv.Entry) error {
	var s *fleet.Session
	if e != nil {
		s = &fleet.Session{}
		if err := decode(e.Value, s); err != nil {
			return err
		}
	}
	p.change(name, func(h *fleet.Host) { h.Session = s })
	return nil
}

func (p *picture) setFacts(name string, e *kv.Entry) error {
	if e == nil {
		p.change(name, func(h *fleet.Host) { h.Facts, h.FactsRevision = nil, 0 })
		return nil
	}
	var r factsRecord
	if err := decode(e.Value, &r); err != nil {
		return err
	}
	p.change(name, func(h *fleet.Host) { h.Facts, h.FactsRevision = &r.HostFacts, e.Mod })
	return nil
}

func (p *picture) setSeen(name string, e *kv.Entry) error {
	var r seenRecord
	revision := int64(0)
	if e != nil {
		if err := decode(e.Value, &r); err != nil {
			return err
		}
		revision = e.Mod
	}
	p.change(name, func(h *fleet.Host) { h.Seen, h.SeenRevision = r.Domains, revision })
	return nil
}

func (p *picture) setLoad(name string, e *kv.Entry, now time.Time) error {
	if e == nil {
		p.change(name, func(h *fleet.Host) { h.Load, h.LoadRevision, h.LoadAsOf, h.LoadSeen = nil, 0, 0, time.Time{} })
		return nil
	}
	var r loadRecord
	if err := decode(e.Value, &r); err != nil {
		return err
	}
	p.change(name, func(h *fleet.Host) {
		h.Load, h.LoadRevision, h.LoadAsOf, h.LoadSeen = &r.HostLoad, e.Mod, r.AsOf, now
	})
	return nil
}
