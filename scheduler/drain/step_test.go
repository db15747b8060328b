package drain

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

func drainOf(hosts ...string) fleet.Run {
	return fleet.Run{ID: "r1", Kind: fleet.RunDrain, Hosts: hosts}
}

// pin has the VM stay where it is.
func (w *world) pin(vm string, on bool) {
	w.vms[uuidOf(vm)] = policy.VMRecord{Pinned: &on}
}

func blockedNames(r fleet.Run) string {
	var out []string
	for _, b := range r.Blocked {
		out = append(out, b.VM+" "+string(b.Code))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestDrain(t *testing.T) {
	tests := []struct {
		name    string
		hosts   []string
		setup   func(w *world, r *fleet.Run)
		phase   fleet.RunPhase
		left    string // on h1
		blocked string
	}{
		{"an empty host", []string{"h1:8", "h2:8"}, nil, fleet.RunDone, "", ""},
		{"all go", []string{"h1:8 a:2 b:2 c:2", "h2:8", "h3:8"}, nil, fleet.RunDone, "", ""},
		{
			"a pinned VM refuses the start",
			[]string{"h1:8 a:2 b:2", "h2:8"},
			func(w *world, _ *fleet.Run) { w.pin("a", true) },
			fleet.RunRefused, "a b", "a pinned",
		},
		{"or is skipped", []string{"h1:8 a:2 b:2", "h2:8"}, func(w *world, r *fleet.Run) {
			w.pin("a", true)
			r.OnBlocked = fleet.BlockedSkip
		}, fleet.RunPartial, "a", "a pinned"},
		{"or is waited for, until the deadline", []string{"h1:8 a:2 b:2", "h2:8"}, func(w *world, r *fleet.Run) {
			w.pin("a", true)
			r.OnBlocked, r.Deadline = fleet.BlockedWait, new(t0.Add(time.Minute))
		}, fleet.RunPartial, "a", "a pinned"},
		{"no room anywhere", []string{"h1:8 a:4 b:2", "h2:3"}, nil, fleet.RunRefused, "a b", "a no-target"},
		{
			"room that another makes",
			[]string{"h1:8 a:4", "h2:5 x:2", "h3:3"},
			nil,
			fleet.RunDone, "", "",
		},
		{"one that is off stays, and is no matter", []string{"h1:8 a:2 b:2", "h2:8"}, func(w *world, _ *fleet.Run) {
			w.hosts["h1"].off["b"] = true
		}, fleet.RunDone, "", ""},
		{"a host that does not exist", []string{"h1:8"}, func(_ *world, r *fleet.Run) { r.Hosts = []string{"h9"} }, fleet.RunRefused, "", ""},
		{
			"a host of which nothing is known",
			[]string{"h1:8 a:2", "h2:8"},
			func(w *world, _ *fleet.Run) { w.hosts["h1"].down = true },
			fleet.RunRefused, "a", "",
		},
		{
			"one that is to be skipped",
			[]string{"h1:8 a:2 b:2", "h2:8"},
			func(_ *world, r *fleet.Run) { r.Skip = []hypervisor.DomainID{uuidOf("b")} },
			fleet.RunPartial, "b", "",
		},
		{
			"a kind of tomorrow",
			[]string{"h1:8 a:2"},
			func(_ *world, r *fleet.Run) { r.Kind = "teleport" },
			fleet.RunRefused, "a", "",
		},
		{"cancelled before it began", []string{"h1:8 a:2", "h2:8"}, func(_ *world, r *fleet.Run) {
			r.Cancel = &fleet.RunCancel{By: "eve"}
		}, fleet.RunCancelled, "a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, r := newWorld(tt.hosts...), drainOf("h1")
			if tt.setup != nil {
				tt.setup(w, &r)
			}
			w.request(r)
			got := w.play(t, "r1")
			if got.Phase != tt.phase || w.names("h1") != tt.left || blockedNames(got) != tt.blocked {
				t.Errorf("%s (%s), on h1: %q, blocked: %q; want %s, %q, %q", got.Phase, got.Reason, w.names("h1"), blockedNames(got), tt.phase, tt.left, tt.blocked)
			}
			if got.Phase == fleet.RunDone || got.Phase == fleet.RunPartial {
				if len(w.hosts["h1"].cordons) != 1 || w.hosts["h1"].cordons[0].Holder != "run/r1" {
					t.Errorf("cordons %+v, want that of the run", w.hosts["h1"].cordons)
				}
			} else if len(w.hosts["h1"].cordons) > 0 || len(w.migs) > 0 {
				t.Errorf("cordons %v, migrations %v: nothing was to be changed", w.hosts["h1"].cordons, w.migs)
			}
			for _, m := range got.Moves {
				if !m.State.Final() {
					t.Errorf("over, and %s is %s", m.VM, m.State)
				}
			}
			for _, b := range got.Blocked {
				if b.Detail == "" || b.Remedy == "" {
					t.Errorf("blocked without reason or remedy: %+v", b)
				}
			}
			if len(w.bad) > 0 {
				t.Error(w.bad)
			}
		})
	}
}

// Two drains, each of a host that the other would have chosen: nothing goes to either, and what is on its way
// to the one that began later is moved on.
func TestTwoDrains(t *testing.T) {
	w := newWorld("h1:8 a:1 b:1 c:1", "h2:16 x:1", "h3:16")
	w.request(drainOf("h1"))
	w.tick("r1")
	w.tick("r1")
	second := drainOf("h2")
	second.ID = "r2"
	w.request(second)
	for range 60 {
		w.tick("r1", "r2")
	}
	if w.names("h3") != "a b c x" || w.runs["r1"].Phase != fleet.RunDone || w.runs["r2"].Phase != fleet.RunDone {
		t.Errorf("h3 has %q, runs %s and %s; want all four, done", w.names("h3"), w.runs["r1"].Phase, w.runs["r2"].Phase)
	}
	if len(w.bad) > 0 {
		t.Error(w.bad)
	}
	third := drainOf("h1")
	third.ID = "r3"
	r1 := w.runs["r1"]
	r1.Phase = fleet.RunRunning
	w.runs["r1"] = r1
	w.request(third)
	w.step("r3", 1<<30)
	if got := w.runs["r3"]; got.Phase != fleet.RunRefused || !strings.Contains(got.Reason, "run r1") {
		t.Errorf("a second drain of one host: %s (%s), want it refused", got.Phase, got.Reason)
	}
}

// A VM that fails is tried elsewhere after a pause, then named, and the rest goes on.
func TestRetries(t *testing.T) {
	w := newWorld("h1:8 a:2 b:2", "h2:8", "h3:8")
	w.request(drainOf("h1"))
	var targets []string
	var times []time.Time
	for range 200 {
		w.step("r1", 1<<30)
		for _, id := range slices.Sorted(maps.Keys(w.migs)) {
			switch m := w.migs[id]; {
			case m.Phase == precopy.Requested && m.Domain == "a":
				targets, times = append(targets, m.Target), append(times, w.now)
				w.end(id, precopy.Refused, "cpu-incompatible")
			case m.Phase == precopy.Requested:
				w.end(id, precopy.Done, "")
			}
		}
		w.now = w.now.Add(time.Second)
	}
	r := w.runs["r1"]
	if r.Phase != fleet.RunPartial || w.names("h1") != "a" || blockedNames(r.Run) != "a gave-up" {
		t.Errorf("%s (%s), h1 has %q, blocked %q", r.Phase, r.Reason, w.names("h1"), blockedNames(r.Run))
	}
	if len(targets) != maxTries || targets[0] == targets[1] {
		t.Fatalf("tried on %v, want %d tries, the second elsewhere", targets, maxTries)
	}
	if first, second := times[1].Sub(times[0]), times[2].Sub(times[1]); first < firstPause || second < 2*firstPause {
		t.Errorf("pauses of %s and %s between tries", first, second)
	}
}

// A migration that a person cancels is not made again.
func TestCancelledByHand(t *testing.T) {
	w := newWorld("h1:8 a:2", "h2:8")
	w.request(drainOf("h1"))
	for range 100 {
		w.step("r1", 1<<30)
		for id, m := range w.migs {
			if !m.Phase.Final() {
				m.Cancel = &precopy.Cancel{By: "eve"}
				w.migs[id] = m
				w.end(id, precopy.Aborted, "cancelled")
			}
		}
		w.now = w.now.Add(time.Second)
	}
	if r := w.runs["r1"]; len(w.migs) != 1 || r.Phase != fleet.RunPartial || blockedNames(r.Run) != "a cancelled" {
		t.Errorf("%d migrations, %s, blocked %q; want one, and a named", len(w.migs), r.Phase, blockedNames(r.Run))
	}
}

// What appears on a draining host is moved too; what comes back after it was moved as well.
func TestNewcomers(t *testing.T) {
	w := newWorld("h1:8 a:2 b:2", "h2:16")
	w.request(drainOf("h1"))
	for range 4 {
		w.tick("r1")
	}
	w.hosts["h1"].vms["new"] = 1
	if got := w.play(t, "r1"); got.Phase != fleet.RunDone || w.names("h2") != "a b new" {
		t.Errorf("%s, h2 has %q", got.Phase, w.names("h2"))
	}
}

// Cancel: what has not begun is withdrawn, what is under way ends first; the cordon goes if asked.
func TestCancelRun(t *testing.T) {
	for _, tt := range []struct {
		name            string
		abort, uncordon bool
	}{{"finish", false, false}, {"abort", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld("h1:8 a:2 b:2 c:2", "h2:16")
			w.request(drainOf("h1"))
			for len(w.migs) == 0 {
				w.step("r1", 1<<30)
			}
			id := slices.Collect(maps.Keys(w.migs))[0]
			w.admit(id)
			r := w.runs["r1"]
			r.Cancel = &fleet.RunCancel{By: "eve", Abort: tt.abort, Uncordon: tt.uncordon}
			w.runs["r1"] = r
			for range 5 {
				w.step("r1", 1<<30)
			}
			if got := w.runs["r1"]; got.Phase != fleet.RunRunning || !strings.Contains(got.Reason, "1 under way") {
				t.Errorf("with one under way: %s (%s)", got.Phase, got.Reason)
			}
			if asked := w.migs[id].Cancel != nil; asked != tt.abort {
				t.Errorf("asked to abort: %v, want %v", asked, tt.abort)
			}
			w.end(id, precopy.Done, "")
			for range 5 {
				w.step("r1", 1<<30)
			}
			got := w.runs["r1"]
			if got.Phase != fleet.RunCancelled || len(w.migs) != 1 || len(w.hosts["h1"].cordons) == 0 != tt.uncordon {
				t.Errorf("%s, %d migrations, cordons %v", got.Phase, len(w.migs), w.hosts["h1"].cordons)
			}
		})
	}
}

