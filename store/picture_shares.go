package store

import (
	"maps"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/store/kv"
)

// bar takes in a migration's progress. It comes every second from every migration, so that only what a leader
// must act upon soon counts as a change: that a share is in force, or that the end is near.
func (p *picture) bar(id string, e kv.Event, now time.Time) bool {
	old, had := p.progress[id]
	if p.sharedBars {
		p.progress, p.sharedBars = maps.Clone(p.progress), false
	}
	if e.Deleted {
		delete(p.progress, id)
		return had
	}
	var r progressRecord
	if err := decode(e.Entry.Value, &r); err != nil {
		p.log.Error("progress left out", "migration", id, "err", err)
		delete(p.progress, id)
		return had
	}
	p.progress[id] = fleet.SeenProgress{Progress: r.Progress, Seen: now}
	return !had || old.Serial != r.Serial || old.Near != r.Near
}

// dropBars forgets the progress that is not in a whole state.
func (p *picture) dropBars(b kv.Batch) {
	there := map[string]bool{}
	for _, e := range b.Events {
		if id, ok := strings.CutPrefix(e.Entry.Key, progressPrefix); ok {
			there[id] = true
		}
	}
	if p.sharedBars {
		p.progress, p.sharedBars = maps.Clone(p.progress), false
	}
	maps.DeleteFunc(p.progress, func(id string, _ fleet.SeenProgress) bool { return !there[id] })
}

func (p *picture) setShare(id string, e *kv.Entry) error {
	delete(p.shares, id)
	if e == nil {
		return nil
	}
	s := fleet.StoredShare{Revision: e.Mod}
	if err := decode(e.Value, &s.Share); err != nil {
		return err
	}
	p.shares[id] = s
	return nil
}

func (p *picture) setLink(name string, e *kv.Entry, now time.Time) error {
	if e == nil {
		p.change(name, func(h *fleet.Host) { h.Link, h.LinkSeen = nil, time.Time{} })
		return nil
	}
	var r linkRecord
	if err := decode(e.Value, &r); err != nil {
		return err
	}
	p.change(name, func(h *fleet.Host) { h.Link, h.LinkSeen = &r.LinkLoad, now })
	return nil
}

// linkOf is the sample of the migration network that a key holds; nil when it holds none.
func (p *picture) linkOf(key string) *hypervisor.LinkLoad {
	rest, ok := strings.CutPrefix(key, reportsPrefix)
	if !ok {
		return nil
	}
	name, part, _ := strings.Cut(rest, "/")
	if h := p.hosts[name]; part == partLink && h != nil {
		return h.Link
	}
	return nil
}

// sameTenants reports whether a new sample of the migration network tells a leader nothing that can't wait
// for its next pass.
func sameTenants(before, after *hypervisor.LinkLoad) bool {
	const little = 4 * hypervisor.BytesPerSecond(hypervisor.MiB)
	if before == nil || after == nil {
		return false
	}
	rx, tx := before.Tenants()
	rx2, tx2 := after.Tenants()
	return max(rx-rx2, rx2-rx, tx-tx2, tx2-tx) < little
}
