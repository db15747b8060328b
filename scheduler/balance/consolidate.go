package balance

import (
	"cmp"
	"slices"
)

// consolidated chooses hosts that can be left empty, those that are cheapest to empty first, and returns
// the problem with these draining and with the reserve taken off what the others may take.
func consolidated(p *Problem, o Options) (*Problem, map[int]bool) {
	q := *p
	q.Hosts = slices.Clone(p.Hosts)
	emptied := map[int]bool{}
	c := compile(&q, o)
	s := newState(c)
	x := newSearch(s, nil)
	x.settle(s.mustMove()) // they come first: a host that they need stays in use
	order := make([]int, 0, len(p.Hosts))
	cost := make([]float64, len(p.Hosts))
	for h := range p.Hosts {
		ok := c.hosts[h].counts && len(s.on[h]) > 0 && c.hosts[h].heldMem == 0
		for _, i := range s.on[h] {
			ok = ok && c.mobile[i]
			cost[h] += c.items[i].price
		}
		if ok {
			order = append(order, h)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(cost[a], cost[b]) })
	for _, h := range order {
		if x.empty(int32(h)) {
			q.Hosts[h].Draining, q.Hosts[h].emptied = true, true
			emptied[h] = true
		}
	}
	return &q, emptied
}

// empty moves everything off the host, to hosts that are in use; if that can't be it changes nothing.
func (x *search) empty(h int32) bool {
	x.hosts[h].takes = false
	here := slices.Clone(x.on[h])
	slices.SortStableFunc(here, func(a, b int32) int { return cmp.Compare(x.items[b].mem, x.items[a].mem) })
	for n, i := range here {
		t := x.bestFit(i)
		if t < 0 {
			for _, j := range here[:n] {
				x.move(j, h)
			}
			x.hosts[h].takes = true
			return false
		}
		x.move(i, t)
	}
	return true
}

// bestFit is the fullest host in use that has room for the item; -1 if none has.
func (x *search) bestFit(i int32) int32 {
	best := int32(-1)
	for t := range x.hosts {
		t := int32(t)
		if t == x.at[i] || len(x.on[t]) == 0 || !x.fits(i, t) {
			continue
		}
		if best < 0 || x.full[t] > x.full[best] {
			best = t
		}
	}
	return best
}
