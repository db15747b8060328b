package auto

import (
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/scheduler/balance"
	"drover/scheduler/signal"
)

// Rule says when a host is hot and a move worthwhile.
type Rule struct {
	// Mark is the utilisation, as a share of a host's cores, above which its VMs begin to wait for CPU.
	Mark float64
	// Horizon is how far ahead is looked, and Least the CPU asked for above the mark in it, in core-minutes,
	// that a move must avoid.
	Horizon time.Duration
	Least   float64
	// Hold is for how long a host must be hot, or no longer be, before that counts.
	Hold time.Duration
	// Sure is by how many standard errors of the hosts' means the evidence must suffice.
	Sure float64
	// Moves is how many one plan may have, Bytes the memory of all that it moves; 0 is no bound.
	Moves int
	Bytes hypervisor.Bytes
}

// DefaultRule is five core-minutes above 85 % in six hours: what a host is that is one core above it for five
// minutes.
func DefaultRule() Rule {
	return Rule{Mark: 0.85, Horizon: 6 * time.Hour, Least: 5, Hold: 10 * time.Minute, Sure: 1}
}

// Latch says when a host is hot, by its [Rule.Overload]: when a single move could be worth it, and until half
// of that.
func (r Rule) Latch() signal.Latch { return signal.Latch{On: r.Least, Off: r.Least / 2, Hold: r.Hold} }

// Overload is the CPU asked for above the mark over the horizon, in core-minutes, that is surely to be expected
// on a host with so many cores.
func (r Rule) Overload(load signal.Estimate, cores hypervisor.Cores) float64 {
	return r.excess(load, cores, -r.Sure)
}

func (r Rule) excess(load signal.Estimate, cores hypervisor.Cores, z float64) float64 {
	return float64(load.Excess(hypervisor.Cores(r.Mark)*cores, z)) * r.Horizon.Minutes()
}

// End is one host of a move: its load without the move, and its cores.
type End struct {
	Load  signal.Estimate
	Cores hypervisor.Cores
}

// Gain is the overload that a move of the load avoids, in core-minutes over the horizon. On the source only
// what is sure counts, on the target all that is possible; below zero the move does harm.
func (r Rule) Gain(load signal.Estimate, from, to End) float64 {
	less := r.Overload(from.Load, from.Cores) - r.Overload(from.Load.Less(load), from.Cores)
	more := r.excess(signal.Sum(to.Load, load), to.Cores, r.Sure) - r.excess(to.Load, to.Cores, r.Sure)
	return less - more
}

// Candidate is a move that is worth it.
type Candidate struct {
	VM, From, To int // indexes into the problem
	// Gain is what it avoids, and Before what the source had, in core-minutes over the horizon.
	Gain, Before float64
	After        []int // indexes of candidates that must be done before
	Price        balance.Price
}

// Choose finds the moves that are worth it, of VMs on hosts that are hot. The problem says what may move and
// where to apart from that; loads are by VM. The problem's VMs are written to.
//
// VMs that must stay together are left alone: each of their moves alone breaks the rule, and whether all of
// them come to pass can't be told before.
func Choose(p *balance.Problem, loads []signal.Estimate, hot []bool, r Rule) ([]Candidate, error) {
	ends := make([]End, len(p.Hosts))
	parts := make([][]signal.Estimate, len(p.Hosts))
	movable := 0
	for i := range p.VMs {
		v, l := &p.VMs[i], loads[i]
		at := v.Host
		if v.Moving {
			at = v.Target
		}
		parts[at] = append(parts[at], l)
		v.Mean.CPU, v.Peak.CPU = l.Mean, l.Mean+peakSigmas*l.SD
		v.Pinned = v.Pinned || !hot[v.Host] || !l.Ready
		if !v.Pinned && !v.Resting && !v.Moving {
			movable++
		}
	}
	if movable == 0 {
		return nil, nil
	}
	for _, g := range p.Groups {
		for _, i := range g.VMs {
			p.VMs[i].Pinned = p.VMs[i].Pinned || g.Required && !g.Apart && len(g.VMs) > 1
		}
	}
	for h := range ends {
		ends[h] = End{signal.Sum(parts[h]...), p.Hosts[h].Cores}
	}
	plan, err := balance.Make(p, balance.Options{Evaluations: evaluations * movable, MaxMoves: r.Moves, MaxBytes: r.Bytes})
	if err != nil {
		return nil, fmt.Errorf("choose moves: %w", err)
	}
	var out []Candidate
	index := make([]int, len(plan.Moves)) // into out; -1 for those left out
	for i, m := range plan.Moves {
		index[i] = -1
		from, to, l := &ends[m.From], &ends[m.To], loads[m.VM]
		gain := r.Gain(l, *from, *to)
		after, ok := indexed(m.After, index)
		if gain < r.Least || !ok {
			continue
		}
		before := r.Overload(from.Load, from.Cores)
		from.Load, to.Load = from.Load.Less(l), signal.Sum(to.Load, l)
		index[i] = len(out)
		out = append(out, Candidate{VM: m.VM, From: m.From, To: m.To, Gain: gain, Before: before, After: after, Price: m.Price})
	}
	return out, nil
}

// evaluations are what the planner may take for each VM that may move: some dozens for each host that is worth
// a look.
const evaluations = 300

// peakSigmas: the planner takes a VM's peak as the 95th percentile of a normal distribution.
const peakSigmas = 1.645

// indexed translates indexes; false if one is left out.
func indexed(list, index []int) ([]int, bool) {
	var out []int
	for _, i := range list {
		if index[i] < 0 {
			return nil, false
		}
		out = append(out, index[i])
	}
	return out, true
}
