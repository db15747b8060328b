package balance

import "math"

const (
	// The search starts accepting what costs about a seventh of a move more, and ends at a hundredth of one. With so
	// many changes for each item it has the time to start where more is accepted.
	hottest, coldest   = 0.15, 0.01
	hotter, hotChanges = 0.3, 3000
	// It starts hotter where there is more to gain than that: at this share of what each item has a part in.
	hotShare = 0.05
	// With fewer items than that each is much of the whole: it starts at the price of one, or at all its share.
	fewItems = 100
	// With fewer than that, each move unsettles so much that the search may stay where it began: it is made
	// again, so hot that it does not.
	tinyFleet = 32
	// firstUntil is how many moves a Score of 1 is worth at first, where a Score is asked for.
	firstUntil = 500
	// firmer is how often the search goes on for a bound that is not kept, each time for that part of the
	// budget and from that part of the temperature.
	firmer = 4
	// A weight that is followed changes by a factor of e in this part of the adjustments, less if the bound is
	// off by less than that share.
	followStep, followed = 0.014, 0.025
	// adjustments of the temperature and of the bounds' weights, in the course of a search.
	adjustments = 500
	// Below a bound its weight is earned back, at first in full, so that the search passes freely from one
	// side to the other: otherwise little can be changed once it has come to the bounds. In the last part it is
	// earned back by so much less as the search goes on, and this much at the end.
	earnedSlope, earnedAtLast = 6, 0.02
)

// random is SplitMix64: small, fast, and the same everywhere.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// below returns a number from 0 to n-1; n is below 2^32.
func (r *random) below(n int) int { return int((r.next() >> 32) * uint64(n) >> 32) }

// exponential returns a sample of the exponential distribution with mean 1, of 4096 values.
func (r *random) exponential() float64 { return exponentials[r.next()>>52] }

var exponentials = func() (t [4096]float64) {
	for i := range t {
		t[i] = -math.Log((float64(i) + 0.5) / 4096)
	}
	return t
}()

// search improves a placement.
type search struct {
	*state
	rng         random
	movers      []int32 // items that may move
	may         []bool  // by item: it is one of these
	few         bool    // they are less than half of all
	mine        []int32 // hosts that the search changes
	owner       []int32 // by host: which part of a crew changes it
	part        int32   // this one
	until       bound
	maxMoves    bound
	maxGiB      bound
	evaluations int
	slope       slope     // where the placement was last looked at
	welcome     []float64 // by item: about what it costs at least that it comes to another host, when last looked at
	temperature float64
	spent       int             // of a run's budget, in candidates
	gaveUp      map[int32]given // wanted moves that are not in the plan
	best        []int32         // the best placement seen; by item
	bestValue   [2]float64      // its excess and cost
}

func newSearch(s *state, movers []int32) *search {
	o := &s.o
	x := &search{state: s, rng: random(o.Seed + 1), bestValue: [2]float64{math.Inf(1)}, gaveUp: map[int32]given{}, welcome: make([]float64, len(s.items))}
	x.allow(movers)
	x.owner = make([]int32, len(s.hosts))
	for h := range s.hosts {
		x.mine = append(x.mine, int32(h))
	}
	x.until = bound{limit: o.Until, weight: firstUntil * s.meanItem, first: firstUntil * s.meanItem}
	x.maxMoves = bound{limit: float64(o.MaxMoves), weight: s.meanItem, first: s.meanItem}
	x.maxGiB = bound{limit: float64(o.MaxBytes) / gib, weight: s.meanItem / 8, first: s.meanItem / 8}
	return x
}

// allow says which items may move.
func (x *search) allow(movers []int32) {
	x.movers, x.may, x.few = movers, make([]bool, len(x.items)), len(movers) < len(x.items)/2
	for _, i := range movers {
		x.may[i] = true
	}
}

// value is what the search makes small, in price units.
func (x *search) value(t *totals) float64 {
	v := x.cost(t)
	if x.until.limit > 0 {
		v += x.until.price(x.badness(t))
	}
	return v + x.maxMoves.price(float64(t.moves)) + x.maxGiB.price(t.gib)
}

// cost is the value without bounds.
func (x *search) cost(t *totals) float64 {
	v := t.price + float64(t.broken[preferred])*x.breach[preferred] + float64(t.broken[required]+t.stranded)*x.breach[required]
	if x.until.limit == 0 {
		v += x.scale * x.badness(t)
	}
	return v
}

// excess is by how much the placement exceeds the bounds, in shares of them; 0 when it keeps them.
func (x *search) excess(t *totals) float64 {
	e := x.maxMoves.excess(float64(t.moves)) + x.maxGiB.excess(t.gib)
	if x.until.limit > 0 {
		e += x.until.excess(x.badness(t))
	}
	return e
}

