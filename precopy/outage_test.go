package precopy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// outageStories are those on which outages are tried: between them they use every path of the worker.
func outageStories() []story {
	var out []story
	for _, s := range stories() {
		switch s.name {
		case "moves-with-disks", "cancelled-with-disks", "gives-up", "connection-lost", "left-paused", "finish-lost", "aborted-at-switchover":
			out = append(out, s)
		}
	}
	return out
}

// everyPoint runs each story once for each call, with something happening at that call.
func everyPoint(t *testing.T, run func(w *world, s story, n int)) {
	t.Helper()
	for _, s := range outageStories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, n := range points(s.calls(t)) {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					inWorld(t, s.setting, func(w *world) { run(w, s, n) })
				})
			}
		})
	}
}

// TestStoreAway takes the store away for a minute at every call. Leases lapse meanwhile, and the
// leader, once it is back, may be quicker than the agent.
func TestStoreAway(t *testing.T) {
	everyPoint(t, func(w *world, s story, n int) {
		away := make(chan struct{})
		s.begin(w, kill{at: n, after: n%2 == 1, then: func() {
			w.store.goAway()
			close(away)
		}})
		select {
		case <-away:
		case <-time.After(10 * time.Minute):
			return
		}
		time.Sleep(15 * time.Second)
		w.src.agent.session.setAlive(false)
		time.Sleep(45 * time.Second)
		w.store.comeBack()
		if n%3 == 0 {
			w.leaderNotices()
		}
		time.Sleep(time.Second)
		w.src.agent.session.renew()
		s.finish(w)
	})
}

// TestTargetAgentSilent has the target's agent not answer for a minute, from every call on.
func TestTargetAgentSilent(t *testing.T) {
	everyPoint(t, func(w *world, s story, n int) {
		silent := make(chan struct{})
		s.begin(w, kill{at: n, then: func() {
			w.store.setAnswering("b", nil)
			close(silent)
		}})
		select {
		case <-silent:
		case <-time.After(10 * time.Minute):
			return
		}
		time.Sleep(time.Minute)
		w.store.setAnswering("b", w.dst.answer)
		s.finish(w)
	})
}

// TestTwoWorkers starts a second agent for the host at every call of the first one, which loses its
// lease and lives on.
func TestTwoWorkers(t *testing.T) {
	everyPoint(t, func(w *world, s story, n int) {
		second := make(chan struct{})
		s.begin(w, kill{at: n, after: n%2 == 0, then: func() { close(second) }})
		first := w.src.agent
		select {
		case <-second:
		case <-time.After(10 * time.Minute):
			return
		}
		w.src.start(kill{}) // registering ends the first one's session
		w.awaitFinal(s.patience())
		time.Sleep(5 * time.Second) // for what the first one finds that it has to take back
		s.finish(w)
		first.cancel()
		<-first.done
		w.report(w.problems(s.setting.domain.Autostart))
	})
}

// TestLostAnswers has the store take a write and its answer lost, at every call, the agent living on.
func TestLostAnswers(t *testing.T) {
	everyPoint(t, func(w *world, s story, n int) {
		s.begin(w, kill{at: n, after: true, forget: true})
		s.finish(w)
	})
}

// TestTwiceKilled ends an agent, and its successor a few calls after its start.
func TestTwiceKilled(t *testing.T) {
	everyPoint(t, func(w *world, s story, n int) {
		s.begin(w, kill{at: n, after: n%2 == 0})
		for second := 1; second <= 3; second++ {
			dead := w.src.agent
			select {
			case <-dead.done:
			case <-time.After(10 * time.Minute):
				return
			}
			time.Sleep(time.Second)
			w.src.start(kill{at: second*2 + n%5, after: second%2 == 0})
		}
		select {
		case <-w.src.agent.done:
			w.src.start(kill{})
		case <-time.After(2 * time.Minute):
		}
		s.finish(w)
	})
}

// TestAllFaultsAtAllMoments runs each fault of the simulator at each moment.
func TestAllFaultsAtAllMoments(t *testing.T) {
	moments := []sim.Moment{sim.AtCall, sim.AtPrepare, sim.AtCopy, sim.AtSwitchover, sim.AtFinish}
	for _, kind := range sim.Faults() {
		for _, m := range moments {
			for _, silent := range []bool{false, true} {
				f := sim.Fault{Kind: kind, Moment: m, For: 30 * time.Second}
				t.Run(fmt.Sprintf("%s-%s-%v", kind, m, silent), func(t *testing.T) {
					t.Parallel()
					s := story{
						setting: setting{domain: sim.DomainConfig{Autostart: kind != sim.AutostartRefused}, mayStop: kind == sim.GuestOff},
						faults:  []sim.Fault{f}, doubled: kind == sim.FinishLost,
					}
					inWorld(t, s.setting, func(w *world) {
						if silent {
							w.store.setAnswering("b", nil)
						}
						s.begin(w, kill{})
						time.Sleep(time.Minute)
						w.store.setAnswering("b", w.dst.answer)
						s.finish(w)
					})
				})
			}
		}
	}
}

// TestOldOutcomeOfAGuestThatCameBack is of an outcome that waited on disk while the store was away. The guest was
// moved back by hand meanwhile, and is shut down: the definition on the source is the only one, and stays.
func TestOldOutcomeOfAGuestThatCameBack(t *testing.T) {
	inWorld(t, setting{}, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		for w.store.get(w.id).Phase != Copying {
			time.Sleep(50 * time.Millisecond)
		}
		w.store.goAway()
		for w.src.host.Defined(vm) {
			time.Sleep(50 * time.Millisecond)
		}
		w.src.stop()
		ctx := w.t.Context()
		back := hypervisor.MigrateSpec{
			Domain: vm, PeerURI: w.src.host.PeerURI(), Persistent: true, Bandwidth: 100 * hypervisor.BytesPerSecond(hypervisor.MiB), Downtime: 100 * time.Millisecond,
		}
		if err := w.dst.host.Migrate(ctx, back); err != nil {
			w.t.Fatal(err)
		}
		if err := w.dst.host.Undefine(ctx, vm); err != nil {
			w.t.Fatal(err)
		}
		w.fleet.Destroy("a", vm)
		w.store.comeBack()
		w.src.start(kill{})
		w.awaitFinal(time.Minute)
		time.Sleep(10 * time.Second)
		rec := w.store.get(w.id)
		noted := slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, "no other host was seen to run the VM") })
		if rec.Phase != Done || !noted || !w.src.host.Defined(vm) {
			w.t.Errorf("%s, notes %q, defined on a %v; want it done, with a note, and still defined", rec.Phase, rec.Notes, w.src.host.Defined(vm))
		}
	})
}
