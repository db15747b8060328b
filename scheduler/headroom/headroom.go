// Package headroom says whether a fleet could lose a host: whether the VMs of any one host would find room on
// the others that are in service, by the memory that is promised to them, by the hosts' limits on vCPUs and by
// what of a host decides whether it can run them at all. It reckons with the next best fit, which is a little
// pessimistic: what it finds room for has room.
//
// Everything here is pure and safe for concurrent use.
package headroom

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"drover/hypervisor"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// Code is the reason why something is not done that would leave too little room.
const Code hypervisor.BlockerCode = "headroom"

// Loss is a host that the fleet could not lose.
type Loss struct {
	Host string
	// Short is the memory of its VMs for which there is no room, of All.
	Short, All hypervisor.Bytes
	VMs        []string // without room, in order of name
}

// String is "without h1, 12 GiB of its VMs' 40 GiB would fit nowhere (a, b)".
func (l Loss) String() string {
	names := l.VMs
	more := ""
	if n := len(names); n > maxNames {
		names, more = names[:maxNames], fmt.Sprintf(" and %d more", n-maxNames)
	}
	return fmt.Sprintf("without %s, %s of its VMs' %s would fit nowhere (%s%s)", l.Host, l.Short, l.All, joined(names), more)
}

const maxNames = 3

func joined(names []string) string {
	out := ""
	for i, n := range names {
		if i > 0 {
			out += ", "
		}
		out += n
	}
	return out
}

// Picture is a fleet with what is planned for it.
type Picture struct {
	Fleet *fleet.Snapshot
	// Closed are hosts out of service, besides those that are cordoned: they take no VMs, and those still on
	// them need room too.
	Closed []string
	// To is where VMs are to go that are elsewhere now: they count there, and where they are no more.
	To map[hypervisor.DomainID]string
}

type vm struct {
	name   string
	memory hypervisor.Bytes
	facts  *hypervisor.DomainFacts
}

// noLimit is more vCPUs than a host ever has.
const noLimit = math.MaxInt32

type kind struct{ arch, virtType, machine string }

// check is one check.
type check struct {
	s      *fleet.Snapshot
	names  []string // hosts that are up
	open   []bool
	free   []hypervisor.Bytes
	vcpus  []int // that it may still have
	on     [][]vm
	suited map[kind][]bool
}

// Losses are the hosts that the fleet could not lose, in order of name.
func Losses(p Picture) []Loss {
	c := look(p)
	var out []Loss
	for i := range c.names {
		if l := c.lose(i); l != nil {
			out = append(out, *l)
		}
	}
	return out
}

func look(p Picture) *check {
	c := &check{s: p.Fleet, suited: map[kind][]bool{}}
	index := map[string]int{}
	for _, name := range p.Fleet.HostNames() {
		h := p.Fleet.Hosts[name]
		if feasible.Up(p.Fleet, h) != nil {
			continue
		}
		index[name] = len(c.names)
		c.names = append(c.names, name)
		c.open = append(c.open, len(h.Record.Cordons) == 0 && p.Fleet.DrainOf(name) == nil && !slices.Contains(p.Closed, name))
		capacity := h.Capacity()
		c.free = append(c.free, capacity.Memory-max(capacity.Reserved, 0))
		limit := capacity.VCPUs
		if limit <= 0 {
			limit = noLimit
		}
		c.vcpus = append(c.vcpus, limit)
	}
	c.on = make([][]vm, len(c.names))
	to := maps.Clone(p.To)
	if to == nil {
		to = map[hypervisor.DomainID]string{}
	}
	under := map[hypervisor.DomainID]bool{}
	for _, m := range p.Fleet.Migrations {
		if !m.Phase.Holds() {
			continue
		}
		under[m.UUID] = true
		if _, planned := to[m.UUID]; !planned {
			to[m.UUID] = m.Target
		}
	}
	seen := map[hypervisor.DomainID]bool{}
	for i, name := range c.names {
		h := p.Fleet.Hosts[name]
		running := map[hypervisor.DomainID]bool{}
		for _, l := range h.Load.Domains {
			running[l.ID] = l.State != "" && l.State != hypervisor.StateShutoff && l.State != hypervisor.StateCrashed && l.State != hypervisor.StateAbsent
		}
		for k := range h.Facts.Domains {
			d := &h.Facts.Domains[k]
			if !running[d.ID] || seen[d.ID] {
				continue
			}
			seen[d.ID] = true
			at := i
			if j, known := index[to[d.ID]]; known {
				at = j
			}
			c.on[at] = append(c.on[at], vm{d.Name, d.Memory, d})
			c.free[at], c.vcpus[at] = c.free[at]-d.Memory, c.vcpus[at]-d.VCPUs
			if at != i && under[d.ID] { // both hosts hold it until it has moved
				c.free[i], c.vcpus[i] = c.free[i]-d.Memory, c.vcpus[i]-d.VCPUs
			}
		}
	}
	for i := range c.on {
		slices.SortFunc(c.on[i], func(a, b vm) int { return cmp.Or(cmp.Compare(b.memory, a.memory), cmp.Compare(a.name, b.name)) })
	}
	return c
}

// lose says what of the host's VMs finds no room on the others; nil if all of them do.
func (c *check) lose(i int) *Loss {
	var out *Loss
	taken, vcpus := map[int]hypervisor.Bytes{}, map[int]int{}
	for _, v := range c.on[i] {
		best, rest := -1, hypervisor.Bytes(0)
		for j := range c.names {
			left := c.free[j] - taken[j] - v.memory
			crowded := v.facts.VCPUs > 0 && c.vcpus[j]-vcpus[j] < v.facts.VCPUs
			if j != i && c.open[j] && left >= 0 && !crowded && (best < 0 || left < rest) && c.suits(j, v.facts) {
				best, rest = j, left
			}
		}
		if best >= 0 {
			taken[best], vcpus[best] = taken[best]+v.memory, vcpus[best]+v.facts.VCPUs
			continue
		}
		if out == nil {
			out = &Loss{Host: c.names[i]}
			for _, w := range c.on[i] {
				out.All += w.memory
			}
		}
		out.Short += v.memory
		out.VMs = append(out.VMs, v.name)
	}
	if out != nil {
		slices.Sort(out.VMs)
	}
	return out
}

// suits reports whether the host can run the VM at all.
func (c *check) suits(j int, d *hypervisor.DomainFacts) bool {
	k := kind{d.Arch, d.VirtType, d.Machine}
	fit, known := c.suited[k]
	if !known {
		for _, name := range c.names {
			facts := hypervisor.DomainFacts{Arch: k.arch, VirtType: k.virtType, Machine: k.machine}
			fit = append(fit, len(feasible.Suits(c.s.Hosts[name], facts)) == 0)
		}
		c.suited[k] = fit
	}
	return fit[j]
}
