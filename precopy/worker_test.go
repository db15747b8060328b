package precopy

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Migrator = (*sim.Host)(nil)

var autostarted = setting{domain: sim.DomainConfig{Autostart: true}}

// inWorld runs f in a fresh world inside a bubble, and ends the world.
func inWorld(t *testing.T, s setting, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, s)
		defer w.close()
		f(w)
	})
}

func TestHappyPath(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(10 * time.Second)
		w.report(w.problems(true))
		if rec.Phase != Done || rec.Outcome == nil || !rec.Outcome.PauseKnown || rec.Outcome.PauseMS < 25 || rec.Outcome.PauseMS > 60 {
			w.t.Errorf("record %s, outcome %+v; want done with a pause of about 30 ms", rec.Phase, rec.Outcome)
		}
		if rec.Outcome.Bytes < 64*hypervisor.MiB || rec.Outcome.Seconds < 1 || rec.Outcome.Rounds < 1 {
			w.t.Errorf("outcome %+v, want 64 MiB in over a second", rec.Outcome)
		}
		if len(rec.Attempts) != 1 || rec.Attempts[0].Ended == nil || rec.Attempts[0].Agent != "a-1" || rec.Attempts[0].Adopted {
			w.t.Errorf("attempts %+v", rec.Attempts)
		}
		want := []Phase{Queued, Claimed, Preparing, Copying, Switching, Done}
		if got := w.store.phases(); !slices.Equal(got, want) {
			w.t.Errorf("phases %v, want %v", got, want)
		}
		if w.store.progresses() < 1 {
			w.t.Error("no progress was written")
		}
	})
}

// TestConvergesWithinThePromise is of guests that write: what was promised of the pause is kept, or
// what the ceiling allows, and the record tells it.
func TestConvergesWithinThePromise(t *testing.T) {
	for _, tc := range []struct {
		name    string
		pattern sim.Pattern
		phase   Phase
		code    string
		pause   int64 // ms, at most
	}{
		{"idle", sim.Pattern{}, Done, "", 60},
		{"half the link", sim.Pattern{Kind: sim.Pages, Rate: 6000, WorkingSet: 96 << 20}, Done, "", 60},
		{"small set, rewritten", sim.Pattern{Kind: sim.Pages, Rate: 20_000, WorkingSet: 4 << 20}, Done, "", 180},
		{"needs the ceiling", sim.Pattern{Kind: sim.Pages, Rate: 30_000, WorkingSet: 20 << 20}, Done, "", 950},
		{"hopeless", sim.Pattern{Kind: sim.Pages, Rate: 60_000, WorkingSet: 100 << 20}, Aborted, "not-converging", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, setting{domain: sim.DomainConfig{Memory: 128 << 20, Pattern: tc.pattern}, policy: &Policy{MaxPauseMS: 150, MaxPauseCeilingMS: 900, BudgetSeconds: 600}}, func(w *world) {
				w.dst.start(kill{})
				w.src.start(kill{})
				rec := w.awaitFinal(10 * time.Minute)
				w.report(w.problems(false))
				if rec.Phase != tc.phase || rec.ReasonCode != tc.code {
					w.t.Fatalf("ended %s %q (%s), want %s %q", rec.Phase, rec.ReasonCode, rec.Reason, tc.phase, tc.code)
				}
				if rec.Outcome.PauseMS > tc.pause {
					w.t.Errorf("pause %d ms, want at most %d", rec.Outcome.PauseMS, tc.pause)
				}
			})
		})
	}
}

