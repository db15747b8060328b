package drain

import (
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// Guests whose VMs can't move are shut down only if that was asked for, once all others have gone.
func TestShutDownBlocked(t *testing.T) {
	w := newWorld("h1:8 a:2 b:2 deaf:1", "h2:8", "h3:8")
	w.pin("a", true)
	w.pin("deaf", true)
	r := drainOf("h1")
	r.ShutDown = true
	w.request(r)
	w.step("r1", 1<<30)
	if got := w.runs["r1"]; got.Phase != fleet.RunRunning || blockedNames(got.Run) != "a pinned, deaf pinned" {
		t.Fatalf("%s (%s), blocked %q; want it running, both named", got.Phase, got.Reason, blockedNames(got.Run))
	}
	for w.names("h1") == "a b deaf" {
		if len(w.asked) > 0 {
			t.Fatal("asked to shut down before the others had gone")
		}
		w.tick("r1")
	}
	got := w.play(t, "r1")
	if got.Phase != fleet.RunPartial || w.names("h1") != "deaf" || !strings.Contains(got.Reason, "1 moved, 1 shut down, 1 stay: deaf") || blockedNames(got) != "deaf still-runs" {
		t.Errorf("%s (%s), h1 has %q, blocked %q", got.Phase, got.Reason, w.names("h1"), blockedNames(got))
	}
	if took := got.Finished.Sub(*got.Started); took < shutLimit || w.asked["deaf"] < 10 || w.asked["a"] != 1 || w.asked["b"] != 0 {
		t.Errorf("over after %s, asked %v", took, w.asked)
	}
}

// A report in which a host's guests can't be seen says nothing of those that were asked to shut down.
func TestShutDownUnseen(t *testing.T) {
	w := newWorld("h1:8 deaf:1", "h2:8")
	w.pin("deaf", true)
	r := drainOf("h1")
	r.ShutDown = true
	w.request(r)
	for w.asked["deaf"] == 0 {
		w.tick("r1")
	}
	w.hosts["h1"].problem = "libvirt does not answer"
	for range 10 {
		w.tick("r1")
		if m := w.runs["r1"].Moves[0]; m.State != fleet.MoveShutting {
			t.Fatalf("%s (%s), though nobody can see it", m.State, m.Reason)
		}
	}
	w.hosts["h1"].problem, w.hosts["h1"].off["deaf"] = "", true
	if got := w.play(t, "r1"); len(got.Moves) != 1 || got.Moves[0].State != fleet.MoveOff {
		t.Errorf("%s (%s): %+v", got.Phase, got.Reason, got.Moves)
	}
}

// A run that is cancelled shuts nothing down, and what hosts refuse for good is shut down, but not what failed.
func TestShutDownNot(t *testing.T) {
	w := newWorld("h1:8 a:2 b:2", "h2:8")
	w.pin("a", true)
	r := drainOf("h1")
	r.ShutDown = true
	w.request(r)
	w.step("r1", 1<<30)
	run := w.runs["r1"]
	run.Cancel = &fleet.RunCancel{By: "eve"}
	w.runs["r1"] = run
	if got := w.play(t, "r1"); got.Phase != fleet.RunCancelled || len(w.asked) > 0 || w.names("h1") != "a b" {
		t.Errorf("%s (%s), asked %v", got.Phase, got.Reason, w.asked)
	}
	for _, tt := range []struct {
		phase precopy.Phase
		code  string
		left  string
	}{{precopy.Refused, "cpu-incompatible", ""}, {precopy.Failed, "target-failed", "a"}, {precopy.Refused, "not-claimed", "a"}} {
		w := newWorld("h1:8 a:2", "h2:8")
		w.request(r)
		for range 200 {
			w.step("r1", 1<<30)
			for id, m := range w.migs {
				if !m.Phase.Final() {
					w.end(id, tt.phase, tt.code)
				}
			}
			w.now = w.now.Add(time.Second)
		}
		if got := w.runs["r1"]; !got.Phase.Final() || w.names("h1") != tt.left {
			t.Errorf("%s %s: %s (%s), h1 has %q, want %q", tt.phase, tt.code, got.Phase, got.Reason, w.names("h1"), tt.left)
		}
	}
}

// A cancel that comes between a drain's first cordon and the write that it runs leaves no host closed.
func TestCancelledWhileClosing(t *testing.T) {
	w, r := newWorld("h1:8 a:2", "h2:8"), drainOf("h1")
	r.Cancel = &fleet.RunCancel{By: "eve"}
	w.request(r)
	w.hosts["h1"].cordons = []fleet.Cordon{{Holder: r.Holder(), By: "ada"}}
	if got := w.play(t, "r1"); got.Phase != fleet.RunCancelled || len(w.hosts["h1"].cordons) > 0 || len(w.migs) > 0 {
		t.Errorf("%s (%s), cordons %+v; want it cancelled and the host open", got.Phase, got.Reason, w.hosts["h1"].cordons)
	}
}

// A host that is only asked to be drained is no target any more, and a second drain of it is refused.
func TestAboutToDrain(t *testing.T) {
	w := newWorld("h1:8 a:1 b:1", "h2:8", "h3:8")
	second := drainOf("h2")
	second.ID = "r2"
	third := second
	third.ID = "r3"
	w.request(second)
	w.request(third)
	w.request(drainOf("h1"))
	w.step("r1", 1<<30)
	for _, m := range w.runs["r1"].Moves {
		if m.To != "h3" {
			t.Errorf("%s is to go to %q, want h3: h2 is about to be drained", m.VM, m.To)
		}
	}
	w.step("r3", 1<<30)
	if got := w.runs["r3"]; got.Phase != fleet.RunRefused || !strings.Contains(got.Reason, "run r2") {
		t.Errorf("%s (%s), want it refused", got.Phase, got.Reason)
	}
}

// away has a drain take the VMs of h1 away.
func away(t *testing.T, specs ...string) *world {
	t.Helper()
	w := newWorld(specs...)
	w.request(drainOf("h1"))
	if got := w.play(t, "r1"); got.Phase != fleet.RunDone {
		t.Fatalf("drain: %s (%s)", got.Phase, got.Reason)
	}
	return w
}

func back(ids ...hypervisor.DomainID) fleet.Run {
	return fleet.Run{ID: "r2", Kind: fleet.RunRestore, Hosts: []string{"h1"}, Only: ids}
}

// What stays together comes back together, one after the other, or not at all.
func TestRestoreGroups(t *testing.T) {
	group := policy.Stored{Document: policy.Document{Groups: []policy.Group{{
		Name: "pair", Kind: policy.Together, Strength: policy.Required, VMs: []string{"a", "z"},
	}}}}
	w := away(t, "h1:8 a:2 m:2 z:2", "h2:16")
	w.pol = group
	w.request(back())
	w.step("r2", 1<<30)
	var order []string
	for _, m := range w.runs["r2"].Moves {
		order = append(order, m.VM)
	}
	if got := strings.Join(order, " "); got != "a z m" {
		t.Errorf("order %q, want the pair first, together", got)
	}
	if got := w.play(t, "r2"); got.Phase != fleet.RunDone || w.names("h1") != "a m z" {
		t.Errorf("%s (%s), h1 has %q", got.Phase, got.Reason, w.names("h1"))
	}

	w = away(t, "h1:8 a:2 m:2 z:2", "h2:16")
	w.pol = group
	w.hosts["h1"].vms["new"] = 5 // leaves room for one of them
	w.request(back())
	if got := w.play(t, "r2"); got.Phase != fleet.RunPartial || w.names("h1") != "m new" || blockedNames(got) != "a gave-up, z apart" {
		t.Errorf("%s (%s), h1 has %q, blocked %q; want neither of the pair back", got.Phase, got.Reason, w.names("h1"), blockedNames(got))
	}
}

// A VM does not come back to a host that would be crowded by it, and fuller than where it is now.
func TestRestoreKeepsBalance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		there float64 // cores in use at home
		here  float64 // cores in use by others where it is
		want  string
	}{
		{"room at home", 2, 2, "a new"},
		{"crowded at home, empty here", 6, 0, "new"},
		{"crowded here as well", 5, 5, "a new"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := away(t, "h1:8 a:2", "h2:16 x:1")
			w.hosts["h2"].cpu["a"], w.hosts["h2"].cpu["x"] = 1.5, tt.here
			w.hosts["h1"].vms["new"], w.hosts["h1"].cpu["new"] = 1, tt.there
			w.request(back())
			if got := w.play(t, "r2"); w.names("h1") != tt.want {
				t.Errorf("%s (%s), h1 has %q, want %q", got.Phase, got.Reason, w.names("h1"), tt.want)
			}
		})
	}
}
