package balance

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"maps"
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
			for n := range x.items[steps[a].item].vms {
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
		for _, v := range x.items[s.item].vms {
			plan.Moves = append(plan.Moves, Move{
				VM: int(v), From: int(s.from), To: int(s.to), Wave: s.wave, After: after,
				Price: x.prices[v], Cause: cause, Rule: rule, Gain: gain,
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
	for _, g := range x.items[i].groups {
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
	if len(items) == 0 {
		return nil, 0, nil
	}
	res, err := x.ordered(items, 0)
	if err != nil {
		return nil, 0, err
	}
	if x.exceeds(items, res) {
		// As many of the most valuable as there is time for, and moves for staging.
		fits := sort.Search(len(items), func(n int) bool {
			r, e := x.ordered(items[:n+1], 0)
			err = errors.Join(err, e)
			return e != nil || x.exceeds(items, r)
		})
		x.giveUp(items[fits:], Bounded, "")
		items = items[:fits]
		if err != nil {
			return nil, 0, err
		}
		if res, err = x.ordered(items, 0); err != nil {
			return nil, 0, err
		}
	}
	for _, b := range res.Blocked {
		x.giveUp([]int32{items[b.Move]}, NoOrder, b.Reason)
	}
	steps := make([]step, len(res.Steps))
	for k, s := range res.Steps {
		steps[k] = step{item: items[s.Move], from: x.hostOf[s.From], to: x.hostOf[s.To], after: s.After, took: s.End - s.Start, leg: s.Leg}
	}
	pack(steps, len(x.hosts))
	if !x.replays(steps) {
		// Something that only a whole placement tells, such as CPU, is exceeded on the way: one by one then.
		steps = x.oneByOne(items)
	}
	return steps, res.Makespan, nil
}

// exceeds: the steps take more time than there is, or are more moves or bytes, as those through staging hosts
// count twice.
func (x *search) exceeds(items []int32, r order.Result) bool {
	moves, size := 0.0, 0.0
	for _, s := range r.Steps {
		it := &x.items[items[s.Move]]
		moves, size = moves+float64(it.moves), size+it.gib
	}
	return x.o.MaxTime > 0 && r.Makespan > x.o.MaxTime ||
		x.maxMoves.limit > 0 && moves > x.maxMoves.limit || x.maxGiB.limit > 0 && size > x.maxGiB.limit+slack
}

// within takes back what exceeds the bounds on moves and bytes.
func (x *search) within(items []int32) []int32 {
	moves, size := 0.0, 0.0
	return slices.DeleteFunc(items, func(i int32) bool {
		m, g := moves+float64(x.items[i].moves), size+x.items[i].gib
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
			Name: p.Name, FreeMemory: hypervisor.Bytes((x.hosts[h].memMax - start.mem[h]) * mib),
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
		for _, v := range it.vms {
			m.Bytes += x.prices[v].Bytes
		}
		in.Moves = append(in.Moves, m)
	}
	in.Apart = x.apart(moving)
	res, err := order.Schedule(in, order.Options{Evaluations: evaluations, MayStage: func(vm, host string) bool {
		return !slices.Contains(x.items[byName[vm]].avoid, x.hostOf[host])
	}})
	if err != nil {
		return res, fmt.Errorf("order of the moves: %w", err)
	}
	return res, nil
}

// nameOf is a name of the item that no other has.
func (x *search) nameOf(i int32) string {
	v := &x.p.VMs[x.items[i].vms[0]]
	return x.p.Hosts[v.Host].Name + "/" + v.Name
}

// apart are the required anti-affinity groups of which a member moves.
func (x *search) apart(moving map[int32]bool) []order.Group {
	members := make([]order.Group, len(x.groups))
	touched := make([]bool, len(x.groups))
	for i := range x.items {
		for _, m := range x.items[i].groups {
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

// replays: every prefix of the steps keeps the limits and breaks no required rule more than before.
func (x *search) replays(steps []step) bool {
	now := newState(x.compiled)
	for k := range steps {
		s := &steps[k]
		if now.at[s.item] != s.from || !now.fits(s.item, s.to) || now.worsens(s.item, s.to) {
			return false
		}
		now.move(s.item, s.to)
	}
	return true
}

// oneByOne are the items that can go one after another in this order, each straight to its place; the
// others go home.
func (x *search) oneByOne(items []int32) []step {
	now := newState(x.compiled)
	var steps []step
	var left []int32
	for _, i := range items {
		t := x.at[i]
		if t == x.items[i].home || !now.fits(i, t) || now.worsens(i, t) {
			left = append(left, i)
			continue
		}
		now.move(i, t)
		s := step{item: i, from: x.items[i].home, to: t, wave: len(steps) + 1}
		if len(steps) > 0 {
			s.after = []int{len(steps) - 1}
		}
		steps = append(steps, s)
	}
	x.giveUp(left, NoOrder, "")
	return steps
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

// candidate is a move that waits for its turn.
type candidate struct {
	item  int32
	worth float64 // value gained per price, when last looked at
}

type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(a, b int) bool {
	return cmp.Or(cmp.Compare(c[b].worth, c[a].worth), cmp.Compare(c[a].item, c[b].item)) < 0
}
func (c candidates) Swap(a, b int) { c[a], c[b] = c[b], c[a] }
func (c *candidates) Push(v any)   { *c = append(*c, v.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// sequence orders the moved items so that each fits when its turn comes, the best first; those that never
// fit come last. Gains shrink as others are made, so a move is looked at again only when it comes up.
func (x *search) sequence() []int32 {
	now := &search{state: newState(x.compiled)}
	queue := make(candidates, 0, len(x.moved))
	waiting := make(map[int32][]int32) // by the host that has no room
	for _, i := range x.moved {
		queue = append(queue, candidate{i, now.worth(i, x.at[i])})
	}
	heap.Init(&queue)
	var out []int32
	for len(queue) > 0 {
		c := heap.Pop(&queue).(candidate)
		t := x.at[c.item]
		if !now.fits(c.item, t) {
			waiting[t] = append(waiting[t], c.item)
			continue
		}
		if w := now.worth(c.item, t); len(queue) > 0 && w < queue[0].worth {
			heap.Push(&queue, candidate{c.item, w})
			continue
		}
		from := now.at[c.item]
		now.move(c.item, t)
		out = append(out, c.item)
		for _, i := range waiting[from] {
			heap.Push(&queue, candidate{i, now.worth(i, x.at[i])})
		}
		delete(waiting, from)
	}
	for _, h := range slices.Sorted(maps.Keys(waiting)) {
		out = append(out, waiting[h]...)
	}
	return out
}

// worth is what a move gains for its price, others as they are.
func (x *search) worth(i, t int32) float64 {
	n := x.after(i, t)
	gain := x.scale*(x.badness(&x.totals)-x.badness(&n)) +
		float64(x.broken[preferred]-n.broken[preferred])*x.breach[preferred] +
		float64(x.broken[required]+x.stranded-n.broken[required]-n.stranded)*x.breach[required]
	return gain / x.items[i].price
}
