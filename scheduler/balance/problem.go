package balance

import (
	"errors"
	"fmt"
	"math"

	"drover/hypervisor"
)

// ErrProblem is wrapped by errors about a problem that contradicts itself.
var ErrProblem = errors.New("planner input")

// Problem is a fleet at one moment. Hosts and VMs refer to each other by index.
type Problem struct {
	Hosts  []Host
	VMs    []VM
	Groups []Group
}

// Host is one host's capacity and state.
type Host struct {
	Name  string
	Cores hypervisor.Cores
	// Memory is all of it; domains may have what is left of it by Reserved.
	Memory, Reserved hypervisor.Bytes
	// VCPUs is how many its domains may have together; 0 is no limit.
	VCPUs    int
	Link     hypervisor.BytesPerSecond // of the migration network, each way
	Cordoned bool                      // takes no domains
	Draining bool                      // is to be emptied, and takes none

	emptied bool // drains because this plan chose it: what limits others is reckoned as if it did not
}

// Load is what a domain asks for.
type Load struct {
	CPU hypervisor.Cores
	Net hypervisor.BytesPerSecond
}

// VM is one domain.
type VM struct {
	Name string
	UUID string
	Host int
	// Memory is its allotment.
	Memory hypervisor.Bytes
	VCPUs  int
	// Mean is the expected load, Peak its 95th percentile; below Mean, it is not known.
	Mean, Peak Load
	Dirty      hypervisor.BytesPerSecond
	Pinned     bool // never moves
	// Resting domains move only when they must: to empty a host or to mend a broken rule.
	Resting bool
	// Moving domains are on their way to Target: they count there and hold memory here.
	Moving bool
	Target int
	// Avoid are hosts that it may not go to.
	Avoid []int
	// Price is what moving it costs where that is known; nil is reckoned from memory and dirty rate.
	Price *Price
}

// Group is a rule about several domains.
type Group struct {
	Name     string
	VMs      []int
	Apart    bool // no two on one host; else all on one
	Required bool // else preferred
}

// contradiction is of two VMs that have to be both together and apart, the latter by the group.
type contradiction struct {
	a, b  int
	group string
}

// joined returns which VM, of those that a VM is with by the groups that count, stands first.
func (p *Problem) joined(counts func(g *Group) bool) func(i int) int {
	with := make([]int, len(p.VMs))
	for i := range with {
		with[i] = i
	}
	first := func(i int) int {
		for with[i] != i {
			i = with[i]
		}
		return i
	}
	for k := range p.Groups {
		g := &p.Groups[k]
		if !counts(g) {
			continue
		}
		for _, i := range g.VMs {
			a, b := first(i), first(g.VMs[0])
			with[max(a, b)] = min(a, b)
		}
	}
	return first
}

// contradictions are the VMs of required rules that can't all be kept, wherever they are.
func (p *Problem) contradictions() []contradiction {
	find := p.joined(func(g *Group) bool { return !g.Apart && g.Required })
	var out []contradiction
	for _, g := range p.Groups {
		if !g.Apart || !g.Required {
			continue
		}
		first := map[int]int{}
		for _, i := range g.VMs {
			if other, ok := first[find(i)]; ok {
				out = append(out, contradiction{other, i, g.Name})
				continue
			}
			first[find(i)] = i
		}
	}
	return out
}

// Validate returns an error that wraps ErrProblem and names the first thing that contradicts itself.
func (p *Problem) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrProblem, fmt.Sprintf(format, args...))
	}
	hosts := make(map[string]bool, len(p.Hosts))
	for _, h := range p.Hosts {
		switch {
		case h.Name == "":
			return fail("a host without a name")
		case hosts[h.Name]:
			return fail("two hosts are called %s", h.Name)
		case !(h.Cores > 0) || math.IsInf(float64(h.Cores), 0):
			return fail("host %s has %v cores", h.Name, h.Cores)
		case h.Memory <= 0:
			return fail("host %s has %s of memory", h.Name, h.Memory)
		case h.Reserved < 0 || h.Reserved > h.Memory:
			return fail("host %s reserves %s of %s", h.Name, h.Reserved, h.Memory)
		case h.VCPUs < 0:
			return fail("host %s may have %d vCPUs", h.Name, h.VCPUs)
		case h.Link <= 0:
			return fail("host %s has a link of %s", h.Name, h.Link)
		}
		hosts[h.Name] = true
	}
	type place struct {
		host int
		name string
	}
	vms := make(map[place]bool, len(p.VMs))
	for i := range p.VMs {
		v := &p.VMs[i]
		switch {
		case v.Name == "":
			return fail("a VM without a name")
		case v.Host < 0 || v.Host >= len(p.Hosts):
			return fail("VM %s is on no host", v.Name)
		case vms[place{v.Host, v.Name}]:
			return fail("two VMs on %s are called %s", p.Hosts[v.Host].Name, v.Name)
		case v.Memory <= 0:
			return fail("VM %s has %s of memory", v.Name, v.Memory)
		case !sound(v.Mean) || !sound(v.Peak):
			return fail("VM %s has a load of %v", v.Name, v.Mean)
		case v.VCPUs < 0:
			return fail("VM %s has %d vCPUs", v.Name, v.VCPUs)
		case v.Dirty < 0:
			return fail("VM %s dirties %s", v.Name, v.Dirty)
		case v.Moving && (v.Target < 0 || v.Target >= len(p.Hosts)):
			return fail("VM %s moves to no host", v.Name)
		}
		vms[place{v.Host, v.Name}] = true
	}
	for _, g := range p.Groups {
		seen := make(map[int]bool, len(g.VMs))
		for _, i := range g.VMs {
			if i < 0 || i >= len(p.VMs) || seen[i] {
				return fail("group %s names a VM that is not there, or one twice", g.Name)
			}
			seen[i] = true
		}
	}
	return nil
}

func sound(l Load) bool {
	return l.CPU >= 0 && !math.IsInf(float64(l.CPU), 0) && l.Net >= 0
}
