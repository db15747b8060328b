package auto

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/balance"
	"drover/scheduler/calendar"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/scheduler/signal"
)

var t0 = time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)

type guest struct {
	host string
	load float64
}

// world is a fleet, its store, and a scheduler that carries out what is asked for. Hosts have 8
// cores and room for all; VMs have 4 vCPUs and 4 GiB, and a load that a hundredth of a core is added to every
// other slot.
type world struct {
	now      time.Time
	hosts    []string
	vms      map[string]*guest
	policy   policy.Document
	cordoned map[string]bool
	away     map[string]bool // hosts without an agent
	plans    []fleet.StoredPlan
	pause    *fleet.Pause
	runs     map[string]fleet.StoredRun
	// migrations are all that ever were.
	migrations map[string]precopy.Stored
	memory     *Memory
	settings   Settings
	requests   []precopy.Migration
	retired    []string // plans
	logs       []string
	revision   int64
	takes      time.Duration // of a migration
}

func newWorld(hosts int, vms map[string]*guest) *world {
	w := &world{
		now: t0, vms: vms, cordoned: map[string]bool{}, away: map[string]bool{}, memory: NewMemory(signal.Slot), settings: DefaultSettings(),
		migrations: map[string]precopy.Stored{}, runs: map[string]fleet.StoredRun{}, takes: 2 * time.Minute,
	}
	w.settings.Level = Full
	for i := range hosts {
		w.hosts = append(w.hosts, fmt.Sprintf("h%d", i))
	}
	return w
}

func (w *world) snapshot() *fleet.Snapshot {
	w.revision++
	s := &fleet.Snapshot{Revision: w.revision, Now: w.now, Hosts: map[string]*fleet.Host{}, Migrations: maps.Clone(w.migrations), Runs: maps.Clone(w.runs), Pause: w.pause, Plans: map[string]fleet.StoredPlan{}}
	for _, p := range w.plans {
		if !slices.Contains(w.retired, p.ID) {
			s.Plans[p.ID] = p
		}
	}
	s.Policy.Document = w.policy
	for _, name := range w.hosts {
		h := &fleet.Host{
			Name: name, Session: &fleet.Session{}, LoadSeen: w.now, LoadRevision: w.revision,
			Facts: &hypervisor.HostFacts{Capacity: hypervisor.Capacity{Cores: 8, Memory: 256 * hypervisor.GiB, Bandwidth: 1e9 / 8}},
			Load:  &hypervisor.HostLoad{},
		}
		if w.away[name] {
			h.Session, h.Facts, h.Load = nil, nil, nil
			s.Hosts[name] = h
			continue
		}
		if w.cordoned[name] {
			h.Record.Cordons = []fleet.Cordon{{Holder: "admin", By: "alice"}}
		}
		for _, vm := range slices.Sorted(maps.Keys(w.vms)) {
			if g := w.vms[vm]; g.host == name {
				id := hypervisor.DomainID(vm)
				cpu := g.load + 0.01*float64(w.now.Unix()/300%2)
				h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{ID: id, Name: vm, VCPUs: 4, Memory: 4 * hypervisor.GiB})
				h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: id, State: hypervisor.StateRunning, CPU: hypervisor.Cores(cpu)})
			}
		}
		s.Hosts[name] = h
	}
	return s
}

// pass is one minute: a look, decisions carried out, and requests that are old enough done.
func (w *world) pass(t interface{ Fatalf(string, ...any) }) {
	w.now = w.now.Add(time.Minute)
	s := w.snapshot()
	look := w.memory.See(s, w.settings.Rule, w.now)
	in := Inputs{Fleet: s, Memory: w.memory, Settings: w.settings, Look: look, Now: w.now}
	decisions, err := Decide(in)
	if err != nil {
		t.Fatalf("Decide: %v", err)
	}
	again, err := Decide(in)
	if diff := cmp.Diff(decisions, again); diff != "" || err != nil {
		t.Fatalf("the same inputs twice: %v\n%s", err, diff)
	}
	creates, asks := 0, 0
	for _, d := range decisions {
		if d.Create != nil {
			creates++
		}
		if d.Run != nil {
			for i, m := range w.runs[d.Run.ID].Moves {
				if m.Migration == "" && d.Run.Moves[i].Migration != "" {
					asks++
				}
			}
		}
		w.carryOut(t, d)
	}
	if creates > 0 && asks > 0 {
		t.Fatalf("a move is picked before the fleet shows the last one")
	}
	for id, m := range w.migrations {
		if m.Phase == precopy.Requested && m.Cancel != nil {
			m.Phase, m.Reason = precopy.Aborted, "cancelled"
		} else if m.Phase == precopy.Requested && w.now.Sub(m.Created) >= w.takes {
			ended := w.now
			m.Phase, m.Finished = precopy.Done, &ended
			w.vms[string(m.UUID)].host = m.Target
		}
		w.migrations[id] = m
	}
}

