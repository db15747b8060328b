package main

import (
	"fmt"
	"time"

	"drover/scheduler/fleet"
	"drover/test/sim"
)

// kind is one kind of fleet, and which of its hosts are emptied.
type kind struct {
	name   string
	fleet  sim.Fleet
	drain  int
	rounds int // drains and restores before it, for which drover has forecasts to learn from
}

const (
	gigabit = 1e9 / 8
	limit   = 12 * time.Hour
)

// kinds are links that are fast and slow, and one host or several at once.
var kinds = []kind{
	{"one of 8 hosts, 20 VMs each, 10 Gbit/s", sim.Fleet{Hosts: 8, VMs: 160, Host: sim.HostConfig{Link: 10 * gigabit}, Fill: 0.5}, 1, 1},
	{"one of 4 hosts, 10 VMs each, 1 Gbit/s", sim.Fleet{Hosts: 4, VMs: 40, Host: sim.HostConfig{Link: gigabit, Memory: 64 << 30}, Fill: 0.5}, 1, 1},
	{"four of 20 hosts, 20 VMs each, 10 Gbit/s", sim.Fleet{Hosts: 20, VMs: 400, Host: sim.HostConfig{Link: 10 * gigabit}, Fill: 0.5}, 4, 0},
}

// drained is what one drain came to.
type drained struct {
	seconds, pauseMS float64
	stay             int
	off              []float64 // by how much ends were wrong that were told after a tenth
}

// play makes the fleet and drains it.
func play(k kind, r rule, seed uint64) (drained, error) {
	w := sim.New(sim.Config{Seed: seed, Rule: r.rule})
	if err := w.Make(k.fleet); err != nil {
		return drained{}, err
	}
	w.Run(time.Minute)
	hosts := make([]string, k.drain)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("h%03d", i+1)
	}
	var d drained
	over := func(id string) (fleet.Run, error) {
		if !w.Until(limit, func() bool { return w.RunRecord(id).Phase.Final() }) {
			return fleet.Run{}, fmt.Errorf("not over after %s: %+v", limit, w.RunRecord(id).Reason)
		}
		return w.RunRecord(id), nil
	}
	for range k.rounds {
		if !r.drover {
			break
		}
		if _, err := over(w.Drain(hosts...)); err != nil {
			return d, err
		}
		if _, err := over(w.Restore(hosts...)); err != nil {
			return d, err
		}
		w.Run(time.Minute)
	}
	from := w.Now()
	run, err := over(w.Drain(hosts...))
	if err != nil {
		return d, err
	}
	if run.Phase != fleet.RunDone && run.Phase != fleet.RunPartial {
		return d, fmt.Errorf("the drain is %s: %s", run.Phase, run.Reason)
	}
	d.seconds = run.Finished.Sub(run.Created).Seconds()
	d.pauseMS = float64(w.Report(from).WorstPause) / float64(time.Millisecond)
	for _, m := range run.Moves {
		if m.State == fleet.MoveStays {
			d.stay++
		}
	}
	if off, known := run.Told(0.1); known && r.drover {
		d.off = append(d.off, off)
	}
	return d, nil
}
