package balance

import "math"

const (
	// The search starts accepting what costs about a tenth of a move more, and ends at a hundredth of that.
	hottest, coldest = 0.1, 0.01
	// adjustEvery evaluations the multipliers of the bounds follow how well they are kept.
	adjustEvery = 2000
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

// bound is a limit that the search may exceed on its way, at a price that it learns.
type bound struct {
	limit  float64 // 0 is none
	weight float64 // price units per unit above
	step   float64 // by which the weight grows
}

func (b *bound) over(x float64) float64 {
	if b.limit <= 0 || x <= b.limit {
		return 0
	}
	return b.weight * (x - b.limit)
}

// adjust raises the weight while the bound is exceeded and lowers it otherwise, within reason.
func (b *bound) adjust(x float64) {
	if x > b.limit {
		b.weight *= b.step
	} else {
		b.weight /= b.step
	}
}

// search improves a placement.
type search struct {
	*state
	rng         random
	movers      []int32 // items that may move
	until       bound
	maxMoves    bound
	maxGiB      bound
	evaluations int
	gaveUp      map[int32]given // wanted moves that are not in the plan
	best        []int32         // the best placement seen that keeps the bounds; by item
	bestValue   float64
}

func newSearch(s *state, movers []int32) *search {
	o := &s.o
	x := &search{state: s, rng: random(o.Seed + 1), movers: movers, bestValue: math.Inf(1), gaveUp: map[int32]given{}}
	x.until = bound{limit: o.Until, weight: 20000, step: 1.01}
	x.maxMoves = bound{limit: float64(o.MaxMoves), weight: s.meanItem, step: 1.02}
	x.maxGiB = bound{limit: float64(o.MaxBytes) / gib, weight: s.meanItem / 8, step: 1.02}
	return x
}

// value is what the search makes small, in price units.
func (x *search) value(t *totals) float64 {
	v := t.price + float64(t.broken[preferred])*x.breach[preferred] + float64(t.broken[required]+t.stranded)*x.breach[required]
	if b := x.badness(t); x.until.limit == 0 {
		v += x.scale * b
	} else if b > x.until.limit {
		v += x.until.weight * (b - x.until.limit)
	} else {
		// A little for being better than asked, so that there is a way down.
		v -= 0.02 * x.until.weight * (x.until.limit - b)
	}
	return v + x.maxMoves.over(float64(t.moves)) + x.maxGiB.over(t.gib)
}

// keeps: the placement is within the bounds.
func (x *search) keeps(t *totals) bool {
	return (x.maxMoves.limit == 0 || float64(t.moves) <= x.maxMoves.limit) &&
		(x.maxGiB.limit == 0 || t.gib <= x.maxGiB.limit) &&
		(x.until.limit == 0 || x.badness(t) <= x.until.limit)
}

// anneal spends the budget and leaves the state at the best placement that it found.
func (x *search) anneal(budget int) {
	if len(x.movers) == 0 || len(x.hosts) < 2 {
		return
	}
	hot := hottest * x.meanItem
	current := x.value(&x.totals)
	x.note()
	temperature := hot
	for end, next := x.evaluations+budget, x.evaluations; x.evaluations < end; x.evaluations++ {
		if x.evaluations >= next {
			next += adjustEvery
			x.resum()
			x.until.adjustIf(x.badness(&x.totals))
			x.maxMoves.adjustIf(float64(x.moves))
			x.maxGiB.adjustIf(x.gib)
			current = x.value(&x.totals)
			x.note()
			done := 1 - float64(end-x.evaluations)/float64(budget)
			temperature = hot * math.Pow(coldest/hottest, done)
		}
		current = x.step(current, temperature*x.rng.exponential())
	}
	x.resum()
	x.note()
	x.restore()
}

func (b *bound) adjustIf(x float64) {
	if b.limit > 0 {
		b.adjust(x)
	}
}

// step tries one change, takes it if it costs less than allowed, and returns the value then.
func (x *search) step(current, allowed float64) float64 {
	kind := x.rng.below(16)
	switch {
	case kind < 6 || len(x.moved) == 0:
		return x.relocate(x.pick(), x.target(), current, allowed)
	case kind < 8:
		return x.relocate(x.someMoved(), x.target(), current, allowed)
	case kind < 9:
		i := x.someMoved()
		return x.relocate(i, x.items[i].home, current, allowed)
	case kind < 14:
		return x.replace(kind == 9, current, allowed)
	default:
		i, j := x.someMoved(), x.someMoved()
		return x.both(i, x.at[j], j, x.at[i], current, allowed)
	}
}

// replace takes a move back and lets another domain go instead: one of the same host, or, if anyone, of any.
func (x *search) replace(anyone bool, current, allowed float64) float64 {
	i := x.someMoved()
	home, t := x.items[i].home, x.at[i]
	if anyone {
		j := x.pick()
		if j >= 0 && x.rng.below(2) == 0 {
			t = x.target()
		}
		return x.both(i, home, j, t, current, allowed)
	}
	there := x.on[home]
	if len(there) == 0 {
		return current
	}
	return x.both(i, home, there[x.rng.below(len(there))], t, current, allowed)
}

func (x *search) someMoved() int32 { return x.moved[x.rng.below(len(x.moved))] }

// full is how loaded a host is.
func (x *search) full(h int32) float64 {
	c := &x.hosts[h]
	return x.cpu[h]*c.perCPU + x.mem[h]*c.perMem
}

// pick returns an item that may move, mostly of the fullest of three hosts; -1 if it hit on none.
func (x *search) pick() int32 {
	if len(x.movers) < len(x.items)/2 || x.rng.below(8) == 0 {
		return x.movers[x.rng.below(len(x.movers))]
	}
	h := int32(x.rng.below(len(x.hosts)))
	for range 2 {
		if q := int32(x.rng.below(len(x.hosts))); x.full(q) > x.full(h) {
			h = q
		}
	}
	if len(x.on[h]) == 0 {
		return -1
	}
	return x.on[h][x.rng.below(len(x.on[h]))]
}

// target returns the emptiest of three hosts.
func (x *search) target() int32 {
	h := int32(x.rng.below(len(x.hosts)))
	for range 2 {
		if q := int32(x.rng.below(len(x.hosts))); x.full(q) < x.full(h) {
			h = q
		}
	}
	return h
}

func (x *search) relocate(i, t int32, current, allowed float64) float64 {
	if i < 0 || t == x.at[i] || !x.items[i].movable || !x.fits(i, t) {
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
	if i < 0 || j < 0 || i == j || ti == x.at[i] || tj == x.at[j] || !x.items[i].movable || !x.items[j].movable {
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
	if s.mem[h] > c.memMax+slack || s.cpu[h] > c.cpuMax+slack {
		return false
	}
	if h == s.items[i].home {
		return true
	}
	if !c.takes {
		return false
	}
	for _, g := range s.items[i].groups {
		if r := &s.groups[g.group]; r.apart && r.rank == required && s.count[s.cell(g, h)] > g.n {
			return false
		}
	}
	for _, a := range s.items[i].avoid {
		if a == h {
			return false
		}
	}
	return true
}

// note remembers the placement if it keeps the bounds and is better than what was remembered.
func (x *search) note() {
	if !x.keeps(&x.totals) {
		return
	}
	v := x.price + float64(x.broken[preferred])*x.breach[preferred] + float64(x.broken[required]+x.stranded)*x.breach[required]
	if x.until.limit == 0 {
		v += x.scale * x.badness(&x.totals)
	}
	if v < x.bestValue {
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
		if !x.items[i].movable {
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
