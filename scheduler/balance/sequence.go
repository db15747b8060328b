package balance

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
)

// candidate is a move that waits for its turn.
type candidate struct {
	item  int32
	worth float64 // value gained per price, when last looked at
}

type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(a, b int) bool {
	return cmp.Or(cmp.Compare(c[b].worth, c[a].worth), cmp.Compare(c[a].item, c[b].item)) < 0
}
func (c candidates) Swap(a, b int) { c[a], c[b] = c[b], c[a] }
func (c *candidates) Push(v any)   { *c = append(*c, v.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// sequence orders the moved items so that each fits when its turn comes, the best first; those that never
// fit come last. Gains shrink as others are made, so a move is looked at again only when it comes up.
func (x *search) sequence() []int32 {
	now := &search{state: newState(x.compiled)}
	queue := make(candidates, 0, len(x.moved))
	waiting := make(map[int32][]int32) // by the host that has no room
	for _, i := range x.moved {
		queue = append(queue, candidate{i, now.worth(i, x.at[i])})
	}
	heap.Init(&queue)
	var out []int32
	for len(queue) > 0 {
		c := heap.Pop(&queue).(candidate)
		t := x.at[c.item]
		if !now.fits(c.item, t) {
			waiting[t] = append(waiting[t], c.item)
			continue
		}
		if w := now.worth(c.item, t); len(queue) > 0 && w < queue[0].worth {
			heap.Push(&queue, candidate{c.item, w})
			continue
		}
		from := now.at[c.item]
		now.move(c.item, t)
		out = append(out, c.item)
		for _, i := range waiting[from] {
			heap.Push(&queue, candidate{i, now.worth(i, x.at[i])})
		}
		delete(waiting, from)
	}
	for _, h := range slices.Sorted(maps.Keys(waiting)) {
		out = append(out, waiting[h]...)
	}
	return out
}

// worth is what a move gains for its price, others as they are.
func (x *search) worth(i, t int32) float64 {
	n := x.after(i, t)
	gain := x.scale*(x.badness(&x.totals)-x.badness(&n)) +
		float64(x.broken[preferred]-n.broken[preferred])*x.breach[preferred] +
		float64(x.broken[required]+x.stranded-n.broken[required]-n.stranded)*x.breach[required]
	return gain / x.items[i].price
}