func (w *world) carryOut(t interface{ Fatalf(string, ...any) }, d Decision) {
	if d.Log != "" {
		w.logs = append(w.logs, d.Log)
	}
	if d.Plan != nil {
		d.Plan.Revision++
		w.plans = append(slices.DeleteFunc(slices.Clone(w.plans), func(p fleet.StoredPlan) bool { return p.ID == d.Plan.ID }), *d.Plan)
	}
	if d.Run != nil {
		if w.runs[d.Run.ID].Revision != d.Run.Revision {
			t.Fatalf("run %s is written over another revision", d.Run.ID)
		}
		r := *d.Run
		r.Revision++
		w.runs[r.ID] = r
	}
	if m := d.Create; m != nil {
		for _, other := range w.migrations {
			if other.ID == m.ID || other.UUID == m.UUID && !other.Phase.Final() {
				t.Fatalf("%s is asked for while %s is there", m.ID, other.ID)
			}
		}
		w.requests = append(w.requests, *m)
		w.migrations[m.ID] = precopy.Stored{Migration: *m}
	}
	if d.Retire != nil {
		w.retired = append(w.retired, d.Retire.ID)
	}
	if d.Cancel != nil {
		w.migrations[d.Cancel.ID] = *d.Cancel
	}
}

func (w *world) run(t interface{ Fatalf(string, ...any) }, d time.Duration) {
	for range int(d / time.Minute) {
		w.pass(t)
	}
}

// last is the newest run.
func (w *world) last() (out fleet.StoredRun) {
	for _, r := range w.runs {
		if r.ID > out.ID {
			out = r
		}
	}
	return out
}

// hot is three hosts: one with 8 cores' worth of load, one with 4, one with 2.
func hot() map[string]*guest {
	vms := map[string]*guest{}
	for i := range 14 {
		vms[fmt.Sprintf("vm%02d", i)] = &guest{host: []string{"h0", "h1", "h2"}[min(i/8, 1)+min(i/12, 1)], load: 1}
	}
	return vms
}

func (w *world) loadOf(host string) (sum float64) {
	for _, g := range w.vms {
		if g.host == host {
			sum += g.load
		}
	}
	return sum
}

func TestFullRelievesAHotHost(t *testing.T) {
	w := newWorld(3, hot())
	w.run(t, 55*time.Minute)
	if len(w.plans) != 0 {
		t.Fatalf("a plan before VMs were seen for an hour: %+v", w.plans)
	}
	w.run(t, time.Hour)
	if got := w.loadOf("h0"); got > 0.85*8 {
		t.Errorf("h0 still has %.0f cores asked for; %v", got, w.logs)
	}
	if len(w.requests) == 0 || len(w.requests) > 3 {
		t.Errorf("%d moves, want 1 to 3: %v", len(w.requests), w.logs)
	}
	for _, m := range w.requests {
		if m.Source != "h0" || m.RequestedBy != Scheduler || m.Run != w.last().ID || !strings.Contains(m.Reason, "core-minutes above 85 %") {
			t.Errorf("asked for: %+v", m)
		}
	}
	run, plan := w.last(), w.plans[0]
	if run.Phase != fleet.RunDone || run.Finished == nil || plan.Ending != "done" || plan.Run != run.ID || plan.Approved.By != Scheduler {
		t.Errorf("plan %+v\nrun %+v", plan.Plan, run)
	}
	before := len(w.requests)
	w.run(t, 6*time.Hour)
	if len(w.requests) != before {
		t.Errorf("moves go on though no host is hot: %v", w.logs)
	}
}