// anneal spends the budget and leaves the state at the best placement that it found. Where that exceeds a
// bound, the search goes on with more weight on it.
func (x *search) anneal(budget int) {
	if len(x.movers) == 0 || len(x.hosts) < 2 {
		return
	}
	x.note()
	x.survey()
	from, share := float64(hottest), float64(hotShare)
	switch {
	case len(x.movers) < fewItems:
		from, share = 1, 1
	case budget/len(x.movers) >= hotChanges:
		from = hotter
	}
	if x.until.limit == 0 {
		from = max(from, share*x.scale*x.badness(&x.totals)/float64(len(x.movers))/x.meanItem)
	}
	if len(x.items) < tinyFleet {
		budget /= 2
		x.cool(budget, max(from, x.steepness()/x.meanItem))
		x.restore()
	}
	x.cool(budget, from)
	x.restore()
	for range firmer {
		if x.excess(&x.totals) == 0 {
			break
		}
		x.maxMoves.firm(float64(x.moves))
		x.maxGiB.firm(x.gib)
		x.until.firm(x.badness(&x.totals))
		x.cool(budget/firmer, hottest/firmer)
		x.restore()
	}
}

// steepness is what moving one item makes worse, on average over all that would.
func (x *search) steepness() float64 {
	sum, n, at := 0.0, 0.0, x.value(&x.totals)
	for _, i := range x.movers {
		for t := range x.hosts {
			if t := int32(t); t != x.at[i] && x.fits(i, t) {
				after := x.after(i, t)
				if v := x.value(&after); v > at {
					sum, n = sum+v-at, n+1
				}
			}
		}
	}
	return sum / max(n, 1)
}

// cool anneals from the temperature, in mean prices, to the coldest.
func (x *search) cool(budget int, from float64) {
	every := max(budget/adjustments, 1)
	crew := x.crew(every)
	for k := 0; k < budget; k += every {
		done := float64(k) / float64(budget)
		x.resum()
		x.until.follow(x.badness(&x.totals), done, followStep)
		x.maxMoves.follow(float64(x.moves), done, 2*followStep)
		x.maxGiB.follow(x.gib, done, 2*followStep)
		temperature := x.meanItem * from * math.Pow(coldest/from, done)
		x.note()
		if crew != nil {
			crew.run(every, temperature)
			continue
		}
		x.run(min(every, budget-k), temperature, budget/2-k)
	}
	x.evaluations += budget
	x.resum()
	x.note()
}

// run spends so many evaluations at a temperature. From the given one on it remembers the placement whenever that is
// better than any before and keeps the bounds.
func (x *search) run(evaluations int, temperature float64, noting int) {
	current := x.value(&x.totals)
	x.temperature = temperature
	for x.spent = 0; x.spent < evaluations*evaluation; {
		late := x.spent >= noting*evaluation
		x.spent += evaluation
		v := x.step(current, temperature*x.rng.exponential())
		if v != current && late && x.excess(&x.totals) == 0 && (x.bestValue[0] > 0 || x.cost(&x.totals) < x.bestValue[1]) {
			x.note()
		}
		current = v
	}
}

// step tries one change, takes it if it costs less than allowed, and returns the value then.
func (x *search) step(current, allowed float64) float64 {
	kind := x.rng.below(16)
	switch {
	case kind == 0:
		return x.swap(current, allowed)
	case kind < 3 || len(x.moved) == 0:
		return x.shift(x.pick(), current, allowed)
	case kind < 5:
		return x.shift(x.likely(), current, allowed)
	case kind < 7:
		return x.shift(x.someMoved(), current, allowed)
	case kind < 9:
		return x.exchange(x.someMoved(), x.moved, current, allowed)
	case kind < 10:
		return x.replace(current, allowed)
	}
	i := x.someReturn()
	if i < 0 {
		return current
	}
	home := x.items[i].home
	if kind < 13 {
		return x.relocate(i, home, current, allowed)
	}
	return x.exchange(i, x.on[home], current, allowed)
}

// swap exchanges an item of a full host with one of an empty host.
func (x *search) swap(current, allowed float64) float64 {
	i, there := x.pick(), x.on[x.target()]
	if i < 0 || len(there) == 0 {
		return current
	}
	return x.trade(i, there[x.rng.below(len(there))], current, allowed)
}

