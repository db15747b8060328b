package guest_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/test/sim/guest"
)

// cell is one guest on one link, migrated under fixed limits.
type cell struct {
	name     string
	memory   hypervisor.Bytes
	used     hypervisor.Bytes
	pattern  sim.Pattern
	pack     float64
	strategy hypervisor.Strategy
	mbit     float64
	downtime time.Duration
}

// cells are the patterns that hypervisor/sim knows, over links on which they are easy and hard.
func cells() []cell {
	const set = 96 * hypervisor.MiB
	var out []cell
	for _, mbit := range []float64{400, 1000} {
		for _, c := range []cell{
			{name: "idle", used: 128 * hypervisor.MiB, downtime: 20 * time.Millisecond},
			{name: "idle, full", downtime: time.Millisecond},
			{name: "words", pattern: sim.Pattern{Kind: sim.Words, Rate: 20000, WorkingSet: 128 * hypervisor.MiB}, downtime: 300 * time.Millisecond},
			{name: "words, xbzrle", pattern: sim.Pattern{Kind: sim.Words, Rate: 20000, WorkingSet: set}, strategy: hypervisor.Strategy{Compression: "xbzrle"}, downtime: 20 * time.Millisecond},
			{name: "pages, small set", pattern: sim.Pattern{Kind: sim.Pages, Rate: 12000, WorkingSet: set / 4}, downtime: 800 * time.Millisecond},
			{name: "pages, set", pattern: sim.Pattern{Kind: sim.Pages, Rate: 6000, WorkingSet: set}, downtime: 100 * time.Millisecond},
			{name: "pages, set, zstd", pattern: sim.Pattern{Kind: sim.Pages, Rate: 9000, WorkingSet: set}, pack: 2.5, strategy: hypervisor.Strategy{Compression: "zstd", Connections: 2}, downtime: 60 * time.Millisecond},
			{name: "pages, all", pattern: sim.Pattern{Kind: sim.Pages, Rate: 8000}, downtime: 100 * time.Millisecond},
			{name: "sweep", pattern: sim.Pattern{Kind: sim.Sweep, Rate: 8000, WorkingSet: 256 * hypervisor.MiB}, downtime: 60 * time.Millisecond},
			{name: "bursts", pattern: sim.Pattern{Kind: sim.Bursts, Rate: 30000, WorkingSet: set, On: 3 * time.Second, Off: 3 * time.Second}, downtime: 50 * time.Millisecond},
		} {
			if c.memory == 0 {
				c.memory = 512 * hypervisor.MiB
			}
			c.mbit = mbit
			c.name = fmt.Sprintf("%s, %g Mbit/s", c.name, mbit)
			out = append(out, c)
		}
	}
	return out
}

func (c cell) link() hypervisor.BytesPerSecond {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	return hypervisor.BytesPerSecond(c.mbit*1e6/8) / mib * mib // libvirt's caps are whole MiB/s
}

// outcome is what a migration came to.
type outcome struct {
	seconds float64
	mib     float64
	pause   float64 // ms, of sending
	rounds  int
	done    bool
}

const patience = 90 * time.Second

// byPages is the page-level model's word.
func byPages(t *testing.T, c cell, seed uint64) (out outcome) {
	t.Helper()
	f := sim.New(sim.Config{Seed: seed})
	defer f.Close()
	var hosts [2]*sim.Host
	for i := range hosts {
		h, err := f.AddHost(sim.HostConfig{Name: fmt.Sprint("h", i), Memory: 64 * hypervisor.GiB, Cores: 8, Link: c.link()})
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = h
	}
	const id = "11111111-1111-4111-8111-111111111111"
	if err := f.AddDomain("h0", sim.DomainConfig{
		ID: id, Name: "vm", VCPUs: 1, Memory: c.memory, Used: c.used, Pattern: c.pattern, Compression: c.pack,
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := hosts[0].Migrate(ctx, hypervisor.MigrateSpec{
		Domain: id, PeerURI: hosts[1].PeerURI(), Bandwidth: c.link(), Downtime: c.downtime, Strategy: c.strategy,
	})
	if err != nil {
		s, err := hosts[0].JobStats(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return outcome{seconds: s.Elapsed.Seconds(), mib: float64(s.MemProcessed) / (1 << 20), rounds: s.Round}
	}
	s, ok, err := hosts[0].CompletedStats(t.Context(), id)
	if err != nil || !ok {
		t.Fatal(err, ok)
	}
	const overhead = 25 // ms, sim's default
	return outcome{
		seconds: s.Elapsed.Seconds(), mib: float64(s.MemProcessed) / (1 << 20), pause: s.Downtime.Seconds()*1e3 - overhead,
		rounds: s.Round, done: true,
	}
}

// byRegions is this package's.
func byRegions(c cell) (out outcome) {
	m := guest.Memory{Total: c.memory, Used: c.used, Compression: c.pack, Regions: []guest.Region{regionOf(c)}}
	const setup = 20 * time.Millisecond
	j := guest.NewJob(m, c.strategy, c.downtime, setup, 0)
	j.SetRate(setup, float64(c.link()))
	for j.Stage() != guest.Sent {
		now := j.Next()
		if now > patience {
			s := j.Stats(patience, 0)
			return outcome{seconds: patience.Seconds(), mib: float64(s.MemProcessed) / (1 << 20), rounds: s.Round}
		}
		j.Fire(now)
		out.seconds, out.pause = now.Seconds()+0.025, (now-j.StoppedAt()).Seconds()*1e3
	}
	out.mib, out.rounds, out.done = float64(j.Processed())/(1<<20), j.Round(), true
	return out
}

func regionOf(c cell) guest.Region {
	p := c.pattern
	if p.Kind == sim.Idle {
		return guest.Idle()
	}
	r := guest.Region{
		Size: p.WorkingSet, Rate: hypervisor.BytesPerSecond(p.Rate * float64(guest.PageSize)), Sweep: p.Kind == sim.Sweep,
		Words: p.Kind == sim.Words, On: p.On, Off: p.Off,
	}
	if r.Size == 0 {
		r.Size = c.memory
	}
	return r
}

// TestCalibration: what regions say of a migration is what pages say, within the errors that package sim publishes.
func TestCalibration(t *testing.T) {
	var pauses []float64
	for _, c := range cells() {
		t.Run(c.name, func(t *testing.T) {
			var want outcome
			synctest.Test(t, func(t *testing.T) { want = byPages(t, c, 1) })
			got := byRegions(c)
			if got.done != want.done {
				t.Fatalf("done: %t, by pages %t", got.done, want.done)
			}
			seconds, bytes := got.seconds/want.seconds-1, got.mib/want.mib-1
			t.Logf("by pages %.2f s, %.0f MiB, %.1f ms; by regions off by %+.1f %%, %+.1f %%, %+.1f ms",
				want.seconds, want.mib, want.pause, 100*seconds, 100*bytes, got.pause-want.pause)
			off := math.Abs(got.pause - want.pause)
			if math.Abs(seconds) > 0.01 || math.Abs(bytes) > 0.01 || off > 35 {
				t.Errorf("pages %+v\nregions %+v", want, got)
			}
			pauses = append(pauses, off)
		})
	}
	slices.Sort(pauses)
	if median := pauses[len(pauses)/2]; median > 1 {
		t.Errorf("the pause is off by %.1f ms in the median", median)
	}
}
