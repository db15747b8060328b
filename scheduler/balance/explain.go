package balance

import (
	"cmp"
	"fmt"
	"slices"

	"drover/hypervisor"
)

// mostAlternatives of a move are told.
const mostAlternatives = 3

// explain fills in which VMs stay though asked to move and, if asked for, the alternatives of each move and
// why the other VMs stay.
func (x *search) explain(plan *Plan) {
	for i := range x.items {
		i := int32(i)
		if x.at[i] != x.items[i].home {
			continue
		}
		gave, wanted := x.gaveUp[i]
		asked := !x.hosts[x.at[i]].counts || x.breaks(i) && x.o.Mode != Drain || wanted && gave.why != Bounded
		if asked || x.o.Explain {
			x.block(plan, i, asked)
		}
	}
	if !x.o.Explain {
		return
	}
	for k := range plan.Moves {
		m := &plan.Moves[k]
		m.Alternatives = x.alternatives(x.itemOf[m.VM])
	}
}

// block adds the item's VMs to the plan's blocked ones.
func (x *search) block(plan *Plan, i int32, asked bool) {
	for _, v := range x.vms[i] {
		b := Blocked{VM: int(v), Why: x.stays(int(v)), Asked: asked}
		if gave, ok := x.gaveUp[i]; ok {
			b.Why, b.Detail = gave.why, gave.detail
		}
		if b.Why == "" && !x.mobile[i] {
			b.Why = Together
		}
		if b.Why == "" {
			b.Why, b.Hosts = x.noHost(i)
		}
		plan.Blocked = append(plan.Blocked, b)
	}
}

// noHost says why the item goes to no host: the most frequent refusal if all refuse.
func (x *search) noHost(i int32) (Why, map[Why]int) {
	count := map[Why]int{}
	for t := range x.hosts {
		if int32(t) == x.at[i] {
			continue
		}
		why := x.refuses(i, int32(t))
		if why == "" {
			why = NotWorth
		}
		count[why]++
	}
	if count[NotWorth] > 0 {
		return NotWorth, count
	}
	most := Closed
	for _, w := range []Why{NoMemory, NoCPU, NoVCPUs, AntiAffinity, Avoided} {
		if count[w] > 0 && (most == Closed || count[w] > count[most]) {
			most = w
		}
	}
	return most, count
}

// wanting says what the host lacks for the item, where that is the reason, once all other moves are made.
func (x *search) wanting(i, t int32, why Why) string {
	it, h := &x.items[i], &x.hosts[t]
	switch why {
	case NoMemory:
		return fmt.Sprintf("has %s to give, %s is needed", hypervisor.Bytes(max(0, h.memMax-x.loads[t].mem)*mib), hypervisor.Bytes(it.mem*mib))
	case NoCPU:
		return fmt.Sprintf("would have a load of %.1f, its limit is %.1f", x.loads[t].cpu+it.cpu, h.cpuMax)
	case NoVCPUs:
		return fmt.Sprintf("would have %.0f vCPUs, its limit is %.0f", x.loads[t].vcpus+it.vcpus, h.vcpuMax)
	case AntiAffinity:
		for _, g := range it.groups() {
			if r := &x.groups[g.group]; r.apart && r.rank == required && x.count[x.cell(g, t)] > 0 {
				return "has another VM of group " + r.name
			}
		}
	}
	return ""
}

// alternatives are the best other hosts for an item that moves, then refusals.
func (x *search) alternatives(i int32) []Alternative {
	var out []Alternative
	cost := x.cost(&x.totals)
	for t := range x.hosts {
		t := int32(t)
		if t == x.at[i] || t == x.items[i].home {
			continue // what staying would be is the move's gain
		}
		a := Alternative{Host: int(t), Why: x.refuses(i, t)}
		if a.Why == "" {
			n := x.after(i, t)
			a.Loss = x.cost(&n) - cost
		}
		a.Detail = x.wanting(i, t, a.Why)
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b Alternative) int {
		return cmp.Or(cmp.Compare(min(len(a.Why), 1), min(len(b.Why), 1)), cmp.Compare(a.Loss, b.Loss), cmp.Compare(a.Host, b.Host))
	})
	return out[:min(len(out), mostAlternatives)]
}