// Restore brings back what belongs: not what a person moved since, nor what its host has no room for.
func TestRestore(t *testing.T) {
	w := newWorld("h1:8 a:2 b:2 c:2 d:2", "h2:16", "h3:16")
	w.hosts["h1"].cpu["d"] = 2
	w.request(drainOf("h1"))
	if got := w.play(t, "r1"); got.Phase != fleet.RunDone {
		t.Fatalf("drain: %s (%s)", got.Phase, got.Reason)
	}
	w.now = w.now.Add(time.Hour)
	at := func(vm string) string {
		for name, h := range w.hosts {
			if h.vms[vm] > 0 {
				return name
			}
		}
		return ""
	}
	// b is moved away and back again by hand: it no longer belongs to h1.
	home := at("b")
	other := map[string]string{"h2": "h3", "h3": "h2"}[home]
	for i, leg := range [][2]string{{home, other}, {other, home}} {
		id := "by-hand-" + string(rune('a'+i))
		w.migs[id] = precopy.Stored{Migration: precopy.Migration{ID: id, Domain: "b", UUID: uuidOf("b"), Source: leg[0], Target: leg[1]}}
		w.end(id, precopy.Done, "")
	}
	// Something else has come up on h1, and leaves no CPU for d.
	w.hosts["h1"].vms["z"], w.hosts["h1"].cpu["z"] = 1, 7
	if got := Origins(w.snapshot(), []string{"h1"}); len(got) != 3 || got[0].Domain.Facts.Name != "a" || got[0].Home != "h1" || got[0].Run != "r1" {
		t.Errorf("origins %+v, want a, c and d", got)
	}
	w.hosts["h1"].cordons = append(w.hosts["h1"].cordons, fleet.Cordon{Holder: "run/forgotten"})
	w.request(fleet.Run{ID: "r2", Kind: fleet.RunRestore, Hosts: []string{"h1"}})
	got := w.play(t, "r2")
	if got.Phase != fleet.RunPartial || w.names("h1") != "a c z" || blockedNames(got) != "d gave-up" {
		t.Errorf("restore: %s (%s), h1 has %q, blocked %q", got.Phase, got.Reason, w.names("h1"), blockedNames(got))
	}
	if len(w.hosts["h1"].cordons) > 0 {
		t.Errorf("still cordoned: %v", w.hosts["h1"].cordons)
	}
	if again := Origins(w.snapshot(), []string{"h1"}); len(again) != 1 || again[0].Domain.Facts.Name != "d" {
		t.Errorf("origins after it: %+v, want d", again)
	}
}

func TestRestoreLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  fleet.Run
		want string
	}{
		{"all", fleet.Run{}, "a b"},
		{"only", fleet.Run{Only: []hypervisor.DomainID{uuidOf("b")}}, "b"},
		{"none", fleet.Run{None: true}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld("h1:8 a:2 b:2", "h2:16")
			w.request(drainOf("h1"))
			w.play(t, "r1")
			tt.run.ID, tt.run.Kind, tt.run.Hosts = "r2", fleet.RunRestore, []string{"h1"}
			w.request(tt.run)
			if got := w.play(t, "r2"); got.Phase != fleet.RunDone || w.names("h1") != tt.want || len(w.hosts["h1"].cordons) > 0 {
				t.Errorf("%s (%s), h1 has %q, cordons %v", got.Phase, got.Reason, w.names("h1"), w.hosts["h1"].cordons)
			}
		})
	}
}

// VMs go and come back only as far as the hosts' limits on vCPUs let them.
func TestVCPULimits(t *testing.T) {
	w := newWorld("h1:16 a:1 b:1 c:1 d:1", "h2:16 x:1", "h3:16")
	w.hosts["h2"].vcpus, w.hosts["h3"].vcpus = 3, 1
	w.request(drainOf("h1"))
	if got := w.play(t, "r1"); got.Phase != fleet.RunRefused {
		t.Errorf("%s (%s) where one finds no room", got.Phase, got.Reason)
	}
	w = newWorld("h1:16 a:1 b:1 c:1 d:1", "h2:16 x:1", "h3:16")
	w.hosts["h2"].vcpus, w.hosts["h3"].vcpus = 3, 2
	w.request(drainOf("h1"))
	if got := w.play(t, "r1"); got.Phase != fleet.RunDone || len(w.hosts["h2"].vms) != 3 || len(w.hosts["h3"].vms) != 2 {
		t.Errorf("%s (%s): h2 has %q, h3 %q", got.Phase, got.Reason, w.names("h2"), w.names("h3"))
	}
	w.hosts["h1"].vcpus = 3
	w.request(back())
	if got := w.play(t, "r2"); got.Phase != fleet.RunPartial || len(w.hosts["h1"].vms) != 3 {
		t.Errorf("%s (%s), h1 has %q", got.Phase, got.Reason, w.names("h1"))
	}
}

