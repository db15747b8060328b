package fleet

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
)

// loaded makes the load newer than the facts.
func loaded(h *Host, revision int64) *Host {
	h.LoadRevision, h.LoadAsOf = revision, revision
	return h
}

// arrived adds a domain to the load alone.
func arrived(h *Host, vm string) *Host {
	h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: hypervisor.DomainID("id-" + vm), State: hypervisor.StateRunning})
	return h
}

func done(id, vm, source, target string, revision int64) precopy.Stored {
	return precopy.Stored{Revision: revision, Born: revision, Migration: precopy.Migration{
		ID: id, UUID: hypervisor.DomainID("id-" + vm), Source: source, Target: target, Phase: precopy.Done,
	}}
}

// ordered gives the migration an order.
func ordered(m precopy.Stored) precopy.Stored {
	m.Order = &precopy.Order{
		Domain: &hypervisor.DomainFacts{ID: m.UUID, Name: string(m.UUID[len("id-"):])},
		Load:   &hypervisor.DomainLoad{ID: m.UUID, State: hypervisor.StateRunning},
	}
	return m
}

// amended is written to again.
func amended(m precopy.Stored, revision int64) precopy.Stored {
	m.EndRevision, m.Revision = m.EndedAt(), revision
	return m
}

// asOf makes the load one that was taken earlier than it was written.
func asOf(h *Host, revision int64) *Host {
	h.LoadAsOf = revision
	return h
}

// shutoff has the host's domains defined, and not running.
func shutoff(h *Host) *Host {
	for i := range h.Load.Domains {
		h.Load.Domains[i].State = hypervisor.StateShutoff
	}
	return h
}

func where(s *Snapshot) map[string][]string {
	out := map[string][]string{}
	for _, d := range s.Domains() {
		if d.Running() {
			out[d.Host.Name] = append(out[d.Host.Name], d.Facts.Name)
		}
	}
	return out
}

