package order

import (
	"testing"

	"drover/hypervisor"
)

// fleet reads an input whose hosts have links of 1 GiB/s, with free memory in GiB.
func fleet(t *testing.T, free map[string]int, moves []Move, apart ...Group) *problem {
	t.Helper()
	in := Input{Moves: moves, Apart: apart}
	for name, gib := range free {
		in.Hosts = append(in.Hosts, Host{Name: name, FreeMemory: hypervisor.Bytes(gib) * hypervisor.GiB, In: 1 << 30, Out: 1 << 30, Staging: true})
	}
	p, err := read(in, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A member of a group is on its target from when it starts to move there, and on its source until it is
// gone.
func TestAdmitsNobodyBesideItsGroup(t *testing.T) {
	p := fleet(t, map[string]int{"a": 9, "b": 9, "c": 9, "d": 9}, []Move{
		{VM: "x", From: "a", To: "b", Memory: 1}, {VM: "y", From: "c", To: "d", Memory: 1},
	}, Group{VMs: []string{"x", "y"}, Hosts: []string{"d"}})
	s := p.initial()
	const a, b, c, d = 0, 1, 2, 3
	admitted := func(when string, want ...bool) {
		t.Helper()
		for host := range want {
			if got := s.admits(1, host); got != want[host] {
				t.Errorf("%s: %s admits y: %v, want %v", when, p.hosts[host].Name, got, want[host])
			}
		}
	}
	admitted("x is on a", false, true, true, false)
	s.start(0, b)
	admitted("x leaves a for b", false, false, true, false)
	s.end(0)
	admitted("x is on b", true, false, true, false)
}

// What may start first must not take the place that another one needs on its way.
func TestNoDeadEnd(t *testing.T) {
	p := fleet(t, map[string]int{"a": 0, "b": 9, "c": 9}, []Move{
		{VM: "big", From: "a", To: "c", Memory: 4 * hypervisor.GiB, Bytes: 8 * hypervisor.GiB},
		{VM: "small", From: "a", To: "b", Memory: 2 * hypervisor.GiB},
	}, Group{VMs: []string{"big", "small"}})
	const a, b, c, big, small = 0, 1, 2, 0, 1
	hops := []hop{p.hop(small, a, c, ToStaging), p.hop(small, c, b, FromStaging), p.hop(big, a, c, Whole)}
	k, s := newPacker(p, hops), &schedule{}
	if k.pack(rule{weight: 1, share: 1, daring: true}, s) {
		t.Fatal("the longest first is no dead end: this case shows nothing")
	}
	if !k.pack(rule{weight: 1, share: 1}, s) || len(s.order) != 3 || s.order[2] != big+2 {
		t.Errorf("hops started in the order %v, want the small one's first", s.order)
	}
}
