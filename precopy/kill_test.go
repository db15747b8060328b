package precopy

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/precopy/forecast"
)

// story is one way that a migration can go, on which every interruption is tried.
type story struct {
	name    string
	setting setting
	faults  []sim.Fault
	// during runs beside the migration, in virtual time.
	during func(w *world)
	// doubled says that the guest may end up running twice, which a person then settles.
	doubled bool
}

func cancelAfter(d time.Duration) func(*world) {
	return func(w *world) {
		time.Sleep(d)
		_ = w.store.edit(w.id, ActorCLI, func(m *Migration) {
			m.Cancel = &Cancel{By: "alice", At: time.Now()}
		})
	}
}

// stubborn never converges within its policy.
var stubborn = setting{
	domain: sim.DomainConfig{Memory: 32 << 20, Autostart: true, Pattern: sim.Pattern{Kind: sim.Pages, Rate: 40_000}},
	policy: &Policy{MaxPauseMS: 50, MaxPauseCeilingMS: 50, BudgetSeconds: 6},
}

// hopeless never converges either, and may be moved by post-copy.
var hopeless = setting{
	domain: sim.DomainConfig{Memory: 48 << 20, Autostart: true, Pattern: sim.Pattern{Kind: sim.Pages, Rate: 40_000}},
	policy: &Policy{MaxPauseMS: 50, MaxPauseCeilingMS: 50, BudgetSeconds: 60, PostCopy: true},
}

// wordy can't be moved by the strategy that was ordered within its policy, but by another.
var wordy = setting{
	domain: sim.DomainConfig{Memory: 64 << 20, Autostart: true, Pattern: sim.Pattern{Kind: sim.Words, Rate: 30_000, WorkingSet: 48 << 20}},
	policy: &Policy{MaxPauseMS: 150, MaxPauseCeilingMS: 150, BudgetSeconds: 60},
	prior: &forecast.Prior{Others: []forecast.Option{
		{Strategy: hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 64 << 20}, First: 1, Ratio: 0.2, Tried: true},
	}},
}

