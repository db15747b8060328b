package rolling

import (
	"testing"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// stopped is a roll of h1 whose hook has failed.
func stopped(t *testing.T) (*world, fleet.Run) {
	t.Helper()
	w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16"), rollOf("h1")
	r.Roll.Hooks = []fleet.Hook{hook("upgrade")}
	w.script = func(o HookOrder, n int) precopy.HookResult {
		if len(w.hosts["h1"].vms) > 0 {
			t.Errorf("hook %s runs on a host with VMs: %v", o.Call.Name, w.hosts["h1"].vms)
		}
		return precopy.HookResult{Exit: map[bool]int{true: 1}[n == 1]}
	}
	w.request(r)
	got := w.play(t, "m1")
	if got.Phase != fleet.RunStopped {
		t.Fatalf("%s (%s)", got.Phase, got.Reason)
	}
	return w, got
}

// TestResumeOnAnOpenedHost: whoever mended what made a hook fail may have brought the VMs home. They leave again before it runs.
func TestResumeOnAnOpenedHost(t *testing.T) {
	w, got := stopped(t)
	for _, vm := range []string{"a", "b"} {
		w.hosts["h1"].vms[vm] = 2
		delete(w.hosts["h2"].vms, vm)
		delete(w.hosts["h3"].vms, vm)
	}
	w.hosts["h1"].cordons = nil
	if err := Resume(&got, nil, w.now.Add(time.Hour)); err != nil { // by a clock that is ahead
		t.Fatal(err)
	}
	w.put(got)
	if got = w.play(t, "m1"); got.Phase != fleet.RunDone || w.ran["h1/upgrade"] != 2 || len(w.hosts["h1"].cordons) > 0 {
		t.Errorf("%s (%s), ran %v, closed %+v", got.Phase, got.Reason, w.ran, w.hosts["h1"].cordons)
	}
}

// TestEarlierDrainsCordon: the cordon of a drain that failed is the maintenance's too, and goes with the one after it.
func TestEarlierDrainsCordon(t *testing.T) {
	w, got := stopped(t)
	got.Roll.Rolled[0].At = fleet.RollDraining // as if it had failed there
	if err := Resume(&got, nil, w.now); err != nil {
		t.Fatal(err)
	}
	got.Roll.Return = true
	w.put(got)
	if got = w.play(t, "m1"); got.Phase != fleet.RunDone || len(w.hosts["h1"].cordons) > 0 || len(w.hosts["h1"].vms) == 0 {
		t.Errorf("%s (%s), closed %+v, VMs %v", got.Phase, got.Reason, w.hosts["h1"].cordons, w.hosts["h1"].vms)
	}
}

// TestCancelWaitsForAHook: a leader that has not begun a hook itself does not know whether one before it has: its host is not
// opened before the hook's time is over.
func TestCancelWaitsForAHook(t *testing.T) {
	w, got := stopped(t)
	h := &got.Roll.Rolled[0]
	got.Phase, h.State, h.Since = fleet.RunRunning, fleet.RollHooks, &w.now
	h.Hooks = append(h.Hooks, fleet.HookRun{Name: "upgrade", Began: w.now, Attempt: "of a leader before"})
	got.Cancel = &fleet.RunCancel{By: "eve", At: w.now, Uncordon: true}
	w.put(got)
	began, limit := w.now, time.Duration(got.Roll.Hooks[0].Timeout+got.Roll.Hooks[0].Grace)+lostGrace
	got = w.play(t, "m1")
	if took := got.Finished.Sub(began); got.Phase != fleet.RunCancelled || took < limit || took > limit+time.Minute || len(w.hosts["h1"].cordons) > 0 {
		t.Errorf("%s after %s, want it after %s; closed %+v", got.Phase, took, limit, w.hosts["h1"].cordons)
	}
	if w.ran["h1/upgrade"] != 1 {
		t.Errorf("it was run after the cancel: %v", w.ran)
	}
}

// TestTwoAskedForTogether: the one that was asked for first is done.
func TestTwoAskedForTogether(t *testing.T) {
	w := newWorld("h1:16 a:2", "h2:16", "h3:16")
	first, second := rollOf("h1"), rollOf("h1")
	second.ID = "m2"
	w.request(first)
	w.request(second)
	if got := w.play(t, "m1"); got.Phase != fleet.RunDone {
		t.Errorf("the first: %s (%s)", got.Phase, got.Reason)
	}
	if got := w.runs["m2"]; got.Phase != fleet.RunRefused {
		t.Errorf("the second: %s (%s)", got.Phase, got.Reason)
	}
}

// TestCancelledWhileHealthy: a cancel that does not say so opens no host.
func TestCancelledWhileHealthy(t *testing.T) {
	w, got := stopped(t)
	h := &got.Roll.Rolled[0]
	got.Phase, h.State, h.Since = fleet.RunRunning, fleet.RollRestoring, &w.now
	got.Cancel = &fleet.RunCancel{By: "eve", At: w.now}
	w.put(got)
	if got = w.play(t, "m1"); got.Phase != fleet.RunCancelled || len(w.hosts["h1"].cordons) != 1 {
		t.Errorf("%s, closed %+v", got.Phase, w.hosts["h1"].cordons)
	}
}

// TestStartedMeanwhile: a VM that was started on the closed host leaves before the next hook runs there.
func TestStartedMeanwhile(t *testing.T) {
	w, got := stopped(t)
	w.hosts["h1"].vms["new"] = 2
	if err := Resume(&got, nil, w.now); err != nil {
		t.Fatal(err)
	}
	w.put(got)
	if got = w.play(t, "m1"); got.Phase != fleet.RunDone || w.ran["h1/upgrade"] != 2 {
		t.Errorf("%s (%s), ran %v", got.Phase, got.Reason, w.ran)
	}
}
