package tune_test

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
	"drover/precopy/tune"

	"pgregory.net/rapid"
)

// TestAdoptedBudget is of an agent that adopts a job which it can't read at first: the budget comes
// from the job's own figure once there is one.
func TestAdoptedBudget(t *testing.T) {
	c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Bandwidth: mbit400, Limit: 20 * time.Millisecond})
	r := tune.Reading{JobStats: hypervisor.JobStats{Elapsed: 2 * time.Minute}}
	if d := c.Step(r); d.Action != tune.Wait {
		t.Errorf("job without figures: %+v, want to wait", d)
	}
	r.MemTotal, r.MemRemaining, r.Round = 8192*mib, 4000*mib, 1
	if d := c.Step(r); d.Action != tune.Wait {
		t.Errorf("two minutes into 8 GiB at 43 MiB/s: %+v, want to wait", d)
	}
	r.Elapsed = time.Hour
	if d := c.Step(r); d.Reason != tune.OverBudget {
		t.Errorf("an hour into 8 GiB at 43 MiB/s: %+v, want over budget", d)
	}
}

// Disks are copied before memory, on the same clock: what is computed has room for them, and what was ordered is kept to
// meanwhile.
func TestDisksTakeTheirTime(t *testing.T) {
	disks := tune.Reading{JobStats: hypervisor.JobStats{Elapsed: 6 * time.Minute, DiskTotal: 8192 * mib, DiskRemaining: 4096 * mib}}
	memory := disks
	memory.Elapsed, memory.MemTotal, memory.MemRemaining, memory.DiskRemaining, memory.Round = 7*time.Minute, 512*mib, 500*mib, 0, 1
	for _, tc := range []struct {
		budget time.Duration
		at     tune.Reading
		over   bool
	}{{0, disks, false}, {0, memory, false}, {5 * time.Minute, disks, true}, {10 * time.Minute, disks, false}, {10 * time.Minute, memory, false}} {
		c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Bandwidth: mbit400, Memory: 512 * mib, Budget: tc.budget})
		c.Step(disks)
		tc.at.DiskTotal = min(tc.at.DiskTotal, tc.at.DiskRemaining) // once they are copied libvirt may tell nothing of them
		if d := c.Step(tc.at); (d.Reason == tune.OverBudget) != tc.over {
			t.Errorf("%s of disks and %s of memory after %s within %s: %+v, over wanted: %v", tc.at.DiskTotal, tc.at.MemTotal, tc.at.Elapsed, tc.budget, d, tc.over)
		}
	}
}

// A limit bounds the sending alone: what a pause has besides is taken off the promise, as the domain's last
// migrations have shown it, if they have.
func TestLimitOfWhatIsKnown(t *testing.T) {
	for seen, want := range map[time.Duration]time.Duration{
		0: 40 * time.Millisecond, 50 * time.Millisecond: 60 * time.Millisecond, 100 * time.Millisecond: 150 * time.Millisecond / 5,
	} {
		c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Prior: forecast.Prior{Receipts: 2, Limit: time.Second, Switchover: seen}})
		if c.Limit() != want {
			t.Errorf("switchovers of %s: limit %s, want %s", seen, c.Limit(), want)
		}
	}
}

func TestNoBandwidthIsNoBudget(t *testing.T) {
	c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Memory: 1 << 40})
	r := tune.Reading{JobStats: hypervisor.JobStats{Elapsed: time.Minute, MemTotal: 1 << 40, MemRemaining: 1 << 39, Round: 1}}
	if d := c.Step(r); d.Action != tune.Wait {
		t.Errorf("a minute into a TiB without a cap: %+v, want to wait", d)
	}
}

// What is not known yet is not given as nothing.
func TestAdviceBeforeTheFirstPassIsOver(t *testing.T) {
	c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Bandwidth: mbit400, Budget: 2 * time.Second})
	d := c.Step(tune.Reading{JobStats: hypervisor.JobStats{Elapsed: 3 * time.Second, MemTotal: 512 * mib, MemRemaining: 400 * mib, Round: 1}})
	if d.Reason != tune.OverBudget || strings.Contains(d.Text, "0 B") || strings.Contains(d.Text, "about 0s") {
		t.Errorf("%q: %s", d.Reason, d.Text)
	}
}