// cancelSplit asks for a stop once the guest is in post-copy.
func cancelSplit(w *world) {
	for range 600 {
		if w.store.get(w.id).Split() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancelAfter(300 * time.Millisecond)(w)
}

// cancelSecond asks for a stop as soon as the second attempt is prepared.
func cancelSecond(w *world) {
	for range 6000 {
		if len(w.store.get(w.id).Attempts) > 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancelAfter(0)(w)
}

func stories() []story {
	plain := setting{domain: sim.DomainConfig{Autostart: true}}
	with := func(f ...sim.Fault) []sim.Fault { return f }
	return []story{
		{name: "moves", setting: plain},
		{name: "moves-transient", setting: setting{domain: sim.DomainConfig{Transient: true}}},
		{name: "moves-with-disks", setting: setting{domain: sim.DomainConfig{Autostart: true}, copies: true}},
		{name: "gives-up", setting: stubborn},
		{name: "cancelled", setting: plain, during: cancelAfter(700 * time.Millisecond)},
		{name: "cancelled-early", setting: plain, during: cancelAfter(4 * time.Millisecond)},
		{
			name: "cancelled-with-disks", setting: setting{domain: sim.DomainConfig{Autostart: true}, copies: true},
			during: cancelAfter(5 * time.Millisecond),
		},
		{name: "connection-lost", setting: plain, faults: with(sim.Fault{Kind: sim.ConnLost, Moment: sim.AtCopy, After: 500 * time.Millisecond, For: 8 * time.Second})},
		{name: "daemon-restart", setting: plain, faults: with(sim.Fault{Kind: sim.DaemonRestart, Moment: sim.AtCopy, After: 500 * time.Millisecond, For: 5 * time.Second})},
		{name: "daemon-restart-finish", setting: plain, faults: with(sim.Fault{Kind: sim.DaemonRestart, Moment: sim.AtFinish, For: 5 * time.Second})},
		{name: "target-dies", setting: plain, faults: with(sim.Fault{Kind: sim.TargetDies, Moment: sim.AtCopy, After: 500 * time.Millisecond, For: 12 * time.Second})},
		{name: "target-dies-switchover", setting: plain, faults: with(sim.Fault{Kind: sim.TargetDies, Moment: sim.AtSwitchover, For: 12 * time.Second})},
		{name: "target-dies-finish", setting: plain, faults: with(sim.Fault{Kind: sim.TargetDies, Moment: sim.AtFinish, For: 12 * time.Second})},
		{name: "finish-lost", setting: plain, faults: with(sim.Fault{Kind: sim.FinishLost, Moment: sim.AtCopy}), doubled: true},
		{name: "aborted-outside", setting: plain, faults: with(sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtCopy, After: 500 * time.Millisecond})},
		{name: "aborted-at-switchover", setting: plain, faults: with(sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtSwitchover})},
		{name: "slow-start-cancelled", setting: plain, during: cancelAfter(time.Second), faults: with(sim.Fault{Kind: sim.SlowStart, Moment: sim.AtCall})},
		{name: "slow-start", setting: plain, faults: with(sim.Fault{Kind: sim.SlowStart, Moment: sim.AtCall})},
		{name: "cancel-ignored", setting: plain, during: cancelAfter(700 * time.Millisecond), faults: with(sim.Fault{Kind: sim.AbortIgnored, Moment: sim.AtCall})},
		{name: "statistics-lost", setting: plain, faults: with(sim.Fault{Kind: sim.StatsLost, Moment: sim.AtCall})},
		{name: "guest-off", setting: plain, faults: with(sim.Fault{Kind: sim.GuestOff, Moment: sim.AtCopy, After: 500 * time.Millisecond})},
		{name: "left-paused", setting: plain, faults: with(sim.Fault{Kind: sim.LeftPaused, Moment: sim.AtCopy})},
		{
			name: "resume-fails", setting: plain,
			faults: with(sim.Fault{Kind: sim.ResumeFails, Moment: sim.AtCall}, sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtSwitchover}),
		},
		{name: "postcopy", setting: hopeless},
		{name: "postcopy-transient", setting: setting{
			domain: sim.DomainConfig{Memory: 48 << 20, Transient: true, Pattern: hopeless.domain.Pattern}, policy: hopeless.policy,
		}},
		{name: "postcopy-cut", setting: hopeless, faults: with(sim.Fault{Kind: sim.PostcopyCut, Moment: sim.AtPostcopy, After: 300 * time.Millisecond, For: 20 * time.Second})},
		{
			name: "postcopy-cut-cancelled", setting: hopeless, during: cancelSplit,
			faults: with(sim.Fault{Kind: sim.PostcopyCut, Moment: sim.AtPostcopy, After: 300 * time.Millisecond, For: 8 * time.Second}),
		},
		{name: "postcopy-daemon-restart", setting: hopeless, faults: with(sim.Fault{Kind: sim.DaemonRestart, Moment: sim.AtPostcopy, After: 100 * time.Millisecond, For: 5 * time.Second})},
		{name: "postcopy-connection-lost", setting: hopeless, faults: with(sim.Fault{Kind: sim.ConnLost, Moment: sim.AtPostcopy, After: 100 * time.Millisecond, For: 8 * time.Second})},
		{name: "postcopy-refused", setting: hopeless, faults: with(sim.Fault{Kind: sim.PostcopyRefused, Moment: sim.AtCall})},
		{name: "begins-again", setting: wordy},
		{name: "begins-again-cancelled", setting: wordy, during: cancelSecond},
		{name: "begins-again-target-dies", setting: wordy, faults: with(sim.Fault{Kind: sim.TargetDies, Moment: sim.AtSwitchover, For: 12 * time.Second})},
		{name: "monitor-hangs", setting: plain, faults: with(sim.Fault{Kind: sim.MonitorHang, Moment: sim.AtCopy, After: 500 * time.Millisecond, For: 25 * time.Second})},
		{name: "monitor-hangs-cancelled", setting: plain, during: cancelAfter(time.Second), faults: with(sim.Fault{Kind: sim.MonitorHang, Moment: sim.AtCopy, After: 500 * time.Millisecond, For: 25 * time.Second})},
	}
}

// begin makes the world of a story, with both agents running.
func (s story) begin(w *world, k kill) {
	for _, f := range s.faults {
		w.fleet.Inject(f)
	}
	w.dst.start(kill{})
	w.src.start(k)
	if s.during != nil {
		done := make(chan struct{})
		w.t.Cleanup(func() { <-done })
		go func() {
			defer close(done)
			s.during(w)
		}()
	}
}

// finish waits for the end and checks it; a doubled guest is first left to show that nothing touches
// it, then settled by hand.
func (s story) finish(w *world) Stored {
	w.t.Helper()
	if s.doubled {
		time.Sleep(20 * time.Second)
	}
	var rec Stored
	if s.doubled && len(w.fleet.RunningOn(vm)) == 2 {
		rec = w.store.get(w.id)
		if rec.Phase != Unknown {
			w.report([]string{fmt.Sprintf("the guest runs twice and the record says %s: %s", rec.Phase, rec.Reason)})
		}
		w.fleet.Destroy("b", vm)
		if err := w.dst.host.Undefine(w.t.Context(), vm); err != nil {
			w.t.Error(err)
		}
	}
	rec = w.awaitFinal(s.patience())
	w.report(w.problems(s.setting.domain.Autostart))
	return rec
}

// patience is how long the faults may last, and what is always granted.
func (s story) patience() time.Duration {
	d := patience
	for _, f := range s.faults {
		d += f.After + f.For
	}
	return d
}

