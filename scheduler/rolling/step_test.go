package rolling

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/precopy"
	"drover/scheduler/calendar"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

func rollOf(hosts ...string) fleet.Run {
	return fleet.Run{ID: "m1", Hosts: hosts, Roll: &fleet.Roll{Headroom: 1}}
}

func hook(name string) fleet.Hook {
	return fleet.Hook{Name: name, On: fleet.OnControl, Timeout: policy.Duration(time.Minute)}
}

func TestRoll(t *testing.T) {
	three := []string{"h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2"}
	tests := []struct {
		name   string
		hosts  []string
		setup  func(w *world, r *fleet.Run)
		phase  fleet.RunPhase
		states string
		says   string // in the reason
	}{
		{"all are done, the emptiest first", three, nil, fleet.RunDone, "h2 done, h1 done, h3 done", "3 hosts done"},
		{"or as listed", three, func(_ *world, r *fleet.Run) { r.Roll.Listed = true }, fleet.RunDone, "h1 done, h2 done, h3 done", ""},
		{
			"two at once",
			append([]string{"h4:16", "h5:16"}, three...),
			func(_ *world, r *fleet.Run) { r.Roll.Parallel = 2 },
			fleet.RunDone, "h2 done, h1 done, h3 done", "",
		},
		{"brought home", three, func(_ *world, r *fleet.Run) { r.Roll.Return = true }, fleet.RunDone, "h2 done, h1 done, h3 done", ""},
		{
			"a pinned VM refuses the start",
			three,
			func(w *world, _ *fleet.Run) { w.vms[uuidOf("a")] = policy.VMRecord{Pinned: new(true)} },
			fleet.RunRefused, "h2 waiting, h1 waiting, h3 waiting", "in the way",
		},
		{
			"no headroom refuses it",
			[]string{"h1:8 a:4", "h2:8 b:4", "h3:8 c:4"},
			nil,
			fleet.RunRefused, "h1 waiting, h2 waiting, h3 waiting", "in the way",
		},
		{
			"unless nobody wants any",
			[]string{"h1:8 a:4", "h2:8 b:4", "h3:8 c:4"},
			func(_ *world, r *fleet.Run) { r.Roll.Headroom = 0 },
			fleet.RunDone, "h1 done, h2 done, h3 done", "",
		},
		{"an unknown host", three, func(_ *world, r *fleet.Run) { r.Hosts = append(r.Hosts, "h9") }, fleet.RunRefused, "", "no host is called h9"},
		{
			"a window that is too short",
			three,
			func(_ *world, r *fleet.Run) {
				r.Roll.Spec = calendar.Spec{Windows: []calendar.Window{{Name: "w", Cron: "0 1 * * *", Duration: "1m"}}}
				r.Roll.Hooks = []fleet.Hook{hook("patch")}
			},
			fleet.RunRefused, "h2 waiting, h1 waiting, h3 waiting", "in the way",
		},
		{
			"a deadline that can't be kept",
			three,
			func(_ *world, r *fleet.Run) { r.Deadline = new(t0.Add(30 * time.Second)) },
			fleet.RunRefused, "h2 waiting, h1 waiting, h3 waiting", "in the way",
		},
		{
			"the first failure stops it",
			three,
			func(w *world, r *fleet.Run) {
				r.Roll.Hooks = []fleet.Hook{hook("patch")}
				w.script = func(o HookOrder, _ int) precopy.HookResult {
					if o.Host == "h1" {
						return precopy.HookResult{Exit: 3, Error: "exit status 3", Output: "no space left"}
					}
					return precopy.HookResult{}
				}
			},
			fleet.RunStopped, "h2 done, h1 failed, h3 waiting",
			"h1 (hooks): hook patch: exit status 3 (no space left); done: h2; not begun: h3; go on: drover maintenance resume m1 (or with --skip h1)",
		},
		{
			"a host that does not come back",
			three,
			func(w *world, r *fleet.Run) {
				r.Roll.Hooks = []fleet.Hook{{Name: "reboot", On: fleet.OnAgent, Timeout: policy.Duration(time.Minute), Away: true}}
				r.Roll.Healthy.Within = policy.Duration(time.Minute)
				w.script = func(o HookOrder, _ int) precopy.HookResult {
					w.hosts[o.Host].down = true
					return precopy.HookResult{Exit: -1, Lost: true, Error: "no agent"}
				}
			},
			fleet.RunStopped, "h2 failed, h1 waiting, h3 waiting", "h2 (health): not healthy within 1m0s: waiting for its agent",
		},
		{
			"one whose agent did not start anew",
			three,
			func(_ *world, r *fleet.Run) {
				r.Roll.Healthy = fleet.Healthy{Within: policy.Duration(time.Minute), Restarted: true}
			},
			fleet.RunStopped, "h2 failed, h1 waiting, h3 waiting", "waiting for its agent to start anew",
		},
		{
			"an old libvirt",
			three,
			func(_ *world, r *fleet.Run) {
				r.Roll.Healthy = fleet.Healthy{Within: policy.Duration(time.Minute), Libvirt: "11.4.0"}
			},
			fleet.RunStopped, "h2 failed, h1 waiting, h3 waiting", "its libvirt is 11.3.0, wanted is 11.4.0",
		},
		{
			"the canary waits for approval, which never comes before the deadline",
			three,
			func(w *world, r *fleet.Run) {
				r.Roll.Canary, r.Roll.Approve, r.Roll.Approved = true, true, &fleet.Approval{By: "eve"}
			},
			fleet.RunDone, "h2 done, h1 done, h3 done", "",
		},
		{"cancelled before it began", three, func(_ *world, r *fleet.Run) { r.Cancel = &fleet.RunCancel{By: "eve"} }, fleet.RunCancelled, "", "before it began"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, r := newWorld(tt.hosts...), rollOf("h3", "h1", "h2")
			if strings.Contains(tt.name, "listed") {
				r.Hosts = []string{"h1", "h2", "h3"}
			}
			w.tight = r.Roll.Headroom > 0 && tt.phase != fleet.RunRefused && !strings.Contains(tt.name, "nobody wants") && !strings.Contains(tt.name, "come back")
			if tt.setup != nil {
				tt.setup(w, &r)
			}
			w.request(r)
			got := w.play(t, "m1")
			if got.Phase != tt.phase || states(got) != tt.states || !strings.Contains(got.Reason, tt.says) {
				t.Errorf("got %s (%s), %s; want %s (…%s…), %s", got.Phase, got.Reason, states(got), tt.phase, tt.says, tt.states)
			}
			switch got.Phase {
			case fleet.RunRefused:
				if len(w.migs) > 0 || len(w.runs) > 1 || tt.states != "" && len(got.Blocked) == 0 {
					t.Errorf("refused, with %d migrations, %d runs, blocked: %+v", len(w.migs), len(w.runs), got.Blocked)
				}
				if other := w.snapshot().RollOf("h1"); other != nil {
					t.Errorf("h1 is out of service for %s", other.ID)
				}
			case fleet.RunDone:
				for name, h := range w.hosts {
					if len(h.cordons) > 0 {
						t.Errorf("%s is still closed: %+v", name, h.cordons)
					}
				}
				for vm, home := range w.home {
					if _, there := w.hosts[home].vms[vm]; got.Roll.Return && !there {
						t.Errorf("%s did not come home to %s", vm, home)
					}
				}
			case fleet.RunStopped:
				for _, h := range got.Roll.Rolled {
					if closed := len(w.hosts[h.Host].cordons) > 0; closed != (h.State == fleet.RollFailed) {
						t.Errorf("%s is %s, and closed is %v", h.Host, h.State, closed)
					}
				}
			}
		})
	}
}