// TestControllerProperties feeds readings that make no sense at all: whatever they say, the limit
// rises over the promise only for a stated reason and never so far that what is sent in the pause takes
// longer than the ceiling; the guest is slowed only where that is allowed and possible, and never after
// an end.
func TestControllerProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
		}
		start := tune.Start{
			MaxPause: ms("promise", 500), Ceiling: ms("ceiling", 2000), Budget: ms("budget", 600_000), Bandwidth: mbit400,
			Memory:      hypervisor.Bytes(rapid.Int64Range(0, 1<<40).Draw(t, "memory")),
			MaxSlowdown: rapid.SampledFrom([]float64{0, 0.1, 0.5, 1}).Draw(t, "slowdown"),
			PostCopy:    rapid.Bool().Draw(t, "post-copy"),
			Strategy:    hypervisor.Strategy{Compression: rapid.SampledFrom([]string{"", "xbzrle"}).Draw(t, "compression")},
		}
		lost, gap := time.Duration(0), time.Duration(0)
		least := rapid.SampledFrom([]float64{0, 0.1, 0.5, 1}).Draw(t, "least")
		c := tune.New(start)
		promise := max(start.MaxPause, time.Millisecond)
		ceiling := max(start.Ceiling, promise)
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		began, last, round := now, c.Limit(), 0
		if last > promise {
			t.Fatalf("begins with %s, promised %s", last, promise)
		}
		for range rapid.IntRange(1, 120).Draw(t, "readings") {
			gap = ms("gap", 8000)
			now = now.Add(gap)
			round += rapid.IntRange(0, 2).Draw(t, "rounds")
			r := tune.Reading{Share: c.Share(), Least: least, Now: now, JobStats: hypervisor.JobStats{
				Elapsed: now.Sub(began), Round: round, MemTotal: 1 << 33,
				MemRemaining: hypervisor.Bytes(rapid.Int64Range(0, 1<<33).Draw(t, "rest")),
				MemProcessed: hypervisor.Bytes(rapid.Int64Range(0, 1<<34).Draw(t, "sent")),
				DirtyRate:    hypervisor.BytesPerSecond(rapid.Int64Range(0, 1<<33).Draw(t, "dirty")),
			}}
			d := c.Step(r)
			most := ceiling
			if start.Strategy.Compression != "" {
				// QEMU compares with what is not packed.
				most = min(time.Duration(forecast.MostPacked*float64(ceiling)), ceiling+150*time.Millisecond)
			}
			if c.Limit() <= 0 || c.Limit() > most {
				t.Fatalf("limit went from %s to %s, ceiling %s", last, c.Limit(), ceiling)
			}
			if n := c.Lost(); n > lost && lost > time.Duration(start.MaxSlowdown*float64(r.Elapsed-gap)) {
				t.Fatalf("lost %s, then %s, after %s", lost, n, r.Elapsed)
			}
			lost = c.Lost()
			if start.Strategy.Compression == "" && c.Limit() > promise && c.Limit() > last && d.Reason != tune.AtCeiling && d.Action == tune.Wait {
				t.Fatalf("%s is over the promise of %s for %q", c.Limit(), promise, d.Reason)
			}
			if s := c.Share(); s <= 0 || s > 1 || s < 1 && (start.MaxSlowdown == 0 || least == 0 || least == 1 || round <= 1) {
				t.Fatalf("slowed to %v where the least is %v, and %v may be lost", s, least, start.MaxSlowdown)
			}
			if s := c.Share(); s < 1 && s < max(forecast.LeastShare, least) {
				t.Fatalf("slowed to %v where the least is %v", s, least)
			}
			if d.Action != tune.Wait && c.Share() != 1 {
				t.Fatalf("ended with the guest slowed: %+v", d)
			}
			switch {
			case d.Action == tune.Abort && d.Reason == tune.OverBudget:
				if start.Budget > 0 && r.Elapsed <= start.Budget || start.Budget == 0 && r.Elapsed <= time.Minute {
					t.Fatalf("over budget after %s of %s", r.Elapsed, start.Budget)
				}
			case d.Action == tune.StartPostCopy && !start.PostCopy:
				t.Fatal("post-copy where it is not allowed")
			case d.Action != tune.Wait && d.Reason != tune.NotConverged:
				t.Fatalf("gave up for %q", d.Reason)
			case d.Action != tune.Wait && round <= 1:
				t.Fatal("gave up in the first pass")
			}
			if d.Reason == "" || d.Text == "" {
				t.Fatalf("a decision without a reason: %+v", d)
			}
			last = c.Limit()
			if d.Action != tune.Wait {
				return
			}
		}
	})
}

