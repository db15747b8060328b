package tune_test

import (
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/model"
	"drover/precopy/tune"
)

// carried is what the link of these tests takes in a second.
const carried = 21 * hypervisor.BytesPerSecond(mib)

// landing is a migration of a guest of 384 MiB over 200 Mbit/s that must be slowed to land.
type landing struct {
	c        *tune.Controller
	r        tune.Reading
	size     hypervisor.Bytes // of the present pass
	attempts int              // how often it was slowed
	slowed   time.Duration    // Elapsed when it was at first; 0 while it never was
}

func newLanding(budget time.Duration, change ...func(*tune.Start)) *landing {
	s := tune.Start{
		MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3, Budget: budget,
		Bandwidth: mbit200, Memory: 384 * mib,
		Prior: forecast.Prior{Receipts: 2, Growth: model.Growth{Set: 100 * mib, Rate: 40 * hypervisor.BytesPerSecond(mib)}},
	}
	for _, f := range change {
		f(&s)
	}
	return &landing{
		c: tune.New(s),
		r: tune.Reading{Share: 1, Least: 0.28, JobStats: hypervisor.JobStats{
			MemTotal: 384 * mib, MemRemaining: 250 * mib, Round: 1, Bandwidth: mbit200,
		}},
		size: 250 * mib,
	}
}

// step sends a tenth of a second at the speed, and says what is decided then. A pass of the guest at full speed leaves 90 MiB,
// one of the slowed guest what left says, given what it had to send. It reports whether QEMU has switched over.
func (l *landing) step(speed hypervisor.BytesPerSecond, left func(size hypervisor.Bytes) hypervisor.Bytes) (d tune.Decision, over bool) {
	r := &l.r
	r.Elapsed += 100 * time.Millisecond
	if l.c.Share() < 1 && r.Share == 1 {
		if l.attempts++; l.slowed == 0 {
			l.slowed = r.Elapsed
		}
	}
	r.Share = l.c.Share()
	sent := hypervisor.Bytes(speed / 10)
	for r.MemProcessed += sent; sent >= r.MemRemaining; {
		sent -= r.MemRemaining
		next := 90 * mib
		if r.Share < 1 {
			next = left(l.size)
		}
		l.size, r.MemRemaining, r.Round = next, next, r.Round+1
		over = over || l.c.Limit().Seconds()*float64(carried) >= float64(next)
	}
	r.MemRemaining -= sent
	return l.c.Step(*r), over
}

// TestSlowedGuestThatStillLeavesALittle is of a guest that uses up its quota at once whenever it may run: however
// slow it is, short passes leave as much, a little more than the first limits take. That is no reason to give up.
func TestSlowedGuestThatStillLeavesALittle(t *testing.T) {
	const least = 3 * mib / 2
	for l := newLanding(75 * time.Second); l.r.Elapsed < 40*time.Second; {
		d, over := l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size*2/5, least) })
		if d.Action == tune.Abort {
			t.Fatalf("given up after %s in pass %d, the limit at %s: %s", l.r.Elapsed, l.r.Round, l.c.Limit(), d.Text)
		}
		if over {
			if most := 3 * carried.Time(least) / 2; l.c.Limit() > most {
				t.Errorf("%s are enough, and the limit is %s", carried.Time(least), l.c.Limit())
			}
			return
		}
	}
	t.Error("not over")
}

// TestAnotherAttempt is of a guest whose passes shrink far more slowly than is forecast: when the intent allows no more of it,
// it runs on, and is slowed again once all that it takes is allowed, rather than paused for longer than promised.
func TestAnotherAttempt(t *testing.T) {
	l := newLanding(75 * time.Second)
	for l.r.Elapsed < 75*time.Second {
		d, over := l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size*7/10, mib/2) })
		if d.Action == tune.Abort {
			t.Fatalf("given up after %s, slowed %d times: %s", l.r.Elapsed, l.attempts, d.Text)
		}
		lost, limit := l.c.Lost().Seconds()/l.r.Elapsed.Seconds(), l.c.Limit()
		if lost > 0.31 || l.c.Share() < 1 && limit > 50*time.Millisecond {
			t.Fatalf("after %s it has lost %.0f %%, and the limit is %s", l.r.Elapsed, 100*lost, limit)
		}
		if over {
			if l.attempts != 2 {
				t.Errorf("slowed %d times, over after %s", l.attempts, l.r.Elapsed)
			}
			return
		}
	}
	t.Errorf("not over, slowed %d times", l.attempts)
}