// A rebalance is the same record with moves in it from the start: in their order, and given up at once.
func TestRebalance(t *testing.T) {
	w := newWorld("h1:4 a:3", "h2:4 b:3", "h3:4")
	move := func(vm, from, to string, after ...int) fleet.RunMove {
		return fleet.RunMove{VM: vm, UUID: uuidOf(vm), From: from, To: to, After: after, Cause: "balance", State: fleet.MovePlanned}
	}
	w.request(fleet.Run{ID: "r1", Kind: fleet.RunRebalance, Moves: []fleet.RunMove{
		move("a", "h1", "h2", 1), move("b", "h2", "h3"), move("gone", "h3", "h1"),
	}})
	got := w.play(t, "r1")
	if got.Phase != fleet.RunDone || w.names("h2") != "a" || w.names("h3") != "b" || got.Moves[2].State != fleet.MoveLeft {
		t.Errorf("%s (%s), h2 %q, h3 %q, %+v", got.Phase, got.Reason, w.names("h2"), w.names("h3"), got.Moves[2])
	}
}

func TestOutlook(t *testing.T) {
	w := newWorld("h1:16 a:1 b:1 c:1", "h2:16", "h3:16")
	w.slow["a"], w.slow["b"], w.slow["c"] = 100, 60, 40
	r := drainOf("h1")
	r.Deadline = new(t0.Add(150 * time.Second))
	w.request(r)
	w.step("r1", 1<<30)
	o := w.runs["r1"].Outlook
	if o == nil || o.Left != 3 || !o.Late || o.End.Sub(t0) != 206*time.Second {
		t.Fatalf("outlook %+v, want 3 left, late, 206 s", o)
	}
	var all string
	for _, p := range o.Options {
		all += p.Effect + ": " + p.Command + "\n"
	}
	for _, want := range []string{
		"--max-parallel 2", "drover vm set a --override max_pause=1s", "drover run set r1 --skip a", "--deadline 2026-03-01T12:04:",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("options lack %q:\n%s", want, all)
		}
	}
	// The order knows better than the plan.
	for range 2 {
		w.step("r1", 1<<30)
	}
	for len(w.migs) == 0 {
		w.step("r1", 1<<30)
	}
	for id, m := range w.migs {
		m.Phase, m.Forecast = precopy.Copying, &precopy.Forecast{Seconds: 300, Bytes: hypervisor.GiB}
		w.migs[id] = m
	}
	w.step("r1", 1<<30)
	if o := w.runs["r1"].Outlook; o.End.Sub(t0) < 300*time.Second {
		t.Errorf("end after %s, though one move alone takes 300 s", o.End.Sub(t0))
	}
}

