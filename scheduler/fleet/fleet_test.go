package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
)

func testHost(name string, revision int64, domains ...string) *Host {
	h := &Host{
		Name: name, Session: &Session{}, FactsRevision: revision, LoadRevision: revision,
		Facts: &hypervisor.HostFacts{}, Load: &hypervisor.HostLoad{},
	}
	for _, d := range domains {
		h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{ID: hypervisor.DomainID("id-" + d), Name: d})
		h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: hypervisor.DomainID("id-" + d), State: hypervisor.StateRunning})
	}
	return h
}

// loaded makes the load newer than the facts.
func loaded(h *Host, revision int64) *Host {
	h.LoadRevision = revision
	return h
}

// arrived adds a domain to the load alone.
func arrived(h *Host, vm string) *Host {
	h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: hypervisor.DomainID("id-" + vm), State: hypervisor.StateRunning})
	return h
}

func done(id, vm, source, target string, revision int64) precopy.Stored {
	return precopy.Stored{Revision: revision, Migration: precopy.Migration{
		ID: id, UUID: hypervisor.DomainID("id-" + vm), Source: source, Target: target, Phase: precopy.Done,
	}}
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
			"a host without reports",
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

func TestFindVM(t *testing.T) {
	s := &Snapshot{Hosts: map[string]*Host{"h1": testHost("h1", 1, "a", "b"), "h2": testHost("h2", 1, "a", "c")}}
	// The same domain's leftover definition on another host is no second match.
	left := testHost("h3", 1, "c")
	left.Load.Domains[0].State = hypervisor.StateShutoff
	s.Hosts["h3"] = left
	for word, want := range map[string]int{"a": 2, "h1/a": 1, "b": 1, "c": 1, "ID-B": 1, "zz": 0, "h1/c": 0} {
		if got := len(s.FindVM(word)); got != want {
			t.Errorf("FindVM(%q) found %d, want %d", word, got, want)
		}
	}
}
