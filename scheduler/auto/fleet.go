package auto

import (
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/balance"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/scheduler/signal"
)

// unknownLink is reckoned with where a migration network's speed is not known.
const unknownLink hypervisor.BytesPerSecond = 1e9 / 8

// resident is a VM where it counts: where it runs, or where it is on its way to.
type resident struct {
	fleet.Domain
	asked  bool   // it has an unfinished migration
	target string // of that, once there is one
}

func (r resident) at() string {
	if r.target != "" {
		return r.target
	}
	return r.Host.Name
}

// residents are all VMs that run, each once, in order of host and name. One that is seen on two hosts is taken
// where its migration began.
func residents(s *fleet.Snapshot) []resident {
	moving := map[hypervisor.DomainID]precopy.Stored{}
	for _, m := range s.Unfinished() {
		moving[m.UUID] = m
	}
	seen := map[hypervisor.DomainID]bool{}
	var out []resident
	for _, d := range s.Domains() {
		m, asked := moving[d.Facts.ID]
		if !d.Running() || seen[d.Facts.ID] || asked && m.Source != d.Host.Name {
			continue
		}
		seen[d.Facts.ID] = true
		out = append(out, resident{Domain: d, target: m.Target, asked: asked})
	}
	return out
}

// placed is the VMs that count on each host.
func placed(s *fleet.Snapshot) map[string][]hypervisor.DomainID {
	out := map[string][]hypervisor.DomainID{}
	for _, r := range residents(s) {
		out[r.at()] = append(out[r.at()], r.Facts.ID)
	}
	return out
}

// may says what speaks against moving the VM without being asked, wherever to; "" when nothing does.
func may(s *fleet.Snapshot, m *Memory, d fleet.Domain, now time.Time) string {
	if b := feasible.Source(s, feasible.Request{Domain: d}); len(b) > 0 {
		return b[0].String()
	}
	p, err := s.PolicyOf(d)
	if err != nil {
		return err.Error()
	}
	if !p.Automatic {
		return "its policy lets it move only when somebody asks"
	}
	if left := m.Trail.Rests(d.Facts.ID, now, p.Cooldown); left > 0 {
		return fmt.Sprintf("it rests for another %s after its last move", left.Round(time.Second))
	}
	return ""
}

// hostsOf are the hosts that are up, as the planner sees them, and their indexes.
func hostsOf(s *fleet.Snapshot) ([]balance.Host, map[string]int) {
	var list []balance.Host
	index := map[string]int{}
	for _, name := range s.HostNames() {
		h := s.Hosts[name]
		c := h.Capacity()
		if feasible.Up(s, h) != nil || c.Cores <= 0 || c.Memory <= c.Reserved {
			continue
		}
		if c.Bandwidth <= 0 {
			c.Bandwidth = unknownLink
		}
		index[name] = len(list)
		list = append(list, balance.Host{
			Name: name, Cores: c.Cores, Memory: c.Memory, Reserved: c.Reserved, VCPUs: max(c.VCPUs, 0), Link: c.Bandwidth, Cordoned: feasible.Closed(s, h) != nil,
		})
	}
	return list, index
}

// vmOf is what the planner is told of every VM; false when it is not on hosts that are up.
func vmOf(x resident, index map[string]int) (balance.VM, bool) {
	host, up := index[x.Host.Name]
	target, going := index[x.target]
	v := balance.VM{
		Name: x.Facts.Name, UUID: string(x.Facts.ID), Host: host, Memory: x.Facts.Memory, VCPUs: x.Facts.VCPUs,
		Moving: going, Target: target, Pinned: x.asked,
	}
	if x.Load.Dirty != nil {
		v.Dirty = max(x.Load.Dirty.Rate, 0)
	}
	return v, up && (x.target == "" || going) && x.Facts.Memory > 0
}

// groupsOf are the policy's groups, with indexes of VMs.
func groupsOf(s *fleet.Snapshot, who []resident) []balance.Group {
	var out []balance.Group
	for _, g := range s.Policy.Groups {
		group := balance.Group{Name: g.Name, Apart: g.Kind == policy.Apart, Required: g.Strength == policy.Required}
		for i, x := range who {
			if g.Has(x.Facts.Name, s.VMs[x.Facts.ID].Labels) {
				group.VMs = append(group.VMs, i)
			}
		}
		out = append(out, group)
	}
	return out
}

// problem is the fleet for the planner: hosts that are up, and their VMs with their loads. What may move, and
// where to, is told for VMs on hot hosts only; the others stay in any case.
func problem(s *fleet.Snapshot, m *Memory, r Rule, now time.Time) (*balance.Problem, []resident, []signal.Estimate) {
	hosts, index := hostsOf(s)
	p := &balance.Problem{Hosts: hosts}
	var who []resident
	var loads []signal.Estimate
	for _, x := range residents(s) {
		v, ok := vmOf(x, index)
		if !ok {
			continue
		}
		v.Pinned = v.Pinned || !m.Hot(x.Host.Name)
		if !v.Pinned {
			v.Pinned = may(s, m, x.Domain, now) != ""
			v.Avoid = avoided(s, m.Trail.Left(x.Facts.ID, now), x.Domain, index)
		}
		p.VMs = append(p.VMs, v)
		who = append(who, x)
		loads = append(loads, m.Load.Estimate(x.Facts.ID, now, r.Horizon))
	}
	p.Groups = groupsOf(s, who)
	return p, who, loads
}

// avoided are the hosts that don't suit the VM, and those that it left.
func avoided(s *fleet.Snapshot, left []string, d fleet.Domain, index map[string]int) []int {
	var out []int
	for name, i := range index {
		if len(feasible.Suits(s.Hosts[name], d.Facts)) > 0 && name != d.Host.Name || slices.Contains(left, name) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}
