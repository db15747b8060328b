package drain

import (
	"strings"
	"testing"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// What happens to a fleet while a drain is under way, by others.

// TestTargetAwayForAMoment: the only host with room starts its agent anew. That is no reason to shut a guest down, nor to
// leave it where it is; that it stays away is.
func TestTargetAwayForAMoment(t *testing.T) {
	for name, change := range map[string]func(*fleet.Run){
		"shut down": func(r *fleet.Run) { r.ShutDown = true },
		"skip":      func(r *fleet.Run) { r.OnBlocked = fleet.BlockedSkip },
		"fail":      func(*fleet.Run) {},
	} {
		for _, seconds := range []int{8, 600} {
			w, r := newWorld("h1:8 a:2 b:2", "h2:8"), drainOf("h1")
			change(&r)
			w.request(r)
			w.step("r1", 1<<30)
			w.step("r1", 1<<30)
			w.hosts["h2"].down = true
			for range seconds {
				w.step("r1", 1<<30)
				w.now = w.now.Add(time.Second)
			}
			w.hosts["h2"].down = false
			got := w.play(t, "r1")
			if seconds == 8 && name == "fail" {
				// Tries without a target do not count against the VM.
				if n := len(got.Moves[0].Tries); n == 0 || got.Moves[0].Tries[0].To != "" {
					t.Errorf("tries %+v", got.Moves[0].Tries)
				}
			}
			if back := seconds == 8; back != (got.Phase == fleet.RunDone && w.names("h1") == "" && len(w.asked) == 0) {
				t.Errorf("%s, away for %d s: %s (%s), h1 has %q, asked %v", name, seconds, got.Phase, got.Reason, w.names("h1"), w.asked)
			}
		}
	}
}

// TestMovedByHandMeanwhile: what a person moves has left when it arrives; until then it is neither given up nor shut down.
func TestMovedByHandMeanwhile(t *testing.T) {
	for name, change := range map[string]func(*fleet.Run){
		"shut down": func(r *fleet.Run) { r.ShutDown = true },
		"skip":      func(r *fleet.Run) { r.OnBlocked = fleet.BlockedSkip },
		"fail":      func(*fleet.Run) {},
	} {
		w, r := newWorld("h1:8 a:2", "h2:8", "h3:8"), drainOf("h1")
		change(&r)
		w.request(r)
		w.migs["hand"] = precopy.Stored{Migration: precopy.Migration{
			ID: "hand", Domain: "a", UUID: uuidOf("a"), Source: "h1", Target: "h3", Phase: precopy.Queued, RequestedBy: "ada", Created: t0,
		}}
		// The drain has planned it before, to a host that is closed by now.
		run := w.runs["r1"]
		run.Phase, run.Started = fleet.RunRunning, &w.now
		run.Moves = []fleet.RunMove{{VM: "a", UUID: uuidOf("a"), From: "h1", To: "h2", State: fleet.MovePlanned}}
		w.runs["r1"] = run
		w.hosts["h2"].cordons = []fleet.Cordon{{Holder: "ada"}}
		for range 60 {
			w.step("r1", 1<<30)
			w.now = w.now.Add(time.Second)
		}
		w.end("hand", precopy.Done, "")
		got := w.play(t, "r1")
		if got.Phase != fleet.RunDone || len(w.asked) > 0 || len(got.Blocked) > 0 || w.names("h3") != "a" {
			t.Errorf("%s: %s (%s), asked %v, blocked %q", name, got.Phase, got.Reason, w.asked, blockedNames(got))
		}
	}
}

// TestRestoreLeavesLaterCordons: a restore opens what was closed when it began, whatever the clock says of whoever asked for it,
// and not what a drain has closed since.
func TestRestoreLeavesLaterCordons(t *testing.T) {
	w := newWorld("h1:8 a:2", "h2:8")
	w.request(drainOf("h1"))
	w.play(t, "r1")
	w.request(fleet.Run{ID: "r2", Kind: fleet.RunRestore, Hosts: []string{"h1"}})
	run := w.runs["r2"]
	run.Created = t0.Add(-time.Hour)
	w.runs["r2"] = run
	for range 3 { // it is asked for, and not ordered yet
		w.step("r2", 1<<30)
		w.now = w.now.Add(time.Second)
	}
	if len(w.hosts["h1"].cordons) > 0 {
		t.Errorf("not opened: %+v", w.hosts["h1"].cordons)
	}
	over := w.now
	w.runs["r3"] = fleet.StoredRun{Run: fleet.Run{ID: "r3", Kind: fleet.RunDrain, Phase: fleet.RunDone, Hosts: []string{"h1"}, Created: t0, Finished: &over}}
	w.hosts["h1"].cordons = []fleet.Cordon{{Holder: fleet.RunHolder + "r3"}}
	w.play(t, "r2")
	if c := w.hosts["h1"].cordons; len(c) != 1 || c[0].Holder != fleet.RunHolder+"r3" {
		t.Errorf("left: %+v, want the later drain's", c)
	}
}

// TestDeadlineEndsTheWait: also for what only the agents refuse.
func TestDeadlineEndsTheWait(t *testing.T) {
	w, r := newWorld("h1:8 a:2", "h2:8", "h3:8"), drainOf("h1")
	deadline := t0.Add(5 * time.Minute)
	r.OnBlocked, r.Deadline = fleet.BlockedWait, &deadline
	w.request(r)
	for range 3600 {
		w.step("r1", 1<<30)
		for id, m := range w.migs {
			if !m.Phase.Final() {
				w.end(id, precopy.Refused, "cpu-incompatible")
			}
		}
		w.now = w.now.Add(time.Second)
	}
	got := w.runs["r1"]
	if got.Phase != fleet.RunPartial || got.Finished.Sub(deadline) > 2*lastPause || blockedNames(got.Run) != "a cpu-incompatible" {
		t.Errorf("%s (%s) at %v, blocked %q", got.Phase, got.Reason, got.Finished, blockedNames(got.Run))
	}
}

// TestMaintenanceCancelledAgain: that running migrations are to be aborted too may be said later.
func TestMaintenanceCancelledAgain(t *testing.T) {
	w, r := newWorld("h1:8 a:2", "h2:8"), drainOf("h1")
	r.Parent = "m1"
	w.runs["m1"] = fleet.StoredRun{Run: fleet.Run{ID: "m1", Kind: fleet.RunMaintenance, Phase: fleet.RunRunning, Cancel: &fleet.RunCancel{By: "ada"}}}
	w.request(r)
	run := w.runs["r1"]
	run.Phase, run.Started, run.Cancel = fleet.RunRunning, &w.now, &fleet.RunCancel{By: "ada"}
	run.Moves = []fleet.RunMove{{VM: "a", UUID: uuidOf("a"), From: "h1", To: "h2", State: fleet.MoveAsked, Migration: "x"}}
	w.runs["r1"] = run
	w.migs["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", Domain: "a", UUID: uuidOf("a"), Source: "h1", Target: "h2", Phase: precopy.Copying, Run: "r1"}}
	w.step("r1", 1<<30)
	if w.migs["x"].Cancel != nil {
		t.Fatal("aborted unasked")
	}
	parent := w.runs["m1"]
	parent.Cancel = &fleet.RunCancel{By: "ada", Abort: true, Uncordon: true}
	w.runs["m1"] = parent
	w.step("r1", 1<<30)
	if c := w.migs["x"].Cancel; c == nil || !strings.Contains(c.Reason, "cancelled") || !w.runs["r1"].Cancel.Uncordon {
		t.Errorf("cancel %+v, run %+v", c, w.runs["r1"].Cancel)
	}
}

