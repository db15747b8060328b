package balance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"drover/hypervisor"
	"drover/scheduler/order"
)

// step is one migration of an item: all of the way, or to a staging host or from it.
type step struct {
	item     int32
	from, to int32
	after    []int // steps
	wave     int
	took     time.Duration
	leg      order.Leg
}

// finish fills in the plan's moves from the placement found, and takes those back that can't be reached.
func (x *search) finish(plan *Plan, emptied map[int]bool) error {
	steps, makespan, err := x.schedule(x.sequence())
	if err != nil {
		return err
	}
	plan.Makespan = makespan
	first := make([]int, len(steps)) // index of each step's first move
	for k := range steps {
		s := &steps[k]
		first[k] = len(plan.Moves)
		var after []int
		for _, a := range s.after {
			for n := range x.vms[steps[a].item] {
				after = append(after, first[a]+n)
			}
		}
		gain, cause, rule := x.gain(s.item), x.cause(s.item, emptied), ""
		if s.leg == order.ToStaging {
			cause = ToStage
		}
		if cause == ToMend {
			rule = x.mends(s.item)
		}
		for _, v := range x.vms[s.item] {
			plan.Moves = append(plan.Moves, Move{
				VM: int(v), From: int(s.from), To: int(s.to), Wave: s.wave, After: after,
				Price: x.prices[v], Cause: cause, Rule: rule, Gain: gain, Cost: x.items[s.item].price,
			})
		}
	}
	return nil
}

// gain is what taking the item's move back would lose, in price units.
func (x *search) gain(i int32) float64 {
	n := x.after(i, x.items[i].home)
	return x.value(&n) - x.value(&x.totals)
}

func (x *search) cause(i int32, emptied map[int]bool) Cause {
	it := &x.items[i]
	n := x.after(i, it.home)
	switch {
	case emptied[int(it.home)]:
		return ToEmpty
	case !x.hosts[it.home].counts:
		return ToDrain
	case n.broken[required] > x.broken[required]:
		return ToMend
	case !x.fits(i, it.home):
		return ToRoom
	}
	return ToEven
}

// mends names a required rule that would be broken more with the item at home.
func (x *search) mends(i int32) string {
	for _, g := range x.items[i].groups() {
		r := &x.groups[g.group]
		c := x.cell(g, x.at[i])
		x.count[c] -= g.n
		more := x.joining(g, x.items[i].home) > x.joining(g, x.at[i])
		x.count[c] += g.n
		if r.rank == required && more {
			return r.name
		}
	}
	return ""
}

// schedule turns items that have moved, the most valuable first, into steps. Items that can't be brought
// where they are go home again.
func (x *search) schedule(items []int32) ([]step, time.Duration, error) {
	items = x.within(items)
	t, items, err := x.timetable(items)
	if err != nil {
		return nil, 0, err
	}
	if x.exceeds(t) {
		// As many of the most valuable as there is time for, and moves for staging.
		fits := sort.Search(len(items), func(n int) bool {
			r, e := x.attempt(items[:n+1])
			err = errors.Join(err, e)
			return e != nil || x.exceeds(r)
		})
		if err != nil {
			return nil, 0, err
		}
		x.giveUp(items[fits:], Bounded, "")
		if t, items, err = x.timetable(items[:fits]); err != nil {
			return nil, 0, err
		}
	}
	for _, b := range t.blocked {
		x.giveUp([]int32{items[b.Move]}, NoOrder, b.Reason)
	}
	pack(t.steps, len(x.hosts))
	if x.exceeds(t) || !x.replays(t.steps) {
		t = x.oneByOne(items)
	}
	return t.steps, t.makespan, nil
}

// exceeds: the steps take more time than there is, or are more moves or bytes, as those through staging hosts
// count twice.
func (x *search) exceeds(t timetable) bool {
	moves, size := 0.0, 0.0
	for _, s := range t.steps {
		it := &x.items[s.item]
		moves, size = moves+float64(it.moves), size+it.gib()
	}
	return x.o.MaxTime > 0 && t.makespan > x.o.MaxTime ||
		x.maxMoves.limit > 0 && moves > x.maxMoves.limit || x.maxGiB.limit > 0 && size > x.maxGiB.limit+slack
}

// within takes back what exceeds the bounds on moves and bytes.
func (x *search) within(items []int32) []int32 {
	moves, size := 0.0, 0.0
	return slices.DeleteFunc(items, func(i int32) bool {
		m, g := moves+float64(x.items[i].moves), size+x.items[i].gib()
		if x.maxMoves.limit > 0 && m > x.maxMoves.limit || x.maxGiB.limit > 0 && g > x.maxGiB.limit+slack {
			x.giveUp([]int32{i}, Bounded, "")
			return true
		}
		moves, size = m, g
		return false
	})
}