// TestCancel asks for a stop at different moments.
func TestCancel(t *testing.T) {
	cancel := func(w *world) {
		if err := w.store.edit(w.id, ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice", At: time.Now()} }); err != nil {
			w.t.Error(err)
		}
	}
	for _, tc := range []struct {
		name   string
		after  time.Duration // after the agent's start; negative is before
		faults []sim.Fault
		phase  Phase
		code   string
		libcv  int // calls of libvirt's migrate
	}{
		{"before the claim", -1, nil, Aborted, "cancelled", 0},
		{"while preparing", 2500 * time.Microsecond, nil, Aborted, "cancelled", 0},
		{"in the first pass", 300 * time.Millisecond, nil, Aborted, "cancelled", 1},
		{"before the job shows", 500 * time.Millisecond, []sim.Fault{{Kind: sim.SlowStart, Moment: sim.AtCall}}, Aborted, "cancelled", 1},
		{"too late", 1200 * time.Millisecond, []sim.Fault{{Kind: sim.AbortIgnored, Moment: sim.AtCall}}, Done, "cancelled-too-late", 1},
		{"after the end", 20 * time.Second, nil, Done, "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, autostarted, func(w *world) {
				for _, f := range tc.faults {
					w.fleet.Inject(f)
				}
				w.dst.start(kill{})
				if tc.after < 0 {
					cancel(w)
				}
				w.src.start(kill{})
				if tc.after >= 0 {
					time.Sleep(tc.after)
					cancel(w)
				}
				began := time.Now()
				rec := w.awaitFinal(20 * time.Second)
				w.report(w.problems(true))
				if rec.Phase != tc.phase || rec.ReasonCode != tc.code || w.migrated() != tc.libcv {
					w.t.Errorf("ended %s %q after %d calls, want %s %q after %d", rec.Phase, rec.ReasonCode, w.migrated(), tc.phase, tc.code, tc.libcv)
				}
				if d := time.Since(began); tc.code == "cancelled" && d > 4*time.Second {
					w.t.Errorf("it took %s", d)
				}
				if late := slices.ContainsFunc(rec.Notes, func(n string) bool { return len(n) > 0 }); late != (tc.code == "cancelled-too-late") {
					w.t.Errorf("notes %q", rec.Notes)
				}
			})
		})
	}
}

func TestOrdersThatAreNotCarriedOut(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(w *world, m *Migration)
		code   string
	}{
		{"expired", func(_ *world, m *Migration) { m.Order.NotAfter = time.Now().Add(-time.Second) }, "order-expired"},
		{"empty", func(_ *world, m *Migration) { m.Order = nil }, "bad-order"},
		{"not running", func(w *world, _ *Migration) { w.fleet.Destroy("a", vm) }, string(hypervisor.BlockNotRunning)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, autostarted, func(w *world) {
				if err := w.store.edit(w.id, ActorLeader, func(m *Migration) { tc.change(w, m) }); err != nil {
					w.t.Fatal(err)
				}
				w.src.start(kill{})
				rec := w.awaitFinal(10 * time.Second)
				if rec.Phase != Failed || rec.ReasonCode != tc.code || w.migrated() != 0 || rec.Started != nil {
					w.t.Errorf("ended %s %q after %d calls, want failed %q after none", rec.Phase, rec.ReasonCode, w.migrated(), tc.code)
				}
				if !w.src.host.Autostart(vm) {
					w.t.Error("the autostart flag was touched")
				}
			})
		})
	}
}

// TestLeaseLostBeforeBegin is an order under a lapsed lease: not begun until the lease is renewed,
// and never if that takes longer than the order is good for.
func TestLeaseLostBeforeBegin(t *testing.T) {
	for _, tc := range []struct {
		name  string
		away  time.Duration
		phase Phase
		code  string
	}{{"renewed", time.Minute, Done, ""}, {"renewed too late", 11 * time.Minute, Failed, "order-expired"}} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, autostarted, func(w *world) {
				w.dst.start(kill{})
				a := w.src.start(kill{})
				a.session.setAlive(false)
				time.Sleep(tc.away)
				if w.migrated() != 0 {
					w.t.Error("begun without a lease")
				}
				a.session.renew()
				rec := w.awaitFinal(20 * time.Second)
				w.report(w.problems(true))
				if rec.Phase != tc.phase || rec.ReasonCode != tc.code {
					w.t.Errorf("ended %s %q, want %s %q", rec.Phase, rec.ReasonCode, tc.phase, tc.code)
				}
			})
		})
	}
}

// TestResolvedByHand settles a doubled guest the way the command line does.
func TestResolvedByHand(t *testing.T) {
	for _, stays := range []string{"a", "b"} {
		t.Run("runs on "+stays, func(t *testing.T) {
			inWorld(t, autostarted, func(w *world) {
				w.fleet.Inject(sim.Fault{Kind: sim.FinishLost, Moment: sim.AtCopy})
				w.dst.start(kill{})
				w.src.start(kill{})
				time.Sleep(30 * time.Second)
				if got := w.fleet.RunningOn(vm); !slices.Equal(got, []string{"a", "b"}) {
					w.t.Fatalf("the guest runs on %v, want it doubled", got)
				}
				wrong, phase := map[string]string{"a": "b", "b": "a"}[stays], map[string]Phase{"a": Failed, "b": Done}[stays]
				w.fleet.Destroy(wrong, vm)
				// Faster than the agent's next look.
				if err := w.store.edit(w.id, ActorCLI, func(m *Migration) {
					now := time.Now()
					m.Phase, m.Reason, m.Finished = phase, "resolved by alice", &now
				}); err != nil {
					w.t.Fatal(err)
				}
				w.awaitFinal(time.Minute)
				w.report(w.problems(true))
			})
		})
	}
}

