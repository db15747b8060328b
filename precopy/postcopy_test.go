package precopy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/precopy/model"
)

// TestPostCopy moves a guest that never converges, and looks at what the record says.
func TestPostCopy(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(2 * time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Done || rec.Outcome.Strategy != "plain+postcopy" || !rec.Outcome.PauseKnown || rec.Outcome.PauseMS > 50 {
			w.t.Errorf("ended %s (%s), outcome %+v: want done by post-copy, and libvirt's pause", rec.Phase, rec.Reason, rec.Outcome)
		}
		if got := w.store.phases(); !slices.Contains(got, Postcopy) || slices.Contains(got, Unknown) {
			w.t.Errorf("phases %v, want it to be seen in post-copy, and never unknown", got)
		}
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		said := false
		for _, p := range w.store.progress {
			said = said || p.Why == "post-copy: the guest runs on b, the rest follows"
		}
		if !said {
			w.t.Error("no progress says that the guest runs on the target")
		}
	})
}

// TestPostCopyOnlyWhenNeeded lets a guest converge that post-copy is allowed for.
func TestPostCopyOnlyWhenNeeded(t *testing.T) {
	inWorld(t, setting{policy: hopeless.policy}, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(false))
		if rec.Phase != Done || rec.Outcome.Strategy != "plain" || slices.Contains(w.src.agent.called(), "start-postcopy") {
			w.t.Errorf("ended %s by %q, want done by pre-copy", rec.Phase, rec.Outcome.Strategy)
		}
	})
}

// TestPostCopyNotWithStorage asks for disks to be copied too: a broken link would lose them and memory.
func TestPostCopyNotWithStorage(t *testing.T) {
	s := hopeless
	s.copies = true
	inWorld(t, s, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(2 * time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Aborted || rec.attempt().PostCopy != nil {
			w.t.Errorf("ended %s (%s), want it given up without post-copy", rec.Phase, rec.Reason)
		}
	})
}

// TestPostCopyIsWrittenFirst takes the store away before the switch: it waits until the store has it.
func TestPostCopyIsWrittenFirst(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		time.Sleep(2 * time.Second)
		w.store.goAway()
		time.Sleep(20 * time.Second)
		if slices.Contains(w.src.agent.called(), "start-postcopy") || !slices.Equal(w.fleet.RunningOn(vm), []string{"a"}) {
			w.t.Error("post-copy began without a record of it")
		}
		w.store.comeBack()
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Done || rec.Outcome.Strategy != "plain+postcopy" {
			w.t.Errorf("ended %s (%s), want done by post-copy once the store is back", rec.Phase, rec.Reason)
		}
	})
}

// TestPostCopyInterrupted cuts the stream for a while: the record says what is wrong and that it goes on
// by itself, and at the end for how long it was so. The agent may be another one by then.
func TestPostCopyInterrupted(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inWorld(t, hopeless, func(w *world) {
			w.fleet.Inject(sim.Fault{Kind: sim.PostcopyCut, Moment: sim.AtPostcopy, After: 300 * time.Millisecond, For: 4 * time.Minute})
			w.dst.start(kill{})
			w.src.start(kill{})
			for range 1200 {
				if w.store.get(w.id).ReasonCode == interrupted {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if restart {
				w.src.stop()
				time.Sleep(30 * time.Second)
				w.leaderNotices()
				w.src.start(kill{})
				time.Sleep(time.Minute)
			}
			rec := w.store.get(w.id)
			if rec.Phase != Unknown || rec.ReasonCode != interrupted || !rec.Split() || strings.Contains(rec.Reason, "ALARM") ||
				!strings.Contains(rec.Reason, "drover goes on by itself") || !strings.Contains(rec.Reason, "runs on b") {
				w.t.Errorf("restart %v: while broken it is %s %q (%s)", restart, rec.Phase, rec.ReasonCode, rec.Reason)
			}
			rec = w.awaitFinal(6 * time.Minute)
			w.report(w.problems(true))
			tries := 0
			for _, call := range w.src.agent.called() {
				if call == "recover" {
					tries++
				}
			}
			if rec.Phase != Done || rec.attempt().PostCopyBroken != nil || tries < 5 || tries > 20 {
				w.t.Errorf("restart %v: ended %s (%s) after %d tries", restart, rec.Phase, rec.Reason, tries)
			}
			if !slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.HasPrefix(n, "post-copy was interrupted at ") }) {
				w.t.Errorf("restart %v: notes %q do not say for how long it was broken", restart, rec.Notes)
			}
		})
	}
}

