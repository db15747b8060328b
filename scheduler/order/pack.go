package order

import (
	"cmp"
	"slices"
	"time"

	"drover/hypervisor"
)

// packer gives hops their times: whenever something ends, those that can start do, in the order of a
// rule. It is used again and again, so its memory is kept.
//
// There is always an order in which each hop fits after those before it. A hop starts ahead of others only
// when the rest of that order still fits, which therefore always holds of what is left: there is no dead
// end, and when nothing runs the first of the rest can start.
type packer struct {
	p       *problem
	hops    []hop
	touch   [][]int // by host: the hops that start or end there, in their order
	place   []int   // by hop: its place in the order
	next    []int   // by hop: the other leg that comes after it, or -1
	tight   []bool  // by host: not all that comes fits into what is free at the start
	crowded bool    // a hop may have to wait for another one's room, or for its group
	s       *state

	phase           []phase // by hop
	out, in         []hypervisor.BytesPerSecond
	outs, ins       []int           // streams at once
	outLeft, inLeft []time.Duration // by host: time of the hops that have not started
	running         []int           // by end, the latest first
	ready           []int
	seen            []int // by hop: the event at which it was looked at
	event           int
}

type phase uint8

const (
	held    phase = iota // its first leg is not done
	pending              // has not started
	running
	done
)

// schedule is when each hop runs.
type schedule struct {
	start, end []time.Duration
	rate       []hypervisor.BytesPerSecond
	order      []int // hops as they started
	makespan   time.Duration
	sum        time.Duration // of all ends
}

// rule is what decides among hops that could start.
type rule struct {
	// rank by hop, the least first; nil means the critical link first: the hop whose two ends have the most
	// time still to go, its own time counted weight times more.
	rank   []int
	weight float64
	// share is the least part of its full rate that a stream starts with.
	share float64
	// daring starts whatever fits now, which may lead into a dead end.
	daring bool
}

func newPacker(p *problem, hops []hop) *packer {
	n, k := len(p.hosts), len(hops)
	c := &packer{
		p: p, hops: hops, s: p.initial(),
		touch: make([][]int, n), place: make([]int, k), next: make([]int, k), tight: make([]bool, n), phase: make([]phase, k), seen: make([]int, k),
		out: make([]hypervisor.BytesPerSecond, n), in: make([]hypervisor.BytesPerSecond, n),
		outs: make([]int, n), ins: make([]int, n),
		outLeft: make([]time.Duration, n), inLeft: make([]time.Duration, n),
	}
	first := make(map[int]int)
	for i, h := range hops {
		c.touch[h.from] = append(c.touch[h.from], i)
		c.touch[h.to] = append(c.touch[h.to], i)
		c.place[i], c.next[i] = i, -1
		switch h.leg {
		case ToStaging:
			first[h.move] = i
		case FromStaging:
			c.next[first[h.move]] = i
		}
		c.s.free[h.to] -= p.moves[h.move].Memory
		c.tight[h.to] = c.s.free[h.to] < 0
		c.crowded = c.crowded || c.tight[h.to] || len(p.moves[h.move].groups) > 0
	}
	return c
}

// follow makes the order in which the hops of a schedule start the one that the rest must fit in.
func (c *packer) follow(s *schedule) {
	for n, i := range s.order {
		c.place[i] = n
	}
	for _, t := range c.touch {
		slices.SortFunc(t, func(a, b int) int { return c.place[a] - c.place[b] })
	}
}

func (c *packer) reset() {
	c.s.reset()
	clear(c.out)
	clear(c.in)
	clear(c.outs)
	clear(c.ins)
	clear(c.outLeft)
	clear(c.inLeft)
	clear(c.seen)
	c.event, c.running = 1, c.running[:0]
	for i, h := range c.hops {
		c.phase[i] = pending
		if h.leg == FromStaging {
			c.phase[i] = held
		}
		c.outLeft[h.from] += h.took
		c.inLeft[h.to] += h.took
	}
}

// pack fills in the schedule; false when a daring one came to a dead end.
func (c *packer) pack(r rule, s *schedule) bool {
	c.reset()
	s.start, s.end = resize(s.start, len(c.hops)), resize(s.end, len(c.hops))
	s.rate, s.order = resize(s.rate, len(c.hops)), s.order[:0]
	s.makespan, s.sum = 0, 0
	c.ready = c.ready[:0]
	for i := range c.hops {
		c.ready = append(c.ready, i)
	}
	for now := time.Duration(0); ; {
		c.begin(r, s, now)
		if len(c.running) == 0 {
			return len(s.order) == len(c.hops)
		}
		c.event++
		c.ready = c.ready[:0]
		now = s.end[c.running[len(c.running)-1]]
		for len(c.running) > 0 && s.end[c.running[len(c.running)-1]] == now {
			i := c.running[len(c.running)-1]
			c.running = c.running[:len(c.running)-1]
			c.finish(i, s)
		}
	}
}