// TestTargetSilentAndEventsLost is the one case in which a source that runs proves nothing: its
// resumption came from a lost answer of the target, which now can't be asked.
func TestTargetSilentAndEventsLost(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.fleet.Inject(sim.Fault{Kind: sim.FinishLost, Moment: sim.AtCopy})
		w.dst.start(kill{})
		w.src.deaf = true
		w.src.start(kill{})
		w.store.setAnswering("b", nil)
		time.Sleep(2 * time.Minute)
		if rec := w.store.get(w.id); rec.Phase != Unknown {
			w.t.Errorf("record says %s (%s) while the guest runs on %v", rec.Phase, rec.Reason, w.fleet.RunningOn(vm))
		}
	})
}

// TestLateNews delivers an old state of a migration after its end, as a slow watch does: it must not
// be taken up again.
func TestLateNews(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.dst.start(kill{})
		a := w.src.start(kill{})
		time.Sleep(500 * time.Millisecond)
		old := w.store.get(w.id)
		w.awaitFinal(10 * time.Second)
		calls := a.count()
		a.worker.mu.Lock()
		a.worker.over[w.id] = true // as it is until the final record comes by
		a.worker.mu.Unlock()
		a.worker.take(w.t.Context(), old)
		time.Sleep(10 * time.Second)
		if old.Phase != Copying || a.count() != calls {
			w.t.Errorf("%d calls after the end for an old record that says %s", a.count()-calls, old.Phase)
		}
	})
}

// TestMaxOutgoing orders more migrations than may leave at once: the others wait, a waiting one can be
// cancelled at once, and all get their turn.
func TestMaxOutgoing(t *testing.T) {
	inWorld(t, setting{}, func(w *world) {
		const n = MaxOutgoing + 3
		_ = w.store.edit(w.id, ActorLeader, func(m *Migration) { m.Phase = Refused })
		for i := range n {
			id := hypervisor.DomainID(fmt.Sprintf("22222222-0000-4000-8000-0000000000%02d", i))
			if err := w.fleet.AddDomain("a", sim.DomainConfig{ID: id, Memory: 32 << 20}); err != nil {
				w.t.Fatal(err)
			}
			w.store.create(Migration{
				Schema: Schema, ID: fmt.Sprintf("0190-n%02d", i), UUID: id, Source: "a", Target: "b", Phase: Queued, Policy: DefaultPolicy(),
				Order: &Order{PeerURI: w.dst.host.PeerURI(), Bandwidth: 10 << 20, NotAfter: time.Now().Add(time.Hour)},
			})
		}
		w.dst.start(kill{})
		a := w.src.start(kill{})
		time.Sleep(time.Second)
		if got := a.worker.Active(); got != MaxOutgoing {
			w.t.Errorf("%d at once, want %d", got, MaxOutgoing)
		}
		waits := ""
		for i := range n {
			if id := fmt.Sprintf("0190-n%02d", i); w.store.get(id).Phase == Queued {
				waits = id
			}
		}
		if waits == "" {
			w.t.Fatal("none waits")
		}
		_ = w.store.edit(waits, ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice"} })
		time.Sleep(100 * time.Millisecond)
		if got := w.store.get(waits).Phase; got != Aborted {
			w.t.Errorf("the waiting one that was cancelled is %s", got)
		}
		time.Sleep(5 * time.Minute)
		for i := range n {
			id := fmt.Sprintf("0190-n%02d", i)
			rec := w.store.get(id)
			if want := map[bool]Phase{true: Aborted, false: Done}[id == waits]; rec.Phase != want {
				w.t.Errorf("%s ended %s (%s), want %s", id, rec.Phase, rec.Reason, want)
			}
		}
	})
}

// TestSlowFlag has libvirt take its time over the autostart flag while the lease lapses: the call
// must not be made on the strength of what was written before.
func TestSlowFlag(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		w.dst.start(kill{})
		// The fourth call clears the flag.
		w.src.start(kill{at: 4, then: func() {
			w.src.agent.session.setAlive(false)
			w.src.slow.Store(int64(10 * time.Second))
		}})
		time.Sleep(time.Minute)
		if w.migrated() != 0 {
			w.t.Error("libvirt was called a minute after the lease was lost")
		}
		w.src.slow.Store(0)
		w.leaderNotices()
		rec := w.awaitFinal(patience)
		w.report(w.problems(true))
		if rec.Phase != Failed {
			w.t.Errorf("ended %s (%s), want failed", rec.Phase, rec.Reason)
		}
	})
}

