package order

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"drover/hypervisor"
)

// tries is how many orders are tried to get by without staging hosts and blocked moves.
const tries = 24

// resolve finds an order of hops in which each fits when those before it are done, with as few moves left
// over as it can and then as few bytes sent by way of staging hosts.
func (p *problem) resolve() (hops []hop, left []int) {
	order := make([]int, len(p.moves))
	for i := range order {
		order[i] = i
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var best *walk
	for try := range tries {
		switch try {
		case 0: // the large while there is room
			slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.moves[b].Memory, p.moves[a].Memory) })
		case 1:
			slices.Reverse(order)
		default:
			rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		w := p.try(order, make([]bool, len(p.moves)))
		if best == nil || w.better(best) {
			best = w
		}
		if len(best.left) == 0 && best.detour == 0 {
			break
		}
	}
	return best.spare(p)
}

// walk is one order of hops, tried one after the other.
type walk struct {
	order  []int
	hops   []hop
	left   []int            // the moves that never fit
	detour hypervisor.Bytes // memory of the domains that go through a staging host
	direct []bool           // by move: must not go through one
}

func (w *walk) better(than *walk) bool {
	return cmp.Or(cmp.Compare(len(w.left), len(than.left)), cmp.Compare(w.detour, than.detour)) < 0
}

// spare returns the walk without the detours that it can do without.
func (w *walk) spare(p *problem) ([]hop, []int) {
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
	return w.hops, w.left
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

func (p *problem) walk(order []int, direct []bool) *walk {
	w := &walk{order: slices.Clone(order), direct: direct}
	s := p.initial()
	for todo := order; ; {
		rest := todo[:0:len(todo)]
		for _, m := range todo {
			to := p.moves[m].to
			if !s.admits(m, to) {
				rest = append(rest, m)
				continue
			}
			leg := Whole
			if s.at[m] != p.moves[m].from {
				leg = FromStaging
			}
			w.add(s, p.hop(m, s.at[m], to, leg))
		}
		if len(rest) < len(todo) {
			todo = rest
			continue
		}
		m, via, ok := s.stage(todo, direct)
		if !ok {
			w.left = rest
			return w
		}
		w.detour += p.moves[m].Memory
		w.add(s, p.hop(m, s.at[m], via, ToStaging))
	}
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