// TestSlowedPassThatTakesLong is of a link that breaks down right after the guest was slowed for a pass
// that was to be short: once as much is lost as the intent allows, the guest has its speed back, in the
// middle of the pass.
func TestSlowedPassThatTakesLong(t *testing.T) {
	c := tune.New(tune.Start{MaxPause: 150 * time.Millisecond, Bandwidth: mbit400, MaxSlowdown: 0.3, Budget: time.Hour})
	at, sent := time.Duration(0), hypervisor.Bytes(0)
	step := func(round int, rest, carried hypervisor.Bytes) {
		at, sent = at+250*time.Millisecond, sent+carried
		c.Step(tune.Reading{Share: c.Share(), Least: 0.1, JobStats: hypervisor.JobStats{
			Elapsed: at, Round: round, MemTotal: 600 * mib, MemRemaining: rest, MemProcessed: sent,
		}})
	}
	// Passes of a guest that rewrites 90 MiB as fast as they go.
	for round, size := range []hypervisor.Bytes{400 * mib, 90 * mib, 88 * mib, 89 * mib, 90 * mib} {
		for rest := size; rest > 10*mib && c.Share() == 1; rest -= 10 * mib {
			step(round+1, rest, 10*mib)
		}
	}
	if c.Share() == 1 {
		t.Fatal("never slowed: the test shows nothing")
	}
	slowedAt := at
	for c.Share() < 1 && at < slowedAt+time.Minute {
		step(9, 80*mib, mib/64)
	}
	if lost := float64(at-slowedAt) * 0.9; c.Share() < 1 || lost > 0.45*float64(at) {
		t.Errorf("slowed at %s, at %s still %.2f", slowedAt, at, c.Share())
	}
}

// TestEndOfTheFirstPassIsNoMeasure is of a guest whose memory ends with pages that hold nothing, over which next to
// nothing is sent for seconds: no reason to take the link for slow, and to give the guest up.
func TestEndOfTheFirstPassIsNoMeasure(t *testing.T) {
	c := tune.New(tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 90 * time.Second,
		Bandwidth: mbit200, Memory: 640 * mib,
		Prior: forecast.Prior{Growth: model.Growth{Set: 640 * mib, Rate: 34 * hypervisor.BytesPerSecond(mib)}},
	})
	r := tune.Reading{Share: 1, Least: 0.28, JobStats: hypervisor.JobStats{MemTotal: 640 * mib, MemRemaining: 640 * mib, Round: 1}}
	for r.MemRemaining > 4*mib {
		r.Elapsed += 250 * time.Millisecond
		sent := 21 * mib / 4
		if r.MemRemaining < 200*mib {
			sent = mib / 16
			r.MemRemaining -= 20 * mib
		} else {
			r.MemRemaining -= sent
		}
		r.MemRemaining = max(r.MemRemaining, 0)
		r.MemProcessed += sent
		c.Step(r)
	}
	r.Elapsed, r.Round, r.MemRemaining = r.Elapsed+250*time.Millisecond, 2, 230*mib
	if d := c.Step(r); d.Action != tune.Wait {
		t.Errorf("after the first pass: %s", d.Text)
	}
}

// fastGuest is one that rewrites 96 MiB at more than three times what the link carries, under way.
type fastGuest struct {
	c *tune.Controller
	r tune.Reading

	wire hypervisor.Bytes // what goes over the link each second; 0 for what is sent
}