// A roll that stopped goes on where it stopped, and what was done is not done again.
func TestResume(t *testing.T) {
	for _, skip := range []bool{false, true} {
		t.Run(fmt.Sprint("skip ", skip), func(t *testing.T) {
			w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2", "h4:16"), rollOf("h1", "h2", "h3")
			r.Roll.Hooks = []fleet.Hook{hook("first"), hook("second")}
			w.script = func(o HookOrder, n int) precopy.HookResult {
				if o.Host == "h1" && o.Call.Name == "second" && n == 1 {
					return precopy.HookResult{Exit: 1}
				}
				return precopy.HookResult{}
			}
			w.request(r)
			got := w.play(t, "m1")
			if got.Phase != fleet.RunStopped {
				t.Fatalf("%s (%s)", got.Phase, got.Reason)
			}
			var names []string
			if skip {
				names = []string{"h1"}
			}
			if err := Resume(&got, names, w.now); err != nil {
				t.Fatal(err)
			}
			w.put(got)
			got = w.play(t, "m1")
			want, phase := "h2 done, h1 done, h3 done", fleet.RunDone
			if skip {
				want, phase = "h2 done, h1 skipped, h3 done", fleet.RunPartial
			}
			if states(got) != want || got.Phase != phase {
				t.Errorf("%s (%s), %s; want %s, %s", got.Phase, got.Reason, states(got), phase, want)
			}
			if w.ran["h1/first"] != 1 || w.ran["h1/second"] != map[bool]int{true: 1, false: 2}[skip] {
				t.Errorf("hooks ran: %v", w.ran)
			}
			if err := Resume(&got, nil, w.now); err == nil {
				t.Error("a run that is over can be resumed")
			}
		})
	}
	r := fleet.Run{Phase: fleet.RunStopped, Roll: &fleet.Roll{Rolled: []fleet.RolledHost{{Host: "h1", State: fleet.RollRolled}}}}
	for _, name := range []string{"h1", "h9"} {
		if err := Resume(&r, []string{name}, t0); err == nil {
			t.Errorf("%s can be left out", name)
		}
	}
}

