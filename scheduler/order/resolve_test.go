package order

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"drover/hypervisor"
)

// fewest is how few moves are left over at least, whichever order they go in, without staging hosts.
func fewest(s *state, moved map[int]bool) int {
	best := len(s.p.moves) - len(moved)
	for m := range s.p.moves {
		from, to := s.p.moves[m].from, s.p.moves[m].to
		if moved[m] || !s.admits(m, to) {
			continue
		}
		moved[m] = true
		s.start(m, to)
		s.end(m)
		best = min(best, fewest(s, moved))
		s.start(m, from)
		s.end(m)
		delete(moved, m)
		if best == 0 {
			break
		}
	}
	return best
}

// Small sets of moves that fit in some order all move. Where that is not so, hardly ever one more than
// need be is left over.
func TestLeavesNoMoveThatFits(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	number := func(least, most int) int { return least + rng.IntN(most-least+1) }
	solvable, more := 0, 0
	for range 6000 {
		free, moves := map[string]int{}, []Move(nil)
		n := number(2, 5)
		for i := range n {
			free[fmt.Sprint(i)] = number(0, 5)
		}
		for i := range number(3, 7) {
			from := rng.IntN(n)
			moves = append(moves, Move{
				VM: fmt.Sprint(i), From: fmt.Sprint(from), To: fmt.Sprint((from + number(1, n-1)) % n),
				Memory: hypervisor.Bytes(number(1, 6)) * hypervisor.GiB,
			})
		}
		p := fleet(t, free, moves, Group{VMs: []string{"0", "1"}})
		for i := range p.hosts {
			p.hosts[i].Staging = false
		}
		left := len(p.resolve()[0].left)
		switch least := fewest(p.initial(), map[int]bool{}); {
		case least == 0 && left > 0:
			t.Fatalf("%d of %+v left over, though all fit in some order; free %v", left, moves, free)
		case least == 0:
			solvable++
		case left > least:
			more++
		}
	}
	if solvable < 100 || more > 6 {
		t.Errorf("%d solvable, %d with more left over than need be; want 100 and more, at most 6", solvable, more)
	}
}

// The smallest domain that lets another one in goes aside, to a host whose room nobody waits for.
func TestPutsAsideWhatHelps(t *testing.T) {
	const G = hypervisor.GiB
	p := fleet(t, map[string]int{"a": 0, "b": 0, "c": 4, "d": 4, "e": 0}, []Move{
		{VM: "large", From: "a", To: "b", Memory: 4 * G},
		{VM: "back", From: "b", To: "a", Memory: 3 * G},
		{VM: "small", From: "a", To: "b", Memory: 1 * G},
		{VM: "waits", From: "e", To: "c", Memory: 8 * G},
	})
	const back, large, small, waits = 0, 1, 2, 3
	s := p.initial()
	all := []int{back, large, small, waits}
	none := make([]bool, len(p.moves))
	m, via, ok := s.stage(all, none)
	if !ok || m != back || p.hosts[via].Name != "d" {
		t.Errorf("put %s aside on %s, %v; want back on d", p.moves[m].VM, p.hosts[via].Name, ok)
	}
	none[back] = true
	if m, _, ok = s.stage(all, none); !ok || m != large {
		t.Errorf("put %s aside, %v; want large, since small alone makes no room", p.moves[m].VM, ok)
	}
}

func TestHeapGivesTheLeast(t *testing.T) {
	h := heap{}
	for i := range 50 {
		h.push(i * 37 % 50)
	}
	for want := range 50 {
		if got := h.pop(); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
}
