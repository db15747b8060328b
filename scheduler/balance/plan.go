package balance

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Plan is what to do. Its moves are in an order in which each fits.
type Plan struct {
	Moves         []Move
	Before, After Metrics
	Blocked       []Blocked
	Makespan      time.Duration // of all moves, as far as the prices are right
	Evaluations   int           // that the search took
}

// Move is one migration of the plan.
type Move struct {
	VM, From, To int // indexes into the problem
	// Wave numbers moves that may run together; After are indexes of moves that must be done before it.
	Wave  int
	After []int
	Price Price
	Cause Cause
	Rule  string // the group, where a rule is mended
	// Gain is what the plan would lose without the move, its price Cost taken off, both in core-seconds, or in GiB
	// for a Score. Moves that others need, or that mend a rule, gain much.
	Gain, Cost float64
	// Alternatives were other hosts for it, best first, if asked for.
	Alternatives []Alternative
}

// Alternative is a host that a move could have gone to.
type Alternative struct {
	Host   int
	Why    Why     // it can't
	Detail string  // what of it is wanting
	Loss   float64 // if it can: by so much the plan would be worse, in price units
}

// Blocked is a VM that stays though it was asked to move, or, if explained, any that stays.
type Blocked struct {
	VM     int
	Asked  bool // its host is to be emptied, it breaks a rule, or others need its move
	Why    Why
	Detail string
	// Hosts counts the hosts that refuse it, by reason.
	Hosts map[Why]int
}

// Cause is what a move is for.
type Cause string

// The causes.
const (
	ToDrain Cause = "drain"     // its host is to be emptied
	ToMend  Cause = "mend"      // a rule is broken
	ToEmpty Cause = "empty"     // its host is left empty to save power
	ToEven  Cause = "balance"   // its host is fuller than others
	ToRoom  Cause = "make-room" // another VM needs the room
	ToStage Cause = "staging"   // on its way: of those that wait for each other's room, one steps aside
)

// Metrics describe a placement. Utilisations are shares of what domains may use; draining hosts count only
// for what is left on them.
type Metrics struct {
	// Score is the sum of the standard deviations of hosts' free memory and CPU load, as shares of all they have.
	Score  float64 `json:"score"`
	CPUStd float64 `json:"cpu_std"`
	CPUMax float64 `json:"cpu_max"`
	MemStd float64 `json:"mem_std"`
	MemMax float64 `json:"mem_max"`
	// Contention is what domains are expected to ask for and not to get, in cores.
	Contention  float64 `json:"contention_cores"`
	Broken      int     `json:"broken_rules"`       // breaches of required rules
	Unpreferred int     `json:"broken_preferences"` // breaches of preferred ones
	OnDraining  int     `json:"vms_on_draining"`
	HostsUsed   int     `json:"hosts_used"`
}

// evaluationsFor is the default budget: some thousand for each item that may move, but no more than takes half a
// second of CPU, or, on large fleets, some hundred each and two seconds.
func evaluationsFor(items int) int {
	return max(min(5000*items, 3_000_000), min(450*items, 9_000_000))
}

// Make finds a plan. The same problem and options give the same plan. Errors wrap ErrProblem or ErrOptions.
func Make(p *Problem, o Options) (*Plan, error) {
	o, err := o.suited(len(p.VMs)).withDefaults()
	if err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if o.Mode == Drain && !slices.ContainsFunc(p.Hosts, func(h Host) bool { return h.Draining }) {
		return nil, fmt.Errorf("%w: a drain of no host", ErrOptions)
	}
	var emptied map[int]bool
	if o.Mode == Consolidate {
		p, emptied = consolidated(p, o)
	}
	c := compile(p, o)
	s := newState(c)
	plan := &Plan{Before: s.metrics()}
	x := find(s)
	plan.Evaluations = x.evaluations
	if err := x.finish(plan, emptied); err != nil {
		return nil, err
	}
	x.explain(plan)
	plan.After = s.metrics()
	return plan, nil
}

// find searches a placement and leaves the state at it.
func find(s *state) *search {
	must, all := s.mustMove(), s.movable()
	movers := all
	if s.o.Mode == Drain {
		movers = must
	}
	x := newSearch(s, movers)
	x.settle(must)
	budget := s.o.Evaluations
	if budget == 0 {
		budget = evaluationsFor(len(movers))
	}
	if s.o.Mode == Drain {
		if slices.ContainsFunc(must, func(i int32) bool { return !s.hosts[s.at[i]].counts }) {
			// There is no room as things are: others may make it.
			x.allow(all)
		} else if len(must) > 0 {
			budget = min(budget, 2000*len(must))
		}
	}
	x.anneal(budget)
	x.prune()
	return x
}

// movable are the items that may move at all.
func (s *state) movable() []int32 {
	var out []int32
	for i := range s.items {
		if s.mobile[i] {
			out = append(out, int32(i))
		}
	}
	return out
}

// mustMove are the items on draining hosts, and, but for a drain, those that break a required rule; the
// largest first.
func (s *state) mustMove() []int32 {
	var out []int32
	for i := range s.items {
		x := &s.items[i]
		if s.mobile[i] && (!s.hosts[x.home].counts || s.o.Mode != Drain && s.breaks(int32(i))) {
			out = append(out, int32(i))
		}
	}
	slices.SortStableFunc(out, func(a, b int32) int { return cmp.Compare(s.items[b].mem, s.items[a].mem) })
	return out
}

// breaks: the item has a part in a breach of a required rule.
func (s *state) breaks(i int32) bool {
	for _, g := range s.items[i].groups() {
		r := &s.groups[g.group]
		if r.rank != required {
			continue
		}
		here := s.count[s.cell(g, s.at[i])]
		if r.apart && here > 1 || !r.apart && here < r.members {
			return true
		}
	}
	return false
}

// prune takes moves back that are not worth their price, the dearest first.
func (x *search) prune() {
	moved := slices.Clone(x.moved)
	slices.SortFunc(moved, func(a, b int32) int {
		return cmp.Or(cmp.Compare(x.items[b].price, x.items[a].price), cmp.Compare(a, b))
	})
	for _, i := range moved {
		home := x.items[i].home
		if x.at[i] == home || !x.fits(i, home) {
			continue
		}
		n := x.after(i, home)
		if x.excess(&n) <= x.excess(&x.totals) && x.cost(&n) <= x.cost(&x.totals) {
			x.move(i, home)
		}
	}
}
