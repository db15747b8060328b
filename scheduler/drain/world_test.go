package drain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a fleet whose records are here: it carries requests out as the store and the agents do.
type world struct {
	now   time.Time
	hosts map[string]*host
	migs  map[string]precopy.Stored
	runs  map[string]fleet.StoredRun
	pol   policy.Stored
	vms   map[hypervisor.DomainID]policy.VMRecord
	rev   int64
	bad   []string // what must not have happened
	slow  map[string]float64
	asked map[string]int // guests that were asked to shut down
}

type host struct {
	memory  int // GiB
	vcpus   int // limit; each VM has one
	cordons []fleet.Cordon
	vms     map[string]int // GiB
	off     map[string]bool
	down    bool
	problem string // of its last report
	cpu     map[string]float64
}

// newWorld makes hosts from "name:GiB vm:GiB vm:GiB".
func newWorld(specs ...string) *world {
	w := &world{
		now: t0, hosts: map[string]*host{}, migs: map[string]precopy.Stored{}, runs: map[string]fleet.StoredRun{},
		vms: map[hypervisor.DomainID]policy.VMRecord{}, slow: map[string]float64{}, asked: map[string]int{},
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
		h := &host{memory: sizes[0], vms: map[string]int{}, off: map[string]bool{}, cpu: map[string]float64{}}
		for i := 1; i < len(names); i++ {
			h.vms[names[i]] = sizes[i]
		}
		w.hosts[names[0]] = h
	}
	return w
}

func uuidOf(vm string) hypervisor.DomainID { return hypervisor.DomainID("id-" + vm) }

func (w *world) snapshot() *fleet.Snapshot {
	s := &fleet.Snapshot{
		Now: w.now, Hosts: map[string]*fleet.Host{}, Migrations: maps.Clone(w.migs), Runs: maps.Clone(w.runs),
		Policy: w.pol, VMs: w.vms, Revision: w.rev,
	}
	for name, h := range w.hosts {
		f := &fleet.Host{
			Name: name, Record: fleet.HostRecord{Name: name, Cordons: slices.Clone(h.cordons)}, LoadSeen: w.now,
			LoadRevision: w.rev + 1, FactsRevision: w.rev + 1,
		}
		if !h.down {
			f.Session = &fleet.Session{Host: name}
			f.Facts = &hypervisor.HostFacts{Name: name, Capacity: hypervisor.Capacity{
				Cores: 8, Memory: hypervisor.Bytes(h.memory) * hypervisor.GiB, Bandwidth: 125_000_000, VCPUs: h.vcpus,
			}}
			f.Load = &hypervisor.HostLoad{Problem: h.problem}
			for _, vm := range slices.Sorted(maps.Keys(h.vms)) {
				f.Facts.Domains = append(f.Facts.Domains, hypervisor.DomainFacts{
					ID: uuidOf(vm), Name: vm, Memory: hypervisor.Bytes(h.vms[vm]) * hypervisor.GiB, VCPUs: 1,
				})
				state := hypervisor.StateRunning
				if h.off[vm] {
					state = hypervisor.StateShutoff
				}
				f.Load.CPU += hypervisor.Cores(h.cpu[vm])
				f.Load.Domains = append(f.Load.Domains, hypervisor.DomainLoad{ID: uuidOf(vm), State: state, CPU: hypervisor.Cores(h.cpu[vm])})
			}
		}
		s.Hosts[name] = f
	}
	return s
}

// foresee is 10 s for each GiB, or what the VM's name is given; a longer pause saves half.
func (w *world) foresee(d fleet.Domain, _ string, pause time.Duration) (forecast.Forecast, *hypervisor.Blocker) {
	seconds := 10 * float64(d.Facts.Memory/hypervisor.GiB)
	if s, ok := w.slow[d.Facts.Name]; ok {
		seconds = s
		if pause > 0 {
			seconds /= 2
		}
	}
	return forecast.Forecast{Duration: time.Duration(seconds * float64(time.Second)), Bytes: d.Facts.Memory / 100, Converges: true}, nil
}

func (w *world) request(r fleet.Run) {
	r.Phase, r.RequestedBy, r.Created = fleet.RunRequested, "ada", w.now
	w.rev++
	w.runs[r.ID] = fleet.StoredRun{Run: r, Revision: w.rev}
}

// step takes the run one step on and carries out its write and its requests, as many as apply says, in the
// order in which they come: a leader may die anywhere.
func (w *world) step(id string, apply int) {
	r := w.runs[id]
	if r.Phase.Final() {
		return
	}
	next, requests := Step(Input{Run: r, Fleet: w.snapshot(), Now: w.now, Outgoing: 1, Incoming: 2, Foresee: w.foresee})
	for i, q := range requests {
		if i >= apply {
			return
		}
		w.carryOut(q)
	}
	if len(requests) < apply && !Same(r.Run, next) {
		w.rev++
		w.runs[id] = fleet.StoredRun{Run: next, Revision: w.rev}
	}
}