func TestLevels(t *testing.T) {
	manual := newWorld(3, hot())
	manual.settings.Level = Manual
	manual.run(t, 3*time.Hour)
	if len(manual.plans) != 1 || len(manual.runs) != 0 || len(manual.plans[0].Moves) == 0 {
		t.Fatalf("manual: %d plans, %d runs, want one plan that recommends", len(manual.plans), len(manual.runs))
	}
	manual.settings.Level = Full
	manual.run(t, time.Hour)
	if a := manual.plans[0].Approved; a == nil || a.By != Scheduler || len(manual.requests) == 0 {
		t.Errorf("full by now: %+v, %v", manual.plans[0], manual.logs)
	}

	w := newWorld(3, hot())
	w.settings.Level = Partial
	w.run(t, 2*time.Hour)
	if len(w.plans) != 1 || len(w.runs) != 0 {
		t.Fatalf("partial: %d plans, %d runs, want one plan that waits", len(w.plans), len(w.runs))
	}
	w.plans[0].Approved = &fleet.Act{By: "alice", At: w.now}
	w.run(t, time.Hour)
	if len(w.requests) == 0 || w.last().Finished == nil {
		t.Errorf("approved, but: %v", w.logs)
	}

	for name, change := range map[string]func(*world){
		"expired":   func(w *world) { w.now = w.now.Add(24 * time.Hour) },
		"withdrawn": func(w *world) { w.plans[0].Withdrawn = &fleet.Act{By: "alice"} },
	} {
		w := newWorld(3, hot())
		w.settings.Level = Partial
		w.run(t, 2*time.Hour)
		change(w)
		w.settings.Level = Manual
		w.run(t, time.Hour)
		if p := w.plans[0]; string(p.Ending) != name || len(w.requests) != 0 {
			t.Errorf("%s: %+v", name, p.Plan)
		}
	}
}

// TestWaitingPlan: a plan that waits ends when it has lost its sense, and another one is made once there is sense
// in it again; a person's no holds as long as the plan would have waited.
func TestWaitingPlan(t *testing.T) {
	calm := func(w *world, load float64) {
		for _, g := range w.vms {
			g.load = load
		}
	}
	w := newWorld(3, hot())
	w.settings.Level = Partial
	w.run(t, 2*time.Hour)
	calm(w, 0.3)
	w.run(t, 2*time.Hour)
	if p := w.plans[0]; p.Ending != fleet.PlanOutdated || !strings.Contains(p.Why, "core-minutes by now") || len(w.plans) != 1 {
		t.Fatalf("%+v", w.plans)
	}
	calm(w, 1)
	w.run(t, 3*time.Hour)
	if len(w.plans) != 2 || w.plans[1].Ended != nil || len(w.retired) != 1 {
		t.Fatalf("hot again: %+v", w.plans)
	}
	w.plans[1].Withdrawn = &fleet.Act{By: "alice", At: w.now}
	until := w.plans[1].Expires
	for w.now.Before(until) {
		w.pass(t)
		if len(w.plans) != 2 && w.now.Before(until) {
			t.Fatalf("%s before the withdrawn plan would have expired: %+v", until.Sub(w.now), w.plans)
		}
	}
	w.run(t, 30*time.Minute)
	if len(w.plans) != 3 || w.plans[2].Ended != nil || len(w.requests) != 0 || len(w.retired) != 2 {
		t.Errorf("after it: %+v", w.plans)
	}
}

// ready is a hot fleet just before the plan is made.
func ready(t *testing.T) *world {
	w := newWorld(3, hot())
	w.settings.Level = Partial
	w.run(t, 2*time.Hour)
	if len(w.plans) != 1 {
		t.Fatalf("%d plans", len(w.plans))
	}
	w.settings.Level = Manual // no other plan than this
	w.plans[0].Approved = &fleet.Act{By: "alice", At: w.now}
	return w
}