// TestAnyHistory: a leader may die after any write, migrations may end in any way, hosts close, VMs come and
// go. Whatever happens every VM is on one host with one unfinished migration at most, nothing is asked to go
// to a closed host, no more leave a host at once than may, and once the world is kind the run ends: empty, or
// with those named that stay.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld("h1:8 a:1 b:2 c:1", "h2:6 x:1", "h3:5 y:1", "h4:4")
		r := drainOf(rapid.SampledFrom([][]string{{"h1"}, {"h1", "h2"}}).Draw(t, "hosts")...)
		r.OnBlocked = rapid.SampledFrom([]fleet.OnBlocked{"", fleet.BlockedSkip, fleet.BlockedWait}).Draw(t, "blocked")
		r.MaxParallel = rapid.IntRange(0, 2).Draw(t, "parallel")
		if r.OnBlocked == fleet.BlockedWait {
			r.Deadline = new(t0.Add(20 * time.Minute))
		}
		w.request(r)
		total := map[string]bool{"a": true, "b": true, "c": true, "x": true, "y": true}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			w.event(t, total)
			w.check(t, total)
			if w.runs["r1"].Phase.Final() {
				break // what comes later is none of its business
			}
		}
		for _, h := range w.hosts {
			h.down = false
		}
		end := w.play(t, "r1")
		w.check(t, total)
		if end.Phase == fleet.RunDone || end.Phase == fleet.RunPartial {
			for _, h := range end.Hosts {
				for vm := range w.hosts[h].vms {
					named := slices.ContainsFunc(end.Moves, func(m fleet.RunMove) bool { return m.VM == vm && m.State == fleet.MoveStays && m.Reason != "" })
					if !w.hosts[h].off[vm] && (end.Phase == fleet.RunDone || !named) {
						t.Errorf("%s: %s is still on %s: %+v", end.Phase, vm, h, end.Moves)
					}
				}
			}
		}
	})
}