// calls runs the story undisturbed and returns how many calls the source's agent made.
func (s story) calls(t *testing.T) int {
	t.Helper()
	n := 0
	inWorld(t, s.setting, func(w *world) {
		s.begin(w, kill{})
		s.finish(w)
		n = w.src.agent.count()
	})
	return n
}

// exhaustive tries every call instead of a choice: some minutes, for after a change of the worker.
var exhaustive = flag.Bool("exhaustive", false, "interrupt at every call")

// points are the calls at which a story is interrupted: the first and the last, where all the steps
// are, and some of the polls between, which are alike.
func points(calls int) []int {
	var out []int
	for n := 1; n <= calls; n++ {
		if *exhaustive || n <= 8 || n > calls-9 || n%41 == 0 {
			out = append(out, n)
		}
	}
	return out
}

func TestStories(t *testing.T) {
	want := map[string]struct {
		phase Phase
		code  string
	}{
		"moves": {Done, ""}, "moves-transient": {Done, ""}, "moves-with-disks": {Done, ""},
		"gives-up": {Aborted, "over-budget"}, "cancelled": {Aborted, "cancelled"}, "cancelled-early": {Aborted, "cancelled"},
		"cancelled-with-disks": {Aborted, "cancelled"},
		"connection-lost":      {Done, ""}, "daemon-restart": {Failed, "rolled-back"}, "daemon-restart-finish": {Done, ""},
		"target-dies": {Failed, "rolled-back"}, "target-dies-switchover": {Failed, "rolled-back"},
		"target-dies-finish": {Failed, "rolled-back"}, "finish-lost": {Failed, "rolled-back"},
		"aborted-outside": {Aborted, "aborted-outside"}, "aborted-at-switchover": {Aborted, "aborted-outside"},
		"slow-start": {Done, ""}, "slow-start-cancelled": {Aborted, "cancelled"}, "cancel-ignored": {Done, "cancelled-too-late"},
		"statistics-lost": {Done, ""}, "guest-off": {Failed, "guest-stopped"}, "left-paused": {Failed, "rolled-back"},
		"postcopy": {Done, ""}, "postcopy-transient": {Done, ""}, "postcopy-cut": {Done, ""},
		"postcopy-cut-cancelled": {Done, "cancelled-too-late"}, "postcopy-daemon-restart": {Done, ""},
		"postcopy-connection-lost": {Done, ""}, "postcopy-refused": {Aborted, "not-converging"},
		"resume-fails": {Aborted, "aborted-outside"}, "monitor-hangs": {Done, ""},
		"begins-again": {Done, ""}, "begins-again-cancelled": {Aborted, "cancelled"}, "begins-again-target-dies": {Failed, "rolled-back"},
		"monitor-hangs-cancelled": {Done, "cancelled-too-late"},
	}
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			inWorld(t, s.setting, func(w *world) {
				s.begin(w, kill{})
				rec := s.finish(w)
				if again := strings.HasPrefix(s.name, "begins-again"); again != (len(rec.Attempts) > 1) {
					t.Errorf("%d attempts: %+v", len(rec.Attempts), rec.Attempts)
				}
				if w := want[s.name]; rec.Phase != w.phase || rec.ReasonCode != w.code {
					t.Errorf("ended %s %q (%s), want %s %q", rec.Phase, rec.ReasonCode, rec.Reason, w.phase, w.code)
				}
			})
		})
	}
}

// TestAgentKilled ends the source's agent at every call of every story, before the call takes effect
// and after, and starts another one later.
func TestAgentKilled(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, n := range points(s.calls(t)) {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d-%v", n, after), func(t *testing.T) {
						inWorld(t, s.setting, func(w *world) { killed(w, s, kill{at: n, after: after}) })
					})
				}
			}
		})
	}
}

// killed runs a story up to the kill, waits for a while that differs from kill to kill, and goes on
// with a new agent.
func killed(w *world, s story, k kill) {
	s.begin(w, k)
	dead := w.src.agent
	select {
	case <-dead.done:
	case <-time.After(10 * time.Minute):
		return // this run made fewer calls: there was nothing to kill
	}
	pause := []time.Duration{50 * time.Millisecond, 3 * time.Second, 40 * time.Second}[k.at%3]
	time.Sleep(pause)
	if pause > 10*time.Second {
		w.leaderNotices()
	}
	w.src.start(kill{})
	s.finish(w)
}

// leaderNotices does what the leader does once an agent's lease has lapsed.
func (w *world) leaderNotices() {
	_ = w.store.edit(w.id, ActorLeader, func(m *Migration) {
		if m.Phase == Claimed || m.Phase.Started() {
			m.Phase, m.Reason = Unknown, "the source's agent is gone"
		}
	})
}