func (w *world) carryOut(q Request) {
	w.rev++
	switch {
	case q.Cordon != nil:
		h := w.hosts[q.Cordon.Host]
		h.cordons = slices.DeleteFunc(h.cordons, func(c fleet.Cordon) bool { return c.Holder == q.Cordon.Cordon.Holder })
		if !q.Cordon.Off {
			h.cordons = append(h.cordons, q.Cordon.Cordon)
		}
	case q.Create != nil:
		m := *q.Create
		if _, there := w.migs[m.ID]; there || w.active(m.UUID) != "" {
			return
		}
		if snap := w.snapshot(); feasible.Closed(snap, snap.Hosts[m.Target]) != nil {
			w.bad = append(w.bad, fmt.Sprintf("%s is asked to go to %s, which is closed", m.Domain, m.Target))
		}
		w.migs[m.ID] = precopy.Stored{Migration: m, Revision: w.rev}
	case q.ShutDown != nil:
		w.asked[q.ShutDown.VM]++
		if !strings.HasPrefix(q.ShutDown.VM, "deaf") {
			w.hosts[q.ShutDown.Host].off[q.ShutDown.VM] = true
		}
	case q.Abort != nil:
		m := w.migs[q.Abort.Old.ID]
		m.Cancel, m.Revision = &q.Abort.Cancel, w.rev
		w.migs[m.ID] = m
	}
}

// active is the VM's unfinished migration.
func (w *world) active(id hypervisor.DomainID) string {
	for _, m := range w.migs {
		if m.UUID == id && !m.Phase.Final() {
			return m.ID
		}
	}
	return ""
}

// admit orders a request as the scheduler does, or refuses it.
func (w *world) admit(id string) {
	m, snap := w.migs[id], w.snapshot()
	switch b := feasible.Target(snap, w.wish(snap, m), m.Target); {
	case Over(snap, m.Migration):
		w.end(id, precopy.Aborted, "cancelled")
	case w.hosts[m.Source].vms[m.Domain] == 0 || w.hosts[m.Source].off[m.Domain]:
		w.end(id, precopy.Refused, "unknown-vm")
	case len(b) > 0:
		w.end(id, precopy.Refused, string(b[0].Code))
	default:
		w.rev++
		m.Phase, m.Revision = precopy.Copying, w.rev
		m.Order = &precopy.Order{Domain: &hypervisor.DomainFacts{Memory: hypervisor.Bytes(w.hosts[m.Source].vms[m.Domain]) * hypervisor.GiB, VCPUs: 1}}
		w.migs[id] = m
	}
}

func (w *world) wish(s *fleet.Snapshot, m precopy.Stored) feasible.Request {
	for _, d := range s.Hosts[m.Source].Domains() {
		if d.Facts.ID == m.UUID {
			return feasible.Request{Domain: d, Migration: m.ID}
		}
	}
	return feasible.Request{Domain: fleet.Domain{Host: s.Hosts[m.Source]}}
}

func (w *world) end(id string, phase precopy.Phase, code string) {
	w.rev++
	m := w.migs[id]
	now := w.now
	m.Phase, m.ReasonCode, m.Reason, m.Finished, m.Revision = phase, code, code, &now, w.rev
	w.migs[id] = m
	if phase == precopy.Done {
		from := w.hosts[m.Source]
		w.hosts[m.Target].vms[m.Domain] = from.vms[m.Domain]
		w.hosts[m.Target].cpu[m.Domain] = from.cpu[m.Domain]
		delete(from.vms, m.Domain)
		delete(from.cpu, m.Domain)
	}
}

// play carries the run to its end with every migration that is ordered done, each step a second; it fails the
// test when it does not end.
func (w *world) play(t interface {
	Helper()
	Fatalf(string, ...any)
}, id string,
) fleet.Run {
	t.Helper()
	for range 3000 {
		if w.runs[id].Phase.Final() {
			return w.runs[id].Run
		}
		w.tick(id)
	}
	t.Fatalf("the run does not end: %+v", w.runs[id].Run)
	return fleet.Run{}
}

// tick is one second.
func (w *world) tick(ids ...string) {
	for _, id := range ids {
		w.step(id, 1<<30)
	}
	for _, m := range slices.Sorted(maps.Keys(w.migs)) {
		switch w.migs[m].Phase {
		case precopy.Requested:
			w.admit(m)
		case precopy.Copying:
			w.end(m, precopy.Done, "")
		}
	}
	w.now = w.now.Add(time.Second)
}

// names are the VMs on the host that run.
func (w *world) names(h string) string {
	var out []string
	for _, vm := range slices.Sorted(maps.Keys(w.hosts[h].vms)) {
		if !w.hosts[h].off[vm] {
			out = append(out, vm)
		}
	}
	return strings.Join(out, " ")
}
