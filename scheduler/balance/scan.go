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
	// likelyHeat: chance decides where a domain is likely to be worth its move as if it were that much hotter.
	likelyHeat = 2
	// lookAgain: an item that was not welcome enough anywhere is left where it is, without a look at the hosts, except
	// in one of so many steps.
	lookAgain = 4
)

// slope is what the Score costs at the margin: its deviations are nearly straight in the sums that they are of.
type slope struct {
	free, load, meanFree, meanLoad float64
	f1, f2, l1, l2, weight, earned float64 // that it was taken of
}

// incline takes the slope where the placement is.
func (x *search) incline() {
	if !x.scored || x.onHosts == 0 {
		return
	}
	p := &x.slope
	if p.f2 == x.f2 && p.l2 == x.l2 && p.f1 == x.f1 && p.l1 == x.l1 && p.weight == x.until.weight && p.earned == x.until.earned {
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
	*p = slope{per(x.f1, x.f2), per(x.l1, x.l2), x.f1 / x.onHosts, x.l1 / x.onHosts, x.f1, x.f2, x.l1, x.l2, x.until.weight, x.until.earned}
}

// felt is about what it costs that a host's loads change.
func (x *search) felt(h int32, d change) float64 {
	if !x.scored {
		if l := &x.loads[h]; x.hosts[h].counts {
			return x.scale * (x.hostCost(h, l.cpu+d.cpu, l.vari+d.vari, l.mem+d.mem, l.net+d.net) - l.cost)
		}
		return 0
	}
	return x.slope.of(&x.glances[h], d.mem, d.cpu)
}

// of is about what it costs that so much memory and CPU comes to the host.
func (p *slope) of(g *glance, mem, cpu float64) float64 {
	free, load := -mem*g.perMem, cpu*g.perCPU
	return p.free*free*(2*(g.free-p.meanFree)+free) + p.load*load*(2*(g.load-p.meanLoad)+load)
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
	if x.stranded == 0 && x.broken == [2]int{} {
		return 0 // no breach of any
	}
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

// survey looks at where each item would be welcome most.
func (x *search) survey() {
	x.incline()
	for _, i := range x.movers {
		it, least := &x.items[i], math.Inf(1)
		comes := it.comes()
		for k, n := x.rng.below(len(x.mine)), min(len(x.mine), longestScan); n > 0; n-- {
			if k++; k >= len(x.mine) {
				k = 0
			}
			if t := x.mine[k]; t != it.home && t != x.at[i] {
				least = min(least, x.felt(t, comes))
			}
		}
		x.welcome[i] = least
	}
}

// shift puts an item on another host, though not back home.
func (x *search) shift(i int32, current, allowed float64) float64 {
	if i < 0 || !x.may[i] {
		return current
	}
	x.incline()
	it, from := &x.items[i], x.at[i]
	most := allowed*(1+nearly) + x.hope(i) - x.felt(from, it.leaves()) - x.toll(it, nil, from, -1)
	if x.welcome[i] > most && x.rng.below(lookAgain) > 0 {
		return current
	}
	comes, least := it.comes(), math.Inf(1)
	for k, n := x.rng.below(len(x.mine)), min(len(x.mine), longestScan); n > 0; n-- {
		x.spent++
		if k++; k >= len(x.mine) {
			k = 0
		}
		t := x.mine[k]
		if t == it.home || t == from {
			continue
		}
		e := 0.0
		if x.scored {
			e = x.slope.of(&x.glances[t], comes.mem, comes.cpu)
		} else {
			e = x.felt(t, comes)
		}
		if e >= most {
			least = min(least, e)
			continue
		}
		if v := x.relocate(i, t, current, allowed); v != current {
			x.welcome[i] = min(x.welcome[i], e)
			return v
		}
		least = min(least, most) // there may be room another time
	}
	x.welcome[i] = least
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
		b := x.at[j]
		if a == b {
			continue
		}
		y, e := &x.items[j], 0.0
		if x.scored {
			mem, cpu := y.mem-it.mem, y.cpu-it.cpu
			e = x.slope.of(&x.glances[a], mem, cpu) + x.slope.of(&x.glances[b], -mem, -cpu)
		} else {
			d := change{mem: y.mem - it.mem, cpu: y.cpu - it.cpu, vari: y.vari - it.vari, net: y.net - it.net}
			e = x.felt(a, d) + x.felt(b, change{mem: -d.mem, cpu: -d.cpu, vari: -d.vari, net: -d.net})
		}
		if it.home == a || it.home == b || y.home == a || y.home == b {
			e += x.toll(it, y, a, b)
		}
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
		if e := x.felt(h, it.leaves()) + it.price + x.welcome[i] - likelyHeat*x.temperature*x.rng.exponential(); e < best {
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