func newFastGuest(least float64) *fastGuest {
	return &fastGuest{
		c: tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.25, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 384 * mib,
			Prior: forecast.Prior{Growth: model.Growth{Set: 96 * mib, Rate: 74 * hypervisor.BytesPerSecond(mib)}},
		}),
		r: tune.Reading{
			Share: 1, Least: least,
			JobStats: hypervisor.JobStats{MemTotal: 384 * mib, MemRemaining: 180 * mib, Round: 1},
		},
	}
}

// pass lets the rest of a pass be sent, and says what is decided at the beginning of the next.
func (g *fastGuest) pass(left hypervisor.Bytes) tune.Decision {
	const speed = 21 * mib
	for g.r.MemRemaining > 0 {
		g.r.Elapsed += 250 * time.Millisecond
		g.r.MemProcessed += min(cmp.Or(g.wire, speed)/4, g.r.MemRemaining)
		g.r.MemRemaining = max(g.r.MemRemaining-speed/4, 0)
		g.c.Step(g.r)
	}
	g.r.Elapsed, g.r.Round, g.r.MemRemaining = g.r.Elapsed+100*time.Millisecond, g.r.Round+1, left
	return g.c.Step(g.r)
}

// TestOnePassDoesNotTell is of a guest that one pass and one sample make look just too fast even for a guest that is
// slowed: passes are watched as long as there is time to give up early.
func TestOnePassDoesNotTell(t *testing.T) {
	g := newFastGuest(0.28)
	if d := g.pass(95 * mib); d.Action != tune.Wait {
		t.Errorf("after one pass: %s", d.Text)
	}
	for g.r.Elapsed < 19*time.Second {
		if d := g.pass(95 * mib); d.Action == tune.Abort {
			return
		}
	}
	if d := g.pass(95 * mib); d.Action != tune.Abort {
		t.Errorf("after %s: %s", g.r.Elapsed, d.Text)
	}
}

// TestDecidedInGoodTime is of guests that may just do, where another pass would take until it is too late to give them up
// early: one that looks just too fast is given up, and one whose end is forecast for so late that a forecast that errs
// would break the promise, unless that was kept before. What would have to change is said.
func TestDecidedInGoodTime(t *testing.T) {
	fast := model.Growth{Set: 250 * mib, Rate: 38 * hypervisor.BytesPerSecond(mib)}
	sweep := model.Growth{Set: 257 * mib, Rate: 31 * hypervisor.BytesPerSecond(mib), Linear: true}
	for name, tc := range map[string]struct {
		growth   model.Growth
		least    float64
		slowdown float64
		first    hypervisor.Bytes // sent in the first pass
		ended    bool
		gaveUp   bool
		want     tune.Action
		advice   string
	}{
		"just too fast, early": {fast, 0.4, 0.25, 40 * mib, false, false, tune.Wait, ""},
		"just too fast":        {fast, 0.4, 0.25, 320 * mib, false, false, tune.Abort, "or a max_slowdown of 4"},
		"just in time":         {sweep, 0.35, 0.3, 320 * mib, false, false, tune.Abort, "or a max_slowdown of 4"},
		"just in time, before": {sweep, 0.35, 0.3, 320 * mib, true, false, tune.Wait, "will be slowed"},
		"given up before":      {sweep, 0.2, 0.3, 270 * mib, false, true, tune.Abort, ""},
		"not given up before":  {sweep, 0.2, 0.3, 270 * mib, false, false, tune.Wait, ""},
		"in time":              {sweep, 0.35, 0.5, 320 * mib, false, false, tune.Wait, ""},
	} {
		g := newFastGuest(tc.least)
		g.c = tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: tc.slowdown, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 640 * mib, Prior: forecast.Prior{Growth: tc.growth, Ended: tc.ended, GaveUp: tc.gaveUp},
		})
		g.r.MemTotal, g.r.MemRemaining = 640*mib, tc.first
		if d := g.pass(tc.growth.Dirtied(14 * time.Second)); d.Action != tc.want || !strings.Contains(d.Text, tc.advice) {
			t.Errorf("%s: after %s: %s", name, g.r.Elapsed, d.Text)
		}
	}
}

