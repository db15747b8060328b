package lab

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"drover/scheduler/fleet"
)

// Drains of kvm1 on real hosts, all of the same four guests, which are at home there.
func TestDrains(t *testing.T) {
	l := begin(t, "1gbit")
	guests := []string{"drain1", "drain2", "drain3", "drain4"}
	l.Guests(t, "kvm1", guests, idle...)
	for _, tc := range []struct {
		name string
		rate string
		run  func(*testing.T, *Lab, []string)
	}{
		{"empties its host and keeps it closed", "1gbit", drainAndRestore},
		{"is cancelled at any moment", "200mbit", cancelDrain},
		{"outlives the scheduler", "200mbit", killScheduler},
	} {
		if !t.Run(tc.name, func(t *testing.T) { tc.run(t, begin(t, tc.rate), guests) }) {
			return // where the guests are now is not known
		}
	}
}

// run1 is the last run of kvm1.
func (l *Lab) run1(t *testing.T) (fleet.Run, bool) {
	t.Helper()
	var r fleet.Run
	res := l.Drover(t.Context(), "run", "show", "kvm1", "-o", "json", "--timeout", "3s")
	return r, res.Code == 0 && json.Unmarshal([]byte(res.Stdout), &r) == nil
}

// atHome asserts that each guest is on kvm1 and nowhere else.
func atHome(t *testing.T, l *Lab, guests []string) {
	t.Helper()
	if n := onOne(t, l, guests); n != len(guests) {
		t.Errorf("%d of %d guests are at home", n, len(guests))
	}
}

// onOne asserts that each guest runs on one host and is known to no other, and returns how many are on kvm1.
func onOne(t *testing.T, l *Lab, guests []string) int {
	t.Helper()
	home := 0
	for _, g := range guests {
		on, known := l.having(t, g)
		if len(on) != 1 || len(known) != 1 {
			t.Errorf("%s runs on %v and is known to %v, want one host", g, on, known)
		} else if on[0] == "kvm1" {
			home++
		}
	}
	l.Verify(t, guests...)
	return home
}

// A drain empties its host and keeps it closed; a restore brings everybody home.
func drainAndRestore(t *testing.T, l *Lab, guests []string) {
	l.Guest(t, "stays", "kvm2", idle...)
	t.Logf("dry run:\n%s", l.MustDrover(t, "host", "drain", "kvm1", "--dry-run").Stdout)
	r := l.MustDrover(t, "host", "drain", "kvm1", "--wait", "--deadline", "10m")
	t.Logf("drain took %s:\n%s%s", r.Took.Round(time.Millisecond), r.Stderr, r.Stdout)
	if n := onOne(t, l, guests); n != 0 {
		t.Errorf("%d guests are still on kvm1", n)
	}
	if r := l.Drover(t.Context(), "migrate", "stays", "--to", "kvm1"); r.Code != 1 {
		t.Errorf("a move to the drained host: %s", r)
	}
	r = l.MustDrover(t, "host", "restore", "kvm1", "--wait")
	t.Logf("restore took %s:\n%s%s", r.Took.Round(time.Millisecond), r.Stderr, r.Stdout)
	atHome(t, l, guests)
	l.OnOnly(t, "stays", "kvm2")
	l.Ready(t)
}

// A drain that is cancelled at any moment leaves every guest on one host, and a restore brings all home.
func cancelDrain(t *testing.T, l *Lab, guests []string) {
	l.MustDrover(t, "host", "drain", "kvm1")
	after := time.Duration(rand.Int64N(int64(5 * time.Second)))
	time.Sleep(after)
	args := []string{"run", "cancel", "kvm1", "--wait"}
	if rand.IntN(2) == 0 {
		args = append(args, "--abort", "--uncordon")
	}
	r := l.Drover(t.Context(), args...)
	run, ok := l.run1(t)
	if !ok || !run.Phase.Final() || r.Code != 0 && run.Phase != fleet.RunDone {
		t.Fatalf("cancelled after %s: %s, run %s (%s)", after, r, run.Phase, run.Reason)
	}
	home := onOne(t, l, guests)
	t.Logf("%v after %s: %s, %d of %d still at home", args, after.Round(time.Millisecond), run.Phase, home, len(guests))
	l.MustDrover(t, "host", "restore", "kvm1", "--wait")
	atHome(t, l, guests)
	l.Ready(t)
}

// The scheduler, and the store in it, is killed in the middle of a drain: its successor goes on.
func killScheduler(t *testing.T, l *Lab, guests []string) {
	l.MustDrover(t, "host", "drain", "kvm1")
	moved := func() int {
		n := 0
		r, _ := l.run1(t)
		for _, m := range r.Moves {
			if m.State == fleet.MoveMoved {
				n++
			}
		}
		return n
	}
	l.Eventually(t, 2*time.Minute, "one guest has moved", func() bool { return moved() > 0 })
	before := moved()
	l.Do(t, "exec", "control", "--", "sh", "-c", "kill -9 $(pgrep -o -x drover)")
	var run fleet.Run
	l.Eventually(t, 3*time.Minute, "the drain is over", func() bool {
		r, ok := l.run1(t)
		run = r
		return ok && r.Phase.Final()
	})
	t.Logf("%d had moved when the scheduler was killed; the drain took %s", before, run.Finished.Sub(run.Created).Round(time.Millisecond))
	if n := onOne(t, l, guests); n != 0 || run.Phase != fleet.RunDone {
		t.Errorf("%s (%s), %d guests are still on kvm1", run.Phase, run.Reason, n)
	}
	l.MustDrover(t, "host", "restore", "kvm1", "--wait")
	atHome(t, l, guests)
}
