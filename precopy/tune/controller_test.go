package tune

import (
	"strings"
	"testing"
	"time"

	"drover/hypervisor"

	"pgregory.net/rapid"
)

const (
	mib = hypervisor.MiB
	bw  = hypervisor.BytesPerSecond(50 << 20)
)

// guest is a crude pre-copy: each round lasts as long as its bytes take, and leaves share of them for
// the next. It is read every poll, as a worker does.
type guest struct {
	memory hypervisor.Bytes
	next   func(round int, sent hypervisor.Bytes) hypervisor.Bytes
}

// step is a decision and when it fell.
type step struct {
	Decision
	at    time.Duration
	round int
}

// drive reads the guest until the limit is met, the controller aborts, or d has passed; it returns
// the decisions that are not to wait, and whether the limit was met.
func (g guest) drive(c *Controller, d time.Duration) (acted []step, met bool) {
	const poll = 250 * time.Millisecond
	began := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	round, size, start := 1, g.memory, time.Duration(0)
	for t := time.Duration(0); t < d; t += poll {
		for {
			end := start + bw.Time(size)
			if t < end {
				break
			}
			size = g.next(round, size)
			start = end
			round++
			if bw.Time(size) <= c.Limit() {
				return acted, true
			}
		}
		left := size - hypervisor.Bytes(float64(bw)*(t-start).Seconds())
		s := hypervisor.JobStats{
			Kind: hypervisor.JobOutgoing, Elapsed: t, MemTotal: g.memory, MemRemaining: left, Bandwidth: bw, Round: round,
		}
		if round > 1 {
			s.DirtyRate = hypervisor.BytesPerSecond(float64(bw) * 0.8)
		}
		dec := c.Step(s, began.Add(t))
		if dec.Action != Wait {
			acted = append(acted, step{dec, t, round})
		}
		if dec.Action == Abort {
			return acted, false
		}
	}
	return acted, false
}

func halves(_ int, sent hypervisor.Bytes) hypervisor.Bytes { return sent / 2 }

func floor(n hypervisor.Bytes) func(int, hypervisor.Bytes) hypervisor.Bytes {
	return func(_ int, sent hypervisor.Bytes) hypervisor.Bytes { return max(n, sent/4) }
}

func TestController(t *testing.T) {
	policy := Start{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, Bandwidth: bw}
	for _, tc := range []struct {
		name   string
		guest  guest
		start  Start
		met    bool
		limit  time.Duration // at most, in the end
		reason Reason        // of the abort
	}{
		{"idle", guest{512 * mib, func(int, hypervisor.Bytes) hypervisor.Bytes { return mib / 4 }}, policy, true, 20 * time.Millisecond, ""},
		// 8 GiB: the first pass takes 164 s, the second 82 s. Each leaves half: no reason to raise.
		{"long rounds that shrink", guest{8192 * mib, halves}, policy, true, 20 * time.Millisecond, ""},
		// 100 ms at the link: within the promise, but not within the first limit.
		{"needs a part of the promise", guest{256 * mib, floor(5 * mib)}, policy, true, 150 * time.Millisecond, ""},
		{"needs more than the promise", guest{256 * mib, floor(15 * mib)}, policy, true, 900 * time.Millisecond, ""},
		{"needs more than the ceiling", guest{256 * mib, floor(200 * mib)}, policy, false, 900 * time.Millisecond, NotConverged},
		{"ceiling is the promise", guest{256 * mib, floor(15 * mib)}, Start{MaxPause: 150 * time.Millisecond, Bandwidth: bw}, false, 150 * time.Millisecond, NotConverged},
		{"out of time", guest{8192 * mib, halves}, Start{MaxPause: 150 * time.Millisecond, Bandwidth: bw, Budget: 100 * time.Second}, false, 20 * time.Millisecond, OverBudget},
		{"promise below the first limit", guest{256 * mib, floor(mib / 4)}, Start{MaxPause: 5 * time.Millisecond, Bandwidth: bw}, true, 5 * time.Millisecond, ""},
		{"no promise at all", guest{256 * mib, floor(mib)}, Start{Bandwidth: bw}, false, time.Millisecond, NotConverged},
		{"adopted with a raised limit", guest{256 * mib, floor(5 * mib)}, Start{MaxPause: 150 * time.Millisecond, Bandwidth: bw, Limit: 110 * time.Millisecond}, true, 110 * time.Millisecond, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := New(tc.start)
			acted, met := tc.guest.drive(c, time.Hour)
			if met != tc.met {
				t.Fatalf("limit met: %v, want %v; acted %+v", met, tc.met, acted)
			}
			if c.Limit() > tc.limit {
				t.Errorf("limit %s in the end, want at most %s; acted %+v", c.Limit(), tc.limit, acted)
			}
			var reason Reason
			if n := len(acted); n > 0 && acted[n-1].Action == Abort {
				reason = acted[n-1].Reason
				if acted[n-1].Text == "" {
					t.Error("an abort without a word for people")
				}
			}
			if reason != tc.reason {
				t.Errorf("gave up for %q, want %q", reason, tc.reason)
			}
		})
	}
}

// TestGivesUpInTime says that a hopeless guest is not copied for ever within its budget.
func TestGivesUpInTime(t *testing.T) {
	c := New(Start{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, Bandwidth: bw, Budget: time.Hour})
	acted, _ := guest{256 * mib, floor(200 * mib)}.drive(c, time.Hour)
	if n := len(acted); n == 0 || acted[n-1].Action != Abort || acted[n-1].at > 5*time.Minute {
		t.Errorf("acted %+v, want an abort within five minutes", acted)
	}
}

