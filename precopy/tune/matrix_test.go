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
	"drover/precopy/model"
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
func play(t *testing.T, w workload, link hypervisor.BytesPerSecond, strategy hypervisor.Strategy, build func(tune.Start) tune.Tuner, start tune.Start) ended {
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
	least := 0.1
	if start.Lost < 0 {
		start.Lost, least = 0, 1 // a host that can't slow its guests
	}
	if err := f.AddDomain("a", sim.DomainConfig{ID: vm, Name: w.name, VCPUs: 1, Memory: w.memory, Used: w.used, Pattern: w.pattern}); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	start.Bandwidth, start.Memory, start.Strategy = link, w.memory, strategy
	c := build(start)
	result := make(chan error, 1)
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
		dec := c.Step(tune.Reading{JobStats: s, Share: share, Least: least, Now: time.Now()})
		if len(e.said) == 0 || e.last.Text != dec.Text {
			e.said = append(e.said, fmt.Sprintf("%6.1fs round %2d rest %4d MiB limit %s share %.2f %s: %s", s.Elapsed.Seconds(), s.Round, s.MemRemaining/mib, c.Limit(), c.Share(), dec.Reason, dec.Text))
		}
		e.last = dec
		if dec.Action == tune.Abort || dec.Action == tune.Restart {
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

// intent is the default class, as the benchmark uses it.
func intent() tune.Start {
	return tune.Start{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 150 * time.Second}
}

func own(s tune.Start) tune.Tuner { return tune.New(s) }

func fixed(name string) func(tune.Start) tune.Tuner {
	return func(s tune.Start) tune.Tuner {
		f, _ := tune.Fixed(name, s)
		return f
	}
}

func report(t *testing.T, name string, e ended) {
	t.Helper()
	t.Logf("%s: done %v in %.1f s, pause %d ms, lost %.1f s (least %.2f), %d MiB", name, e.done, e.took.Seconds(), e.pause.Milliseconds(), e.lost.Seconds(), e.least, e.bytes/mib)
	for _, s := range e.said {
		t.Log(s)
	}
}

// TestMatrix says that every workload of the benchmark is moved within the default intent, also where
// QEMU's own limit never converges, and never much slower than that where it does.
func TestMatrix(t *testing.T) {
	for _, link := range []hypervisor.BytesPerSecond{mbit400, mbit200} {
		for _, w := range matrix {
			for _, st := range []hypervisor.Strategy{{}, {Compression: "xbzrle", XBZRLECache: 512 * mib}} {
				t.Run(fmt.Sprintf("%s/%s/%s", w.name, link, st.Name()), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e := play(t, w, link, st, own, intent())
						report(t, "drover", e)
						if !e.done || e.pause > 150*time.Millisecond {
							t.Fatalf("want it done with the pause kept: %+v", e.last)
						}
						if e.lost > time.Duration(0.3*float64(e.took)) {
							t.Errorf("lost %s of %s, the intent allows 30 %%", e.lost, e.took)
						}
						x := play(t, w, link, st, fixed("default"), intent())
						report(t, "default", x)
						if x.done && e.took > x.took*5/4 {
							t.Errorf("took %s, QEMU's default %s", e.took, x.took)
						}
						if r := e.receipt; r.FirstPass <= 0 || r.Achieved <= 0 || e.bytes > w.used*3/2 && r.Growth.Rate <= 0 {
							t.Errorf("receipt %+v: not all is learned", r)
						}
					})
				})
			}
		}
	}
}

// TestGivesUpEarly says that what the intent does not allow ends within a quarter of the budget, once
// the guest's dirty rate was sampled before, with the guest at full speed.
func TestGivesUpEarly(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*tune.Start)
	}{
		{"no slowing allowed", func(s *tune.Start) { s.MaxSlowdown = 0 }},
		{"no slowing possible", func(s *tune.Start) { s.Lost = -1 }},
		{"too little slowing allowed", func(s *tune.Start) { s.MaxSlowdown = 0.05 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := intent()
				tc.change(&s)
				s.Prior.Growth = model.Growth{Set: 1100 * mib, Rate: 35 * hypervisor.BytesPerSecond(mib)}
				e := play(t, matrix[3], mbit200, hypervisor.Strategy{}, own, s)
				report(t, tc.name, e)
				if e.done || e.last.Reason != tune.NotConverged || e.took > s.Budget/4 {
					t.Errorf("done %v after %s for %q, want it given up within %s", e.done, e.took, e.last.Reason, s.Budget/4)
				}
				if e.least < 1 {
					t.Errorf("slowed to %.2f for nothing", e.least)
				}
			})
		})
	}
}

// TestSlowdownIsPostponed is of a guest that must be slowed for longer than the intent allows of a
// short migration: it waits until that is a small enough part of the whole.
func TestSlowdownIsPostponed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := intent()
		s.MaxSlowdown = 0.2
		e := play(t, matrix[2], mbit200, hypervisor.Strategy{}, own, s)
		report(t, "hot", e)
		if !e.done || e.lost == 0 || e.lost.Seconds() > 0.2*e.took.Seconds() {
			t.Errorf("done %v, lost %s of %s; want at most a fifth", e.done, e.lost, e.took)
		}
	})
}