// TestPostCopyCantBeRecovered has a libvirt that can't go on: a person is asked, and when the person has
// brought another, it goes on by itself.
func TestPostCopyCantBeRecovered(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.PostcopyCut, Moment: sim.AtPostcopy, After: 300 * time.Millisecond})
		w.src.unfit.Store(8)
		w.dst.start(kill{})
		w.src.start(kill{})
		time.Sleep(time.Minute)
		rec := w.store.get(w.id)
		if rec.Phase != Unknown || !strings.HasPrefix(rec.Reason, "ALARM: a person must see to this") || !strings.Contains(rec.Reason, "would crash of it") {
			w.t.Errorf("it is %s (%s), want an alarm that says why", rec.Phase, rec.Reason)
		}
		rec = w.awaitFinal(10 * time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Done || w.src.unfit.Load() >= 0 {
			w.t.Errorf("ended %s (%s), want it to go on when it can", rec.Phase, rec.Reason)
		}
	})
}

// TestPostCopyTargetLost ends the target, and with it the guest: what is left is for a person, and
// nothing is touched before, or after the person has said where it runs.
func TestPostCopyTargetLost(t *testing.T) {
	for _, tc := range []struct {
		kind sim.FaultKind
		says Phase // the person
	}{{sim.TargetDies, Done}, {sim.TargetDies, Failed}, {sim.GuestOff, Done}, {sim.GuestOff, Failed}} {
		kind := tc.kind
		inWorld(t, setting{domain: hopeless.domain, policy: hopeless.policy, mayStop: true}, func(w *world) {
			w.fleet.Inject(sim.Fault{Kind: kind, Moment: sim.AtPostcopy, After: 300 * time.Millisecond, For: 30 * time.Second})
			w.dst.start(kill{})
			w.src.start(kill{})
			time.Sleep(5 * time.Minute)
			rec := w.store.get(w.id)
			seen, err := w.src.host.Sight(w.t.Context(), vm)
			if rec.Phase != Unknown || !strings.HasPrefix(rec.Reason, "ALARM") || err != nil || seen.Reason != hypervisor.ReasonPostcopyFailed {
				w.t.Errorf("%s: %s (%s), the source has it %s %s; want an alarm, and nothing touched", kind, rec.Phase, rec.Reason, seen.State, seen.Reason)
			}
			if err := w.store.edit(w.id, ActorCLI, func(m *Migration) {
				now := time.Now()
				m.Phase, m.ReasonCode, m.Reason, m.Finished = tc.says, ResolvedByHand, "alice says where it runs", &now
			}); err != nil {
				w.t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if wrongs := w.fleet.Wrongs(); len(wrongs) > 0 || !w.src.host.Defined(vm) || w.src.agent.worker.Active() > 0 {
				w.t.Errorf("%s: wrongs %v, defined on the source %v, driving %d", kind, wrongs, w.src.host.Defined(vm), w.src.agent.worker.Active())
			}
		})
	}
}

// TestPostCopyErrorMisnamed has libvirt call a post-copy that broke an invalid operation, as it does a call
// for a domain that another job holds: it is not taken for that.
func TestPostCopyErrorMisnamed(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.PostcopyCut, Moment: sim.AtPostcopy, After: 300 * time.Millisecond, For: 5 * time.Second})
		w.src.misnamed.Store(true)
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(2 * time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Done {
			w.t.Errorf("ended %s (%s), want done", rec.Phase, rec.Reason)
		}
	})
}

// TestPostCopyRefusedForAWhile asks again instead of giving up: a call that was refused proves nothing of
// the one before it.
func TestPostCopyRefusedForAWhile(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.src.refusals.Store(3)
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(2 * time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Done || rec.Outcome.Strategy != "plain+postcopy" {
			w.t.Errorf("ended %s (%s), want done by post-copy", rec.Phase, rec.Reason)
		}
	})
}

