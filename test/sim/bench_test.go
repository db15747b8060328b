package sim_test

import (
	"testing"
	"time"

	"drover/scheduler/fleet"
	"drover/test/sim"
)

// BenchmarkRolling drains ten of a hundred hosts, one after the other, each opened again when it is empty.
func BenchmarkRolling(b *testing.B) {
	for b.Loop() {
		w := sim.New(sim.Config{Seed: 1})
		if err := w.Make(sim.Fleet{Hosts: 100, VMs: 3000}); err != nil {
			b.Fatal(err)
		}
		w.Run(time.Minute)
		for _, h := range w.Hosts()[:10] {
			id := w.Drain(h.Name)
			if !w.Until(3*time.Hour, func() bool { return w.RunRecord(id).Phase.Final() }) {
				b.Fatalf("%+v", w.RunRecord(id))
			}
			w.Open(h.Name)
		}
		r := w.Report(0)
		b.ReportMetric(float64(r.Moves), "moves")
		b.ReportMetric(float64(r.Moves)/float64(r.Moves-r.Again), "moves/guest")
		b.ReportMetric((w.Now()-time.Minute).Seconds()/b.Elapsed().Seconds(), "virtual-s/s")
	}
}

// BenchmarkManyAtOnce lets five hundred guests leave fifty hosts at once, over links that they share.
func BenchmarkManyAtOnce(b *testing.B) {
	for b.Loop() {
		w := sim.New(sim.Config{Seed: 1, Rule: sim.Peer{Name: "all at once"}})
		if err := w.Make(sim.Fleet{Hosts: 100, VMs: 2000, Fill: 0.4}); err != nil {
			b.Fatal(err)
		}
		w.Run(time.Minute)
		var moves []fleet.RunMove
		for i, g := range w.Guests() {
			if i%100 < 50 && len(moves) < 500 {
				to := w.Hosts()[50+i%50].Name
				moves = append(moves, fleet.RunMove{VM: g.Name, UUID: g.ID, From: g.Host.Name, To: to, State: fleet.MovePlanned, Memory: g.Memory.Total})
			}
		}
		most := 0
		w.Hooks.Poll = func(w *sim.World, _ *sim.Running) { most = max(most, w.Streams()) }
		id := w.Ask(fleet.Run{Kind: fleet.RunRebalance, Moves: moves, OnBlocked: fleet.BlockedSkip})
		if !w.Until(3*time.Hour, func() bool { return w.RunRecord(id).Phase.Final() }) {
			b.Fatalf("%+v", w.RunRecord(id))
		}
		r := w.Report(0)
		b.ReportMetric(float64(r.Moves), "moves")
		b.ReportMetric(float64(most), "at-once")
		b.ReportMetric((w.Now() - time.Minute).Seconds(), "virtual-s")
	}
}
