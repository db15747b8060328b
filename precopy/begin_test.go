package precopy

import (
	"context"
	"slices"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// TestHeldBackAtTheLastMoment has the hypervisor take its time before the libvirt call, while what
// the call rests on goes away: it is not made.
func TestHeldBackAtTheLastMoment(t *testing.T) {
	for _, tc := range []struct {
		name    string
		happens func(w *world)
		phase   Phase
		code    string
		calls   int
	}{
		{"nothing", func(*world) {}, Done, "", 1},
		{"cancelled", cancelAfter(0), Aborted, "cancelled", 0},
		{"lease lost", func(w *world) { w.src.agent.session.setAlive(false) }, Failed, "not-confirmed", 0},
		{"given up by the leader", func(w *world) { w.leaderNotices() }, Failed, "not-confirmed", 0},
		{"resolved by hand", func(w *world) {
			w.leaderNotices()
			now := time.Now()
			if err := w.store.edit(w.id, ActorCLI, func(m *Migration) {
				m.Phase, m.ReasonCode, m.Finished = Failed, "resolved-by-hand", &now
			}); err != nil {
				w.t.Error(err)
			}
		}, Failed, "resolved-by-hand", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, autostarted, func(w *world) {
				w.src.slowCall.Store(int64(30 * time.Second))
				w.dst.start(kill{})
				w.src.start(kill{})
				time.Sleep(10 * time.Second)
				tc.happens(w)
				rec := w.awaitFinal(time.Minute)
				w.report(w.problems(true))
				if rec.Phase != tc.phase || rec.ReasonCode != tc.code || w.migrated() != tc.calls {
					w.t.Errorf("ended %s %q (%s) after %d calls, want %s %q after %d", rec.Phase, rec.ReasonCode, rec.Reason, w.migrated(), tc.phase, tc.code, tc.calls)
				}
			})
		})
	}
}

// TestSomebodyElsesMigration has a person migrate the guest in the moment between the last look and
// the call: that migration is left alone, cancelled or not.
func TestSomebodyElsesMigration(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		inWorld(t, autostarted, func(w *world) {
			w.src.slowCall.Store(int64(time.Second))
			w.dst.start(kill{})
			done := make(chan error, 1)
			w.src.start(kill{at: 2, after: true, then: func() {
				go func() {
					done <- w.src.host.Migrate(context.Background(), hypervisor.MigrateSpec{
						Domain: vm, PeerURI: w.dst.host.PeerURI(), Bandwidth: 20e6, Downtime: 100 * time.Millisecond, Persistent: true,
					})
				}()
			}})
			if cancelled {
				time.Sleep(900 * time.Millisecond)
				cancelAfter(0)(w)
			}
			rec := w.awaitFinal(20 * time.Second)
			want := map[bool]string{false: "job-under-way", true: "cancelled"}[cancelled]
			if err := <-done; err != nil || !slices.Equal(w.fleet.RunningOn(vm), []string{"b"}) {
				w.t.Errorf("the person's migration ended with %v, the guest runs on %v", err, w.fleet.RunningOn(vm))
			}
			if rec.ReasonCode != want {
				w.t.Errorf("ended %s %q (%s), want %q", rec.Phase, rec.ReasonCode, rec.Reason, want)
			}
		})
	}
}

// TestLateAnswers loses the answer to each step towards the libvirt call and takes the store away for
// so long that the order expires, or is cancelled: it is not carried out on its return.
func TestLateAnswers(t *testing.T) {
	for _, autostart := range []bool{true, false} {
		for _, at := range []int{1, 3} { // claimed, preparing
			for _, cancelled := range []bool{true, false} {
				inWorld(t, setting{domain: sim.DomainConfig{Autostart: autostart}}, func(w *world) {
					w.dst.start(kill{})
					w.src.start(kill{at: at, after: true, forget: true, then: func() {
						w.store.goAway()
						time.Sleep(2 * freshFor)
					}})
					away := 11 * time.Minute
					if cancelled {
						away = time.Minute
					}
					time.Sleep(away)
					w.store.comeBack()
					if cancelled {
						_ = w.store.edit(w.id, ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice"} })
					}
					rec := w.awaitFinal(time.Minute)
					w.report(w.problems(autostart))
					want := []string{map[bool]string{true: "cancelled", false: "order-expired"}[cancelled]}
					if at == 3 && !cancelled {
						// The store had the step: the leader may have had both hosts looked at before this agent came to it.
						want = append(want, "rolled-back")
					}
					if !slices.Contains(want, rec.ReasonCode) || w.migrated() != 0 {
						w.t.Errorf("answer %d lost: ended %s %q after %d calls, want %q after none", at, rec.Phase, rec.ReasonCode, w.migrated(), want)
					}
				})
			}
		}
	}
}

// TestTargetHoldsACopy has libvirt take a migration back while the target still holds a copy that
// does not run: the record stays open until that is gone.
func TestTargetHoldsACopy(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtSwitchover})
		w.dst.start(kill{})
		w.store.setAnswering("b", func(context.Context, Question) (Answer, error) {
			s := seen(paused, hypervisor.ReasonMigration, inward)
			return Answer{Sighting: &s}, nil
		})
		w.src.start(kill{})
		time.Sleep(30 * time.Second)
		if rec := w.store.get(w.id); rec.Phase != Unknown {
			w.t.Errorf("the record says %s (%s) while the target holds a copy", rec.Phase, rec.Reason)
		}
		w.store.setAnswering("b", w.dst.answer)
		w.awaitFinal(time.Minute)
		w.report(w.problems(true))
	})
}

// TestGivenUpWhileEnding has the leader call a claim unknown just before the agent's last write about
// it: what was never begun is ended all the same, whether the target answers or not.
func TestGivenUpWhileEnding(t *testing.T) {
	for _, agent := range []string{"a-0", "a-1"} {
		inWorld(t, autostarted, func(w *world) {
			if err := w.store.edit(w.id, ActorSource, func(m *Migration) { m.Phase, m.Agent = Claimed, agent }); err != nil {
				w.t.Fatal(err)
			}
			w.store.setAnswering("b", nil)
			w.src.start(kill{at: 1, then: w.leaderNotices})
			time.Sleep(10 * time.Second)
			w.dst.start(kill{})
			rec := w.awaitFinal(5 * time.Second)
			w.report(w.problems(true))
			if rec.Phase != Failed || rec.ReasonCode != "agent-restarted" || w.migrated() != 0 {
				w.t.Errorf("ended %s %q after %d calls", rec.Phase, rec.ReasonCode, w.migrated())
			}
		})
	}
}

// TestTakenAwayWhileEnding ends a drive by a change that it does not know how to end: the next one
// takes the record up, though no more news of it will come.
func TestTakenAwayWhileEnding(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		now := time.Now()
		w.dst.start(kill{})
		if err := w.store.edit(w.id, ActorSource, func(m *Migration) { m.Phase, m.Agent = Claimed, "a-0" }); err != nil {
			w.t.Fatal(err)
		}
		w.src.start(kill{at: 1, then: func() {
			// The run before was quicker: its step got through.
			if err := w.store.edit(w.id, ActorSource, func(m *Migration) { m.Phase, m.Started = Preparing, &now }); err != nil {
				w.t.Error(err)
			}
		}})
		rec := w.awaitFinal(time.Minute)
		if rec.Phase != Failed || rec.ReasonCode != "rolled-back" {
			w.t.Errorf("ended %s %q", rec.Phase, rec.ReasonCode)
		}
	})
}
