package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// The peers' rules, made anew from what is known of them. Where that leaves a choice, it is made in the
// peer's favour.

// contender is a rule at one setting.
type contender struct {
	name, setting string
	rule          func() rule
}

func peers() []contender {
	out := []contender{{"no moves", "", func() rule { return none{} }}}
	for _, high := range []float64{0.70, 0.75, 0.80, 0.85, 0.90} {
		out = append(out, contender{"static threshold", fmt.Sprintf("high %.0f %%", high*100), func() rule { return &static{high: high} }})
	}
	for _, at := range []float64{0.3, 0.1, 0.05, 0.03, 0.02} {
		out = append(out, contender{"normalised spread", fmt.Sprintf("above %g", at), func() rule { return spread{above: at} }})
	}
	for _, at := range []float64{0.05, 0.10, 0.20, 0.30, 0.40} {
		out = append(out, contender{"top against least", fmt.Sprintf("apart %.0f %%", at*100), func() rule { return &apart{threshold: at, moved: map[int]int{}} }})
	}
	for _, s := range []struct {
		points float64
		evict  int
	}{{0.05, 1}, {0.10, 1}, {0.15, 1}, {0.20, 1}, {0.10, 2}} {
		out = append(out, contender{"evict and place", fmt.Sprintf("mean + %.0f points, %d a host", s.points*100, s.evict), func() rule { return evict{s.points, s.evict} }})
	}
	return out
}

type none struct{}

func (none) learn(*fleet, []float64, int) {}
func (none) decide(*view) []move          { return nil }

// static is oVirt's evenly_distributed: every minute one move in the cluster, off a host that has been above
// the high mark for two minutes and has no migration, to the least loaded of the hosts under min(80 % of
// high, high - 10 points) that stays under high with it. The VM of the least load that finds such a host
// goes.
type static struct {
	high  float64
	since map[int]int // minutes that a host has been above
}

func (*static) learn(*fleet, []float64, int) {}

func (r *static) decide(v *view) []move {
	if r.since == nil {
		r.since = map[int]int{}
	}
	source := -1
	for h, l := range v.hostLoad {
		if l < r.high*hostCores {
			r.since[h] = 0
			continue
		}
		if r.since[h]++; r.since[h] >= 2 && !v.busyHost[h] && (source < 0 || l > v.hostLoad[source]) {
			source = h
		}
	}
	if source < 0 {
		return nil
	}
	mark := min(0.8*r.high, r.high-0.1) * hostCores
	for _, i := range byLoad(v, source) {
		best := -1
		for h, l := range v.hostLoad {
			if l < mark && l+v.vmLoad[i] <= r.high*hostCores && fits(v, i, h) && !v.busyHost[h] && (best < 0 || l < v.hostLoad[best]) {
				best = h
			}
		}
		if best >= 0 {
			return []move{{i, best}}
		}
	}
	return nil
}

// spread is Proxmox VE's dynamic rebalancing: the standard deviation of utilisation over its mean and over
// the root of the hosts less one is above a threshold (for 30 s: of loads that last a minute, always), and
// nothing moves. The one move that lowers it most is made, if by 10 % at least.
type spread struct{ above float64 }

func (spread) learn(*fleet, []float64, int) {}

func (r spread) decide(v *view) []move {
	n, sum, squares := float64(len(v.hostLoad)), 0.0, 0.0
	for _, l := range v.hostLoad {
		sum += l
		squares += l * l
	}
	// The sum does not change as VMs move: the spread is a function of the sum of squares.
	of := func(squares float64) float64 {
		return math.Sqrt(max(squares/n-sum/n*sum/n, 0)) / (sum / n) / math.Sqrt(n-1)
	}
	now := of(squares)
	if v.moving > 0 || now <= r.above {
		return nil
	}
	best, found := squares, move{-1, -1}
	for i, l := range v.vmLoad {
		from := v.hostLoad[v.at[i]]
		for h, to := range v.hostLoad {
			if s := squares - from*from - to*to + (from-l)*(from-l) + (to+l)*(to+l); s < best && h != v.at[i] && fits(v, i, h) {
				best, found = s, move{i, h}
			}
		}
	}
	if found.vm < 0 || of(best) > 0.9*now {
		return nil
	}
	return []move{found}
}

// apart is Incus's cluster.rebalance, without its slip of swapping a VM's CPU and memory: every 15 minutes
// a host's score is the mean of its memory and its load; when the greatest is apart from the least by a
// share of itself, one VM of the former goes to the latter, the first that takes neither past the middle
// between them and has rested for 6 hours.
type apart struct {
	threshold float64
	moved     map[int]int // minute
}

func (*apart) learn(*fleet, []float64, int) {}

func (r *apart) decide(v *view) []move {
	if v.minute%15 != 0 {
		return nil
	}
	score := func(h int) float64 { return (v.memory[h]/hostMemory + v.hostLoad[h]/hostCores) / 2 }
	top, least := 0, 0
	for h := range v.hostLoad {
		if score(h) > score(top) {
			top = h
		}
		if score(h) < score(least) {
			least = h
		}
	}
	if (score(top)-score(least))/score(top) < r.threshold {
		return nil
	}
	middle := (score(top) + score(least)) / 2
	for i, at := range v.at {
		size := (v.fleet.vms[i].memory/hostMemory + v.vmLoad[i]/hostCores) / 2
		if last, ok := r.moved[i]; at != top || v.busy[i] || ok && v.minute-last < 6*60 || !fits(v, i, least) {
			continue
		}
		if score(top)-size >= middle && score(least)+size <= middle {
			r.moved[i] = v.minute
			return []move{{i, least}}
		}
	}
	return nil
}

// evict is a descheduler: every three minutes it takes VMs off each host whose utilisation is above the mean
// by some points, the first ones, as all are of one priority; the scheduler, which does not know why, puts
// each on the host with the fewest vCPUs.
type evict struct {
	points float64
	each   int
}

func (evict) learn(*fleet, []float64, int) {}

func (r evict) decide(v *view) []move {
	if v.minute%3 != 0 {
		return nil
	}
	mean, vcpus := 0.0, make([]float64, len(v.hostLoad))
	for _, l := range v.hostLoad {
		mean += l / float64(len(v.hostLoad))
	}
	for i, h := range v.at {
		vcpus[h] += v.fleet.vms[i].vcpus
	}
	var out []move
	for h, l := range v.hostLoad {
		if l <= mean+r.points*hostCores {
			continue
		}
		left := r.each
		for i, at := range v.at {
			if left == 0 {
				break
			}
			if at != h || v.busy[i] {
				continue
			}
			best := -1
			for to := range vcpus {
				if to != h && fits(v, i, to) && (best < 0 || vcpus[to] < vcpus[best]) {
					best = to
				}
			}
			if best >= 0 {
				out = append(out, move{i, best})
				vcpus[best] += v.fleet.vms[i].vcpus
				vcpus[h] -= v.fleet.vms[i].vcpus
				left--
			}
		}
	}
	return out
}

func fits(v *view, i, h int) bool {
	return h != v.at[i] && !v.busy[i] && v.memory[h]+v.fleet.vms[i].memory <= hostMemory
}

// byLoad is the VMs of a host that don't move now, the least loaded first.
func byLoad(v *view, host int) []int {
	var out []int
	for i, h := range v.at {
		if h == host && !v.busy[i] {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(v.vmLoad[a], v.vmLoad[b]) })
	return out
}