func TestJudgedAgainBeforeEachMove(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*world, fleet.PlanMove)
		why    string
	}{
		{"the VM has moved", func(w *world, m fleet.PlanMove) { w.vms[m.Domain].host = "h2" }, "it is on h2, no longer on h0"},
		{"the VM is gone", func(w *world, m fleet.PlanMove) { delete(w.vms, m.Domain) }, "it runs on no host that reports"},
		{"the target is cordoned", func(w *world, m fleet.PlanMove) { w.cordoned[m.To] = true }, "host-cordoned: "},
		{"opted out", func(w *world, m fleet.PlanMove) { w.policy.Default.Automatic = new(false) }, "its policy lets it move only when somebody asks"},
		{"pinned", func(w *world, m fleet.PlanMove) { w.policy.Default.Pinned = new(true) }, "pinned: "},
		{"the VM rests", func(w *world, m fleet.PlanMove) {
			ended := w.now
			w.migrations["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", UUID: m.UUID, Source: "h9", Target: m.From, Phase: precopy.Done, Finished: &ended}}
		}, "it rests for another 28m0s after its last move"},
		{"the VM was there today", func(w *world, m fleet.PlanMove) {
			ended := w.now.Add(-5 * time.Hour)
			w.migrations["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", UUID: m.UUID, Source: m.To, Target: m.From, Phase: precopy.Done, Finished: &ended}}
		}, "it left h2 less than 24h0m0s ago"},
		{"another migration", func(w *world, m fleet.PlanMove) {
			w.migrations["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", UUID: m.UUID, Source: m.From, Target: m.To, Phase: precopy.Copying}}
		}, "another migration of it is under way"},
		{"kept apart", func(w *world, m fleet.PlanMove) {
			w.policy.Groups = []policy.Group{{Name: "g", VMs: []string{m.Domain, "vm13"}, Kind: policy.Apart, Strength: policy.Required}}
			w.vms["vm13"].host = m.To
		}, "anti-affinity: group g keeps it apart from vm13, which is on h2"},
		{"no longer worth it", func(w *world, m fleet.PlanMove) {
			for range 60 {
				for _, g := range w.vms {
					g.load = 0.5
				}
				w.now = w.now.Add(time.Minute)
				w.memory.See(w.snapshot(), w.settings.Rule, w.now)
			}
		}, "it would avoid 0.0 core-minutes by now, less than 2.5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := ready(t)
			first := w.plans[0].Moves[0]
			tc.change(w, first)
			w.run(t, 3*time.Minute)
			m := w.last().Moves[0]
			if len(w.requests) > 0 && w.requests[0].UUID == m.UUID || !m.State.Final() || !strings.HasPrefix(m.Reason, tc.why) {
				t.Errorf("%s: %q, want it given up: %q", m.State, m.Reason, tc.why)
			}
		})
	}
}

// While an agent is started anew nothing is known of its host's moves: they wait, and are made when it is back.
func TestWaitsForAgents(t *testing.T) {
	for _, host := range []string{"h0", "h2"} {
		w := ready(t)
		want := len(w.plans[0].Moves)
		w.run(t, time.Minute)
		w.away[host] = true
		w.run(t, 5*time.Minute)
		r := w.last()
		if r.Phase.Final() || !strings.HasPrefix(r.Reason, "waiting for "+host+" (host-away)") {
			t.Errorf("without %s: %s (%s), %+v", host, r.Phase, r.Reason, r.Moves)
		}
		delete(w.away, host)
		w.run(t, 30*time.Minute)
		if r = w.last(); r.Phase != fleet.RunDone || len(r.Moves) != want {
			t.Errorf("with %s again: %s (%s), want %d moves made", host, r.Phase, r.Reason, want)
		}
	}
}