// other is a second domain on the source.
const other hypervisor.DomainID = "33333333-3333-4333-8333-333333333333"

// rolledBackSpool makes the other domain, and a spool with the outcome of its migration 0190-m0.
func rolledBackSpool(w *world) *Spool {
	w.t.Helper()
	if err := w.fleet.AddDomain("a", sim.DomainConfig{ID: other, Memory: 32 << 20}); err != nil {
		w.t.Fatal(err)
	}
	s, err := OpenSpool(w.src.spool)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Put(Spooled{ID: "0190-m0", Phase: Failed, Reason: "rolled back"}); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// TestSpoolDoesNotBlock starts an agent that has an outcome to tell of a guest whose monitor hangs:
// it carries out the next order all the same.
func TestSpoolDoesNotBlock(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		rolledBackSpool(w)
		now := time.Now()
		w.store.create(Migration{Schema: Schema, ID: "0190-m0", UUID: other, Source: "a", Target: "b", Phase: Copying, Started: &now, Autostart: true, Order: &Order{PeerURI: w.dst.host.PeerURI(), Bandwidth: 1 << 20}})
		w.fleet.Hang("a", other, time.Minute)
		w.dst.start(kill{})
		w.src.start(kill{})
		time.Sleep(10 * time.Second)
		if rec := w.store.get(w.id); rec.Phase != Done {
			w.t.Errorf("the other migration is %s", rec.Phase)
		}
		w.awaitFinal(2 * time.Minute)
		if !w.src.host.Autostart(other) || w.store.get("0190-m0").Phase != Failed {
			w.t.Errorf("after the hang: flag %v, record %s", w.src.host.Autostart(other), w.store.get("0190-m0").Phase)
		}
	})
}

// TestSpoolOfARecordInTheHistory starts an agent that has the outcome of a migration which others
// resolved and put away while it was gone: what is left to do on its host is done, once.
func TestSpoolOfARecordInTheHistory(t *testing.T) {
	inWorld(t, autostarted, func(w *world) {
		s := rolledBackSpool(w)
		w.store.create(Migration{Schema: Schema, ID: "0190-m0", UUID: other, Source: "a", Target: "b", Phase: Failed, Reason: "seen on a", Autostart: true})
		w.store.retire("0190-m0")
		w.dst.start(kill{})
		w.src.start(kill{})
		w.awaitFinal(2 * time.Minute)
		if left, err := s.List(); err != nil || len(left) > 0 {
			w.t.Errorf("still in the spool: %v, %v", left, err)
		}
		if !w.src.host.Autostart(other) {
			w.t.Error("the autostart flag was not restored")
		}
		if rec := w.store.get("0190-m0"); rec.Reason != "seen on a" {
			w.t.Errorf("the record was changed: %+v", rec)
		}
	})
}

// TestSpoolAfterARestoredStore starts an agent that has the outcome of a migration which the store,
// brought back from a backup, still has before the libvirt call.
func TestSpoolAfterARestoredStore(t *testing.T) {
	for _, phase := range []Phase{Queued, Claimed, Preparing, Copying} {
		inWorld(t, setting{}, func(w *world) {
			s, err := OpenSpool(w.src.spool)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := s.Put(Spooled{ID: "0190-m0", Phase: Done, Reason: "moved to b", Leave: true}); err != nil {
				w.t.Fatal(err)
			}
			w.store.create(Migration{
				Schema: Schema, ID: "0190-m0", UUID: other, Source: "a", Target: "b", Phase: phase,
				Order: &Order{PeerURI: w.dst.host.PeerURI(), Bandwidth: 1 << 20},
			})
			w.dst.start(kill{})
			w.src.start(kill{})
			w.awaitFinal(2 * time.Minute)
			if rec := w.store.get("0190-m0"); rec.Phase != Done {
				w.t.Errorf("from %s: the record is %s (%s), want done", phase, rec.Phase, rec.Reason)
			}
			if left, err := s.List(); err != nil || len(left) > 0 {
				w.t.Errorf("from %s: still in the spool: %v, %v", phase, left, err)
			}
		})
	}
}
