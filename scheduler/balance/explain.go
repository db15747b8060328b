package balance

import (
	"cmp"
	"slices"
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
	for _, v := range x.items[i].vms {
		b := Blocked{VM: int(v), Why: x.stays(int(v)), Asked: asked}
		if gave, ok := x.gaveUp[i]; ok {
			b.Why, b.Detail = gave.why, gave.detail
		}
		if b.Why == "" && !x.items[i].movable {
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
	for _, w := range []Why{NoMemory, NoCPU, AntiAffinity, Avoided} {
		if count[w] > 0 && (most == Closed || count[w] > count[most]) {
			most = w
		}
	}
	return most, count
}

// alternatives are the best other hosts for an item that moves, then refusals.
func (x *search) alternatives(i int32) []Alternative {
	var out []Alternative
	cost := x.cost(&x.totals)
	for t := range x.hosts {
		t := int32(t)
		if t == x.at[i] {
			continue
		}
		a := Alternative{Host: int(t), Why: x.refuses(i, t)}
		if a.Why == "" {
			n := x.after(i, t)
			a.Loss = x.cost(&n) - cost
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b Alternative) int {
		return cmp.Or(cmp.Compare(min(len(a.Why), 1), min(len(b.Why), 1)), cmp.Compare(a.Loss, b.Loss), cmp.Compare(a.Host, b.Host))
	})
	return out[:min(len(out), mostAlternatives)]
}
