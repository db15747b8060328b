// Command roll rolls ten of a hundred simulated hosts with drover's own decisions (package sim), guests left where
// they land, and compares with what the rules promise:
//
//	go run ./test/bench/roll -seeds 3
//
// VMs that started on the ten hosts may move 1.2 times on average, the fleet must be able to lose any one host at
// each of the leader's passes, nothing may be lost, and the roll, which has no hooks, may take 1.25 times as long as
// the used memory of the ten hosts' guests needs on their links, each host's at its full rate and one host after
// the other (with -parallel N: N at once). It ends with status 1 if that does not hold. The same seeds give the same
// figures on every machine.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler"
	"drover/scheduler/fleet"
	"drover/scheduler/headroom"
	"drover/test/sim"
)

const (
	mostMoves = 1.2
	mostTime  = 1.25
)

// size is the fleet.
type size struct{ hosts, rolled, vms, parallel, streams int }

// figures are what one roll came to.
type figures struct {
	Seed     uint64  `json:"seed"`
	VMs      int     `json:"vms"`
	GiB      float64 `json:"gib"`
	Moves    float64 `json:"moves_per_vm"`
	Foretold int     `json:"moves_foretold"`
	Seconds  float64 `json:"seconds"`
	Least    float64 `json:"least_seconds"`
	Ratio    float64 `json:"ratio"`
	Forecast float64 `json:"forecast_seconds"`
	Tight    int     `json:"passes_without_headroom"`
	Passes   int     `json:"passes"`
	WorstMS  int64   `json:"worst_pause_ms"`
	Phase    string  `json:"phase"`
	Reason   string  `json:"reason"`
	Faults   int     `json:"faults"`
}

func (f figures) holds() bool {
	return f.Phase == string(fleet.RunDone) && f.Moves <= mostMoves && f.Ratio <= mostTime && f.Tight == 0 && f.Faults == 0
}

func main() {
	var s size
	flag.IntVar(&s.hosts, "hosts", 100, "hosts of the fleet")
	flag.IntVar(&s.rolled, "rolled", 10, "hosts that are rolled")
	flag.IntVar(&s.vms, "vms", 1500, "VMs of the fleet")
	flag.IntVar(&s.streams, "streams", 0, "VMs that leave one host at once; 0 for the default")
	flag.IntVar(&s.parallel, "parallel", 1, "hosts out of service at once")
	seeds := flag.Int("seeds", 3, "how many fleets")
	out := flag.String("json", "", "also write all figures to this file")
	flag.Parse()
	if err := run(os.Stdout, s, *seeds, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(w io.Writer, s size, seeds int, out string) error {
	var all []figures
	bad := 0
	for seed := range uint64(seeds) {
		f, err := roll(s, seed+1)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "fleet %d: %d VMs, %.0f GiB: %.3f moves of each (foretold %d), %.0f s, %.3f times the least (%.0f s), forecast %.0f s, %d of %d passes without headroom, worst pause %d ms, %s\n",
			f.Seed, f.VMs, f.GiB, f.Moves, f.Foretold, f.Seconds, f.Ratio, f.Least, f.Forecast, f.Tight, f.Passes, f.WorstMS, f.Phase)
		if !f.holds() {
			bad++
			fmt.Fprintf(w, "   does not hold: %s\n", f.Reason)
		}
		all = append(all, f)
	}
	if out != "" {
		raw, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(raw, '\n'), 0o644); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d rolls do not hold", bad, seeds)
	}
	return nil
}

// roll makes a fleet and rolls every so manieth host of it.
func roll(s size, seed uint64) (figures, error) {
	f := figures{Seed: seed}
	id := ""
	w := sim.New(sim.Config{Seed: seed, Hooks: sim.Hooks{Before: func(_ *sim.World, in *scheduler.Inputs) {
		if id == "" {
			return
		}
		f.Passes++
		if len(headroom.Losses(headroom.Picture{Fleet: in.Fleet})) > 0 {
			f.Tight++
		}
	}}})
	if err := w.Make(sim.Fleet{Hosts: s.hosts, VMs: s.vms}); err != nil {
		return f, err
	}
	w.Run(time.Minute)
	var names []string
	var ends []time.Duration
	started := map[hypervisor.DomainID]bool{}
	for i := 0; len(names) < s.rolled && i < s.hosts; i += max(s.hosts/s.rolled, 1) {
		h := w.Hosts()[i]
		names = append(names, h.Name)
		var used hypervisor.Bytes
		for _, g := range h.Guests() {
			started[g.ID] = true
			used += g.Memory.Used
		}
		f.GiB += float64(used) / float64(hypervisor.GiB)
		ends = append(ends, h.Link.Time(used))
	}
	f.VMs, f.Least = len(started), least(ends, s.parallel).Seconds()
	id = w.Ask(fleet.Run{Kind: fleet.RunMaintenance, Hosts: names, MaxParallel: s.streams, Roll: &fleet.Roll{Headroom: 1, Parallel: s.parallel}})
	over := func() bool { p := w.RunRecord(id).Phase; return p.Final() || p == fleet.RunStopped }
	w.Until(10*time.Second, func() bool { return over() || w.RunRecord(id).Outlook != nil })
	if o := w.RunRecord(id).Outlook; o != nil {
		f.Forecast = o.End.Sub(w.RunRecord(id).Created).Seconds()
	}
	if !w.Until(48*time.Hour, over) {
		return f, errors.New("the roll does not end: " + w.RunRecord(id).Reason)
	}
	r := w.RunRecord(id)
	f.Phase, f.Reason, f.Foretold = string(r.Phase), r.Reason, r.Roll.Moves
	if r.Finished != nil {
		f.Seconds = r.Finished.Sub(r.Created).Seconds()
		f.Ratio = f.Seconds / f.Least
	}
	moves := 0
	for _, m := range w.Migrations() {
		if m.Phase == precopy.Done && started[m.UUID] {
			moves++
			if m.Outcome != nil {
				f.WorstMS = max(f.WorstMS, m.Outcome.PauseMS)
			}
		}
	}
	f.Moves = float64(moves) / float64(max(f.VMs, 1))
	f.Faults = len(w.Faults())
	return f, nil
}

// least is how long hosts take that each need so long, so many at once.
func least(ends []time.Duration, parallel int) time.Duration {
	lanes := make([]time.Duration, max(parallel, 1))
	for _, d := range slices.Backward(slices.Sorted(slices.Values(ends))) { // the longest first
		k := 0
		for j := range lanes {
			if lanes[j] < lanes[k] {
				k = j
			}
		}
		lanes[k] += d
	}
	return slices.Max(lanes)
}