func TestSettle(t *testing.T) {
	tests := []struct {
		name       string
		hosts      []*Host
		migrations []precopy.Stored
		want       map[string][]string
	}{
		{
			"reports older than the move",
			[]*Host{testHost("h1", 5, "a", "b"), testHost("h2", 5)},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"b"}, "h2": {"a"}},
		},
		{
			"reports newer than the move",
			[]*Host{testHost("h1", 10, "a", "b"), testHost("h2", 10)},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"a", "b"}},
		},
		{
			"there and back",
			[]*Host{testHost("h1", 5, "a"), testHost("h2", 5)},
			[]precopy.Stored{done("m2", "a", "h2", "h1", 12), done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"a"}},
		},
		{
			"back again, and the facts are those of before",
			[]*Host{testHost("h1", 5, "a"), testHost("h2", 20)},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9), done("m2", "a", "h2", "h1", 12)},
			map[string][]string{"h1": {"a"}},
		},
		{
			"back by another tool: the load is new, the facts are those of before",
			[]*Host{loaded(testHost("h1", 5, "a"), 20), loaded(testHost("h2", 20), 20)},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"a"}},
		},
		{
			"the target's load is there, its facts are not",
			[]*Host{testHost("h1", 5, "a", "b"), arrived(loaded(testHost("h2", 5), 20), "a")},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"b"}, "h2": {"a"}},
		},
		{
			"the target has reported it already",
			[]*Host{testHost("h1", 5, "a"), testHost("h2", 11, "a")},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h2": {"a"}},
		},
		{
			"neither host reports it: the source has looked again, the target has not",
			[]*Host{testHost("h1", 10), testHost("h2", 5)},
			[]precopy.Stored{ordered(done("m1", "a", "h1", "h2", 9))},
			map[string][]string{"h2": {"a"}},
		},
		{
			"the target has looked again, and it has gone from there",
			[]*Host{testHost("h1", 5, "a"), testHost("h2", 10)},
			[]precopy.Stored{ordered(done("m1", "a", "h1", "h2", 9))},
			map[string][]string{},
		},
		{
			"written after the move, taken before it",
			[]*Host{asOf(testHost("h1", 11, "a"), 8), asOf(testHost("h2", 12), 8)},
			[]precopy.Stored{ordered(done("m1", "a", "h1", "h2", 9))},
			map[string][]string{"h2": {"a"}},
		},
		{
			"a source whose agent has ended just then, a target that has not looked again",
			[]*Host{{Name: "h1"}, testHost("h2", 5)},
			[]precopy.Stored{ordered(done("m1", "a", "h1", "h2", 9))},
			map[string][]string{"h2": {"a"}},
		},
		{
			"a word was added after both had shown it, and it has gone from there since",
			[]*Host{testHost("h1", 15), testHost("h2", 15), testHost("h3", 15, "a")},
			[]precopy.Stored{amended(ordered(done("m1", "a", "h1", "h2", 9)), 20)},
			map[string][]string{"h3": {"a"}},
		},
		{
			"the source has kept another definition, of another size",
			[]*Host{shutoff(testHost("h1", 10, "a")), testHost("h2", 5)},
			[]precopy.Stored{ordered(done("m1", "a", "h1", "h2", 9))},
			map[string][]string{"h2": {"a"}},
		},
		{
			"nobody knows what it was",
			[]*Host{testHost("h1", 10), testHost("h2", 5)},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{},
		},
		{
			"a word was added to an earlier one after the last",
			[]*Host{testHost("h1", 5, "a"), testHost("h2", 5), testHost("h3", 5)},
			[]precopy.Stored{ordered(done("m2", "a", "h2", "h3", 12)), amended(done("m1", "a", "h1", "h2", 9), 20)},
			map[string][]string{"h3": {"a"}},
		},
		{
			"a target without reports",
			[]*Host{testHost("h1", 5, "a"), {Name: "h2"}},
			[]precopy.Stored{done("m1", "a", "h1", "h2", 9)},
			map[string][]string{"h1": {"a"}},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := &Snapshot{Hosts: map[string]*Host{}, Migrations: map[string]precopy.Stored{}}
			for _, h := range tc.hosts {
				s.Hosts[h.Name] = h
			}
			for _, m := range tc.migrations {
				s.Migrations[m.ID] = m
			}
			before := where(s)
			if diff := cmp.Diff(tc.want, where(Settle(s))); diff != "" {
				t.Errorf("settled (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, where(s)); diff != "" {
				t.Errorf("the snapshot itself was changed:\n%s", diff)
			}
		})
	}
}

// settling is hosts whose agents look, and publish what they saw, at any time between the steps of
// migrations.
type settling struct {
	*Snapshot
	at    map[string]string // where each VM really runs
	taken map[string]*Host  // what an agent has seen and not published yet
	n     int
}

func (w *settling) wrote() int64 {
	w.Revision++
	return w.Revision
}

// look takes a host's sample: its agent knows then of all that it has written.
func (w *settling) look(name string) {
	h := testHost(name, 0)
	for _, vm := range slices.Sorted(maps.Keys(w.at)) {
		m, going := w.going(vm)
		load := hypervisor.DomainLoad{ID: m.UUID, State: hypervisor.StateRunning, CPU: cpuOf(vm), Migrating: going}
		switch {
		case w.at[vm] == name:
			h.Load.CPU += load.CPU
		case going && m.Phase == precopy.Switching && m.Source == name: // its definition is left for a moment
			load.State, load.CPU = hypervisor.StateShutoff, 0
		case going && m.Target == name: // the process that will take it
			load.State, load.CPU = hypervisor.StatePaused, 0
		default:
			continue
		}
		load.ID = hypervisor.DomainID("id-" + vm)
		h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{ID: load.ID, Name: vm})
		h.Load.Domains = append(h.Load.Domains, load)
	}
	h.LoadAsOf = w.Hosts[name].LoadRevision
	w.taken[name] = h
}

func cpuOf(vm string) hypervisor.Cores { return hypervisor.Cores(vm[0] - 'a' + 1) }

