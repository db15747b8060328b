package rolling

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/headroom"
	"drover/scheduler/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// link is how fast memory leaves a host, one VM at a time.
const link = 125_000_000

// world is a fleet whose records are here: it carries requests out as the leader, the store and the agents do.
type world struct {
	now   time.Time
	hosts map[string]*host
	migs  map[string]precopy.Stored
	runs  map[string]fleet.StoredRun
	vms   map[hypervisor.DomainID]policy.VMRecord
	rev   int64
	home  map[string]string // where each VM was at first
	moved map[string]int    // completed moves of each VM

	memory map[string]*precopy.HookResult // the leader's, of hooks
	ran    map[string]int                 // hooks that ran, by "host/name"
	script func(o HookOrder, n int) precopy.HookResult
	bad    []string // what must not have happened
	tight  bool     // N+1 is watched
	busy   bool     // something has happened in this tick
}

type host struct {
	memory   int // GiB
	cordons  []fleet.Cordon
	vms      map[string]int // GiB
	down     bool
	instance int
	reported int64
}

// newWorld makes hosts from "name:GiB vm:GiB vm:GiB".
func newWorld(specs ...string) *world {
	w := &world{
		now: t0, hosts: map[string]*host{}, migs: map[string]precopy.Stored{}, runs: map[string]fleet.StoredRun{},
		vms: map[hypervisor.DomainID]policy.VMRecord{}, home: map[string]string{}, moved: map[string]int{},
		memory: map[string]*precopy.HookResult{}, ran: map[string]int{},
		script: func(HookOrder, int) precopy.HookResult { return precopy.HookResult{} },
	}
	for _, spec := range specs {
		var names []string
		var sizes []int
		for _, f := range strings.Fields(spec) {
			name, size, _ := strings.Cut(f, ":")
			var n int
			fmt.Sscan(size, &n)
			names, sizes = append(names, name), append(sizes, n)
		}
		h := &host{memory: sizes[0], vms: map[string]int{}, instance: 1}
		for i := 1; i < len(names); i++ {
			h.vms[names[i]] = sizes[i]
			w.home[names[i]] = names[0]
		}
		w.hosts[names[0]] = h
	}
	return w
}

func uuidOf(vm string) hypervisor.DomainID { return hypervisor.DomainID("id-" + vm) }

func (w *world) snapshot() *fleet.Snapshot {
	s := &fleet.Snapshot{
		Now: w.now, Hosts: map[string]*fleet.Host{}, Migrations: maps.Clone(w.migs), Runs: maps.Clone(w.runs), VMs: w.vms, Revision: w.rev,
	}
	for name, h := range w.hosts {
		f := &fleet.Host{
			Name: name, Record: fleet.HostRecord{Name: name, Cordons: slices.Clone(h.cordons)}, LoadSeen: w.now,
			LoadRevision: h.reported, FactsRevision: h.reported,
		}
		if !h.down {
			f.Session = &fleet.Session{Host: name, Instance: fmt.Sprint(h.instance)}
			f.Facts = &hypervisor.HostFacts{Name: name, LibvirtVersion: 11_003_000, Capacity: hypervisor.Capacity{
				Cores: 64, Memory: hypervisor.Bytes(h.memory) * hypervisor.GiB, Bandwidth: link,
			}}
			f.Load = &hypervisor.HostLoad{}
			for _, vm := range slices.Sorted(maps.Keys(h.vms)) {
				f.Facts.Domains = append(f.Facts.Domains, hypervisor.DomainFacts{
					ID: uuidOf(vm), Name: vm, Memory: hypervisor.Bytes(h.vms[vm]) * hypervisor.GiB, VCPUs: 1,
				})
				f.Load.CPU += 0.5
				f.Load.Domains = append(f.Load.Domains, hypervisor.DomainLoad{ID: uuidOf(vm), State: hypervisor.StateRunning, CPU: 0.5})
			}
		}
		s.Hosts[name] = f
	}
	return s
}

