package order

import (
	"cmp"
	"slices"
	"time"

	"drover/hypervisor"
)

// freed is memory that a host has to give: from the start, or since a hop left it.
type freed struct {
	by    int // the hop, or -1
	bytes hypervisor.Bytes
}

// dependencies says for each hop which others must be done before it starts, so that memory and groups hold
// however long each takes: those whose room it gets, the members of its groups that leave its target, and
// its own first leg. A hop may depend only on those that end before it starts by the given times; order is
// that of the starts.
//
// Each byte that becomes free is given to one hop, the longest free first. So at any moment of any
// execution the hops on a host take what was free at the start, or what hops that are done gave up.
func (p *problem) dependencies(hops []hop, order []int, start, end []time.Duration) [][]int {
	before := make([][]int, len(hops))
	ends := slices.Clone(order)
	slices.SortStableFunc(ends, func(a, b int) int { return cmp.Compare(end[a], end[b]) })

	pool := make([][]freed, len(p.hosts))
	debt := make([]hypervisor.Bytes, len(p.hosts)) // promised beyond what there is
	payers := make([][]int, len(p.hosts))          // who made it good: all must be gone before a byte is free
	gone := make([][]int, len(p.hosts))            // hops that left the host
	for i := range p.hosts {
		if f := p.hosts[i].FreeMemory; f > 0 {
			pool[i] = []freed{{by: -1, bytes: f}}
		} else {
			debt[i] = -f
		}
	}
	last := make([]int, len(p.moves)) // by move: its hop that ended last
	for i := range last {
		last[i] = -1
	}
	for _, i := range order {
		for len(ends) > 0 && end[ends[0]] <= start[i] {
			e := ends[0]
			ends = ends[1:]
			h := hops[e]
			last[h.move] = e
			gone[h.from] = append(gone[h.from], e)
			mem := p.moves[h.move].Memory
			if paid := min(mem, debt[h.from]); paid > 0 {
				debt[h.from] -= paid
				mem -= paid
				payers[h.from] = append(payers[h.from], e)
			}
			pool[h.from] = append(pool[h.from], freed{by: e, bytes: mem})
		}
		h := hops[i]
		if h.leg == FromStaging {
			before[i] = append(before[i], last[h.move])
		}
		need := p.moves[h.move].Memory
		before[i] = append(before[i], payers[h.to]...)
		for need > 0 {
			f := &pool[h.to][0]
			take := min(need, f.bytes)
			need -= take
			f.bytes -= take
			if take > 0 && f.by >= 0 {
				before[i] = append(before[i], f.by)
			}
			if f.bytes == 0 {
				pool[h.to] = pool[h.to][1:]
			}
		}
		for _, e := range gone[h.to] {
			if p.share(h.move, hops[e].move) {
				before[i] = append(before[i], e)
			}
		}
		slices.Sort(before[i])
		before[i] = slices.Compact(before[i])
	}
	return before
}

// share: two moves' domains are in one group.
func (p *problem) share(a, b int) bool {
	return slices.ContainsFunc(p.moves[a].groups, func(g int) bool { return slices.Contains(p.moves[b].groups, g) })
}
