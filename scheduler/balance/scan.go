package balance

import "math"

// A step judges what it may do with an item, one after another from any on, and takes the first that costs less than
// allowed. What a candidate does to loads is reckoned at the slope of the objective, in a few nanoseconds; only what
// seems to cost little enough is judged in full.

const (
	// longestScan is how many candidates a step goes through at most.
	longestScan = 100
	// evaluation is how many candidates are seen to in the time of one that is judged in full.
	evaluation = 8
	// nearly is how much more than allowed a candidate may seem to cost, as a share.
	nearly = 0.1
	// Where a domain is likely to be worth its move, the target gains about as much as the source; chance decides as
	// if it were that much hotter.
	bothEnds, likelyHeat = 2, 2
)

// slope is what the Score costs at the margin: its deviations are nearly straight in the sums that they are of.
type slope struct{ free, load, meanFree, meanLoad float64 }

// incline takes the slope where the placement is.
func (x *search) incline() {
	if !x.scored || x.onHosts == 0 {
		return
	}
	w := x.scale
	if b := &x.until; b.limit > 0 {
		w = b.weight
		if x.badness(&x.totals) <= b.limit {
			w *= b.earned
		}
	}
	per := func(sum, squares float64) float64 {
		return w / (2 * x.onHosts * max(deviation(sum, squares, x.onHosts), slack))
	}
	x.slope = slope{per(x.f1, x.f2), per(x.l1, x.l2), x.f1 / x.onHosts, x.l1 / x.onHosts}
}

// felt is about what it costs that a host's loads change.
func (x *search) felt(h int32, d change) float64 {
	c, l, p := &x.hosts[h], &x.loads[h], &x.slope
	switch {
	case !c.counts:
		return 0
	case !x.scored:
		return x.scale * (x.hostCost(h, l.cpu+d.cpu, l.vari+d.vari, l.mem+d.mem, l.net+d.net) - l.cost)
	}
	free, load := -d.mem*c.perMem, d.cpu*c.perCPU
	return p.free*free*(2*(l.free-p.meanFree)+free) + p.load*load*(2*(l.load-p.meanLoad)+load)
}

// toll is what it costs, apart from loads and rules, that items go from a to b and others from b to a.
func (x *search) toll(there, back *item, a, b int32) float64 {
	price, gib, moves := 0.0, 0.0, 0.0
	add := func(it *item, sign float64) {
		price, gib, moves = price+sign*it.price, gib+sign*it.gib(), moves+sign*float64(it.moves)
	}
	switch there.home {
	case a:
		add(there, 1)
	case b:
		add(there, -1)
	}
	if back != nil {
		switch back.home {
		case b:
			add(back, 1)
		case a:
			add(back, -1)
		}
	}
	if moves != 0 {
		n := float64(x.moves)
		price += x.maxMoves.price(n+moves) - x.maxMoves.price(n)
	}
	if gib != 0 {
		price += x.maxGiB.price(x.gib+gib) - x.maxGiB.price(x.gib)
	}
	return price
}

// hope is what an item may gain at most by leaving, apart from loads: breaches that it has a part in.
func (x *search) hope(i int32) float64 {
	it, from, sum := &x.items[i], x.at[i], 0.0
	if !x.hosts[from].counts {
		sum = float64(it.moves) * x.breach[required]
	}
	for _, g := range it.groups() {
		c := x.cell(g, from)
		x.count[c] -= g.n
		sum += float64(x.joining(g, from)) * x.breach[x.groups[g.group].rank]
		x.count[c] += g.n
	}
	return sum
}

// shift puts an item on another host, though not back home.
func (x *search) shift(i int32, current, allowed float64) float64 {
	if i < 0 || !x.may[i] {
		return current
	}
	x.incline()
	it, from := &x.items[i], x.at[i]
	most := allowed*(1+nearly) + x.hope(i) - x.felt(from, it.leaves()) - x.toll(it, nil, from, -1)
	comes := it.comes()
	for k, n := x.rng.below(len(x.mine)), min(len(x.mine), longestScan); n > 0; n-- {
		x.spent++
		if k++; k >= len(x.mine) {
			k = 0
		}
		if t := x.mine[k]; t != it.home && x.felt(t, comes) < most {
			if v := x.relocate(i, t, current, allowed); v != current {
				return v
			}
		}
	}
	return current
}

// exchange lets an item change places with one of a list.
func (x *search) exchange(i int32, list []int32, current, allowed float64) float64 {
	if len(list) == 0 {
		return current
	}
	x.incline()
	it, a := &x.items[i], x.at[i]
	most := allowed*(1+nearly) + x.hope(i)
	for k, n := x.rng.below(len(list)), min(len(list), longestScan); n > 0; n-- {
		x.spent++
		if k++; k >= len(list) {
			k = 0
		}
		j := list[k]
		y, b := &x.items[j], x.at[j]
		if a == b {
			continue
		}
		d := change{mem: y.mem - it.mem, cpu: y.cpu - it.cpu, vari: y.vari - it.vari, net: y.net - it.net}
		e := x.toll(it, y, a, b) + x.felt(a, d) + x.felt(b, change{mem: -d.mem, cpu: -d.cpu, vari: -d.vari, net: -d.net})
		if y.rules != nil {
			e -= x.hope(j)
		}
		if e < most {
			if v := x.trade(i, j, current, allowed); v != current {
				return v
			}
		}
	}
	return current
}

// likely returns an item that may be worth a move, of the fullest of three hosts; -1 if there is none.
func (x *search) likely() int32 {
	if x.few {
		return x.pick()
	}
	x.incline()
	h, best, at := x.fullest(), math.Inf(1), int32(-1)
	for _, i := range x.on[h] {
		x.spent++
		it := &x.items[i]
		if it.home != h {
			continue
		}
		if e := bothEnds*x.felt(h, it.leaves()) + it.price - likelyHeat*x.temperature*x.rng.exponential(); e < best {
			best, at = e, i
		}
	}
	return at
}

// replace takes a move back and lets another domain go instead, anywhere.
func (x *search) replace(current, allowed float64) float64 {
	i := x.someReturn()
	if i < 0 || !x.may[i] {
		return current
	}
	home, t := x.items[i].home, x.at[i]
	if !x.fits(i, home) {
		return current
	}
	x.move(i, home)
	between := x.value(&x.totals)
	if v := x.shift(x.likely(), between, current+allowed-between); v != between {
		return v
	}
	x.move(i, t)
	return current
}
