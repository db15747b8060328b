package order

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"drover/hypervisor"
)

// At most how many orders are tried to get by without staging hosts and blocked moves, by how many moves
// there are, and how many that are equally good in this, with the same moves left over, are kept where room
// is short.
const (
	mostTries   = 200
	workOfTries = 10_000
	starts      = 8
)

// resolve finds orders of hops in which each fits when those before it are done, with as few moves left
// over as it can and then as few bytes sent by way of staging hosts. There is at least one.
func (p *problem) resolve() []*walk {
	rng := rand.New(rand.NewPCG(1, 1))
	order, key := make([]int, len(p.moves)), make([]float64, len(p.moves))
	for i := range order {
		order[i] = i
	}
	want := 1
	if p.crowded() {
		want = starts
	}
	var best []*walk
	for n := range min(mostTries, 2+workOfTries/(1+len(order))) {
		// The large first, while there is room; from the second time on with ever more chance.
		for i := range key {
			key[i] = float64(p.moves[i].Memory) * (1 + float64(n*n)*rng.Float64())
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(key[b], key[a]), a-b) })
		w := p.try(order, make([]bool, len(p.moves)))
		if len(best) > 0 && w.better(best[0]) {
			best = best[:0]
		}
		if len(best) == 0 || len(best) < want && !best[0].better(w) {
			best = append(best, w)
		}
		if len(best) == want && len(best[0].left) == 0 && best[0].detour == 0 {
			break
		}
	}
	for i, w := range best {
		best[i] = w.spare(p)
	}
	first := slices.MinFunc(best, (*walk).compare)
	return slices.DeleteFunc(best, func(w *walk) bool { return first.better(w) || !slices.Equal(first.left, w.left) })
}

// crowded: a move may have to wait for another one's room, or for its group.
func (p *problem) crowded() bool {
	s := p.initial()
	return slices.ContainsFunc(p.moves, func(m move) bool {
		s.free[m.to] -= m.Memory
		return s.free[m.to] < 0 || len(m.groups) > 0
	})
}

// walk is one order of hops, tried one after the other.
type walk struct {
	order  []int
	hops   []hop
	left   []int            // the moves that never fit
	detour hypervisor.Bytes // memory of the domains that go through a staging host
	direct []bool           // by move: must not go through one
}

func (w *walk) compare(to *walk) int {
	return cmp.Or(cmp.Compare(len(w.left), len(to.left)), cmp.Compare(w.detour, to.detour))
}

func (w *walk) better(than *walk) bool {
	return w.compare(than) < 0
}

// spare returns the walk without the detours that it can do without.
func (w *walk) spare(p *problem) *walk {
	for _, h := range w.hops {
		if h.leg != ToStaging {
			continue
		}
		direct := slices.Clone(w.direct)
		direct[h.move] = true
		if less := p.try(w.order, direct); less.better(w) {
			w = less
		}
	}
	return w
}

// try walks in the order, again and again over what did not fit. A domain that can't leave its staging
// host at the end would be stranded there: the walk is then made anew without its detour.
func (p *problem) try(order []int, direct []bool) *walk {
	for {
		w := p.walk(slices.Clone(order), direct)
		stranded := false
		for _, h := range w.hops {
			if h.leg == ToStaging && slices.Contains(w.left, h.move) {
				direct[h.move], stranded = true, true
			}
		}
		if !stranded {
			return w
		}
	}
}

// walk makes the first move of the order that fits, again and again: what a move leaves may let one in that
// comes before it.
func (p *problem) walk(order []int, direct []bool) *walk {
	w := &walk{order: order, direct: direct}
	s := p.initial()
	rank := make([]int, len(order))
	into := make([][]int, len(p.hosts))
	ready := make(heap, 0, len(order)) // by rank: moves that may fit
	for n, m := range order {
		rank[m] = n
		into[p.moves[m].to] = append(into[p.moves[m].to], m)
		ready = append(ready, n)
	}
	waits := make([]bool, len(order)) // by move: looked at and found not to fit
	// room makes those look again that wait for the host.
	room := func(host int) {
		for _, m := range into[host] {
			if waits[m] {
				waits[m] = false
				ready.push(rank[m])
			}
		}
	}
	for {
		for len(ready) > 0 {
			m := order[ready.pop()]
			from, to := s.at[m], p.moves[m].to
			if !s.admits(m, to) {
				waits[m] = true
				continue
			}
			leg := Whole
			if from != p.moves[m].from {
				leg = FromStaging
			}
			w.add(s, p.hop(m, from, to, leg))
			room(from)
		}
		for _, m := range order {
			if waits[m] {
				w.left = append(w.left, m)
			}
		}
		m, via, ok := s.stage(w.left, direct)
		if !ok {
			slices.Sort(w.left)
			return w
		}
		from := s.at[m]
		w.left = w.left[:0]
		w.detour += p.moves[m].Memory
		w.add(s, p.hop(m, from, via, ToStaging))
		room(from)
	}
}