// TestAdoptedBudget is of an agent that adopts a job which it can't read at first: the budget comes
// from the job's own figure once there is one.
func TestAdoptedBudget(t *testing.T) {
	c := New(Start{MaxPause: 150 * time.Millisecond, Bandwidth: bw, Limit: 20 * time.Millisecond})
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	s := hypervisor.JobStats{Elapsed: 2 * time.Minute}
	if d := c.Step(s, now); d.Action != Wait {
		t.Errorf("job without figures: %+v, want to wait", d)
	}
	s.MemTotal, s.MemRemaining, s.Round = 8192*mib, 4000*mib, 1
	if d := c.Step(s, now.Add(time.Second)); d.Action != Wait {
		t.Errorf("two minutes into 8 GiB at 50 MiB/s: %+v, want to wait", d)
	}
	s.Elapsed = time.Hour
	if d := c.Step(s, now.Add(2*time.Second)); d.Reason != OverBudget {
		t.Errorf("an hour into 8 GiB at 50 MiB/s: %+v, want over budget", d)
	}
}

func TestNoBandwidthIsNoBudget(t *testing.T) {
	c := New(Start{MaxPause: 150 * time.Millisecond, Memory: 1 << 40})
	s := hypervisor.JobStats{Elapsed: time.Minute, MemTotal: 1 << 40, MemRemaining: 1 << 39, Round: 1}
	if d := c.Step(s, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)); d.Action != Wait {
		t.Errorf("a minute into a TiB without a cap: %+v, want to wait", d)
	}
}

// TestControllerProperties feeds readings that make no sense at all: whatever they say, the limit
// only rises, never over the ceiling, never over the promise without the reason for it, never in the
// first round, and not twice within the stall window.
func TestControllerProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := func(name string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
		}
		start := Start{
			MaxPause: ms("promise", 500), Ceiling: ms("ceiling", 2000), Budget: ms("budget", 600_000), Bandwidth: bw,
			Memory: hypervisor.Bytes(rapid.Int64Range(0, 1<<40).Draw(t, "memory")),
		}
		c := New(start)
		promise := max(start.MaxPause, leastLimit)
		ceiling := max(start.Ceiling, promise)
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		began, last, lastRaise := now, c.Limit(), time.Time{}
		round := 0
		for range rapid.IntRange(1, 120).Draw(t, "readings") {
			now = now.Add(ms("gap", 8000))
			round += rapid.IntRange(0, 2).Draw(t, "rounds")
			s := hypervisor.JobStats{
				Elapsed: now.Sub(began), Round: round, MemTotal: 1 << 33,
				MemRemaining: hypervisor.Bytes(rapid.Int64Range(0, 1<<33).Draw(t, "rest")),
				DirtyRate:    hypervisor.BytesPerSecond(rapid.Int64Range(0, 1<<33).Draw(t, "dirty")),
			}
			d := c.Step(s, now)
			if c.Limit() < last || c.Limit() > ceiling {
				t.Fatalf("limit went from %s to %s, ceiling %s", last, c.Limit(), ceiling)
			}
			switch d.Action {
			case SetDowntime:
				if d.Limit != c.Limit() || d.Limit <= last {
					t.Fatalf("set to %s, limit %s, before %s", d.Limit, c.Limit(), last)
				}
				if d.Limit > promise && d.Reason != AtCeiling {
					t.Fatalf("%s is over the promise of %s for %q", d.Limit, promise, d.Reason)
				}
				if round <= 1 {
					t.Fatal("raised in the first round")
				}
				if !lastRaise.IsZero() && now.Sub(lastRaise) < stallAfter {
					t.Fatalf("raised again after %s", now.Sub(lastRaise))
				}
				lastRaise = now
			case Abort:
				over := start.Budget > 0 && s.Elapsed > start.Budget || start.Budget == 0 && s.Elapsed > time.Minute
				if d.Reason == OverBudget && !over {
					t.Fatalf("over budget after %s of %s", s.Elapsed, start.Budget)
				}
				if d.Reason == NotConverged && (c.Limit() < ceiling || round <= 1) {
					t.Fatalf("gave up at %s of %s in round %d", c.Limit(), ceiling, round)
				}
				if d.Reason != OverBudget && d.Reason != NotConverged {
					t.Fatalf("gave up for %q", d.Reason)
				}
			case Wait:
				if c.Limit() != last {
					t.Fatal("the limit changed without an action")
				}
			}
			if d.Reason == "" || d.Text == "" {
				t.Fatalf("a decision without a reason: %+v", d)
			}
			last = c.Limit()
		}
	})
}

// What is not known yet is not given as nothing.
func TestAdviceBeforeTheFirstPassIsOver(t *testing.T) {
	c := New(Start{MaxPause: 150 * time.Millisecond, Bandwidth: bw, Budget: 2 * time.Second})
	d := c.Step(hypervisor.JobStats{Elapsed: 3 * time.Second, MemTotal: 512 * mib, MemRemaining: 400 * mib, Round: 1}, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	if d.Reason != OverBudget || strings.Contains(d.Text, "0 B") || strings.Contains(d.Text, "about 0s") {
		t.Errorf("%q: %s", d.Reason, d.Text)
	}
}
