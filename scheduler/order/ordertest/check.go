// Package ordertest checks schedules of package order by replaying them, and makes sets of moves to
// schedule. It shares no code with what it checks.
package ordertest

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/order"
)

// Check says what is wrong with the schedule: a move that is missing, a moment at which memory, links,
// streams or groups are exceeded, in the schedule itself, in a prefix of it, in its waves, or in one of
// some executions in which steps take other times than forecast. The same seed gives the same executions.
func Check(in order.Input, res order.Result, seed uint64) error {
	if err := complete(in, res); err != nil {
		return err
	}
	if err := timed(in, res); err != nil {
		return err
	}
	if err := waves(in, res.Steps); err != nil {
		return fmt.Errorf("waves: %w", err)
	}
	w := newWorld(in)
	for i, s := range res.Steps {
		if err := w.begin(s); err != nil {
			return fmt.Errorf("one after the other: step %d: %w", i, err)
		}
		w.finish(s)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 4 {
		if err := asynchronous(in, res.Steps, rng); err != nil {
			return fmt.Errorf("with other times: %w", err)
		}
	}
	return nil
}

// complete: each move is carried out whole, or in two legs through a staging host, or is blocked.
func complete(in order.Input, res order.Result) error {
	staging := map[string]bool{}
	for _, h := range in.Hosts {
		staging[h.Name] = h.Staging
	}
	steps, blocked := map[int][]int{}, map[int]int{}
	for i, s := range res.Steps {
		steps[s.Move] = append(steps[s.Move], i)
	}
	for _, b := range res.Blocked {
		blocked[b.Move]++
		if b.Reason == "" || b.Code == "" || len(b.Waits) == 0 || b.Waits[0] != in.Moves[b.Move].VM {
			return fmt.Errorf("%s is blocked without a proper reason: %+v", in.Moves[b.Move].VM, b)
		}
	}
	for i, m := range in.Moves {
		of := steps[i]
		switch {
		case len(of) == 0 && blocked[i] == 1:
		case len(of) == 1 && blocked[i] == 0:
			if s := res.Steps[of[0]]; s.Leg != order.Whole || s.From != m.From || s.To != m.To {
				return fmt.Errorf("%s moves by %+v", m.VM, s)
			}
		case len(of) == 2 && blocked[i] == 0:
			a, b := res.Steps[of[0]], res.Steps[of[1]]
			if a.Leg != order.ToStaging || b.Leg != order.FromStaging || a.From != m.From || a.To != b.From || b.To != m.To || !staging[a.To] || !slices.Contains(b.After, of[0]) {
				return fmt.Errorf("%s moves by %+v and %+v", m.VM, a, b)
			}
		default:
			return fmt.Errorf("%s has %d steps and is blocked %d times", m.VM, len(of), blocked[i])
		}
	}
	return nil
}

// timed replays the schedule at its own times.
func timed(in order.Input, res order.Result) error {
	type event struct {
		at    time.Duration
		start bool
		step  int
	}
	var events []event
	var last time.Duration
	for i, s := range res.Steps {
		m := in.Moves[s.Move]
		net := max(float64(s.Rate)-float64(m.DirtyRate), float64(s.Rate)/4)
		want := float64(cmp.Or(m.Bytes, m.Memory)) / net * float64(time.Second)
		if got := float64(s.End - s.Start); math.Abs(got-want) > 1e-6*want+2 && got < float64(365*24*time.Hour) {
			return fmt.Errorf("step %d: takes %s at %s, want %s", i, s.End-s.Start, s.Rate, time.Duration(want))
		}
		if i > 0 && s.Start < res.Steps[i-1].Start || s.Start < 0 || m.MaxRate > 0 && s.Rate > m.MaxRate {
			return fmt.Errorf("step %d: starts at %s at %s", i, s.Start, s.Rate)
		}
		for _, a := range s.After {
			if res.Steps[a].End > s.Start {
				return fmt.Errorf("step %d starts at %s, and step %d before it ends at %s", i, s.Start, a, res.Steps[a].End)
			}
		}
		last = max(last, s.End)
		events = append(events, event{s.Start, true, i}, event{s.End, false, i})
	}
	if res.Makespan != last || res.Bound > res.Makespan {
		return fmt.Errorf("makespan %s, bound %s, last end %s", res.Makespan, res.Bound, last)
	}
	slices.SortStableFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), boolean(a.start)-boolean(b.start))
	})
	w := newWorld(in)
	for _, e := range events {
		s := res.Steps[e.step]
		if !e.start {
			w.finish(s)
			continue
		}
		if err := cmp.Or(w.begin(s), w.links(s)); err != nil {
			return fmt.Errorf("at %s: step %d: %w", e.at, e.step, err)
		}
	}
	return nil
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// waves runs all steps of a wave at once.
func waves(in order.Input, steps []order.Step) error {
	w := newWorld(in)
	by := map[int][]order.Step{}
	for _, s := range steps {
		by[s.Wave] = append(by[s.Wave], s)
	}
	for n := 1; len(by) > 0; n++ {
		if len(by[n]) == 0 {
			return fmt.Errorf("wave %d is empty", n)
		}
		for _, s := range by[n] {
			if err := w.begin(s); err != nil {
				return fmt.Errorf("wave %d: %w", n, err)
			}
		}
		for _, s := range by[n] {
			w.finish(s)
		}
		delete(by, n)
	}
	return nil
}