// heap is a queue of numbers that gives the least first.
type heap []int

func (h *heap) push(n int) {
	a := append(*h, n)
	for i := len(a) - 1; i > 0 && a[(i-1)/2] > a[i]; i = (i - 1) / 2 {
		a[i], a[(i-1)/2] = a[(i-1)/2], a[i]
	}
	*h = a
}

func (h *heap) pop() int {
	a := *h
	least, last := a[0], len(a)-1
	a[0] = a[last]
	a = a[:last]
	for i := 0; 2*i+1 < last; {
		c := 2*i + 1
		if c+1 < last && a[c+1] < a[c] {
			c++
		}
		if a[i] <= a[c] {
			break
		}
		a[i], a[c] = a[c], a[i]
		i = c
	}
	*h = a
	return least
}

func (w *walk) add(s *state, h hop) {
	w.hops = append(w.hops, h)
	s.start(h.move, h.to)
	s.end(h.move)
}

// stage picks the domain to put aside when nothing fits, and the host: the smallest domain whose leaving
// lets another one in, or failing that the one after which the least memory is wanting.
func (s *state) stage(todo []int, direct []bool) (m, via int, ok bool) {
	p := s.p
	into := make(map[int][]int)
	for _, m := range todo {
		into[p.moves[m].to] = append(into[p.moves[m].to], m)
	}
	var candidates []candidate
	for _, m := range todo {
		at := s.at[m]
		if at != p.moves[m].from || direct[m] || len(into[at]) == 0 {
			continue
		}
		candidates = append(candidates, candidate{move: m, wanting: s.wanting(m, into[at])})
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.wanting, b.wanting), cmp.Compare(p.moves[a.move].Memory, p.moves[b.move].Memory), cmp.Compare(a.move, b.move))
	})
	for _, c := range candidates {
		if via := s.aside(c.move, into); via >= 0 {
			return c.move, via, true
		}
	}
	return 0, 0, false
}

type candidate struct {
	move    int
	wanting hypervisor.Bytes // for the least of the domains that wait for its host, once it has left
}

// wanting is how much memory the domain's host would still lack for the least of those that wait for it,
// if the domain left: 0 when one of them would fit, 1 or more when none.
func (s *state) wanting(m int, waiting []int) hypervisor.Bytes {
	at, mem := s.at[m], s.p.moves[m].Memory
	s.free[at] += mem
	s.at[m] = -1
	least := hypervisor.Bytes(1) << 62
	for _, u := range waiting {
		if u == m {
			continue
		}
		if s.admits(u, at) {
			least = 0
			break
		}
		least = min(least, max(1, s.p.moves[u].Memory-s.free[at]))
	}
	s.free[at] -= mem
	s.at[m] = at
	return least
}

// aside is the staging host for the domain, or -1: one whose room nobody waits for, then the quickest way.
func (s *state) aside(m int, into map[int][]int) int {
	p, mv := s.p, &s.p.moves[m]
	best, bestTaken, bestTime := -1, false, time.Duration(0)
	for h := range p.hosts {
		if !p.hosts[h].Staging || h == s.at[m] || h == mv.to || !s.admits(m, h) || p.may != nil && !p.may(mv.VM, p.hosts[h].Name) {
			continue
		}
		wanted := mv.Memory
		for _, u := range into[h] {
			wanted += p.moves[u].Memory
		}
		taken := wanted > s.free[h]
		t := mv.took(p.rate(m, s.at[m], h)) + mv.took(p.rate(m, h, mv.to))
		if best < 0 || bestTaken && !taken || bestTaken == taken && t < bestTime {
			best, bestTaken, bestTime = h, taken, t
		}
	}
	return best
}
