package main

import (
	"math"
	"slices"
)

// move is what a rule asks for.
type move struct{ vm, to int }

// view is what a rule sees: the last minute, as agents would report it.
type view struct {
	minute int // of the day, from 0; history ends where it begins
	fleet  *fleet
	// at is where each VM is, or is going to.
	at []int
	// busy says of each VM whether it moves now, and of each host whether any VM moves to or from it.
	busy, busyHost []bool
	vmLoad         []float64 // cores, over the last minute
	hostLoad       []float64 // cores, with what migrations cost
	memory         []float64 // GiB taken, by VMs that are there and that come or go
	moving         int
}

// rule decides about moves, each time its period has gone by.
type rule interface {
	// learn is called for every step before the day begins.
	learn(f *fleet, load []float64, step int)
	// decide is called once a minute.
	decide(v *view) []move
}

// result is what a day came to.
type result struct {
	Rule    string `json:"rule"`
	Setting string `json:"setting"`
	Moves   int    `json:"moves"`
	// Over is the overloaded host-minutes, above each of marks.
	Over    [3]int  `json:"overloaded_host_minutes"`
	GiB     float64 `json:"gib"`
	Refused int     `json:"refused"` // no memory or no stream was free
	Returns int     `json:"returns_within_24h"`
	// Most is how often the VM moved that moved most.
	Most int `json:"most_moves_of_one_vm"`
	// Beats says that drover has fewer moves and fewer overloaded host-minutes.
	Beats bool `json:"drover_has_fewer_of_both"`
}

// marks are the shares of a host's cores above which a minute counts as overloaded.
var marks = [3]float64{0.8, 0.9, 1.0}

type flight struct{ vm, from, to, left int }

// play lets the rule run the day. Moves start at once if memory and a stream are free on both hosts, else
// they are refused; the VM runs on its source until the copy is done.
func play(f fleet, r rule) result {
	var out result
	at := make([]int, len(f.vms))
	left := make([]map[int]bool, len(f.vms))
	count := make([]int, len(f.vms))
	mem := make([]float64, f.hosts)
	for i, v := range f.vms {
		at[i] = v.host
		left[i] = map[int]bool{}
		mem[v.host] += v.memory
	}
	loads := make([]float64, len(f.vms))
	for s := range warmup {
		for i, v := range f.vms {
			loads[i] = v.load[s]
		}
		r.learn(&f, loads, s)
	}
	var flights []flight
	hostLoad := make([]float64, f.hosts)
	minutes := (len(f.vms[0].load) - warmup) * step
	for m := range minutes {
		// The minute passes.
		for h := range hostLoad {
			hostLoad[h] = 0
		}
		for i, v := range f.vms {
			loads[i] = v.load[warmup+m/step]
			hostLoad[at[i]] += loads[i]
		}
		for _, fl := range flights {
			hostLoad[fl.from] += sourceCost
			hostLoad[fl.to] += targetCost
		}
		for h := range hostLoad {
			for k, mark := range marks {
				if hostLoad[h] > mark*hostCores+1e-9 {
					out.Over[k]++
				}
			}
		}
		for k := range flights {
			fl := &flights[k]
			if fl.left--; fl.left == 0 {
				at[fl.vm] = fl.to
				mem[fl.from] -= f.vms[fl.vm].memory
			}
		}
		flights = slices.DeleteFunc(flights, func(fl flight) bool { return fl.left == 0 })

		v := &view{
			minute: m, fleet: &f, at: slices.Clone(at), busy: make([]bool, len(f.vms)), busyHost: make([]bool, f.hosts),
			vmLoad: loads, hostLoad: slices.Clone(hostLoad), memory: mem, moving: len(flights),
		}
		outgoing, incoming := make([]int, f.hosts), make([]int, f.hosts)
		for _, fl := range flights {
			v.at[fl.vm], v.busy[fl.vm], v.busyHost[fl.from], v.busyHost[fl.to] = fl.to, true, true, true
			outgoing[fl.from]++
			incoming[fl.to]++
		}
		for _, mv := range r.decide(v) {
			from, need := at[mv.vm], f.vms[mv.vm].memory
			if v.busy[mv.vm] || from == mv.to || mem[mv.to]+need > hostMemory || outgoing[from] >= maxOut || incoming[mv.to] >= maxIn {
				out.Refused++
				continue
			}
			v.busy[mv.vm] = true
			outgoing[from]++
			incoming[mv.to]++
			mem[mv.to] += need
			flights = append(flights, flight{mv.vm, from, mv.to, int(math.Ceil(need * copies / rate / 60))})
			out.Moves++
			out.GiB += need * copies
			count[mv.vm]++
			out.Most = max(out.Most, count[mv.vm])
			if left[mv.vm][mv.to] {
				out.Returns++
			}
			left[mv.vm][from] = true
		}
	}
	return out
}