// asynchronous starts steps when those before them are done, and ends those that run, in any order.
func asynchronous(in order.Input, steps []order.Step, rng *rand.Rand) error {
	w := newWorld(in)
	done := make([]bool, len(steps))
	waiting, running := make([]int, len(steps)), []int(nil)
	for i := range steps {
		waiting[i] = i
	}
	haste := rng.Float64()
	for len(waiting)+len(running) > 0 {
		var can []int
		for n, i := range waiting {
			if !slices.ContainsFunc(steps[i].After, func(a int) bool { return !done[a] }) {
				can = append(can, n)
			}
		}
		if len(can) > 0 && (len(running) == 0 || rng.Float64() < haste) {
			n := can[rng.IntN(len(can))]
			i := waiting[n]
			if err := w.begin(steps[i]); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
			waiting, running = slices.Delete(waiting, n, n+1), append(running, i)
			continue
		}
		if len(running) == 0 {
			return fmt.Errorf("steps %v wait for each other", waiting)
		}
		n := rng.IntN(len(running))
		w.finish(steps[running[n]])
		done[running[n]] = true
		running = slices.Delete(running, n, n+1)
	}
	return nil
}

// world is where the domains are and what is in use.
type world struct {
	in    order.Input
	hosts map[string]order.Host
	free  map[string]hypervisor.Bytes
	at    map[string]map[string]bool // by VM: the hosts on which it takes room
	under map[int]order.Step         // what runs, by move
}

func newWorld(in order.Input) *world {
	w := &world{in: in, hosts: map[string]order.Host{}, free: map[string]hypervisor.Bytes{}, at: map[string]map[string]bool{}, under: map[int]order.Step{}}
	for _, h := range in.Hosts {
		w.hosts[h.Name], w.free[h.Name] = h, h.FreeMemory
	}
	for _, m := range in.Moves {
		w.at[m.VM] = map[string]bool{m.From: true}
	}
	return w
}

// begin starts a step and says what it breaks: memory and groups.
func (w *world) begin(s order.Step) error {
	m := w.in.Moves[s.Move]
	if !w.at[m.VM][s.From] || len(w.at[m.VM]) != 1 {
		return fmt.Errorf("%s is to leave %s, but is on %v", m.VM, s.From, w.at[m.VM])
	}
	if w.free[s.To] -= m.Memory; w.free[s.To] < 0 {
		return fmt.Errorf("%s does not fit on %s: %s over", m.VM, s.To, -w.free[s.To])
	}
	for _, g := range w.in.Apart {
		if !slices.Contains(g.VMs, m.VM) {
			continue
		}
		if slices.Contains(g.Hosts, s.To) {
			return fmt.Errorf("%s comes to %s, where a member of %s is", m.VM, s.To, g.Name)
		}
		for _, other := range g.VMs {
			if other != m.VM && w.at[other][s.To] {
				return fmt.Errorf("%s comes to %s, where %s of %s is", m.VM, s.To, other, g.Name)
			}
		}
	}
	w.at[m.VM][s.To] = true
	w.under[s.Move] = s
	return nil
}

func (w *world) finish(s order.Step) {
	m := w.in.Moves[s.Move]
	w.free[s.From] += m.Memory
	delete(w.at[m.VM], s.From)
	delete(w.under, s.Move)
}

// links says whether the links and stream limits at both ends of the step hold what runs.
func (w *world) links(s order.Step) error {
	var out, in hypervisor.BytesPerSecond
	var outs, ins int
	for _, o := range w.under {
		if o.From == s.From {
			out += o.Rate
			outs++
		}
		if o.To == s.To {
			in += o.Rate
			ins++
		}
	}
	from, to := w.hosts[s.From], w.hosts[s.To]
	maxOut, maxIn := cmp.Or(from.MaxOut, order.DefaultMaxOut), cmp.Or(to.MaxIn, order.DefaultMaxIn)
	if s.Rate <= 0 || out > from.Out || in > to.In || outs > maxOut || ins > maxIn {
		return fmt.Errorf("%s sends %s in %d streams, %s takes %s in %d", s.From, out, outs, s.To, in, ins)
	}
	return nil
}