// TestWhatEndedBefore is of a guest that one pass makes look far too fast, as one does whose load comes and goes, but
// that was moved before: it is watched for longer.
func TestWhatEndedBefore(t *testing.T) {
	for _, known := range []bool{false, true} {
		g := newFastGuest(1) // it can't be slowed
		g.c = tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 150 * time.Millisecond, MaxSlowdown: 0.25, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 384 * mib,
			Prior: forecast.Prior{Receipts: 2, Ended: known, Growth: model.Growth{Set: 96 * mib, Rate: 157 * hypervisor.BytesPerSecond(mib)}},
		})
		passes := 1
		for g.pass(95*mib).Action == tune.Wait && passes < 20 {
			passes++
		}
		if known != (passes >= 3) || passes == 20 {
			t.Errorf("ended before: %t; given up after %d passes", known, passes)
		}
	}
}

// TestNotSlowedBeforePagesAreCompressed is of a guest that is to be slowed at once, unless what it rewrites will be
// compressed from the next pass on.
func TestNotSlowedBeforePagesAreCompressed(t *testing.T) {
	for compression, pass := range map[string]int{"": 2, "xbzrle": 3} {
		g := newFastGuest(0.16)
		g.c = tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.8, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 384 * mib, Strategy: hypervisor.Strategy{Compression: compression},
			Prior: forecast.Prior{Receipts: 2, Ended: true, Growth: model.Growth{Set: 96 * mib, Rate: 60 * hypervisor.BytesPerSecond(mib)}},
		})
		for g.c.Share() == 1 && g.r.Round < 10 {
			g.pass(95 * mib)
		}
		if g.r.Round != pass {
			t.Errorf("compression %q: slowed in pass %d, want %d", compression, g.r.Round, pass)
		}
	}
}

// TestLimitOfASlowedGuest is of a guest that was allowed all of the promise before it had to be slowed: the silence before
// the switchover comes on top of the pause then.
func TestLimitOfASlowedGuest(t *testing.T) {
	g := newFastGuest(0.16)
	g.c = tune.New(tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.8, Budget: 75 * time.Second,
		Bandwidth: mbit200, Memory: 384 * mib,
		Prior: forecast.Prior{
			Receipts: 2, Ended: true, Limit: 90 * time.Millisecond, Switchover: 20 * time.Millisecond,
			Growth: model.Growth{Set: 96 * mib, Rate: 60 * hypervisor.BytesPerSecond(mib)},
		},
	})
	before := g.c.Limit()
	for g.c.Share() == 1 && g.r.Round < 10 {
		g.pass(95 * mib)
	}
	if most := forecast.Sending(150*time.Millisecond, 20*time.Millisecond, true); before <= most || g.c.Limit() > most || g.c.Share() == 1 {
		t.Errorf("limit %s, then %s of a guest at %.2f, want %s at most", before, g.c.Limit(), g.c.Share(), most)
	}
}

// TestLimitFollowsTheCompression is of a guest whose pages packed well when the limit was raised, and no longer do: what
// is left takes no longer to send in the pause than was allowed.
func TestLimitFollowsTheCompression(t *testing.T) {
	g := newFastGuest(0)
	g.c = tune.New(tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, Budget: 10 * time.Minute,
		Bandwidth: mbit200, Memory: 384 * mib, Strategy: hypervisor.Strategy{Compression: "xbzrle"},
		Prior: forecast.Prior{Receipts: 2, Ended: true, Switchover: 20 * time.Millisecond, Growth: model.Growth{Set: 20 * mib, Rate: 15 * hypervisor.BytesPerSecond(mib)}},
	})
	packed := time.Duration(0)
	for range 4 {
		g.wire = 5 * mib // of 21
		g.pass(40 * mib)
		packed = max(packed, g.c.Limit())
	}
	for range 4 {
		g.wire = 21 * mib
		g.pass(40 * mib)
	}
	most := forecast.Sending(150*time.Millisecond, 20*time.Millisecond, false)
	if packed <= most || g.c.Limit() > most*5/4 {
		t.Errorf("a limit of %s, and of %s when nothing is compressed, want about %s", packed, g.c.Limit(), most)
	}
}