func TestPauseAndWindows(t *testing.T) {
	night, err := calendar.New(calendar.Spec{Windows: []calendar.Window{{Name: "night", Cron: "0 4 * * *", Duration: "1h"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name       string
		stop, lift func(*world)
		waiting    string
	}{
		{
			"paused", func(w *world) { w.pause = &fleet.Pause{Act: fleet.Act{By: "bob"}} },
			func(w *world) { w.pause = nil }, "the fleet is paused by bob",
		},
		{
			"outside the window", func(w *world) { w.settings.Calendar = night },
			func(w *world) { w.now = t0.Add(4 * time.Hour) }, "no window is open: night is the next, at 2026-05-04 04:00 UTC",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := ready(t)
			tc.stop(w)
			w.run(t, 30*time.Minute)
			if len(w.runs) != 0 {
				t.Fatal("a run began")
			}
			tc.lift(w)
			w.pass(t)
			tc.stop(w)
			if tc.name != "paused" {
				w.now = t0.Add(3 * time.Hour)
			}
			w.run(t, 5*time.Minute)
			if len(w.requests) != 0 || w.last().Reason != tc.waiting {
				t.Fatalf("%d requests, waiting: %q, want none and %q", len(w.requests), w.last().Reason, tc.waiting)
			}
			tc.lift(w)
			w.run(t, 30*time.Minute)
			if len(w.requests) == 0 || w.last().Finished == nil {
				t.Errorf("nothing goes on: %v", w.logs)
			}
		})
	}
	t.Run("too late for the window", func(t *testing.T) {
		w := ready(t)
		w.settings.Calendar = night
		w.plans[0].Moves[0].Seconds = 50
		w.now = t0.Add(5*time.Hour - 3*time.Minute) // the run begins a minute later
		w.pass(t)
		w.now = t0.Add(5*time.Hour - 100*time.Second) // 40 s are left in the pass
		w.pass(t)
		if got := w.last().Reason; len(w.requests) != 0 || !strings.Contains(got, "takes 50 s, and moves are allowed until 05:00 UTC only") {
			t.Errorf("%d requests, waiting: %q", len(w.requests), got)
		}
	})
	t.Run("a person's own plan", func(t *testing.T) {
		w := ready(t)
		w.plans[0].By = "alice"
		w.pause = &fleet.Pause{Act: fleet.Act{By: "bob"}}
		w.settings.Calendar = night
		w.run(t, 10*time.Minute)
		// It is left to the drains' way of carrying out runs.
		if r := w.last(); r.Phase != fleet.RunRequested || r.RequestedBy != "alice" || len(r.Moves) == 0 || len(w.requests) != 0 {
			t.Errorf("%+v", r)
		}
	})
}

func TestCancelledRun(t *testing.T) {
	for _, abort := range []bool{false, true} {
		w := ready(t)
		w.settings.AtOnce = 1
		for len(w.requests) == 0 {
			w.pass(t)
		}
		run := w.last()
		run.Cancel = &fleet.RunCancel{By: "bob", Abort: abort}
		w.runs[run.ID] = run
		w.run(t, 5*time.Minute)
		run = w.last()
		want := fleet.MoveMoved
		if abort {
			want = fleet.MoveStays
		}
		if run.Phase != fleet.RunCancelled || run.Finished == nil || len(w.requests) != 1 || run.Moves[0].State != want {
			t.Errorf("abort %t: %+v", abort, run)
		}
		for _, m := range run.Moves[1:] {
			if m.State != fleet.MoveStays || m.Reason != "the run was cancelled by bob" {
				t.Errorf("abort %t: %+v", abort, m)
			}
		}
	}
}

func TestBefore(t *testing.T) {
	for _, tc := range []struct {
		states []fleet.MoveState
		ready  bool
		lost   string
	}{
		{[]fleet.MoveState{fleet.MoveMoved, fleet.MoveLeft}, true, ""},
		{[]fleet.MoveState{fleet.MoveMoved, fleet.MoveAsked}, false, ""},
		{[]fleet.MoveState{fleet.MovePlanned, fleet.MoveMoved}, false, ""},
		{[]fleet.MoveState{fleet.MoveAsked, fleet.MoveStays}, false, "b, which had to go before, stays"},
	} {
		var moves []fleet.RunMove
		for i, s := range tc.states {
			moves = append(moves, fleet.RunMove{State: s, VM: string(rune('a' + i))})
		}
		if ready, lost := before(moves, []int{0, 1}); ready != tc.ready || lost != tc.lost {
			t.Errorf("%v: %t, %q", tc.states, ready, lost)
		}
	}
}

// TestNothingUnasked plays half days in which loads jump, people move VMs, cordon, pause and cancel, and leaders
// change: whatever happens, automatic moves keep to all that binds them.
func TestNothingUnasked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vms := map[string]*guest{}
		for i := range rapid.IntRange(4, 16).Draw(t, "vms") {
			vms[fmt.Sprintf("vm%02d", i)] = &guest{host: fmt.Sprintf("h%d", rapid.IntRange(0, 2).Draw(t, "host")), load: rapid.Float64Range(0, 2).Draw(t, "load")}
		}
		w := newWorld(3, vms)
		w.policy.Classes = map[string]policy.Class{"still": {Automatic: new(false)}}
		w.policy.Rules = []policy.Rule{{Match: policy.Match{Name: "vm00"}, Class: "still"}}
		w.policy.Groups = []policy.Group{{Name: "g", VMs: []string{"vm01", "vm02"}, Kind: policy.Apart, Strength: policy.Required}}
		together := vms["vm01"].host == vms["vm02"].host
		names := slices.Sorted(maps.Keys(vms))
		for range rapid.IntRange(3, 12).Draw(t, "hours") {
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				w.pause = &fleet.Pause{Act: fleet.Act{By: "bob"}}
			case 1:
				w.pause = nil
			case 2:
				host := rapid.SampledFrom(w.hosts).Draw(t, "cordon")
				w.cordoned[host] = !w.cordoned[host]
			case 3: // a new leader, with the load that was written down
				next := NewMemory(signal.Slot)
				next.Load = w.memory.Load
				w.memory = next
			case 4:
				for id, r := range w.runs {
					r.Cancel = &fleet.RunCancel{By: "bob", Abort: true}
					w.runs[id] = r
				}
			}
			for _, name := range names {
				if rapid.IntRange(0, 5).Draw(t, "jump") == 0 {
					w.vms[name].load = rapid.Float64Range(0, 4).Draw(t, "load")
				}
			}
			for range 60 {
				asked := len(w.requests)
				paused := w.pause != nil
				w.pass(t)
				for _, m := range w.requests[asked:] {
					w.judge(t, m, paused)
				}
			}
			if !together && vms["vm01"].host == vms["vm02"].host {
				t.Fatalf("vm01 and vm02 are both on %s", vms["vm01"].host)
			}
		}
	})
}

