package balance

import (
	"slices"
	"time"

	"drover/scheduler/order"
)

// timetable is in which order a set of items goes.
type timetable struct {
	steps    []step
	makespan time.Duration
	blocked  []order.Blocked
	stuck    []int32 // items that wait for each other's CPU, or whose rules let none go first
}

// mostStuck is how often items that wait for each other are left out and the others tried again.
const mostStuck = 4

// timetable orders the items, without those that wait for each other: these go home. It returns the rest too.
func (x *search) timetable(items []int32) (timetable, []int32, error) {
	for n := 0; ; n++ {
		t, err := x.attempt(items)
		if err != nil || len(t.stuck) == 0 {
			return t, items, err
		}
		if n == mostStuck {
			return x.oneByOne(items), items, nil
		}
		x.giveUp(t.stuck, NoOrder, "")
		items = slices.DeleteFunc(slices.Clone(items), func(i int32) bool { return slices.Contains(t.stuck, i) })
	}
}

// attempt orders the items: memory and anti-affinity as scheduler/order does, then CPU and the other rules.
func (x *search) attempt(items []int32) (timetable, error) {
	if len(items) == 0 {
		return timetable{}, nil
	}
	res, err := x.ordered(items, 0)
	if err != nil {
		return timetable{}, err
	}
	steps := make([]step, len(res.Steps))
	for k, s := range res.Steps {
		steps[k] = step{item: items[s.Move], from: x.hostOf[s.From], to: x.hostOf[s.To], after: s.After, took: s.End - s.Start, leg: s.Leg}
	}
	steps, stuck := x.reordered(steps)
	t := timetable{steps: steps, makespan: res.Makespan, blocked: res.Blocked, stuck: stuck}
	if x.wait(steps) {
		t.makespan = max(t.makespan, x.lasts(steps))
	}
	return t, nil
}

// reordered puts the steps in an order in which each finds the CPU that it needs, and breaks no required rule
// more, by putting off those that don't. Items with steps that never can are returned besides.
func (x *search) reordered(steps []step) ([]step, []int32) {
	now := newState(x.compiled)
	at := make([]int, len(steps)) // by step: its place in the new order, or -1
	for k := range at {
		at[k] = -1
	}
	out := make([]step, 0, len(steps))
	ready := func(k int) bool {
		s := &steps[k]
		return at[k] < 0 && !slices.ContainsFunc(s.after, func(a int) bool { return at[a] < 0 }) &&
			now.at[s.item] == s.from && now.fits(s.item, s.to) && !now.worsens(s.item, s.to)
	}
	for progress := true; progress; {
		progress = false
		for k := range steps {
			if !ready(k) {
				continue
			}
			now.move(steps[k].item, steps[k].to)
			at[k], progress = len(out), true
			out = append(out, steps[k])
		}
	}
	var stuck []int32
	for k := range steps {
		if i := steps[k].item; at[k] < 0 && !slices.Contains(stuck, i) {
			stuck = append(stuck, i)
		}
	}
	if len(stuck) > 0 {
		return nil, stuck
	}
	for k := range out {
		after := slices.Clone(out[k].after)
		for n, a := range after {
			after[n] = at[a]
		}
		slices.Sort(after)
		out[k].after = after
	}
	return out, nil
}

// freed is what a host has to give: from the start, or since a step left it.
type freed struct {
	by     int // the step, or -1
	amount float64
}

// supply is what hosts have to give of one thing, the longest free first. A host that has less than nothing owes
// that to its limit.
type supply [][]freed

// take gives a step what it needs on a host, and returns the steps that have left it there.
func (s supply) take(h int32, need float64) (by []int) {
	for need > slack && len(s[h]) > 0 {
		f := &s[h][0]
		take := min(need, f.amount)
		need -= take
		f.amount -= take
		if take > 0 && f.by >= 0 {
			by = append(by, f.by)
		}
		if f.amount <= slack {
			s[h] = s[h][1:]
		}
	}
	return by
}

// leave is what a step gives back to a host.
func (s supply) leave(h int32, by int, amount float64) { s[h] = append(s[h], freed{by, amount}) }

// wait lets each step wait for those whose CPU and vCPUs it gets, and members of a required affinity group for
// each other, so that limits and rules hold however long each step takes. Each core that becomes free is given to
// one step, the longest free first. The steps must fit in this order. It reports whether there was anything to
// wait for.
func (x *search) wait(steps []step) bool {
	start := newState(x.compiled)
	cpu, vcpus := make(supply, len(x.hosts)), make(supply, len(x.hosts))
	for h := range x.hosts {
		cpu[h] = []freed{{-1, x.hosts[h].cpuMax - start.loads[h].cpu}}
		vcpus[h] = []freed{{-1, x.hosts[h].vcpuMax - start.loads[h].vcpus}}
	}
	last := make(map[int32]int) // by group: the last step of a member
	any := false
	for k := range steps {
		s := &steps[k]
		it := &x.items[s.item]
		before := len(s.after)
		s.after = append(append(s.after, cpu.take(s.to, it.cpu)...), vcpus.take(s.to, it.vcpus)...)
		cpu.leave(s.from, k, it.cpu)
		vcpus.leave(s.from, k, it.vcpus)
		for _, g := range it.groups() {
			if r := &x.groups[g.group]; r.apart || r.rank != required {
				continue
			}
			if l, ok := last[g.group]; ok {
				s.after = append(s.after, l)
			}
			last[g.group] = k
		}
		slices.Sort(s.after)
		s.after = slices.Compact(s.after)
		any = any || len(s.after) > before
	}
	return any
}

// lasts is how long the steps take if each starts as soon as it may, one out and one in at a host.
func (x *search) lasts(steps []step) time.Duration {
	ends := make([]time.Duration, len(steps))
	out, in := make([]time.Duration, len(x.hosts)), make([]time.Duration, len(x.hosts))
	total := time.Duration(0)
	for k := range steps {
		s := &steps[k]
		begin := max(out[s.from], in[s.to])
		for _, a := range s.after {
			begin = max(begin, ends[a])
		}
		ends[k] = begin + s.took
		out[s.from], in[s.to] = ends[k], ends[k]
		total = max(total, ends[k])
	}
	return total
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
func (x *search) oneByOne(items []int32) timetable {
	now := newState(x.compiled)
	var t timetable
	for _, i := range items {
		to, took := x.at[i], time.Duration(0)
		for _, v := range x.vms[i] {
			took += x.prices[v].Duration
		}
		switch {
		case to == x.items[i].home:
		case !now.fits(i, to) || now.worsens(i, to):
			x.giveUp([]int32{i}, NoOrder, "")
		case x.o.MaxTime > 0 && t.makespan+took > x.o.MaxTime:
			x.giveUp([]int32{i}, Bounded, "")
		default:
			now.move(i, to)
			s := step{item: i, from: x.items[i].home, to: to, took: took, wave: len(t.steps) + 1}
			if len(t.steps) > 0 {
				s.after = []int{len(t.steps) - 1}
			}
			t.steps = append(t.steps, s)
			t.makespan += took
		}
	}
	return t
}