func resize[T any](s []T, n int) []T {
	return slices.Grow(s[:0], n)[:n]
}

// begin starts those of the hops in ready that can.
func (c *packer) begin(r rule, s *schedule, now time.Duration) {
	// What starts takes, and gives nothing back: a hop that can't start now can't after it either.
	c.ready = slices.DeleteFunc(c.ready, func(i int) bool { return c.fits(i, r.share) == 0 })
	slices.SortFunc(c.ready, func(a, b int) int { return c.compare(r, a, b) })
	for _, i := range c.ready {
		h := &c.hops[i]
		rate := c.fits(i, r.share)
		if rate == 0 || !r.daring && !c.safe(i) {
			continue
		}
		took := h.took
		if rate < h.rate {
			took = c.p.moves[h.move].took(rate)
		}
		c.s.start(h.move, h.to)
		c.phase[i] = running
		c.out[h.from] += rate
		c.in[h.to] += rate
		c.outs[h.from]++
		c.ins[h.to]++
		c.outLeft[h.from] -= h.took
		c.inLeft[h.to] -= h.took
		s.start[i], s.end[i], s.rate[i] = now, now+took, rate
		s.order = append(s.order, i)
		s.makespan = max(s.makespan, now+took)
		s.sum += now + took
		at, _ := slices.BinarySearchFunc(c.running, s.end[i], func(o int, end time.Duration) int { return cmp.Compare(end, s.end[o]) })
		c.running = slices.Insert(c.running, at, i)
	}
}

// fits is the rate at which the hop could start now, 0 for not now.
func (c *packer) fits(i int, share float64) hypervisor.BytesPerSecond {
	h := &c.hops[i]
	from, to := &c.p.hosts[h.from], &c.p.hosts[h.to]
	if c.phase[i] != pending || c.outs[h.from] >= from.MaxOut || c.ins[h.to] >= to.MaxIn {
		return 0
	}
	rate := min(h.rate, from.Out-c.out[h.from], to.In-c.in[h.to])
	if float64(rate) < share*float64(h.rate) || !c.s.admits(h.move, h.to) {
		return 0
	}
	return rate
}

func (c *packer) compare(r rule, a, b int) int {
	if r.rank != nil {
		return r.rank[a] - r.rank[b]
	}
	return cmp.Or(cmp.Compare(c.load(r, b), c.load(r, a)), a-b)
}

func (c *packer) load(r rule, i int) float64 {
	h := &c.hops[i]
	return float64(c.outLeft[h.from]+c.inLeft[h.to]) + r.weight*float64(h.took)
}

// safe: if the hop went first of those that have not started, the others would still fit in their order.
// That takes room on its target earlier, so only the hops there that come before it matter.
func (c *packer) safe(i int) bool {
	h := &c.hops[i]
	if !c.tight[h.to] && len(c.p.moves[h.move].groups) == 0 {
		return true
	}
	room := c.s.free[h.to] - c.p.moves[h.move].Memory
	for _, k := range c.touch[h.to] {
		if c.phase[k] == running && c.hops[k].from == h.to {
			room += c.p.moves[c.hops[k].move].Memory
		}
	}
	for _, k := range c.touch[h.to] {
		other := &c.hops[k]
		switch {
		case k == i:
			return true
		case c.phase[k] >= running:
		case other.from == h.to:
			room += c.p.moves[other.move].Memory
		default:
			room -= c.p.moves[other.move].Memory
			if room < 0 || c.p.share(h.move, other.move) {
				return false
			}
		}
	}
	return true
}

// finish ends the hop and puts those that it may have stopped from starting into ready.
func (c *packer) finish(i int, s *schedule) {
	h := &c.hops[i]
	c.s.end(h.move)
	c.phase[i] = done
	c.out[h.from] -= s.rate[i]
	c.in[h.to] -= s.rate[i]
	c.outs[h.from]--
	c.ins[h.to]--
	if n := c.next[i]; n >= 0 {
		c.phase[n] = pending
	}
	for _, list := range [][]int{c.touch[h.from], c.touch[h.to]} {
		for _, k := range list {
			if c.phase[k] == pending && c.seen[k] != c.event {
				c.seen[k] = c.event
				c.ready = append(c.ready, k)
			}
		}
	}
}
