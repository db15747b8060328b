package precopy

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// TestStoppedOnTheTarget shuts a guest down on the target before the agent, whose connection was
// broken, has looked: it moved, and its disks on the target are the only current ones.
func TestStoppedOnTheTarget(t *testing.T) {
	inWorld(t, setting{domain: sim.DomainConfig{Autostart: true}, copies: true, mayStop: true}, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.ConnLost, Moment: sim.AtCopy, For: 20 * time.Second})
		w.fleet.Inject(sim.Fault{Kind: sim.GuestOff, Moment: sim.AtFinish, After: 5 * time.Second})
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(true))
		noted := slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, "stopped on b since") })
		if rec.Phase != Done || !noted || !w.dst.disks.Load() {
			w.t.Errorf("ended %s (%s), notes %q, disks on the target %v; want done, with the note, and the disks kept",
				rec.Phase, rec.Reason, rec.Notes, w.dst.disks.Load())
		}
	})
}

// TestNobodyKnowsWhichRanItLast has both hosts without a process and without a reason: neither
// autostart flag nor disks are touched.
func TestNobodyKnowsWhichRanItLast(t *testing.T) {
	inWorld(t, setting{domain: sim.DomainConfig{Transient: true}, copies: true, mayStop: true}, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.ConnLost, Moment: sim.AtCopy, For: 20 * time.Second})
		w.fleet.Inject(sim.Fault{Kind: sim.GuestOff, Moment: sim.AtFinish, After: 5 * time.Second})
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(false))
		if rec.Phase != Failed || rec.ReasonCode != "guest-stopped" || !w.dst.disks.Load() {
			w.t.Errorf("ended %s %q, disks on the target %v; want failed guest-stopped, and the disks kept", rec.Phase, rec.ReasonCode, w.dst.disks.Load())
		}
	})
}

// TestStranded leaves a transient guest paused on the source, with nothing on the target: the target
// may have run it, so it is not resumed, whoever's agent looks; a person's resume ends it.
func TestStranded(t *testing.T) {
	inWorld(t, setting{domain: sim.DomainConfig{Transient: true}}, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.LeftPaused, Moment: sim.AtCopy})
		w.dst.start(kill{})
		w.src.start(kill{})
		time.Sleep(time.Minute)
		seen, err := w.src.host.Sight(w.t.Context(), vm)
		if rec := w.store.get(w.id); err != nil || seen.State != hypervisor.StatePaused || rec.Phase != Unknown || !strings.HasPrefix(rec.Reason, "ALARM") {
			w.t.Errorf("the source has it %s, the record says %s (%s); want it paused, and an alarm", seen.State, rec.Phase, rec.Reason)
		}
		if err := w.src.host.Resume(w.t.Context(), vm); err != nil {
			w.t.Fatal(err)
		}
		w.awaitFinal(time.Minute)
		w.report(w.problems(false))
	})
}

// TestMovedOnWhilePaused leaves the guest paused on the source, as before its agent looks somebody has moved it on
// from the target to a third host: it is not resumed while that has it, or does not answer.
func TestMovedOnWhilePaused(t *testing.T) {
	inWorld(t, setting{}, func(w *world) {
		listing := []string{"a", "b", "c"}
		sees := func(there hypervisor.Sighting) {
			w.store.setAnswering("c", func(context.Context, Question) (Answer, error) { return Answer{Sighting: &there}, nil })
		}
		sees(hypervisor.Sighting{State: hypervisor.StateRunning})
		w.store.listing = listing
		w.fleet.Inject(sim.Fault{Kind: sim.LeftPaused, Moment: sim.AtCopy})
		w.dst.start(kill{})
		w.src.start(kill{})
		paused := func(why string) {
			time.Sleep(time.Minute)
			seen, err := w.src.host.Sight(w.t.Context(), vm)
			if rec := w.store.get(w.id); err != nil || seen.State != hypervisor.StatePaused || rec.Phase != Unknown || !strings.Contains(rec.Reason, why) {
				w.t.Errorf("the source has it %s, the record says %s (%s); want it paused, and %q", seen.State, rec.Phase, rec.Reason, why)
			}
		}
		paused("c has it")
		w.store.setAnswering("c", nil)
		paused("c reported it, and does not answer")
		sees(hypervisor.Sighting{State: hypervisor.StateShutoff}) // it ran there, and wrote to its disks
		paused("c has it shutoff")
		sees(hypervisor.Sighting{State: hypervisor.StateShutoff, Reason: hypervisor.ReasonMigrated}) // it came from there, long ago
		if rec := w.awaitFinal(time.Minute); rec.Phase != Failed {
			w.t.Errorf("%s (%s), want failed", rec.Phase, rec.Reason)
		}
		w.report(w.problems(false))
	})
}

// TestReasonOfTheFailure lets the leader say that the agent is away in the middle of a migration that
// then fails, or is given up: the record says why it ended, not that an agent was away.
func TestReasonOfTheFailure(t *testing.T) {
	for _, tc := range []struct {
		name    string
		setting setting
		faults  []sim.Fault
		at      time.Duration // when the leader looks
		phase   Phase
		code    string
	}{
		{"failed", autostarted, []sim.Fault{{Kind: sim.TargetDies, Moment: sim.AtCopy, After: time.Second, For: time.Minute}}, 1050 * time.Millisecond, Failed, "rolled-back"},
		{"given up, target silent", stubborn, []sim.Fault{{Kind: sim.LeftPaused, Moment: sim.AtCopy}}, 6 * time.Second, Aborted, "over-budget"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, tc.setting, func(w *world) {
				for _, f := range tc.faults {
					w.fleet.Inject(f)
				}
				w.dst.start(kill{})
				w.src.start(kill{})
				time.Sleep(tc.at)
				_ = w.store.edit(w.id, ActorLeader, func(m *Migration) { m.Phase, m.ReasonCode, m.Reason = Unknown, "agent-away", "the agent is away" })
				rec := w.awaitFinal(5 * time.Minute)
				w.report(w.problems(true))
				if rec.Phase != tc.phase || rec.ReasonCode != tc.code {
					w.t.Errorf("ended %s %q (%s), want %s %q", rec.Phase, rec.ReasonCode, rec.Reason, tc.phase, tc.code)
				}
			})
		})
	}
}