// TestSlowedThreeTimesAtMost is of a guest whose passes shrink so slowly when it is slowed that the intent allows nothing like
// what it would lose: it is not slowed over and over until the time is up.
func TestSlowedThreeTimesAtMost(t *testing.T) {
	l := newLanding(10 * time.Minute)
	for l.r.Elapsed < 10*time.Minute {
		d, _ := l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size*97/100, 30*mib) })
		if d.Action == tune.Abort {
			if l.attempts == 0 || l.attempts > 3 || l.r.Elapsed > 5*time.Minute {
				t.Errorf("given up after %s, slowed %d times: %s", l.r.Elapsed, l.attempts, d.Text)
			}
			return
		}
	}
	t.Errorf("not given up, slowed %d times", l.attempts)
}

// TestOverdrawnIsNotSlowed is of a guest that has lost more than the intent allows, as before its agent was started again, and
// would lose less than that in each further second: it is not slowed before it is within what is allowed.
func TestOverdrawnIsNotSlowed(t *testing.T) {
	l := newLanding(75*time.Second, func(s *tune.Start) {
		s.MaxSlowdown, s.Lost, s.Prior.Growth.Rate = 0.5, 9*time.Second, 26*hypervisor.BytesPerSecond(mib)
	})
	for l.r.Least = 0.7; l.r.Elapsed < 75*time.Second; {
		_, over := l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size*8/10, mib/2) })
		if l.c.Share() < 1 && l.c.Lost() > l.r.Elapsed/2 {
			t.Fatalf("slowed after %s, with %s lost", l.r.Elapsed, l.c.Lost())
		}
		if over {
			return
		}
	}
	t.Error("not over")
}

// TestPassesThatBecomeShorter is of a slowed guest whose passes shrink hardly, or not, for a while: as long as there was a
// shorter one in the last seconds, the pause is as promised.
func TestPassesThatBecomeShorter(t *testing.T) {
	lefts, n := []hypervisor.Bytes{40, 20, 12, 9, 86, 88, 83, 86, 78, 80, 74, 60, 40, 20, 10}, 0
	for l := newLanding(75 * time.Second); l.r.Elapsed < 75*time.Second; {
		d, over := l.step(carried, func(hypervisor.Bytes) hypervisor.Bytes {
			left := lefts[min(n, len(lefts)-1)]
			if n++; n > 4 {
				return left * mib / 10
			}
			return left * mib
		})
		if l.c.Share() < 1 && l.c.Limit() > 50*time.Millisecond {
			t.Fatalf("after %s, in pass %d, the limit is %s: %s", l.r.Elapsed, l.r.Round, l.c.Limit(), d.Text)
		}
		if over {
			return
		}
	}
	t.Error("not over")
}

// TestHoveringEnds is of a slowed guest whose short passes scatter, and never leave what may be sent within the promise:
// it is slowed another time or two, but however much time there is, it is paused for longer then.
func TestHoveringEnds(t *testing.T) {
	scatter := []hypervisor.Bytes{29 * mib / 10, 16 * mib / 10, 35 * mib / 10, 14 * mib / 10, 22 * mib / 10, 31 * mib / 10, 15 * mib / 10}
	l, n, short := newLanding(time.Hour), 0, time.Duration(0)
	for l.r.Elapsed < 10*time.Minute {
		d, over := l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes {
			n++
			return max(size*2/5, scatter[n%len(scatter)])
		})
		if d.Action == tune.Abort {
			t.Fatalf("given up after %s: %s", l.r.Elapsed, d.Text)
		}
		if short == 0 && l.size < 4*mib {
			short = l.r.Elapsed
		}
		if over {
			if short == 0 || l.r.Elapsed-short < 3*time.Second || l.r.Elapsed > 100*time.Second || l.c.Limit() > 120*time.Millisecond {
				t.Errorf("over after %s, passes short since %s, the limit at %s", l.r.Elapsed, short, l.c.Limit())
			}
			return
		}
	}
	t.Errorf("not over, the limit at %s", l.c.Limit())
}