// TestMovedAgainSince: what went home and was moved to the same host again, to balance the fleet, is not brought home by a
// later drain's restore.
func TestMovedAgainSince(t *testing.T) {
	w := newWorld("h1:8 a:2", "h2:8")
	w.request(drainOf("h1"))
	w.play(t, "r1")
	restore := func(id string) fleet.Run {
		w.request(fleet.Run{ID: id, Kind: fleet.RunRestore, Hosts: []string{"h1"}})
		return w.play(t, id)
	}
	if restore("r2"); w.names("h1") != "a" {
		t.Fatalf("not restored: %q", w.names("h1"))
	}
	w.migs["worth"] = precopy.Stored{Migration: precopy.Migration{
		ID: "worth", Domain: "a", UUID: uuidOf("a"), Source: "h1", Target: "h2", Phase: precopy.Copying, Run: "r3", Created: w.now,
	}}
	w.end("worth", precopy.Done, "")
	w.now = w.now.Add(time.Hour)
	if got := restore("r4"); w.names("h1") != "" || len(got.Moves) > 0 {
		t.Errorf("%s (%s): h1 has %q", got.Phase, got.Reason, w.names("h1"))
	}
}

// TestPlannedByAnother: what a restore has planned to bring back from a host, and not begun, does not stand in the way of that
// host's drain.
func TestPlannedByAnother(t *testing.T) {
	w := newWorld("h1:8", "h2:8 a:2", "h3:8")
	w.runs["r0"] = fleet.StoredRun{Run: fleet.Run{
		ID: "r0", Kind: fleet.RunRestore, Phase: fleet.RunRunning, Hosts: []string{"h1"}, Started: &w.now,
		Moves: []fleet.RunMove{{VM: "a", UUID: uuidOf("a"), From: "h2", To: "h1", State: fleet.MovePlanned}},
	}}
	w.request(drainOf("h2"))
	if got := w.play(t, "r1"); got.Phase != fleet.RunDone || w.names("h2") != "" {
		t.Errorf("%s (%s), blocked %q", got.Phase, got.Reason, blockedNames(got))
	}
}