// trade lets two items change places.
func (x *search) trade(i, j int32, current, allowed float64) float64 {
	a, b := &x.items[i], &x.items[j]
	if a.rules != nil && b.rules != nil && x.share(i, j) {
		return x.both(i, x.at[j], j, x.at[i], current, allowed)
	}
	if x.at[i] == x.at[j] || !x.may[i] || !x.may[j] {
		return current
	}
	n, ok := x.traded(i, j)
	if !ok {
		return current
	}
	v := x.value(&n)
	if v-current >= allowed {
		return current
	}
	ti, tj := x.at[j], x.at[i]
	x.move(i, ti)
	x.move(j, tj)
	return v
}

func (x *search) someMoved() int32 { return x.moved[x.rng.below(len(x.moved))] }

// owns: the search may change the host.
func (x *search) owns(h int32) bool { return x.owner[h] == x.part }

// host returns any of the hosts that the search changes.
func (x *search) host() int32 { return x.mine[x.rng.below(len(x.mine))] }

// someReturn returns an item that has moved and whose home the search may change too; -1 if it hit on none.
func (x *search) someReturn() int32 {
	for range 4 {
		if i := x.someMoved(); x.owns(x.items[i].home) {
			return i
		}
	}
	return -1
}

// pick returns an item that may move, mostly of the fullest of three hosts; -1 if it hit on none.
func (x *search) pick() int32 {
	if x.few || x.rng.below(8) == 0 {
		if len(x.movers) == 0 {
			return -1
		}
		return x.movers[x.rng.below(len(x.movers))]
	}
	h := x.fullest()
	if len(x.on[h]) == 0 {
		return -1
	}
	return x.on[h][x.rng.below(len(x.on[h]))]
}

// fullest returns the fullest of three hosts.
func (x *search) fullest() int32 {
	h := x.host()
	for range 2 {
		if q := x.host(); x.full[q] > x.full[h] {
			h = q
		}
	}
	return h
}

// target returns the emptiest of three hosts.
func (x *search) target() int32 {
	h := x.host()
	for range 2 {
		if q := x.host(); x.full[q] < x.full[h] {
			h = q
		}
	}
	return h
}

func (x *search) relocate(i, t int32, current, allowed float64) float64 {
	if i < 0 || t == x.at[i] || !x.may[i] || !x.fits(i, t) {
		return current
	}
	n := x.after(i, t)
	v := x.value(&n)
	if v-current >= allowed {
		return current
	}
	x.move(i, t)
	return v
}

// both moves two items at once.
func (x *search) both(i, ti, j, tj int32, current, allowed float64) float64 {
	if i < 0 || j < 0 || i == j || ti == x.at[i] || tj == x.at[j] || !x.may[i] || !x.may[j] {
		return current
	}
	fi, fj := x.at[i], x.at[j]
	x.move(i, ti)
	if x.fits(j, tj) {
		x.move(j, tj)
		if x.still(i) {
			if v := x.value(&x.totals); v-current < allowed {
				return v
			}
		}
		x.move(j, fj)
	}
	x.move(i, fi)
	return current
}

// still: the item has a right to be where it is.
func (x *search) still(i int32) bool {
	s, h := x.state, x.at[i]
	c := &s.hosts[h]
	if s.loads[h].mem > c.memMax+slack || s.loads[h].cpu > c.cpuMax+slack || s.crowds(i, h, s.loads[h].vcpus) {
		return false
	}
	if s.bars(i, h) != "" {
		return false
	}
	for _, g := range s.items[i].groups() {
		if r := &s.groups[g.group]; r.apart && r.rank == required && s.count[s.cell(g, h)] > g.n && h != s.items[i].home {
			return false
		}
	}
	return true
}

// note remembers the placement if it exceeds the bounds by less, or as little and costs less, than what was remembered.
func (x *search) note() {
	v := [2]float64{x.excess(&x.totals), x.cost(&x.totals)}
	if v[0] < x.bestValue[0] || v[0] == x.bestValue[0] && v[1] < x.bestValue[1] {
		x.bestValue = v
		x.best = append(x.best[:0], x.at...)
	}
}

// restore returns to the best placement that was noted.
func (x *search) restore() {
	for i, h := range x.best {
		if x.at[i] != h {
			x.move(int32(i), h)
		}
	}
	x.resum()
}

// settle puts items that have to leave, the largest first, each to where it costs least, if that is less
// than where it is.
func (x *search) settle(items []int32) {
	for _, i := range items {
		if !x.mobile[i] {
			continue
		}
		best, at := x.value(&x.totals), int32(-1)
		for t := range x.hosts {
			t := int32(t)
			if t == x.at[i] || !x.fits(i, t) {
				continue
			}
			x.evaluations++
			n := x.after(i, t)
			if v := x.value(&n); v < best {
				best, at = v, t
			}
		}
		if at >= 0 {
			x.move(i, at)
		}
	}
}