// TestLinkDipIsNoFaultOfTheGuest is of a link that carries next to nothing for a while when the guest has just been slowed: that
// says nothing of what slowing it costs afterwards.
func TestLinkDipIsNoFaultOfTheGuest(t *testing.T) {
	l := newLanding(75 * time.Second)
	for l.r.Elapsed < 75*time.Second {
		speed := carried
		if since := l.r.Elapsed - l.slowed; l.slowed > 0 && since > 5*time.Second && since < 8*time.Second {
			speed /= 10
		}
		d, over := l.step(speed, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size*2/5, mib/2) })
		if d.Action == tune.Abort {
			t.Fatalf("given up after %s, slowed at first after %s: %s", l.r.Elapsed, l.slowed, d.Text)
		}
		if over {
			if l.c.Limit() > 50*time.Millisecond {
				t.Errorf("over after %s with a limit of %s", l.r.Elapsed, l.c.Limit())
			}
			return
		}
	}
	t.Error("not over")
}

// A link that turns out slower than it was ordered by gives no more however long one waits: the guest is slowed. What
// others have of it is waited for.
func TestLinkIsSlowerThanOrdered(t *testing.T) {
	for _, tc := range []struct {
		name   string
		alone  hypervisor.BytesPerSecond
		slowed bool
	}{
		{"slower", carried, true},
		{"taken by others", 4 * carried, false},
		{"all but what is not worth a write", carried * 20 / 17, true},
		{"most of what would not do either", carried * 3 / 2, true},
	} {
		l := newLanding(0, func(s *tune.Start) { s.Bandwidth = 4 * carried })
		var d tune.Decision
		for over := false; !over && l.r.Elapsed < 90*time.Second; {
			l.c.Allow(carried, tc.alone)
			d, over = l.step(carried, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size/8, mib) })
			if d.Action == tune.Abort {
				t.Errorf("%s: given up after %s: %s", tc.name, l.r.Elapsed, d.Text)
				break
			}
		}
		if got := l.slowed > 0; got != tc.slowed || got == (d.Reason == tune.Sharing) {
			t.Errorf("%s: slowed %v: %s %s", tc.name, got, d.Reason, d.Text)
		}
		if r := l.c.Learned(); r.Achieved > tc.alone || r.Achieved < tc.alone*9/10 {
			t.Errorf("%s: learned of a link of %s, want %s", tc.name, r.Achieved, tc.alone)
		}
		if r := l.c.Learned(); r.Bandwidth != tc.alone {
			t.Errorf("%s: learned with %s, want what it could have had, %s", tc.name, r.Bandwidth, tc.alone)
		}
	}
}

// TestWaitingIsNotLate: a migration that has waited for the link for longer than it may take has as much time afterwards as
// it would have had at once.
func TestWaitingIsNotLate(t *testing.T) {
	l := newLanding(0, func(s *tune.Start) { s.Bandwidth = carried })
	var d tune.Decision
	for over := false; !over; {
		speed := carried
		if l.r.Elapsed < 400*time.Second {
			speed = 2 * hypervisor.BytesPerSecond(mib)
		}
		l.c.Allow(speed, carried)
		d, over = l.step(speed, func(size hypervisor.Bytes) hypervisor.Bytes { return max(size/8, mib) })
		if d.Action == tune.Abort || l.r.Elapsed > 600*time.Second {
			t.Fatalf("after %s, slowed %d times: %s %s", l.r.Elapsed, l.attempts, d.Reason, d.Text)
		}
	}
	if l.slowed < 400*time.Second || l.c.Limit() > 150*time.Millisecond {
		t.Errorf("slowed after %s, pause limit %s: want it slowed once it has the link, and no longer pause", l.slowed, l.c.Limit())
	}
}

// TestGrownBudgetIsKept: a migration that could have but a part of the link for a long time, and then all of it, is not late for
// that.
func TestGrownBudgetIsKept(t *testing.T) {
	l := newLanding(0, func(s *tune.Start) { s.Bandwidth = 10 * carried })
	for l.r.Elapsed < 500*time.Second {
		speed := carried / 10
		l.c.Allow(speed, speed)
		if l.r.Elapsed > 490*time.Second {
			speed = carried
			l.c.Allow(10*carried, 10*carried)
		}
		if d, _ := l.step(speed, func(size hypervisor.Bytes) hypervisor.Bytes { return size }); d.Action == tune.Abort && d.Reason == tune.OverBudget {
			t.Fatalf("after %s: %s", l.r.Elapsed, d.Text)
		}
	}
}
