package main

import (
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
)

// rule decides what starts and what each stream may send.
type rule interface {
	name() string
	// pass is called every second, and when a stream has ended.
	pass(s *sim)
}

// fixed is what managers without a budget do: so many out of a host, into one and in the fleet, each with a part of
// the link, or with none.
type fixed struct {
	title        string
	out, in, all int
	part         float64 // of the link; 0 is no limit
}

func (f fixed) name() string { return f.title }

func (f fixed) pass(s *sim) {
	for _, g := range append([]*guest(nil), s.queue...) {
		if s.out[g.source] >= f.out || s.in[g.target] >= f.in || len(s.running) >= f.all {
			continue
		}
		part := f.part
		if part == 0 {
			part = 1
		}
		s.start(g, part*s.link, 0)
	}
}

// live is drover's budget, by the package that the scheduler uses.
type live struct {
	snapshot *fleet.Snapshot
	memory   budget.Memory
	writes   int
	most     time.Duration // of one pass
	perPass  int           // the most that one pass wrote
}

func newLive(hosts int, link float64) *live {
	l := &live{snapshot: &fleet.Snapshot{
		Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{},
		Shares: map[string]fleet.StoredShare{}, Progress: map[string]fleet.SeenProgress{},
	}}
	for i := range hosts {
		name := hostName(i)
		l.snapshot.Hosts[name] = &fleet.Host{
			Name: name, Session: &fleet.Session{Host: name},
			Facts: &hypervisor.HostFacts{Capacity: hypervisor.Capacity{Bandwidth: hypervisor.BytesPerSecond(link)}},
		}
	}
	return l
}

func hostName(i int) string { return fmt.Sprintf("h%03d", i) }

func (l *live) name() string { return "drover" }

func (l *live) pass(s *sim) {
	const outgoing, incoming = 1, 2
	now := s.clock()
	l.see(s)
	began := time.Now()
	l.memory.Look(l.snapshot, now)
	a := budget.New(budget.Input{Fleet: l.snapshot, Memory: &l.memory, Outgoing: outgoing, Incoming: incoming, Now: now})
	waits := map[int]bool{}
	type start struct {
		g *guest
		m precopy.Stored
		v budget.Verdict
	}
	var starts []start
	out, in := clone(s.out), clone(s.in)
	for _, g := range s.queue {
		if waits[g.source] {
			continue
		}
		src, dst := hostName(g.source), hostName(g.target)
		behind := false
		switch {
		case out[g.source] >= outgoing:
			behind = a.Prepare(src, dst, src)
			if !behind {
				waits[g.source] = true
				continue
			}
		case in[g.target] >= incoming:
			if behind = a.Prepare(src, dst, dst); !behind {
				continue
			}
		}
		if a.Blocked(src, dst) != "" || a.Contended(dst) && s.another(g, a) {
			continue
		}
		m := precopy.Stored{Migration: precopy.Migration{
			ID: g.name, Domain: g.name, UUID: hypervisor.DomainID(g.name), Source: src, Target: dst,
			Phase: precopy.Copying, RequestedBy: "scheduler",
		}}
		v := a.Admit(budget.Candidate{
			Migration: m, Target: dst, Need: hypervisor.BytesPerSecond(g.need(0.9 * s.link)), Behind: behind,
		})
		if !v.OK {
			continue
		}
		m.Order = &precopy.Order{
			Bandwidth: a.Bandwidth(src, dst), Need: v.Need, Share: v.Share, IssuedAt: now.Add(time.Duration(len(starts)) * time.Microsecond),
		}
		out[g.source]++
		in[g.target]++
		starts = append(starts, start{g, m, v})
	}
	writes := a.Writes()
	l.most = max(l.most, time.Since(began))
	l.writes += len(writes)
	l.perPass = max(l.perPass, len(writes))
	for _, st := range starts {
		l.snapshot.Migrations[st.m.ID] = st.m
		l.snapshot.Shares[st.m.ID] = fleet.StoredShare{Share: budget.FirstShare(st.m.Migration, st.v, now), Revision: 1}
		s.start(st.g, float64(st.v.Share), 1)
	}
	for _, w := range writes {
		old := l.snapshot.Shares[w.New.ID]
		l.snapshot.Shares[w.New.ID] = fleet.StoredShare{Share: w.New, Revision: old.Revision + 1}
		if st := s.running[w.New.ID]; st != nil {
			st.next, st.nextOne, st.due = float64(w.New.Bandwidth), w.New.Serial, s.now+s.lag
		}
	}
}

// another reports whether a guest of the same host waits whose target nothing is being sent to.
func (s *sim) another(g *guest, a *budget.Arbiter) bool {
	for _, o := range s.queue {
		if o != g && o.source == g.source && !a.Contended(hostName(o.target)) {
			return true
		}
	}
	return false
}

// see puts what agents tell into the snapshot.
func (l *live) see(s *sim) {
	for id := range l.snapshot.Migrations {
		if s.running[id] == nil {
			delete(l.snapshot.Migrations, id)
			delete(l.snapshot.Shares, id)
			delete(l.snapshot.Progress, id)
		}
	}
	for id, st := range s.running {
		p := precopy.Progress{
			ID: id, At: s.clock(), Serial: st.serial, Cap: hypervisor.BytesPerSecond(st.cap),
			Achieved: hypervisor.BytesPerSecond(st.rate), ETA: st.eta(s.now),
		}
		p.Near = st.passes > 1 && p.ETA > 0 && p.ETA < 1500*time.Millisecond
		l.snapshot.Progress[id] = fleet.SeenProgress{Progress: p, Seen: s.clock()}
	}
}

func clone(m map[int]int) map[int]int {
	out := make(map[int]int, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
