package tune_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/precopy/forecast"
	"drover/precopy/tune"
)

const (
	mib     = hypervisor.MiB
	vm      = hypervisor.DomainID("5f5a0b7e-6a3a-4c5e-9f55-0a1b2c3d4e5f")
	mbit400 = hypervisor.BytesPerSecond(45e6)
	mbit200 = hypervisor.BytesPerSecond(22.5e6)
)

// workload is a guest of the matrix; used is what its first pass has to send.
type workload struct {
	name         string
	memory, used hypervisor.Bytes
	pattern      sim.Pattern
}

// matrix are the workloads that the benchmark on real hosts runs too.
var matrix = []workload{
	{"idle", 512 * mib, 110 * mib, sim.Pattern{}},
	{"word", 512 * mib, 220 * mib, sim.Pattern{Kind: sim.Words, Rate: 20_000, WorkingSet: 128 * mib}},
	{"hot", 512 * mib, 190 * mib, sim.Pattern{Kind: sim.Pages, Rate: 12_000, WorkingSet: 96 * mib}},
	{"wide", 1100 * mib, 610 * mib, sim.Pattern{Kind: sim.Pages, Rate: 9_000, WorkingSet: 512 * mib}},
	{"sweep", 1100 * mib, 610 * mib, sim.Pattern{Kind: sim.Sweep, Rate: 9_000, WorkingSet: 512 * mib}},
	{"bursts", 640 * mib, 350 * mib, sim.Pattern{Kind: sim.Bursts, Rate: 16_000, WorkingSet: 256 * mib, On: 2 * time.Second, Off: 2 * time.Second}},
}

// ended is what became of a run.
type ended struct {
	done    bool
	took    time.Duration
	pause   time.Duration
	lost    time.Duration // to being slowed
	least   float64
	bytes   hypervisor.Bytes
	last    tune.Decision
	said    []string
	receipt forecast.Receipt
}

// play runs one migration in virtual time, driven as a worker drives it. Call it inside a bubble.
func play(t *testing.T, w workload, link hypervisor.BytesPerSecond, strategy hypervisor.Strategy, make func(tune.Start) tune.Tuner, start tune.Start) ended {
	t.Helper()
	f := sim.New(sim.Config{Overhead: 45 * time.Millisecond, Seed: 7})
	defer f.Close()
	src, err := f.AddHost(sim.HostConfig{Name: "a", Cores: 2, Memory: 8 << 30, Link: link * 20 / 18})
	if err != nil {
		t.Fatal(err)
	}
	dst, err := f.AddHost(sim.HostConfig{Name: "b", Cores: 2, Memory: 8 << 30, Link: link * 20 / 18})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AddDomain("a", sim.DomainConfig{ID: vm, Name: w.name, VCPUs: 1, Memory: w.memory, Used: w.used, Pattern: w.pattern}); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	start.Bandwidth, start.Memory, start.Strategy = link, w.memory, strategy
	c := make(start)
	result := make2()
	began := time.Now()
	limit, share := c.Limit(), 1.0
	go func() {
		result <- src.Migrate(ctx, hypervisor.MigrateSpec{
			Domain: vm, PeerURI: dst.PeerURI(), Bandwidth: link, Downtime: limit, Strategy: c.Strategy(),
		})
	}()
	e := ended{least: 1}
	for last := began; ; {
		every := 250 * time.Millisecond
		if time.Since(began) < 5*time.Second {
			every = 100 * time.Millisecond
		}
		select {
		case err := <-result:
			e.took, e.done, e.receipt = time.Since(began), err == nil, c.Learned()
			if s, ok, _ := dst.CompletedStats(ctx, vm); ok {
				e.pause, e.bytes = s.Downtime, s.MemProcessed
			} else if s, ok, _ := src.CompletedStats(ctx, vm); ok {
				e.pause, e.bytes = s.Downtime, s.MemProcessed
			}
			return e
		case <-time.After(every):
		}
		e.lost += time.Duration((1 - share) * float64(time.Since(last)))
		e.least = min(e.least, share)
		last = time.Now()
		s, err := src.JobStats(ctx, vm)
		if err != nil || s.Kind != hypervisor.JobOutgoing {
			continue
		}
		dec := c.Step(tune.Reading{JobStats: s, Share: share, Least: 0.1, Now: time.Now()})
		if len(e.said) == 0 || e.last.Text != dec.Text {
			e.said = append(e.said, fmt.Sprintf("%6.1fs round %2d rest %4d MiB limit %s share %.2f %s: %s", s.Elapsed.Seconds(), s.Round, s.MemRemaining/mib, c.Limit(), c.Share(), dec.Reason, dec.Text))
		}
		e.last = dec
		if dec.Action == tune.Abort {
			_ = src.Abort(ctx, vm)
		}
		if c.Limit() != limit {
			limit = c.Limit()
			_ = src.SetDowntime(ctx, vm, limit)
		}
		if c.Share() != share {
			share = c.Share()
			_ = src.Slow(ctx, vm, share)
		}
	}
}

func make2() chan error { return make(chan error, 1) }

func TestMatrix(t *testing.T) {
	start := tune.Start{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 150 * time.Second}
	own := func(s tune.Start) tune.Tuner { return tune.New(s) }
	for _, link := range []hypervisor.BytesPerSecond{mbit400, mbit200} {
		for _, w := range matrix {
			for _, st := range []hypervisor.Strategy{{}, {Compression: "xbzrle", XBZRLECache: 512 * mib}} {
				t.Run(fmt.Sprintf("%s/%s/%s", w.name, link, st.Name()), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e := play(t, w, link, st, own, start)
						t.Logf("done %v in %.1f s, pause %d ms, lost %.1f s (least %.2f), %d MiB", e.done, e.took.Seconds(), e.pause.Milliseconds(), e.lost.Seconds(), e.least, e.bytes/mib)
						for _, s := range e.said {
							t.Log(s)
						}
						if !e.done || e.pause > 150*time.Millisecond {
							t.Errorf("want it done with the pause kept: %+v", e.last)
						}
						f := sim.Pattern{}
						_ = f
						d, _ := tune.Fixed("default", tune.Start{})
						_ = d
						x := play(t, w, link, st, func(s tune.Start) tune.Tuner { f, _ := tune.Fixed("default", s); return f }, start)
						t.Logf("DEFAULT done %v in %.1f s, pause %d ms", x.done, x.took.Seconds(), x.pause.Milliseconds())
					})
				})
			}
		}
	}
}
