package precopy

import (
	"slices"
	"testing"
	"time"

	"drover/hypervisor/sim"
)

// TestTargetNeverReturns is an outcome that no evidence will ever decide: it waits for a person, and
// when one has decided, the agent is done with it.
func TestTargetNeverReturns(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.TargetDies, Moment: sim.AtFinish})
		w.dst.start(kill{})
		w.src.start(kill{})
		time.Sleep(5 * time.Minute)
		if rec := w.store.get(w.id); rec.Phase != Unknown || w.src.agent.worker.Active() != 1 {
			w.t.Fatalf("after five minutes: %s (%s), driving %d; want unknown, and still looking", rec.Phase, rec.Reason, w.src.agent.worker.Active())
		}
		if err := w.store.edit(w.id, ActorCLI, func(m *Migration) {
			now := time.Now()
			m.Phase, m.Reason, m.Finished = Failed, "resolved by alice", &now
		}); err != nil {
			w.t.Fatal(err)
		}
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(true))
		if rec.Reason != "resolved by alice" {
			w.t.Errorf("reason %q, want the person's", rec.Reason)
		}
	})
}

// TestStatisticsSurviveTheAgent ends the agent when it has read the statistics of a migration, which
// libvirt gives no second time once the definition is gone, and has not yet told the store.
func TestStatisticsSurviveTheAgent(t *testing.T) {
	at := 0
	inWorld(t, autostarted, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		w.awaitFinal(10 * time.Second)
		at = slices.Index(w.src.agent.called(), "update-done") + 1
	})
	if at == 0 {
		t.Fatal("a migration that succeeds does not write that it is done")
	}
	tried := false
	for n := at - 3; n <= at+3; n++ {
		inWorld(t, autostarted, func(w *world) {
			w.dst.start(kill{})
			dead := w.src.start(kill{at: n})
			select {
			case <-dead.done:
			case <-time.After(time.Minute):
				return // this run made fewer calls
			}
			tried = tried || slices.Contains(dead.called(), "undefine") && w.store.get(w.id).Phase != Done
			w.src.start(kill{})
			rec := w.awaitFinal(time.Minute)
			w.report(w.problems(true))
			calls := dead.called()
			if slices.Contains(calls[:min(n-1, len(calls))], "undefine") && (rec.Outcome == nil || !rec.Outcome.PauseKnown) {
				w.t.Errorf("killed at call %d: outcome %+v, want the pause that was read before", n, rec.Outcome)
			}
		})
	}
	if !tried {
		t.Error("no run was ended between the end and the telling of it")
	}
}

// TestMonitorHangsBeforeTheStart has libvirt not answer when the order is taken up.
func TestMonitorHangsBeforeTheStart(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.fleet.Hang("a", vm, time.Hour)
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		if rec.Phase != Failed || rec.ReasonCode != "source-libvirt" || w.migrated() != 0 {
			w.t.Errorf("ended %s %q after %d calls, want failed source-libvirt", rec.Phase, rec.ReasonCode, w.migrated())
		}
	})
}

// TestDowntimeIsSetInTheEnd has libvirt refuse the only change of the limit that the promise leaves
// room for: it is tried until it is in force.
func TestDowntimeIsSetInTheEnd(t *testing.T) {
	s := setting{
		domain: sim.DomainConfig{Pattern: sim.Pattern{Kind: sim.Pages, Rate: 100_000, WorkingSet: 5 << 18}},
		policy: &Policy{MaxPauseMS: 155, MaxPauseCeilingMS: 155, BudgetSeconds: 300},
	}
	inWorld(t, s, func(w *world) {
		w.src.flaky.Store(3)
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(5 * time.Minute)
		w.report(w.problems(false))
		if rec.Phase != Done {
			w.t.Errorf("ended %s (%s), want done", rec.Phase, rec.Reason)
		}
		if w.src.flaky.Load() >= 3 {
			w.t.Error("the limit was never raised: the test shows nothing")
		}
	})
}

// TestUnstartedEndLeavesOthersAlone ends an order that another run of the agent took up in the
// meantime, which this one has not heard of yet.
func TestUnstartedEndLeavesOthersAlone(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		a := w.src.start(kill{})
		w.src.stop()
		late := newDrive(a.worker, w.store.get(w.id))
		w.store.mu.Lock()
		w.store.history = nil
		w.store.mu.Unlock()
		// Bring the record to where another run's copy would have it.
		if rec := w.store.get(w.id); rec.Phase.Final() {
			w.t.Fatalf("the order ended as %s before the test began", rec.Phase)
		}
		for _, p := range []Phase{Claimed, Preparing, Copying} {
			if w.store.get(w.id).Phase == p {
				continue
			}
			if err := w.store.edit(w.id, ActorSource, func(m *Migration) { m.Phase, m.Agent = p, "a-2" }); err != nil {
				w.t.Fatal(err)
			}
		}
		late.w.Queue = w.store.register("a")
		late.rec.queue = late.w.Queue
		late.endUnstarted(w.t.Context(), Failed, ending{code: "order-expired", reason: "too old"})
		if got := w.store.get(w.id); got.Phase != Copying || got.Agent != "a-2" {
			w.t.Errorf("the record of the other run says %s (%s)", got.Phase, got.Reason)
		}
	})
}

// TestCancelWhileTheAgentIsAway asks for a stop between two runs of the agent.
func TestCancelWhileTheAgentIsAway(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.dst.start(kill{})
		dead := w.src.start(kill{})
		time.Sleep(300 * time.Millisecond)
		dead.mu.Lock()
		dead.die()
		dead.mu.Unlock()
		<-dead.done
		cancelAfter(100 * time.Millisecond)(w)
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(true))
		if rec.Phase != Aborted || rec.ReasonCode != "cancelled" || len(rec.Attempts) != 1 || !rec.Attempts[0].Adopted {
			w.t.Errorf("ended %s %q, attempts %+v; want the adopted one cancelled", rec.Phase, rec.ReasonCode, rec.Attempts)
		}
	})
}

// TestJustTooMuch is of passes that come down to a little more than the promise allows: less than can be
// told from what is seen, so that the end seems near for ever. It is given up all the same, or takes what
// the ceiling allows.
func TestJustTooMuch(t *testing.T) {
	for _, tc := range []struct {
		ceiling int64
		phase   Phase
	}{{100, Aborted}, {900, Done}} {
		s := setting{
			domain: sim.DomainConfig{Pattern: sim.Pattern{Kind: sim.Pages, Rate: 100_000, WorkingSet: 5 << 18}},
			policy: &Policy{MaxPauseMS: 100, MaxPauseCeilingMS: tc.ceiling, BudgetSeconds: 300},
		}
		inWorld(t, s, func(w *world) {
			w.dst.start(kill{})
			w.src.start(kill{})
			rec := w.awaitFinal(time.Minute)
			w.report(w.problems(false))
			if rec.Phase != tc.phase || tc.phase == Done && rec.Outcome.PauseMS > 120 {
				w.t.Errorf("ceiling %d: ended %s (%s), outcome %+v; want %s", tc.ceiling, rec.Phase, rec.Reason, rec.Outcome, tc.phase)
			}
		})
	}
}