// TestNearlyThere is of a slowed guest whose last passes hardly shrink, so that it seems that it would take longer than the
// intent allows: so near the end it is slowed until that is so.
func TestNearlyThere(t *testing.T) {
	g := newFastGuest(0.29)
	g.c = tune.New(tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 75 * time.Second,
		Bandwidth: mbit200, Memory: 384 * mib, Prior: forecast.Prior{Growth: model.Growth{Set: 95 * mib, Rate: 33 * hypervisor.BytesPerSecond(mib)}},
	})
	for _, left := range []hypervisor.Bytes{94, 86, 30, 20, 14, 11, 10, 10, 10, 9, 9, 9, 9, 9, 9} {
		slowed := g.c.Share() < 1
		g.pass(left * mib)
		g.r.Share = g.c.Share()
		if slowed && g.c.Share() == 1 {
			if left > 86/4 || g.c.Lost().Seconds() < 0.29*g.r.Elapsed.Seconds() {
				t.Errorf("at full speed again with %d MiB left, %.1f s lost of %.1f s", left, g.c.Lost().Seconds(), g.r.Elapsed.Seconds())
			}
			if most := forecast.Sending(150*time.Millisecond, forecast.Switchover, false); g.c.Limit() > most {
				t.Errorf("at full speed again with the limit of a slowed guest, %s, want %s at most", g.c.Limit(), most)
			}
			return
		}
	}
	t.Error("it was slowed for longer than the intent allows, or not at all")
}

// TestWarmingUp is of a guest that has just been slowed, and not as much yet as it is to be: what it does until then is no
// reason to slow it more, nor to let it go, and is not what a slowed guest does. How far it could be slowed is learned.
func TestWarmingUp(t *testing.T) {
	g := newFastGuest(0.2)
	g.c = tune.New(tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.2, Budget: 75 * time.Second,
		Bandwidth: mbit200, Memory: 384 * mib, Prior: forecast.Prior{Growth: model.Growth{Set: 30 * mib, Rate: 60 * hypervisor.BytesPerSecond(mib)}},
	})
	for g.c.Share() == 1 && g.r.Round < 20 {
		g.pass(30 * mib)
	}
	asked := g.c.Share()
	g.r.Share, g.r.Warming = min(1, 2*asked), true
	if d := g.pass(28 * mib); d.Reason != tune.Slowing || g.c.Share() != asked {
		t.Errorf("warming up: %s, share %.2f of %.2f", d.Text, g.c.Share(), asked)
	}
	g.r.Share, g.r.Warming, g.r.Least = asked, false, 1
	if d := g.pass(12 * mib); d.Reason != tune.Slowing {
		t.Errorf("then: %s", d.Text)
	}
	if r := g.c.Learned(); r.FloorShare != 0.2 {
		t.Errorf("learned that it can be slowed to %v", r.FloorShare)
	}
}