func seconds(gib hypervisor.Bytes) time.Duration {
	return time.Duration(float64(gib) / link * float64(time.Second))
}

func foresee(d fleet.Domain, _ string, _ time.Duration) (forecast.Forecast, *hypervisor.Blocker) {
	return forecast.Forecast{Duration: seconds(d.Facts.Memory), Bytes: d.Facts.Memory, Converges: true}, nil
}

func (w *world) input(r fleet.StoredRun) Input {
	return Input{
		Run: r, Fleet: w.snapshot(), Now: w.now, Outgoing: 1, Incoming: 2, Foresee: foresee, Hooks: maps.Clone(w.memory),
	}
}

func (w *world) request(r fleet.Run) {
	r.Kind, r.Phase, r.RequestedBy, r.Created = fleet.RunMaintenance, fleet.RunRequested, "ada", w.now
	w.put(r)
}

func (w *world) put(r fleet.Run) {
	w.rev++
	w.runs[r.ID] = fleet.StoredRun{Run: r, Revision: w.rev}
}

// pass takes every unfinished run one step on. A leader that dies after die writes begins anew without memory;
// it reports whether it died.
func (w *world) pass(die int) bool {
	for _, id := range slices.Sorted(maps.Keys(w.runs)) {
		r := w.runs[id]
		if r.Phase.Final() {
			continue
		}
		var next fleet.Run
		var todo []func()
		if r.Kind == fleet.RunMaintenance {
			var requests []Request
			next, requests = Step(w.input(r))
			for _, q := range requests {
				todo = append(todo, func() { w.carryOut(q) })
			}
		} else {
			var requests []drain.Request
			next, requests = drain.Step(drain.Input{Run: r, Fleet: w.snapshot(), Now: w.now, Outgoing: 1, Incoming: 2, Foresee: foresee})
			for _, q := range requests {
				todo = append(todo, func() { w.carryOutDrain(q) })
			}
		}
		w.busy = w.busy || len(todo) > 0
		if !drain.Same(r.Run, next) {
			w.busy = true
			todo = append(todo, func() { w.put(next) })
		}
		for _, do := range todo {
			if die == 0 {
				w.memory = map[string]*precopy.HookResult{}
				return true
			}
			die--
			do()
		}
	}
	return false
}

func (w *world) carryOut(q Request) {
	w.rev++
	switch {
	case q.Start != nil:
		if _, there := w.runs[q.Start.ID]; !there {
			w.put(*q.Start)
		}
	case q.Cordon != nil:
		w.cordon(*q.Cordon)
	case q.Hook != nil:
		key := q.Hook.Host + "/" + q.Hook.Call.Name
		w.ran[key]++
		if len(w.hosts[q.Hook.Host].vms) > 0 {
			w.bad = append(w.bad, "a hook ran on "+q.Hook.Host+", which is not empty")
		}
		r := w.script(*q.Hook, w.ran[key])
		w.memory[q.Hook.Call.Attempt] = &r
	}
}

func (w *world) cordon(c drain.Cordon) {
	h := w.hosts[c.Host]
	h.cordons = slices.DeleteFunc(h.cordons, func(o fleet.Cordon) bool { return o.Holder == c.Cordon.Holder })
	if !c.Off {
		h.cordons = append(h.cordons, c.Cordon)
	}
}

func (w *world) carryOutDrain(q drain.Request) {
	w.rev++
	switch {
	case q.Cordon != nil:
		w.cordon(*q.Cordon)
	case q.Create != nil:
		m := *q.Create
		if _, there := w.migs[m.ID]; there || w.active(m.UUID) {
			return
		}
		w.migs[m.ID] = precopy.Stored{Migration: m, Revision: w.rev}
	case q.Abort != nil:
		m := w.migs[q.Abort.Old.ID]
		m.Cancel, m.Revision = &q.Abort.Cancel, w.rev
		w.migs[m.ID] = m
	}
}

