package order

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
)

// problem is an Input by numbers. Moves are in the order of their VMs' names and hosts in that of theirs,
// so that nothing depends on the order in which they were given.
type problem struct {
	hosts  []Host
	moves  []move
	groups []group
	may    func(vm, host string) bool
	whole  bool
}

type move struct {
	Move
	given    int // index in Input.Moves
	from, to int
	groups   []int
}

type group struct {
	name  string
	moves []int // members that move
	hosts []int // where members are that don't
}

// hop is a step without times: a migration of a move's domain from one host to another.
type hop struct {
	move, from, to int
	leg            Leg
	rate           hypervisor.BytesPerSecond // of a stream that has the whole of its slower end
	took           time.Duration             // at that rate
}

// read checks the input; the error names all that is wrong with it.
func read(in Input, o Options) (*problem, error) {
	p := &problem{hosts: slices.Clone(in.Hosts), may: o.MayStage, whole: o.WholeLink}
	slices.SortFunc(p.hosts, func(a, b Host) int { return cmp.Compare(a.Name, b.Name) })
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("order: "+format, args...)) }
	number := make(map[string]int, len(p.hosts))
	for i := range p.hosts {
		h := &p.hosts[i]
		if _, twice := number[h.Name]; twice {
			wrong("host %s is given twice", h.Name)
		}
		number[h.Name] = i
		if h.In <= 0 || h.Out <= 0 {
			wrong("host %s: link of %s in and %s out: want more than nothing", h.Name, h.In, h.Out)
		}
		if h.MaxIn < 0 || h.MaxOut < 0 {
			wrong("host %s: %d streams in and %d out: want 0 or more", h.Name, h.MaxIn, h.MaxOut)
		}
		h.MaxIn, h.MaxOut = cmp.Or(h.MaxIn, DefaultMaxIn), cmp.Or(h.MaxOut, DefaultMaxOut)
	}
	host := func(of, name string) int {
		i, ok := number[name]
		if !ok {
			wrong("%s: no host is called %q", of, name)
		}
		return i
	}
	for i, m := range in.Moves {
		if m.Memory <= 0 || m.Bytes < 0 || m.DirtyRate < 0 || m.MaxRate < 0 {
			wrong("VM %s: memory %s, bytes %s, dirty rate %s, greatest rate %s: want memory, and nothing below 0", m.VM, m.Memory, m.Bytes, m.DirtyRate, m.MaxRate)
		}
		if m.From == m.To {
			wrong("VM %s moves from %s to itself", m.VM, m.From)
		}
		m.Bytes = cmp.Or(m.Bytes, m.Memory)
		p.moves = append(p.moves, move{Move: m, given: i, from: host("VM "+m.VM, m.From), to: host("VM "+m.VM, m.To)})
	}
	slices.SortFunc(p.moves, func(a, b move) int { return cmp.Compare(a.VM, b.VM) })
	index := make(map[string]int, len(p.moves))
	for i, m := range p.moves {
		if _, twice := index[m.VM]; twice {
			wrong("VM %s moves twice", m.VM)
		}
		index[m.VM] = i
	}
	for _, g := range in.Apart {
		n := group{name: g.Name}
		for _, vm := range g.VMs {
			if i, ok := index[vm]; ok && !slices.Contains(n.moves, i) {
				n.moves = append(n.moves, i)
				p.moves[i].groups = append(p.moves[i].groups, len(p.groups))
			}
		}
		for _, name := range g.Hosts {
			n.hosts = append(n.hosts, host("group "+g.Name, name))
		}
		slices.Sort(n.moves)
		p.groups = append(p.groups, n)
	}
	return p, errors.Join(errs...)
}

// hop makes one of a move.
func (p *problem) hop(m, from, to int, leg Leg) hop {
	h := hop{move: m, from: from, to: to, leg: leg, rate: p.rate(m, from, to)}
	h.took = p.moves[m].took(h.rate)
	return h
}

// rate is that of a stream that has the whole of its slower end.
func (p *problem) rate(m, from, to int) hypervisor.BytesPerSecond {
	r := min(p.hosts[from].Out, p.hosts[to].In)
	if most := p.moves[m].MaxRate; most > 0 {
		r = min(r, most)
	}
	return r
}

// longest is the longest time that one move may take, so that sums of times hold in a duration.
const longest = 10 * 365 * 24 * time.Hour

// took is how long the move takes at the rate: b/(r-w), of which r-w is at least a quarter of r.
func (m *move) took(r hypervisor.BytesPerSecond) time.Duration {
	net := max(float64(r)-float64(m.DirtyRate), float64(r)/4)
	seconds := float64(m.Bytes) / net
	return max(1, time.Duration(min(seconds*float64(time.Second), float64(longest))))
}

// state is where the domains are and what the hosts have to give.
type state struct {
	p     *problem
	free  []hypervisor.Bytes
	at    []int // by move: the host where it runs
	going []int // by move: the host where it is on its way to, or -1
}

func (p *problem) initial() *state {
	s := &state{p: p, free: make([]hypervisor.Bytes, len(p.hosts)), at: make([]int, len(p.moves)), going: make([]int, len(p.moves))}
	s.reset()
	return s
}

func (s *state) reset() {
	for i := range s.p.hosts {
		s.free[i] = s.p.hosts[i].FreeMemory
	}
	for i := range s.p.moves {
		s.at[i], s.going[i] = s.p.moves[i].from, -1
	}
}

// admits: the host has the memory, and no member of the domain's groups is there, comes or still leaves.
func (s *state) admits(m, to int) bool {
	return s.p.moves[m].Memory <= s.free[to] && s.apart(m, to, func(int) bool { return true })
}

// apart: no member of the domain's groups is on the host, of those that do not move and of the moves
// that count.
func (s *state) apart(m, to int, counts func(move int) bool) bool {
	for _, g := range s.p.moves[m].groups {
		if slices.Contains(s.p.groups[g].hosts, to) {
			return false
		}
		for _, u := range s.p.groups[g].moves {
			if u != m && (s.at[u] == to || s.going[u] == to) && counts(u) {
				return false
			}
		}
	}
	return true
}

func (s *state) start(m, to int) {
	s.free[to] -= s.p.moves[m].Memory
	s.going[m] = to
}

func (s *state) end(m int) {
	s.free[s.at[m]] += s.p.moves[m].Memory
	s.at[m], s.going[m] = s.going[m], -1
}

// bound is the time of the busiest host direction, whatever the order: the bytes of its hops at full rates
// over the link, or their times over the streams at once; and no less than one move from end to end.
// A slower stream sends no fewer bytes and takes no less.
func (p *problem) bound(hops []hop) time.Duration {
	n := len(p.hosts)
	link, streams, whole := make([]float64, 2*n), make([]float64, 2*n), make([]float64, len(p.moves))
	least := 0.0
	add := func(to []float64, i int, seconds float64) {
		to[i] += seconds
		least = max(least, to[i])
	}
	for _, h := range hops {
		// Times were rounded down to the nanosecond.
		t := (h.took - 1).Seconds()
		from, to := &p.hosts[h.from], &p.hosts[h.to]
		add(link, h.from, t*float64(h.rate)/float64(from.Out))
		add(link, n+h.to, t*float64(h.rate)/float64(to.In))
		add(streams, h.from, t/float64(from.MaxOut))
		add(streams, n+h.to, t/float64(to.MaxIn))
		add(whole, h.move, t)
	}
	return time.Duration(least * float64(time.Second))
}
