package order

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// Schedule orders the moves. The error names what is wrong with the input; moves that can't be carried
// out are no error, they are in [Result.Blocked].
func Schedule(in Input, o Options) (Result, error) {
	p, err := read(in, o)
	if err != nil {
		return Result{}, err
	}
	evaluations := o.Evaluations
	if evaluations <= 0 {
		evaluations = min(mostEvaluations, 1+workOfSearch/(1+len(p.moves)))
	}
	walks := p.resolve()
	s := p.best(walks, evaluations)
	return Result{
		Steps: p.steps(s.c.hops, s.best), Makespan: s.best.makespan, Bound: s.bound, Blocked: p.explain(walks[0].left),
	}, nil
}

// steps writes the schedule out.
func (p *problem) steps(hops []hop, s *schedule) []Step {
	before := p.dependencies(hops, s.order, s.start, s.end)
	steps := make([]Step, len(hops))
	at := make([]int, len(hops)) // by hop: its step
	for n, i := range s.order {
		at[i] = n
		h := hops[i]
		st := Step{
			Move: p.moves[h.move].given, From: p.hosts[h.from].Name, To: p.hosts[h.to].Name, Leg: h.leg,
			Start: s.start[i], End: s.end[i], Rate: s.rate[i], Wave: 1,
		}
		for _, b := range before[i] {
			st.After = append(st.After, at[b])
			st.Wave = max(st.Wave, steps[at[b]].Wave+1)
		}
		slices.Sort(st.After)
		steps[n] = st
	}
	return steps
}

// The rules that are tried first: by how much a hop's own time counts, and with what parts of their full
// rates streams may start.
var (
	weights = []float64{1.5, 1, 0, 4, 0.5, 2}
	shares  = []float64{1, 0.5}
)

// The default of [Options.Evaluations]: some milliseconds for ten moves, some tens for five hundred.
const (
	mostEvaluations = 500
	workOfSearch    = 60_000
)

// near is how close to the bound is good enough.
const near = 1.001

// search looks for the schedule of some hops with the least makespan: by rules, then by changing the order
// of the best a little, again and again. It is random with a fixed seed.
type search struct {
	c          *packer
	best, next *schedule
	by         rule // that the best came from
	bound      time.Duration
	left       int // schedules that may still be tried
}

// best searches by rules from each walk, which takes half of the schedules, and on from the best.
func (p *problem) best(walks []*walk, evaluations int) *search {
	var best *search
	each := evaluations
	if len(walks) > 1 {
		each = max(1, evaluations/(2*len(walks)))
	}
	for _, w := range walks {
		s := &search{c: newPacker(p, w.hops), best: &schedule{}, next: &schedule{}, bound: p.bound(w.hops), left: min(each, evaluations)}
		evaluations -= s.left
		s.byRules()
		evaluations += s.left
		if best == nil || s.best.better(best.best) {
			best = s
		}
		if evaluations == 0 || !best.short() {
			break
		}
	}
	best.left = evaluations
	best.byChange()
	return best
}

// short: the best is not good enough yet, or there is none.
func (s *search) short() bool {
	return len(s.best.order) < len(s.c.hops) || float64(s.best.makespan) > near*float64(s.bound)
}

func (s *search) byRules() {
	for _, weight := range weights {
		for _, share := range shares {
			if share < 1 && s.c.p.whole {
				continue
			}
			s.try(rule{weight: weight, share: share})
			if s.c.crowded {
				s.try(rule{weight: weight, share: share, daring: true})
			}
		}
	}
}

func (s *search) byChange() {
	rng := rand.New(rand.NewPCG(1, 2))
	rank := make([]int, len(s.c.hops))
	for chain := []int(nil); s.left > 0 && s.short(); {
		if chain == nil {
			s.c.follow(s.best)
			chain = s.best.chain(s.c.hops)
		}
		order := slices.Clone(s.best.order)
		vary(order, chain, rng)
		for n, i := range order {
			rank[i] = n
		}
		if s.try(rule{rank: rank, share: s.by.share, daring: s.c.crowded && s.left%2 == 0}) {
			chain = nil
		}
	}
}

// try makes a schedule by the rule, unless the search is over. True when it is the best.
func (s *search) try(r rule) bool {
	if s.left == 0 || !s.short() {
		return false
	}
	s.left--
	if !s.c.pack(r, s.next) || len(s.best.order) > 0 && !s.next.better(s.best) {
		return false
	}
	s.best, s.next, s.by = s.next, s.best, r
	return true
}

// better: an end that is sooner, or the same with the hops done sooner on average.
func (s *schedule) better(than *schedule) bool {
	return cmp.Or(cmp.Compare(s.makespan, than.makespan), cmp.Compare(s.sum, than.sum)) < 0
}

// chain is a row of hops from the one that ends last back to the start, each started by the end of the next.
func (s *schedule) chain(hops []hop) []int {
	last := s.order[0]
	for _, i := range s.order {
		if s.end[i] > s.end[last] {
			last = i
		}
	}
	chain := []int{last}
	for found := true; found; {
		found = false
		h := hops[last]
		for _, k := range s.order {
			o := hops[k]
			if s.end[k] == s.start[last] && (o.from == h.from || o.to == h.to || o.from == h.to || o.move == h.move) {
				last, found = k, true
				chain = append(chain, k)
				break
			}
		}
	}
	return chain
}

// vary puts some hops to other places, most often one, and every other time one of the chain to an
// earlier one.
func vary(order, chain []int, rng *rand.Rand) {
	for again := true; again; again = rng.IntN(2) == 0 {
		from, to := rng.IntN(len(order)), rng.IntN(len(order))
		if rng.IntN(2) == 0 {
			from = slices.Index(order, chain[rng.IntN(len(chain))])
			to = rng.IntN(from + 1)
		}
		i := order[from]
		order = slices.Insert(slices.Delete(order, from, from+1), to, i)
	}
}