func (w *world) active(id hypervisor.DomainID) bool {
	for _, m := range w.migs {
		if m.UUID == id && !m.Phase.Final() {
			return true
		}
	}
	return false
}

// tick is one second: the leader's pass, the agents, the reports. When nothing happens it lasts until a copy is
// done.
func (w *world) tick(die int) bool {
	w.busy = false
	died := w.pass(die)
	out := map[string]int{}
	for _, id := range slices.Sorted(maps.Keys(w.migs)) {
		if m := w.migs[id]; m.Phase == precopy.Copying {
			out[m.Source]++
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.migs)) {
		m := w.migs[id]
		switch {
		case m.Phase == precopy.Requested && drain.Over(w.snapshot(), m.Migration):
			w.end(id, precopy.Aborted)
		case m.Phase == precopy.Requested && out[m.Source] == 0:
			out[m.Source]++
			w.order(id)
		case m.Phase == precopy.Copying && m.Cancel != nil:
			w.end(id, precopy.Aborted)
		case m.Phase == precopy.Copying && w.now.Sub(*m.Started) >= seconds(m.Order.Domain.Memory):
			w.end(id, precopy.Done)
		}
	}
	w.rev++
	for _, h := range w.hosts {
		if !h.down {
			h.reported = w.rev
		}
	}
	w.now = w.now.Add(time.Second)
	if !w.busy && !died {
		w.skip()
		return false
	}
	if w.tight {
		for _, l := range headroom.Losses(headroom.Picture{Fleet: w.snapshot()}) {
			w.bad = append(w.bad, l.String())
		}
	}
	return died
}

// skip goes on to the end of the first copy, if there is any.
func (w *world) skip() {
	var next time.Time
	for _, m := range w.migs {
		if m.Phase == precopy.Copying {
			if end := m.Started.Add(seconds(m.Order.Domain.Memory)).Truncate(time.Second); next.IsZero() || end.Before(next) {
				next = end
			}
		}
	}
	if next.After(w.now) {
		w.now = next
	}
}

func (w *world) order(id string) {
	m, snap := w.migs[id], w.snapshot()
	src := snap.Hosts[m.Source]
	for _, d := range src.Domains() {
		if d.Facts.ID != m.UUID {
			continue
		}
		if b := feasible.Target(snap, feasible.Request{Domain: d, Migration: m.ID}, m.Target); len(b) > 0 {
			w.end(id, precopy.Refused)
			return
		}
		now := w.now
		w.rev++
		w.busy = true
		m.Phase, m.Started, m.Revision, m.Order = precopy.Copying, &now, w.rev, &precopy.Order{Domain: &d.Facts, Load: &d.Load}
		w.migs[id] = m
		return
	}
	w.end(id, precopy.Refused)
}

func (w *world) end(id string, phase precopy.Phase) {
	w.rev++
	w.busy = true
	m := w.migs[id]
	now := w.now
	m.Phase, m.Finished, m.Revision = phase, &now, w.rev
	w.migs[id] = m
	if phase == precopy.Done {
		w.hosts[m.Target].vms[m.Domain] = w.hosts[m.Source].vms[m.Domain]
		delete(w.hosts[m.Source].vms, m.Domain)
		w.moved[m.Domain]++
	}
}

type tester interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// play carries the run to its end, or to where it stops.
func (w *world) play(t tester, id string) fleet.Run {
	t.Helper()
	for range 100_000 {
		if r := w.runs[id]; r.Phase.Final() || r.Phase == fleet.RunStopped {
			for _, b := range w.bad {
				t.Errorf("%s", b)
			}
			return r.Run
		}
		w.tick(1 << 30)
	}
	t.Fatalf("the run does not end: %s %+v", w.runs[id].Reason, w.runs[id].Roll)
	return fleet.Run{}
}

// states are those of the run's hosts, in its order.
func states(r fleet.Run) string {
	var out []string
	for _, h := range r.Roll.Rolled {
		out = append(out, h.Host+" "+string(h.State))
	}
	return strings.Join(out, ", ")
}
