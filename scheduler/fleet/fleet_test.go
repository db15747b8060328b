package fleet

import (
	"testing"

	"drover/hypervisor"
)

func testHost(name string, revision int64, domains ...string) *Host {
	h := &Host{
		Name: name, Session: &Session{}, FactsRevision: revision, LoadRevision: revision, LoadAsOf: revision,
		Facts: &hypervisor.HostFacts{}, Load: &hypervisor.HostLoad{},
	}
	for _, d := range domains {
		h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{ID: hypervisor.DomainID("id-" + d), Name: d})
		h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: hypervisor.DomainID("id-" + d), State: hypervisor.StateRunning})
	}
	return h
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
