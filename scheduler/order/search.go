package order

import (
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
	hops, left := p.resolve()
	bound := p.bound(hops)
	best := p.search(hops, bound, o.Evaluations)
	res := Result{Makespan: best.makespan, Bound: bound, Blocked: p.explain(left)}
	res.Steps = p.steps(hops, best)
	return res, nil
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

// shares are the parts of their full rates with which streams may start, that are tried.
var shares = []float64{0.5, 1, 0.25}

// The default of [Options.Evaluations]: a number that takes a few milliseconds for ten moves, and a few
// tens for five hundred.
const (
	mostEvaluations = 500
	workOfSearch    = 20_000
)

// search finds the schedule with the least makespan among those that it tries: by rule, then by changing
// the order of the best a little. The same input gives the same result.
func (p *problem) search(hops []hop, bound time.Duration, evaluations int) *schedule {
	c := newPacker(p, hops)
	best, next := &schedule{}, &schedule{}
	share := 1.0
	try := func(r rule) {
		if c.pack(r, next) && (len(best.order) == 0 || next.better(best)) {
			best, next = next, best
			share = r.share
		}
	}
	rules := shares
	if p.whole {
		rules = []float64{1}
	}
	for _, s := range rules {
		try(rule{share: s})
		try(rule{share: s, daring: true})
	}
	if evaluations == 0 {
		evaluations = min(mostEvaluations, workOfSearch/(len(hops)+1))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	rank, order := make([]int, len(hops)), make([]int, len(hops))
	var chain []int
	var of *schedule
	for n := 0; n < evaluations && best.makespan > bound+bound/1000 && len(hops) > 1; n++ {
		if of != best {
			of = best
			c.follow(best)
			chain = best.chain(hops)
		}
		copy(order, best.order)
		vary(order, chain, rng)
		for k, i := range order {
			rank[i] = k
		}
		try(rule{rank: rank, share: share, daring: n%2 == 1})
	}
	return best
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

// better: an end that is sooner, or the same with the moves done sooner on average.
func (s *schedule) better(than *schedule) bool {
	return s.makespan < than.makespan || s.makespan == than.makespan && s.sum <= than.sum
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