// ordered asks scheduler/order, with the given budget.
func (x *search) ordered(items []int32, evaluations int) (order.Result, error) {
	start := newState(x.compiled)
	in := order.Input{Hosts: make([]order.Host, len(x.hosts))}
	for h := range x.hosts {
		p := &x.p.Hosts[h]
		rate := hypervisor.BytesPerSecond(float64(p.Link) * linkShare)
		in.Hosts[h] = order.Host{
			Name: p.Name, FreeMemory: hypervisor.Bytes((x.hosts[h].memMax - start.loads[h].mem) * mib),
			In: rate, Out: rate, Staging: x.hosts[h].takes,
		}
	}
	moving := make(map[int32]bool, len(items))
	byName := make(map[string]int32, len(items))
	for _, i := range items {
		moving[i] = true
		name := x.nameOf(i)
		byName[name] = i
		it := &x.items[i]
		m := order.Move{VM: name, From: x.p.Hosts[it.home].Name, To: x.p.Hosts[x.at[i]].Name, Memory: hypervisor.Bytes(it.mem * mib)}
		for _, v := range x.vms[i] {
			m.Bytes += x.prices[v].Bytes
		}
		in.Moves = append(in.Moves, m)
	}
	in.Apart = x.apart(moving)
	res, err := order.Schedule(in, order.Options{Evaluations: evaluations, MayStage: func(vm, host string) bool {
		return !x.items[byName[vm]].avoids(x.hostOf[host])
	}})
	if err != nil {
		return res, fmt.Errorf("order of the moves: %w", err)
	}
	return res, nil
}

// nameOf is a name of the item that no other has.
func (x *search) nameOf(i int32) string {
	v := &x.p.VMs[x.vms[i][0]]
	return x.p.Hosts[v.Host].Name + "/" + v.Name
}

// apart are the required anti-affinity groups of which a member moves.
func (x *search) apart(moving map[int32]bool) []order.Group {
	members := make([]order.Group, len(x.groups))
	touched := make([]bool, len(x.groups))
	for i := range x.items {
		for _, m := range x.items[i].groups() {
			if g := &x.groups[m.group]; !g.apart || g.rank != required {
				continue
			}
			out := &members[m.group]
			if moving[int32(i)] {
				touched[m.group] = true
				out.VMs = append(out.VMs, x.nameOf(int32(i)))
			} else {
				out.Hosts = append(out.Hosts, x.p.Hosts[x.at[i]].Name)
			}
		}
	}
	var out []order.Group
	for g := range members {
		if touched[g] {
			members[g].Name = fmt.Sprint(g)
			out = append(out, members[g])
		}
	}
	return out
}

// pack gives the steps waves: each comes after those it waits for, and a host has one step in a wave. A wave
// lasts as long as its longest step, so either steps that take long share a wave with others that do, or
// those come first whose hosts have most to do; what is done sooner is taken. Then it sorts the steps by wave.
func pack(steps []step, hosts int) {
	longest, byLength := waves(steps, hosts, func(s *step, _ []time.Duration) time.Duration { return s.took })
	busiest, byHost := waves(steps, hosts, func(s *step, left []time.Duration) time.Duration {
		return max(left[s.from], left[s.to])
	})
	if byHost < byLength {
		longest = busiest
	}
	for k := range steps {
		steps[k].wave = longest[k]
	}
	sortSteps(steps)
}

// waves fills one wave after another with the steps that rank highest, given what each host has left to do,
// and returns each step's wave and how long all of them take.
func waves(steps []step, hosts int, rank func(s *step, left []time.Duration) time.Duration) ([]int, time.Duration) {
	wave := make([]int, len(steps))
	waiting := make([]int, len(steps))
	next := make([][]int, len(steps))
	left := make([]time.Duration, hosts)
	order := make([]int, len(steps))
	for k := range steps {
		order[k] = k
		waiting[k] = len(steps[k].after)
		for _, a := range steps[k].after {
			next[a] = append(next[a], k)
		}
		left[steps[k].from] += steps[k].took
		left[steps[k].to] += steps[k].took
	}
	total := time.Duration(0)
	for n := 1; len(order) > 0; n++ {
		slices.SortStableFunc(order, func(a, b int) int {
			return cmp.Or(cmp.Compare(rank(&steps[b], left), rank(&steps[a], left)), cmp.Compare(steps[b].took, steps[a].took))
		})
		busy := make([]bool, hosts)
		var taken []int
		length := time.Duration(0)
		for _, k := range order {
			s := &steps[k]
			// What would make the wave a quarter longer waits for another.
			if waiting[k] > 0 || busy[s.from] || busy[s.to] || len(taken) > 0 && s.took > length+length/4 {
				continue
			}
			busy[s.from], busy[s.to] = true, true
			wave[k] = n
			length = max(length, s.took)
			taken = append(taken, k)
		}
		for _, k := range taken {
			left[steps[k].from] -= steps[k].took
			left[steps[k].to] -= steps[k].took
			for _, m := range next[k] {
				waiting[m]--
			}
		}
		order = slices.DeleteFunc(order, func(k int) bool { return wave[k] > 0 })
		total += length
	}
	return wave, total
}

// sortSteps sorts by wave and brings the indexes along.
func sortSteps(steps []step) {
	old := slices.Clone(steps)
	by := make([]int, len(steps))
	for k := range by {
		by[k] = k
	}
	slices.SortStableFunc(by, func(a, b int) int { return cmp.Compare(old[a].wave, old[b].wave) })
	at := make([]int, len(steps))
	for k, o := range by {
		at[o] = k
	}
	for k, o := range by {
		s := old[o]
		s.after = slices.Clone(s.after)
		for n, a := range s.after {
			s.after[n] = at[a]
		}
		slices.Sort(s.after)
		steps[k] = s
	}
}

// giveUp takes moves back and notes why.
func (x *search) giveUp(items []int32, why Why, detail string) {
	for _, i := range items {
		if x.at[i] != x.items[i].home {
			x.move(i, x.items[i].home)
		}
		x.gaveUp[i] = given{why, detail}
	}
}

// given is why a move that was wanted is not in the plan.
type given struct {
	why    Why
	detail string
}