// After the canary a person's word is waited for, and nothing goes on without.
func TestApprove(t *testing.T) {
	w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2", "h4:16", "h5:16"), rollOf("h1", "h2", "h3")
	r.Roll.Canary, r.Roll.Approve, r.Roll.Parallel = true, true, 2
	w.request(r)
	for range 600 {
		w.tick(1 << 30)
	}
	got := w.runs["m1"]
	if states(got.Run) != "h2 done, h1 waiting, h3 waiting" || !strings.Contains(got.Reason, "waiting for approval after h2 (drover maintenance approve m1)") {
		t.Fatalf("%s (%s)", states(got.Run), got.Reason)
	}
	roll := *got.Roll
	roll.Approved = &fleet.Approval{By: "eve", At: w.now}
	got.Roll = &roll
	w.put(got.Run)
	if got := w.play(t, "m1"); got.Phase != fleet.RunDone {
		t.Errorf("%s (%s), %s", got.Phase, got.Reason, states(got))
	}
}

// The host's health: the agent must have reported since, and started anew after a hook that takes it down; a
// probe is asked until it agrees.
func TestHealth(t *testing.T) {
	w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2"), rollOf("h1")
	probe := hook("probe")
	r.Roll.Hooks = []fleet.Hook{hook("prepare"), {Name: "reboot", On: fleet.OnAgent, Timeout: policy.Duration(time.Minute), Away: true}}
	r.Roll.Healthy = fleet.Healthy{Within: policy.Duration(10 * time.Minute), Libvirt: "11.3.0", Probe: &probe}
	var rebooted time.Time
	w.script = func(o HookOrder, n int) precopy.HookResult {
		switch {
		case o.Call.Name == "prepare":
			w.hosts["h1"].instance = 2 // its agent is started anew before the reboot
			return precopy.HookResult{}
		case o.Call.Name == "reboot" && n == 1:
			return precopy.HookResult{Exit: -1, Lost: true, Unasked: true} // nobody was there to be asked
		case o.Call.Name == "reboot":
			if o.On != fleet.OnAgent || o.Call.Env["DROVER_HOST"] != "h1" || o.Call.Env["DROVER_RUN"] != "m1" || o.Call.Env["DROVER_ATTEMPT"] != o.Call.Attempt {
				t.Errorf("%+v", o)
			}
			rebooted = w.now
			return precopy.HookResult{Exit: -1, Lost: true}
		}
		return precopy.HookResult{Exit: map[bool]int{true: 1, false: 0}[n < 3]}
	}
	w.request(r)
	for w.runs["m1"].Phase != fleet.RunDone {
		w.tick(1 << 30)
		h := w.hosts["h1"]
		switch gone := w.now.Sub(rebooted); {
		case rebooted.IsZero():
		case gone < 30*time.Second:
			// The host goes down only now: it still reports.
		case gone < 90*time.Second:
			h.down = true
		case h.down:
			h.down, h.instance = false, 3
		}
		if gone := w.now.Sub(rebooted); !rebooted.IsZero() && gone < 90*time.Second && len(h.cordons) == 0 {
			t.Fatalf("opened %s after its reboot began", gone)
		}
		if w.now.Sub(t0) > time.Hour {
			t.Fatalf("%s: %+v", w.runs["m1"].Reason, w.runs["m1"].Roll.Rolled)
		}
	}
	if w.ran["h1/probe"] != 3 || w.ran["h1/reboot"] != 2 {
		t.Errorf("ran: %v", w.ran)
	}
	if probes := w.runs["m1"].Roll.Rolled[0].Hooks; len(probes) != 3 {
		t.Errorf("kept: %+v, want the hooks and the last probe", probes)
	}
}