func (w *world) judge(t *rapid.T, m precopy.Migration, paused bool) {
	switch {
	case paused:
		t.Fatalf("%s is asked for while paused", m.Domain)
	case m.Domain == "vm00":
		t.Fatalf("%s moves though it has opted out", m.Domain)
	case w.cordoned[m.Target]:
		t.Fatalf("%s goes to %s, which is cordoned", m.Domain, m.Target)
	}
	for _, old := range w.migrations {
		if old.UUID != m.UUID || old.Phase != precopy.Done {
			continue
		}
		if since := w.now.Sub(*old.Finished); old.Source == m.Target && since < signal.NoReturn || since < 30*time.Minute {
			t.Fatalf("%s goes to %s, %s after it left %s", m.Domain, m.Target, since, old.Source)
		}
	}
}

func TestGain(t *testing.T) {
	r := DefaultRule()
	r.Sure = 0
	load := func(mean float64) signal.Estimate { return signal.Estimate{Mean: hypervisor.Cores(mean), Ready: true} }
	end := func(mean float64) End { return End{load(mean), 10} }
	// Without noise: what lies above 8.5 of 10 cores, for 360 minutes.
	for _, tc := range []struct{ vm, from, to, want float64 }{
		{1, 9, 3, 180},
		{1, 9, 7.5, 180},
		{1, 9, 8, 0},      // as much too much there
		{1, 9, 8.5, -180}, // and more
		{1, 8, 3, 0},
		{4, 20, 1, 4 * 360}, // however far above
	} {
		if got := r.Gain(load(tc.vm), end(tc.from), end(tc.to)); got < tc.want-1e-6 || got > tc.want+1e-6 {
			t.Errorf("%+v: %g", tc, got)
		}
	}
	// Errors of the means count against a move on both sides.
	unsure := func(mean float64) End {
		e := end(mean)
		e.Load.SD, e.Load.Error = 0.5, 0.2
		return e
	}
	plain := r.Gain(load(1), unsure(9), unsure(7))
	r.Sure = 1
	if sure := r.Gain(load(1), unsure(9), unsure(7)); sure >= plain {
		t.Errorf("sure %g, plain %g", sure, plain)
	}
}