// TestSlowedMildlyIfThatCostsLess is of guests that sweep over their memory, and are to be slowed: one that writes more slowly
// than the link takes it loses less for being slowed a little for longer, one that writes faster for being slowed much.
func TestSlowedMildlyIfThatCostsLess(t *testing.T) {
	const least = 0.28
	for _, tc := range []struct {
		rate   hypervisor.Bytes // dirtied per second, where the link takes 42 MiB
		budget time.Duration
		mildly bool
	}{{36 * mib, time.Hour, true}, {36 * mib, 40 * time.Second, false}, {70 * mib, time.Hour, false}} {
		c := tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Bandwidth: mbit400, MaxSlowdown: 0.5, Budget: tc.budget, Memory: 600 * mib,
			Prior: forecast.Prior{Growth: model.Growth{Set: 250 * mib, Rate: hypervisor.BytesPerSecond(tc.rate), Linear: true}},
		})
		r := tune.Reading{Least: least, JobStats: hypervisor.JobStats{MemTotal: 600 * mib, MemRemaining: 400 * mib, Round: 1}}
		dirtied := hypervisor.Bytes(0)
		for c.Share() == 1 && r.Elapsed < 3*time.Minute {
			sent := 42 * mib / 10
			r.Elapsed += 100 * time.Millisecond
			r.MemProcessed += sent
			dirtied = min(dirtied+tc.rate/10, 250*mib)
			if r.MemRemaining -= sent; r.MemRemaining <= 0 {
				r.MemRemaining, r.Round, dirtied = dirtied, r.Round+1, 0
			}
			r.Share = 1
			if d := c.Step(r); d.Action != tune.Wait {
				t.Fatalf("%s: %s", r.Elapsed, d.Text)
			}
		}
		if s := c.Share(); s == 1 || s > least+0.01 != tc.mildly {
			t.Errorf("%d MiB/s, %s: slowed to %.2f after %s", tc.rate/mib, tc.budget, s, r.Elapsed)
		}
	}
}

// TestSweepIsGivenUpEarly is of guests that are slowed to a third at most: one that rewrites a small set is, and one that
// sweeps over a large one, which would take longer than the intent allows, is given up within a quarter of the budget.
func TestSweepIsGivenUpEarly(t *testing.T) {
	for _, sweeps := range []bool{false, true} {
		g := newFastGuest(0.35)
		set, rate := 250*mib, 38*hypervisor.BytesPerSecond(mib)
		if !sweeps {
			set, rate = 95*mib, 40*hypervisor.BytesPerSecond(mib)
		}
		g.c = tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 384 * mib, Prior: forecast.Prior{Growth: model.Growth{Set: set, Rate: rate, Linear: sweeps}},
		})
		var d tune.Decision
		for g.c.Share() == 1 && d.Action == tune.Wait && g.r.Round < 20 {
			d = g.pass(set)
		}
		if slowed := g.c.Share() < 1; slowed == sweeps || sweeps && (d.Action != tune.Abort || g.r.Elapsed > 19*time.Second) {
			t.Errorf("sweeps: %t; slowed: %t after %s: %s", sweeps, slowed, g.r.Elapsed, d.Text)
		}
	}
}

// TestNotSlowedBeyondTheBudget is of the same guest when the time is nearly up: what can't end in time is not begun.
func TestNotSlowedBeyondTheBudget(t *testing.T) {
	g := newFastGuest(0.28)
	g.r.Elapsed = 60 * time.Second
	for range 3 {
		if d := g.pass(95 * mib); g.c.Share() < 1 {
			t.Fatalf("after %s it runs at %.2f: %s", g.r.Elapsed, g.c.Share(), d.Text)
		} else if d.Action == tune.Abort {
			return
		}
	}
	t.Errorf("after %s still not given up", g.r.Elapsed)
}

// TestUnchangedPagesAreReckonedWith is of two guests that write as fast, within the same set, under XBZRLE: at random, when a
// good part of what is dirty was sent as it is, and sweeping over it, when nothing is sure to be. The first one is slowed, the
// second would take longer than the intent allows.
func TestUnchangedPagesAreReckonedWith(t *testing.T) {
	for _, sweeps := range []bool{false, true} {
		g := newFastGuest(0.4)
		set, rate := 256*mib, 36*hypervisor.BytesPerSecond(mib)
		g.c = tune.New(tune.Start{
			MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: 75 * time.Second,
			Bandwidth: mbit200, Memory: 640 * mib, Strategy: hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 256 * mib},
			Prior: forecast.Prior{Growth: model.Growth{Set: set, Rate: rate, Linear: sweeps}},
		})
		var d tune.Decision
		for g.c.Share() == 1 && d.Action == tune.Wait && g.r.Round < 20 {
			d = g.pass(230 * mib)
		}
		if slowed := g.c.Share() < 1; slowed == sweeps {
			t.Errorf("sweeps: %t; slowed: %t after %s: %s", sweeps, slowed, g.r.Elapsed, d.Text)
		}
	}
}