// A leader may die at any write: the next one goes on, and no VM moves twice, no hook twice unless the leader
// died while it ran.
func TestRollOutlivesLeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2", "h4:16"), rollOf("h1", "h2", "h3")
		w.tight = true
		r.Roll.Hooks = []fleet.Hook{hook("patch")}
		r.Roll.Return = rapid.Bool().Draw(t, "return")
		r.Roll.Parallel = rapid.IntRange(1, 2).Draw(t, "parallel")
		w.request(r)
		died := 0
		for range 2000 {
			if w.runs["m1"].Phase.Final() {
				break
			}
			die := 1 << 30
			if died < 40 && rapid.IntRange(0, 2).Draw(t, "dies") == 0 {
				die = rapid.IntRange(0, 2).Draw(t, "after")
			}
			if w.tick(die) {
				died++
			}
		}
		got := w.runs["m1"]
		if got.Phase != fleet.RunDone {
			t.Fatalf("%s (%s), %s", got.Phase, got.Reason, states(got.Run))
		}
		for _, b := range w.bad {
			t.Errorf("%s", b)
		}
		most := map[bool]int{true: 2, false: 1}[r.Roll.Return]
		for vm, n := range w.moved {
			if n > most {
				t.Errorf("%s moved %d times", vm, n)
			}
		}
		for key, n := range w.ran {
			if n > 1+died {
				t.Errorf("%s ran %d times, with %d deaths", key, n, died)
			}
		}
		for name, h := range w.hosts {
			if len(h.cordons) > 0 {
				t.Errorf("%s is closed: %+v", name, h.cordons)
			}
		}
	})
}

