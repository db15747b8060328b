package order

import (
	"fmt"
	"slices"
	"strings"
)

// explain says why the moves that are left over can't be carried out, when all others are.
func (p *problem) explain(left []int) []Blocked {
	s := p.initial()
	for i := range p.moves {
		if !slices.Contains(left, i) {
			s.start(i, p.moves[i].to)
			s.end(i)
		}
	}
	var out []Blocked
	for _, m := range left {
		out = append(out, s.blocked(m, left))
	}
	return out
}

// blocked follows who waits for whom from the move on, to one that nothing can help or back to one that
// was met before.
func (s *state) blocked(m int, left []int) Blocked {
	b := Blocked{Move: s.p.moves[m].given}
	chain := []int{m}
	for {
		last := chain[len(chain)-1]
		next, code, why := s.obstacle(last, left)
		if code != "" {
			b.Code = code
			b.Reason = s.tell(chain, why)
			break
		}
		if slices.Contains(chain, next) {
			b.Code = Cycle
			b.Reason = s.tell(append(chain, next), "and no staging host was found that can take one of them meanwhile")
			break
		}
		chain = append(chain, next)
	}
	for _, m := range chain {
		b.Waits = append(b.Waits, s.p.moves[m].VM)
	}
	return b
}

// obstacle is the move that has to leave the target first, or why that would not help.
func (s *state) obstacle(m int, left []int) (next int, code Code, why string) {
	p, mv := s.p, &s.p.moves[m]
	host := p.hosts[mv.to].Name
	leaves := func(u int) bool { return s.at[u] == mv.to && u != m && slices.Contains(left, u) }
	if !s.apart(m, mv.to, func(u int) bool { return !leaves(u) }) {
		return 0, Apart, fmt.Sprintf("%s must not be on %s, where a VM of the same anti-affinity group is or goes", mv.VM, host)
	}
	room, largest := s.free[mv.to], -1
	for _, u := range left {
		if !leaves(u) {
			continue
		}
		if p.share(m, u) {
			return u, "", ""
		}
		room += p.moves[u].Memory
		if largest < 0 || p.moves[u].Memory > p.moves[largest].Memory {
			largest = u
		}
	}
	if room < mv.Memory || largest < 0 {
		return 0, NoRoom, fmt.Sprintf("%s needs %s, %s can give %s after all other moves", mv.VM, mv.Memory, host, max(room, 0))
	}
	return largest, "", ""
}

// tell writes a chain of waiting moves and how it ends.
func (s *state) tell(chain []int, end string) string {
	var b strings.Builder
	for n, m := range chain {
		mv := &s.p.moves[m]
		if n > 0 {
			fmt.Fprintf(&b, " waits for %s to leave %s", mv.VM, s.p.hosts[s.at[m]].Name)
			if n < len(chain)-1 {
				fmt.Fprintf(&b, ", which")
			}
			continue
		}
		if len(chain) > 1 {
			b.WriteString(mv.VM)
		}
	}
	if len(chain) > 1 {
		b.WriteString(", ")
	}
	b.WriteString(end)
	return b.String()
}