// event is one thing that may happen.
func (w *world) event(t *rapid.T, total map[string]bool) {
	ids := slices.Sorted(maps.Keys(w.migs))
	ids = slices.DeleteFunc(ids, func(id string) bool { return w.migs[id].Phase.Final() })
	host := w.hosts[rapid.SampledFrom([]string{"h1", "h2", "h3", "h4"}).Draw(t, "host")]
	switch op := rapid.IntRange(0, 12).Draw(t, "op"); {
	case op <= 4:
		w.step("r1", rapid.SampledFrom([]int{1 << 30, 0, 1, 2}).Draw(t, "applied"))
	case op <= 6 && len(ids) > 0:
		id := rapid.SampledFrom(ids).Draw(t, "migration")
		if w.migs[id].Phase == precopy.Requested {
			w.admit(id)
			return
		}
		phase := rapid.SampledFrom([]precopy.Phase{precopy.Done, precopy.Done, precopy.Failed, precopy.Aborted}).Draw(t, "phase")
		w.end(id, phase, "as-drawn")
	case op == 7:
		host.cordons = slices.DeleteFunc(host.cordons, func(c fleet.Cordon) bool { return c.Holder == "admin" })
		if rapid.Bool().Draw(t, "cordon") {
			host.cordons = append(host.cordons, fleet.Cordon{Holder: "admin"})
		}
	case op == 8:
		host.down = rapid.Bool().Draw(t, "down")
	case op == 9 && len(total) < 9:
		vm := "n" + string(rune('a'+len(total)))
		total[vm], host.vms[vm] = true, 1
	case op == 10:
		for _, vm := range slices.Sorted(maps.Keys(host.vms)) {
			if w.active(uuidOf(vm)) == "" {
				host.off[vm] = rapid.Bool().Draw(t, "off")
				return
			}
		}
	case op == 11 && rapid.IntRange(0, 5).Draw(t, "cancel") == 0:
		if r := w.runs["r1"]; !r.Phase.Final() && r.Cancel == nil {
			r.Cancel = &fleet.RunCancel{By: "eve", Abort: rapid.Bool().Draw(t, "abort"), Uncordon: rapid.Bool().Draw(t, "uncordon")}
			w.runs["r1"] = r
		}
	}
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
}

func (w *world) check(t *rapid.T, total map[string]bool) {
	if len(w.bad) > 0 {
		t.Fatal(w.bad)
	}
	on := map[string]int{}
	for _, h := range w.hosts {
		for vm := range h.vms {
			on[vm]++
		}
	}
	for vm := range total {
		if on[vm] != 1 {
			t.Fatalf("%s is on %d hosts", vm, on[vm])
		}
	}
	r, leaving, coming := w.runs["r1"], map[string]int{}, map[string]int{}
	for _, m := range w.migs {
		if !m.Phase.Final() {
			leaving[m.Source]++
			coming[m.Target]++
		}
	}
	for h, n := range coming {
		if n > 2 {
			t.Fatalf("%d come to %s at once, allowed are 2", n, h)
		}
	}
	for h, n := range leaving {
		if n > max(r.MaxParallel, 1) {
			t.Fatalf("%d leave %s at once, allowed are %d", n, h, max(r.MaxParallel, 1))
		}
	}
	if r.Phase.Final() {
		for _, m := range r.Moves {
			if !m.State.Final() {
				t.Fatalf("run is %s, and %s is %s", r.Phase, m.VM, m.State)
			}
		}
	}
}

// A move that was to make room and fails is not tried by itself: the VM that needs the room is planned anew.
func TestRoomIsNotMade(t *testing.T) {
	w := newWorld("h1:8 a:4", "h2:5 x:2", "h3:3")
	w.request(drainOf("h1"))
	for len(w.migs) == 0 {
		w.step("r1", 1<<30)
	}
	for id, m := range w.migs {
		if m.Domain != "x" {
			t.Fatalf("first %s is to move, want x", m.Domain)
		}
		w.end(id, precopy.Failed, "target-failed")
	}
	got := w.play(t, "r1")
	if got.Phase != fleet.RunDone || w.names("h2") != "a" || got.Moves[1].State != fleet.MoveLeft {
		t.Errorf("%s (%s), h2 has %q: %+v", got.Phase, got.Reason, w.names("h2"), got.Moves)
	}
}