// cost weighs what the migration takes and what the guest loses.
func cost(e ended) time.Duration { return e.took + time.Duration(forecast.Worth*float64(e.lost)) }

// TestPriorSparesTime says that a guest known from before costs no more than one never seen.
func TestPriorSparesTime(t *testing.T) {
	for _, w := range matrix[1:] {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := play(t, w, mbit400, hypervisor.Strategy{}, own, intent())
				s := intent()
				s.Prior = forecast.Prior{Growth: first.receipt.Growth, Limit: first.receipt.Limit, Receipts: 2}
				again := play(t, w, mbit400, hypervisor.Strategy{}, own, s)
				report(t, "first", first)
				report(t, "again", again)
				if !again.done || again.pause > 150*time.Millisecond || cost(again) > cost(first)*11/10 {
					t.Errorf("%s at first, %s (pause %s) when known", first.took, again.took, again.pause)
				}
			})
		})
	}
}

// TestPriorThatIsNoLongerTrue is of a guest that has become calmer than its receipts say: once a pass has
// shown that, they are no reason to give it up.
func TestPriorThatIsNoLongerTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := intent()
		s.MaxSlowdown = 0
		s.Prior = forecast.Prior{Growth: model.Growth{Set: 500 * mib, Rate: 200 * hypervisor.BytesPerSecond(mib)}, Receipts: 2}
		calmer := workload{"calmer", 1100 * mib, 610 * mib, sim.Pattern{Kind: sim.Pages, Rate: 3_500, WorkingSet: 512 * mib}}
		e := play(t, calmer, mbit200, hypervisor.Strategy{}, own, s)
		report(t, calmer.name, e)
		if !e.done || e.pause > 150*time.Millisecond {
			t.Errorf("done %v, pause %s, for %q", e.done, e.pause, e.last.Reason)
		}
	})
}

// TestSweepOverASlowLink is of a guest whose every pass meets all of its working set, so that no pass says how fast
// it writes. Its dirty rate was sampled before: that it can be slowed to what the link takes is known from there.
func TestSweepOverASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := intent()
		s.Budget, s.MaxSlowdown = 120*time.Second, 0.2 // it has to wait for its turn to be slowed
		s.Prior.Growth = model.Growth{Set: 640 * mib, Rate: 36 * hypervisor.BytesPerSecond(mib)}
		w := workload{"sweep", 640 * mib, 290 * mib, sim.Pattern{Kind: sim.Sweep, Rate: 9_000, WorkingSet: 256 * mib}}
		e := play(t, w, mbit200, hypervisor.Strategy{}, own, s)
		report(t, "sweep", e)
		if !e.done || e.took > 85*time.Second || e.lost.Seconds() > s.MaxSlowdown*e.took.Seconds() {
			t.Errorf("done %v in %s, lost %s", e.done, e.took, e.lost)
		}
		if g := e.receipt.Growth; g.Rate > 50*hypervisor.BytesPerSecond(mib) {
			t.Errorf("learned %+v, it writes at 35 MiB/s", g)
		}
	})
}

// TestReceiptScoresTheModel says that a receipt tells how far off the model was: little for a guest that
// writes evenly, much for one that stops and starts.
func TestReceiptScoresTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := intent()
		s.MaxSlowdown = 0 // more passes at full speed
		even := play(t, matrix[2], mbit400, hypervisor.Strategy{}, own, s)
		bursts := play(t, matrix[5], mbit400, hypervisor.Strategy{}, own, s)
		report(t, "even", even)
		report(t, "bursts", bursts)
		if e := even.receipt.PassError; e <= 0 || e > 0.1 {
			t.Errorf("evenly written: off by %.2f, want at most 0.1", e)
		}
		if e := bursts.receipt.PassError; e < 2*even.receipt.PassError {
			t.Errorf("bursts: off by %.2f, evenly written by %.2f", e, even.receipt.PassError)
		}
	})
}

// TestAdopted is of an agent that takes over in the middle: it knows nothing of the passes before, and
// still brings it to its end.
func TestAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now tune.Tuner
		began := time.Now()
		swap := func(s tune.Start) tune.Tuner {
			return &adopted{Tuner: tune.New(s), at: began.Add(8 * time.Second), next: func(limit time.Duration) tune.Tuner {
				s.Limit = limit
				now = tune.New(s)
				return now
			}}
		}
		e := play(t, matrix[2], mbit200, hypervisor.Strategy{}, swap, intent())
		report(t, "adopted", e)
		if now == nil || !e.done || e.pause > 150*time.Millisecond {
			t.Errorf("done %v, pause %s", e.done, e.pause)
		}
	})
}

// adopted is replaced by another at a time.
type adopted struct {
	tune.Tuner
	at   time.Time
	next func(limit time.Duration) tune.Tuner
}

func (a *adopted) Step(r tune.Reading) tune.Decision {
	if a.next != nil && r.Now.After(a.at) {
		a.Tuner, a.next = a.next(a.Limit()), nil
	}
	return a.Tuner.Step(r)
}