// A roll that is cancelled at any moment ends, nothing goes on afterwards, and the hosts are open if so asked.
func TestRollCancelledAnytime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, r := newWorld("h1:16 a:2 b:2", "h2:16 c:2", "h3:16 d:2 e:2"), rollOf("h1", "h2", "h3")
		r.Roll.Hooks = []fleet.Hook{hook("patch")}
		r.Roll.Return = rapid.Bool().Draw(t, "return")
		w.request(r)
		for range rapid.IntRange(0, 300).Draw(t, "after") {
			w.tick(1 << 30)
		}
		now := w.runs["m1"]
		if now.Phase.Final() {
			return
		}
		now.Cancel = &fleet.RunCancel{By: "eve", At: w.now, Abort: rapid.Bool().Draw(t, "abort"), Uncordon: rapid.Bool().Draw(t, "uncordon")}
		w.put(now.Run)
		got := w.play(t, "m1")
		for range 50 {
			w.tick(1 << 30)
		}
		if got.Phase != fleet.RunCancelled {
			t.Fatalf("%s (%s)", got.Phase, got.Reason)
		}
		for id, m := range w.migs {
			if !m.Phase.Final() || m.Finished.After(got.Finished.Add(time.Second)) {
				t.Errorf("migration %s of %s went on: %s", id, m.Domain, m.Phase)
			}
		}
		for id, run := range w.runs {
			if !run.Phase.Final() {
				t.Errorf("run %s (%s) goes on: %s", id, run.Kind, run.Reason)
			}
		}
		for name, h := range w.hosts {
			if got.Cancel.Uncordon && len(h.cordons) > 0 {
				t.Errorf("%s is closed: %+v", name, h.cordons)
			}
		}
	})
}

// On any fleet a roll ends, or is refused with names; the fleet could lose a host at every instant; and VMs
// move as few times as there is room for.
func TestAnyFleet(t *testing.T) {
	refused := 0
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 3))
		var specs, roll []string
		for i := range 3 + random.IntN(4) {
			spec, left := fmt.Sprintf("h%d:32", i), 24
			for v := range random.IntN(6) {
				size := 1 + random.IntN(8)
				if left -= size; left < 0 {
					break
				}
				spec += fmt.Sprintf(" v%d-%d:%d", i, v, size)
			}
			specs = append(specs, spec)
			if i == 0 || random.IntN(2) == 0 {
				roll = append(roll, fmt.Sprintf("h%d", i))
			}
		}
		w, r := newWorld(specs...), rollOf(roll...)
		r.Roll.Parallel = 1 + random.IntN(2)
		w.request(r)
		w.tick(1 << 30)
		first := w.runs["m1"]
		if first.Phase == fleet.RunRefused {
			refused++
			if len(first.Blocked) == 0 || len(w.migs) > 0 {
				t.Errorf("seed %d: refused (%s), blocked: %+v, %d migrations", seed, first.Reason, first.Blocked, len(w.migs))
			}
			continue
		}
		w.tight = true
		got := w.play(t, "m1")
		if got.Phase != fleet.RunDone {
			t.Errorf("seed %d: %s (%s), %s", seed, got.Phase, got.Reason, states(got))
		}
		if foretold := first.Roll.Moves; r.Roll.Parallel == 1 && sum(w.moved) > foretold {
			t.Errorf("seed %d: %d moves, foretold were %d", seed, sum(w.moved), foretold)
		}
	}
	if refused == 0 || refused > 20 {
		t.Errorf("%d of 30 were refused: the fleets are not what this is about", refused)
	}
}

func sum(m map[string]int) int {
	n := 0
	for _, x := range m {
		n += x
	}
	return n
}

// Every host of a fleet that is three quarters full is rolled: the guests of the first move twice, those of the
// others once.
func TestWholeFleetMovesFewTimes(t *testing.T) {
	var specs, roll []string
	for i := range 6 {
		spec := fmt.Sprintf("h%d:64", i)
		for v := range 5 {
			spec += fmt.Sprintf(" v%d-%d:8", i, v)
		}
		specs, roll = append(specs, spec), append(roll, fmt.Sprintf("h%d", i))
	}
	w, r := newWorld(specs...), rollOf(roll...)
	w.tight = true
	w.request(r)
	got := w.play(t, "m1")
	if mean := float64(sum(w.moved)) / 30; got.Phase != fleet.RunDone || mean > 1.2 {
		t.Errorf("%s (%s): %.2f moves of each VM; want 1.2 at most", got.Phase, got.Reason, mean)
	}
}
