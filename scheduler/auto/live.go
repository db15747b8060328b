package auto

import (
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/balance"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/signal"
)

// Live is the fleet for a plan that a person asks for, by the loads that were reported last, and the domains of its
// VMs by index. VMs that the policy keeps from moving stay; so do those that move only when somebody asks for them
// by name, and those that rest do unless they must move, but for a drain, which a person asks for by the host's.
// The hosts to be emptied are those named; remarks say what is not in the problem as it should be.
func Live(s *fleet.Snapshot, drain []string, now time.Time) (p *balance.Problem, who []fleet.Domain, remarks []string, err error) {
	hosts, index := hostsOf(s)
	p = &balance.Problem{Hosts: hosts}
	for _, name := range s.HostNames() {
		if _, up := index[name]; !up {
			remarks = append(remarks, name+" is left out: it is not up, or has no room")
		}
	}
	for _, name := range drain {
		i, up := index[name]
		switch {
		case s.Hosts[name] == nil:
			return nil, nil, nil, fmt.Errorf("drain: no host is called %q", name)
		case !up:
			return nil, nil, nil, fmt.Errorf("drain: %s is not up: what runs there is not known", name)
		}
		p.Hosts[i].Draining = true
	}
	trail := signal.NewTrail()
	for _, m := range s.Migrations {
		trail.See(m.Migration, now)
	}
	var list []resident
	for _, x := range residents(s) {
		v, ok := vmOf(x, index)
		if !ok {
			continue
		}
		v.Mean = balance.Load{CPU: max(x.Load.CPU, 0), Net: max(x.Load.Rx+x.Load.Tx, 0)}
		decided, err := s.PolicyOf(x.Domain)
		if err != nil {
			remarks = append(remarks, fmt.Sprintf("%s stays: %v", x.Facts.Name, err))
		}
		v.Pinned = v.Pinned || err != nil || len(feasible.Source(s, feasible.Request{Domain: x.Domain})) > 0
		if len(drain) == 0 && !v.Pinned {
			v.Pinned = !decided.Automatic
			v.Resting = trail.Rests(x.Facts.ID, now, decided.Cooldown) > 0
		}
		if !v.Pinned {
			v.Avoid = avoided(s, nil, x.Domain, index)
		}
		p.VMs = append(p.VMs, v)
		list, who = append(list, x), append(who, x.Domain)
	}
	p.Groups = groupsOf(s, list)
	return p, who, remarks, p.Validate()
}

// MovesOf are a planner's moves as a plan's. reason says why a move is made.
func MovesOf(p *balance.Problem, plan *balance.Plan, reason func(balance.Move) string) []fleet.PlanMove {
	var out []fleet.PlanMove
	for _, m := range plan.Moves {
		v := p.VMs[m.VM]
		out = append(out, fleet.PlanMove{
			Domain: v.Name, UUID: hypervisor.DomainID(v.UUID), From: p.Hosts[m.From].Name, To: p.Hosts[m.To].Name,
			Cause: string(m.Cause), Reason: reason(m), Seconds: m.Price.Duration.Seconds(), Bytes: m.Price.Bytes,
			Memory: v.Memory, After: slices.Clone(m.After),
		})
	}
	return out
}

// Doubt judges a person's rebalance again, against the fleet as it is now: what is left of it must still even the
// fleet out. It gives up the moves that have not begun if it would not; moves that are for something else, such as
// emptying hosts, are not judged. The run is not written to.
func Doubt(s *fleet.Snapshot, r fleet.StoredRun) fleet.StoredRun {
	if r.Kind != fleet.RunRebalance || r.Phase != fleet.RunRunning || r.Cancel != nil || !slices.ContainsFunc(r.Moves, planned) {
		return r
	}
	where := map[hypervisor.DomainID]string{}
	for _, m := range r.Moves {
		switch {
		case m.Cause != string(balance.ToEven), !m.State.Final() && unseen(s, m) != "":
			return r
		case m.State == fleet.MoveAsked || planned(m):
			where[m.UUID] = m.To
		}
	}
	before, after := uneven(s, nil), uneven(s, where)
	if after < before {
		return r
	}
	r.Moves = slices.Clone(r.Moves)
	for i := range r.Moves {
		if m := &r.Moves[i]; planned(*m) {
			m.State, m.Reason = fleet.MoveStays, fmt.Sprintf("the fleet's load has changed: what is left would not even it out any more (%.3f, now %.3f)", after, before)
		}
	}
	return r
}

func planned(m fleet.RunMove) bool { return m.State == fleet.MovePlanned }

// uneven is how far hosts' CPU and memory are from the fleet's mean, squared and summed over the hosts by their
// size, with CPU above what hosts have counted in full. VMs count where the map says, else where they are.
func uneven(s *fleet.Snapshot, where map[hypervisor.DomainID]string) float64 {
	hosts, index := hostsOf(s)
	cpu, memory := make([]float64, len(hosts)), make([]float64, len(hosts))
	for _, x := range residents(s) {
		at := x.Host.Name
		if to, moves := where[x.Facts.ID]; moves {
			at = to
		}
		if h, up := index[at]; up {
			cpu[h] += float64(max(x.Load.CPU, 0))
			memory[h] += float64(x.Facts.Memory)
		}
	}
	cores, room := make([]float64, len(hosts)), make([]float64, len(hosts))
	for i, h := range hosts {
		cores[i], room[i] = float64(h.Cores), float64(h.Memory-h.Reserved)
	}
	sum := 0.0
	for _, d := range []struct{ used, size []float64 }{{cpu, cores}, {memory, room}} {
		used, size := total(d.used), max(total(d.size), 1)
		for i := range hosts {
			off := d.used[i]/d.size[i] - used/size
			sum += off * off * d.size[i] / size
		}
	}
	for i := range hosts {
		sum += max(cpu[i]-cores[i], 0)
	}
	return sum
}

func total(list []float64) (sum float64) {
	for _, x := range list {
		sum += x
	}
	return sum
}
