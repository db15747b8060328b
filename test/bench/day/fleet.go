package main

import (
	"fmt"
	"math"
)

const (
	step   = 5  // minutes of one column of the trace
	warmup = 12 // steps that are history when the day begins: the first hour

	hostCores  = 16.0
	hostMemory = 256.0 // GiB
	vcpuMemory = 2.0   // GiB for each vCPU
	lowFill    = 0.60  // of a host's cores, by the first hour's mean: the emptiest and the fullest host
	highFill   = 0.70

	// A migration copies the memory 1.3 times, for the pages that change meanwhile, at 100 MiB/s, and
	// costs one core on the source and half a core on the target.
	copies     = 1.3
	rate       = 100.0 / 1024 // GiB/s
	link       = 1e9 / 8      // bytes/s: what drover is told of the hosts' links
	dirty      = 10 << 20     // bytes/s: and of every VM's dirty rate
	sourceCost = 1.0          // cores
	targetCost = 0.5
	maxOut     = 1 // migrations at once that leave a host
	maxIn      = 2 // and that come to one
)

// sizes are the vCPUs of VMs, in turn by their place in the trace.
var sizes = []float64{1, 2, 2, 4}

type vm struct {
	vcpus  float64
	memory float64 // GiB
	host   int
	load   []float64 // cores, by step
}

type fleet struct {
	hosts int
	vms   []vm
}

// pack makes the fleet as it is when the day begins; turn shifts the sizes of VMs, for another fleet. Hosts are to be filled to between lowFill and highFill
// of their cores, by the mean of the first hour, the first one least; there are as few as that allows. Each
// VM in turn goes to the host with the most room below its mark.
func pack(t trace, turn int) (fleet, error) {
	f := fleet{vms: make([]vm, len(t))}
	mean := make([]float64, len(t))
	total := 0.0
	for i, row := range t {
		v := vm{vcpus: sizes[(i+turn)%len(sizes)]}
		v.memory = v.vcpus * vcpuMemory
		for _, share := range row {
			v.load = append(v.load, share/100*v.vcpus)
		}
		for _, l := range v.load[:warmup] {
			mean[i] += l / warmup
		}
		total += mean[i]
		f.vms[i] = v
	}
	f.hosts = max(2, int(math.Ceil(total/(hostCores*(lowFill+highFill)/2))))
	room, free := make([]float64, f.hosts), make([]float64, f.hosts)
	for h := range room {
		room[h] = hostCores * (lowFill + (highFill-lowFill)*float64(h)/float64(f.hosts-1))
		free[h] = hostMemory
	}
	for i := range f.vms {
		best := -1
		for h := range room {
			if free[h] >= f.vms[i].memory && (best < 0 || room[h] > room[best]) {
				best = h
			}
		}
		if best < 0 {
			return f, fmt.Errorf("VM %d does not fit: hosts have too little memory for this trace", i+1)
		}
		f.vms[i].host = best
		room[best] -= mean[i]
		free[best] -= f.vms[i].memory
	}
	return f, nil
}