// TestNothingEndsASplit tries each way to end a migration that may be in post-copy, and to bring one there
// whose end is wished for.
func TestNothingEndsASplit(t *testing.T) {
	inWorld(t, hopeless, func(w *world) {
		w.store.goAway() // the agent does nothing by itself
		a := w.src.start(kill{})
		late := newDrive(a.worker, w.store.get(w.id))
		w.store.comeBack()
		now := time.Now()
		set := func(change func(*Migration)) {
			m := late.rec.current()
			change(&m.Migration)
			m.Revision++
			late.rec.told(m)
		}
		set(func(m *Migration) {
			m.Phase, m.Agent, m.Started = Unknown, a.worker.Instance, &now
			m.Attempts = []Attempt{{Number: 1, PostCopy: &now}}
			m.Cancel = &Cancel{By: "alice", At: now}
		})
		if late.abort(w.t.Context()); late.unwanted() || late.takeBack(w.t.Context()) || slices.Contains(a.called(), "abort") {
			w.t.Errorf("a split migration is to be ended, calls %v", a.called())
		}
		set(func(m *Migration) { m.Attempts = []Attempt{{Number: 1}} })
		if err := late.commit(w.t.Context(), now); err == nil || slices.Contains(a.called(), "begin-unknown") {
			w.t.Errorf("post-copy is asked for though the migration was cancelled: %v, calls %v", err, a.called())
		}
	})
}

// TestBestMoment compares the moment with all others, for guests from slow to far faster than the link.
func TestBestMoment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := hypervisor.Bytes(rapid.Int64Range(1<<20, 1<<36).Draw(t, "size"))
		speed := hypervisor.BytesPerSecond(rapid.Int64Range(1<<20, 1<<31).Draw(t, "speed"))
		g := model.Growth{
			Set:    hypervisor.Bytes(rapid.Int64Range(1<<20, 1<<36).Draw(t, "set")),
			Rate:   hypervisor.BytesPerSecond(rapid.Int64Range(1<<18, 1<<33).Draw(t, "rate")),
			Linear: rapid.Bool().Draw(t, "linear"),
		}
		left := func(at time.Duration) float64 {
			x := at.Seconds() * float64(speed) / float64(size)
			return float64(size)*(1-x) + x*float64(g.Dirtied(at))
		}
		pass := speed.Time(size)
		at := bestMoment(size, speed, g)
		if at < 0 || at > pass {
			t.Fatalf("at %s of a pass of %s", at, pass)
		}
		for i := range 21 {
			if other := pass * time.Duration(i) / 20; left(other) < 0.999*left(at)-1 {
				t.Fatalf("%.0f bytes are left at %s, %.0f at %s", left(at), at, left(other), other)
			}
		}
	})
	for _, tc := range []struct {
		rate hypervisor.BytesPerSecond
		want time.Duration
	}{{0, 0}, {20e6, 10 * time.Second}, {100e6, 5 * time.Second}, {1e9, 500 * time.Millisecond}} {
		// 1 GB over 100 MB/s: with dirtying in proportion to time, size/(2 rate), at most the pass.
		g := model.Growth{Set: 1 << 50, Rate: tc.rate, Linear: true}
		if got := bestMoment(1e9, 100e6, g); got != tc.want {
			t.Errorf("rate %s: switch after %s, want %s", tc.rate, got, tc.want)
		}
	}
}

// TestWishIsDue goes through what makes the wait end.
func TestWishIsDue(t *testing.T) {
	now := time.Now()
	w := wish{round: 3, size: 1000, at: now.Add(time.Second)}
	for _, tc := range []struct {
		name  string
		stats hypervisor.JobStats
		at    time.Time
		want  bool
	}{
		{"in the pass", hypervisor.JobStats{Round: 3, MemRemaining: 500}, now, false},
		{"moment", hypervisor.JobStats{Round: 3, MemRemaining: 500}, now.Add(time.Second), true},
		{"nearly sent", hypervisor.JobStats{Round: 3, MemRemaining: 40}, now, true},
		{"next pass", hypervisor.JobStats{Round: 4, MemRemaining: 900}, now, true},
	} {
		if got := w.due(tc.stats, tc.at); got != tc.want {
			t.Errorf("%s: due %v, want %v", tc.name, got, tc.want)
		}
	}
}