// TestChoose: VMs leave hot hosts only, when enough is known of them, and never out of a group that must stay
// together.
func TestChoose(t *testing.T) {
	// Two hosts of 8 cores with 8 and 6.9 cores' worth of load, and an empty one.
	fresh := func() (*balance.Problem, []signal.Estimate) {
		p := &balance.Problem{}
		for _, name := range []string{"a", "b", "c"} {
			p.Hosts = append(p.Hosts, balance.Host{Name: name, Cores: 8, Memory: 64 * hypervisor.GiB, Link: 1e9 / 8})
		}
		var loads []signal.Estimate
		for i := range 16 {
			e := signal.Estimate{Mean: 1, SD: 0.1, Error: 0.02, Ready: true}
			if i >= 8 {
				e.Mean = 6.9 / 8
			}
			p.VMs = append(p.VMs, balance.VM{Name: fmt.Sprint(i), Host: i / 8, Memory: hypervisor.GiB, VCPUs: 4})
			loads = append(loads, e)
		}
		return p, loads
	}
	for _, tc := range []struct {
		name   string
		hot    []bool
		change func(*balance.Problem, []signal.Estimate)
		from   []string // hosts that VMs leave
	}{
		{"one host is hot", []bool{true, false, false}, nil, []string{"a"}},
		{"both are", []bool{true, true, false}, nil, []string{"a", "b"}},
		{"none is", make([]bool, 3), nil, nil},
		{"too little is known", []bool{true, false, false}, func(_ *balance.Problem, l []signal.Estimate) {
			for i := range l {
				l[i].Ready = false
			}
		}, nil},
		{"those that may move must stay together", []bool{true, false, false}, func(p *balance.Problem, _ []signal.Estimate) {
			for i := 2; i < 8; i++ {
				p.VMs[i].Pinned = true
			}
			p.Groups = []balance.Group{{Name: "g", VMs: []int{0, 1}, Required: true}}
		}, nil},
		{"the only other host to go to is avoided", []bool{true, false, false}, func(p *balance.Problem, _ []signal.Estimate) {
			for i := range p.VMs {
				p.VMs[i].Avoid = []int{2}
			}
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, loads := fresh()
			if tc.change != nil {
				tc.change(p, loads)
			}
			list, err := Choose(p, loads, tc.hot, DefaultRule())
			if err != nil {
				t.Fatal(err)
			}
			from := map[string]bool{}
			for _, c := range list {
				from[p.Hosts[c.From].Name] = true
				if c.Gain < DefaultRule().Least || c.Gain > c.Before || p.Hosts[c.To].Name != "c" {
					t.Errorf("%+v", c)
				}
			}
			if got := slices.Sorted(maps.Keys(from)); !cmp.Equal(got, tc.from) {
				t.Errorf("VMs leave %v, want %v", got, tc.from)
			}
		})
	}
}

// TestAtOnce: a run keeps to the limit, asks for the next move only when the last one is seen in the fleet, and
// goes on to its end.
func TestAtOnce(t *testing.T) {
	for _, limit := range []int{1, 3} {
		w := ready(t)
		plan := &w.plans[0]
		plan.Moves = nil
		for i := range 6 {
			plan.Moves = append(plan.Moves, fleet.PlanMove{Domain: fmt.Sprintf("vm%02d", i), UUID: hypervisor.DomainID(fmt.Sprintf("vm%02d", i)), From: "h0", To: "h2"})
		}
		w.settings.AtOnce, w.takes = limit, 10*time.Minute
		w.settings.Rule.Least = -1e9 // all of them
		most := 0
		for range 90 {
			w.pass(t)
			unfinished := 0
			for _, m := range w.migrations {
				if !m.Phase.Final() {
					unfinished++
				}
			}
			most = max(most, unfinished)
		}
		if run := w.last(); run.Phase != fleet.RunDone || run.Reason != "6 moved" || most != limit {
			t.Errorf("limit %d, %d at once: %+v", limit, most, run)
		}
	}
}

// TestHeldInTime: what stops a run between picking a move and asking for it stops that too.
func TestHeldInTime(t *testing.T) {
	w := ready(t)
	for w.last().ID == "" || w.last().Moves[0].State != fleet.MoveAsked {
		w.pass(t)
	}
	w.pause = &fleet.Pause{Act: fleet.Act{By: "bob"}}
	w.run(t, 10*time.Minute)
	if m := w.last().Moves[0]; len(w.requests) != 0 || m.State != fleet.MovePlanned || m.Migration != "" {
		t.Fatalf("%d requests; %+v", len(w.requests), m)
	}
	w.pause = nil
	w.run(t, 20*time.Minute)
	if len(w.requests) == 0 {
		t.Errorf("it does not go on: %+v", w.last())
	}
}

// TestResidents: a VM that migrates is seen on both hosts, and counts once, where it goes to; what is reported of
// it says nothing about its load.
func TestResidents(t *testing.T) {
	w := newWorld(2, map[string]*guest{"vm": {host: "h0", load: 1}})
	s := w.snapshot()
	s.Hosts["h1"].Facts.Domains = s.Hosts["h0"].Facts.Domains
	s.Hosts["h1"].Load.Domains = []hypervisor.DomainLoad{{ID: "vm", State: hypervisor.StatePaused, Migrating: true}}
	s.Hosts["h0"].Load.Domains[0].Migrating = true
	for _, phase := range []precopy.Phase{precopy.Requested, precopy.Copying} {
		s.Migrations["m"] = precopy.Stored{Migration: precopy.Migration{ID: "m", UUID: "vm", Source: "h0", Target: "h1", Phase: phase}}
		list := residents(s)
		if len(list) != 1 || list[0].Host.Name != "h0" || list[0].at() != "h1" || !list[0].asked {
			t.Errorf("%s: %+v", phase, list)
		}
	}
	s.Migrations["m"] = precopy.Stored{Migration: precopy.Migration{ID: "m", UUID: "vm", Source: "h1", Target: "h0", Phase: precopy.Copying}}
	if list := residents(s); len(list) != 1 || list[0].Host.Name != "h1" || list[0].at() != "h0" {
		t.Errorf("the other way: %+v", list)
	}
	w.memory.See(s, w.settings.Rule, w.now)
	if n := w.memory.Load.Len(); n != 0 {
		t.Errorf("%d VMs' loads were learned while they migrated", n)
	}
}