// publish writes what was seen: first the facts, if they have changed, and the next time the load.
func (w *settling) publish(name string) {
	seen, h := w.taken[name], *w.Hosts[name]
	if !cmp.Equal(seen.Facts, h.Facts) {
		h.Facts, h.FactsRevision = seen.Facts, w.wrote()
	} else {
		delete(w.taken, name)
		h.Load, h.LoadAsOf, h.LoadRevision = seen.Load, seen.LoadAsOf, w.wrote()
	}
	w.Hosts[name] = &h
}

// going is the unfinished migration of a VM.
func (w *settling) going(vm string) (precopy.Stored, bool) {
	for _, m := range w.Migrations {
		if m.Domain == vm && !m.Phase.Final() {
			return m, true
		}
	}
	return precopy.Stored{}, false
}

// step takes a VM's migration one step further, or orders one.
func (w *settling) step(t *rapid.T, vm, target string) {
	m, going := w.going(vm)
	switch {
	case going && m.Phase == precopy.Queued:
		m.Phase = precopy.Switching
		w.at[vm] = m.Target
	case going:
		m.Phase, m.Revision = precopy.Done, w.wrote()
	case target == w.at[vm]:
		return
	default:
		at := slices.IndexFunc(Settle(w.Snapshot).Hosts[w.at[vm]].Domains(), func(d Domain) bool { return d.Facts.Name == vm })
		if at < 0 {
			t.Fatalf("%s can't be ordered from %s, where it is", vm, w.at[vm])
		}
		d := Settle(w.Snapshot).Hosts[w.at[vm]].Domains()[at]
		w.n++
		m = done(fmt.Sprintf("m%d", w.n), vm, w.at[vm], target, w.wrote())
		m.Domain, m.Phase, m.Order = vm, precopy.Queued, &precopy.Order{Domain: &d.Facts, Load: &d.Load}
	}
	w.Migrations[m.ID] = m
}

// Whatever the order in which agents look and publish and migrations go on: a VM that is not at the very
// moment changing hosts is shown running on the one where it is, and only there, with what it uses.
func TestSettledIsTheTruth(t *testing.T) {
	hosts, vms := []string{"h1", "h2", "h3"}, []string{"a", "b"}
	rapid.Check(t, func(t *rapid.T) {
		w := &settling{
			Snapshot: &Snapshot{Hosts: map[string]*Host{}, Migrations: map[string]precopy.Stored{}},
			at:       map[string]string{}, taken: map[string]*Host{},
		}
		for _, vm := range vms {
			w.at[vm] = rapid.SampledFrom(hosts).Draw(t, "host")
		}
		for _, name := range hosts {
			w.Hosts[name] = testHost(name, 0)
			w.look(name)
			w.publish(name)
			if w.taken[name] != nil {
				w.publish(name)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom(hosts).Draw(t, "host")
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				if w.taken[name] == nil {
					w.look(name)
				}
			case 1:
				if w.taken[name] != nil {
					w.publish(name)
				}
			case 2:
				w.step(t, rapid.SampledFrom(vms).Draw(t, "vm"), name)
			}
			w.check(t)
		}
	})
}

func (w *settling) check(t *rapid.T) {
	settled := Settle(w.Snapshot)
	shown := where(settled)
	for vm, on := range w.at {
		if m, going := w.going(vm); going && m.Phase == precopy.Switching {
			if !slices.Contains(shown[m.Source], vm) && !slices.Contains(shown[m.Target], vm) {
				t.Fatalf("%s goes from %s to %s, shown is %v", vm, m.Source, m.Target, shown)
			}
			return // the sums of the hosts may be either
		}
		m, going := w.going(vm)
		for name := range w.Hosts {
			if going && name == m.Target {
				continue // the process that will take it
			}
			if slices.Contains(shown[name], vm) != (name == on) {
				t.Fatalf("%s is on %s, shown is %v", vm, on, shown)
			}
		}
	}
	for name, h := range settled.Hosts {
		sum := hypervisor.Cores(0)
		for vm, on := range w.at {
			if on == name {
				sum += cpuOf(vm)
			}
		}
		if h.Load.CPU != sum {
			t.Fatalf("%s uses %v cores, its VMs %v", name, h.Load.CPU, sum)
		}
	}
}