// TestProblem: what the planner is told of a VM on a hot host, and that others stay.
func TestProblem(t *testing.T) {
	w := ready(t)
	w.hosts = append(w.hosts, "h3")
	w.cordoned["h3"] = true
	ended := w.now.Add(-time.Hour)
	w.memory.Trail.See(precopy.Migration{ID: "x", UUID: "vm00", Source: "h1", Target: "h0", Phase: precopy.Done, Finished: &ended}, w.now)
	w.policy.Groups = []policy.Group{{Name: "g", VMs: []string{"vm0[01]"}, Kind: policy.Apart, Strength: policy.Preferred}}
	w.policy.Classes = map[string]policy.Class{"still": {Automatic: new(false)}}
	w.policy.Rules = []policy.Rule{{Match: policy.Match{Name: "vm02"}, Class: "still"}}
	p, who, loads := problem(w.snapshot(), w.memory, w.settings.Rule, w.now)
	if len(p.Hosts) != 4 || !p.Hosts[3].Cordoned || p.Hosts[0].Cordoned || len(p.VMs) != 14 || len(who) != 14 || len(loads) != 14 {
		t.Fatalf("%d hosts, %d VMs, %d, %d", len(p.Hosts), len(p.VMs), len(who), len(loads))
	}
	if diff := cmp.Diff([]balance.Group{{Name: "g", VMs: []int{0, 1}, Apart: true}}, p.Groups); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	for i, v := range p.VMs {
		stays := i == 2 || i >= 8 // h0 alone is hot
		var avoid []int
		if i == 0 {
			avoid = []int{1}
		}
		if v.Pinned != stays || !cmp.Equal(v.Avoid, avoid) || v.Memory != 4*hypervisor.GiB || !loads[i].Ready {
			t.Errorf("%+v", v)
		}
	}
}

func TestIDs(t *testing.T) {
	a, b := idAt(t0, "x", "y"), idAt(t0.Add(time.Millisecond), "x", "y")
	for _, id := range []string{a, b} {
		if u, err := uuid.Parse(id); err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			t.Errorf("%s: %v", id, err)
		}
	}
	if a >= b || a == idAt(t0, "xy", "") || a != idAt(t0, "x", "y") {
		t.Errorf("%s, %s", a, b)
	}
}

// BenchmarkLook is a pass that looks for moves, in a fleet of 1,000 hosts with 20 VMs each, of which 20 are hot.
func BenchmarkLook(b *testing.B) {
	vms := map[string]*guest{}
	for i := range 20_000 {
		load := 0.2
		if i/20%50 == 0 {
			load = 0.42
		}
		vms[fmt.Sprintf("vm%05d", i)] = &guest{host: fmt.Sprintf("h%d", i/20), load: load}
	}
	w := newWorld(0, nil)
	s := &fleet.Snapshot{Now: t0, Hosts: map[string]*fleet.Host{}}
	for i := range 1000 {
		one := newWorld(0, map[string]*guest{})
		one.hosts = []string{fmt.Sprintf("h%d", i)}
		for j := range 20 {
			name := fmt.Sprintf("vm%05d", i*20+j)
			one.vms[name] = vms[name]
		}
		maps.Copy(s.Hosts, one.snapshot().Hosts)
	}
	for range 20 {
		w.now = w.now.Add(signal.Slot)
		s.Now = w.now
		for _, h := range s.Hosts {
			h.LoadSeen = w.now
			h.LoadRevision++
		}
		w.memory.See(s, w.settings.Rule, w.now)
	}
	for b.Loop() {
		list, err := Decide(Inputs{Fleet: s, Memory: w.memory, Settings: w.settings, Look: true, Now: w.now})
		if err != nil || len(list) != 1 {
			b.Fatalf("%v, %v", list, err)
		}
	}
}
