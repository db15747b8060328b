package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"

	"github.com/google/go-cmp/cmp"
)

// TestFaults gives, for each fault at each moment that matters, what the call returns and what both
// hosts show when all is quiet again.
func TestFaults(t *testing.T) {
	type show = [2][3]string
	bothRun := show{{"running", "migration-canceled", "none"}, {"running", "migrated", "none"}}
	for _, tc := range []struct {
		name string
		f    Fault
		want hypervisor.Class
		seen show
	}{
		{"connection lost", Fault{Kind: ConnLost, Moment: AtCopy, For: time.Second}, hypervisor.ClassUnknownOutcome, onTarget},
		{"target dies in the copy", Fault{Kind: TargetDies, Moment: AtCopy, For: time.Minute}, hypervisor.ClassFailed, onSource},
		{"target dies later in the copy", Fault{Kind: TargetDies, Moment: AtCopy, After: time.Second, For: time.Minute}, hypervisor.ClassFailed, onSource},
		{"target dies in the switchover", Fault{Kind: TargetDies, Moment: AtSwitchover, For: time.Minute}, hypervisor.ClassFailed, taken},
		{"target dies in finish", Fault{Kind: TargetDies, Moment: AtFinish, For: time.Minute}, hypervisor.ClassFailed, show{taken[0], {"shutoff", "", "none"}}},
		{"finish lost", Fault{Kind: FinishLost, Moment: AtCopy}, hypervisor.ClassFailed, bothRun},
		{"aborted outside", Fault{Kind: AbortOutside, Moment: AtCopy, After: time.Second}, hypervisor.ClassAborted, onSource},
		{"aborted in the switchover", Fault{Kind: AbortOutside, Moment: AtSwitchover}, hypervisor.ClassAborted, taken},
		{"aborted in finish", Fault{Kind: AbortOutside, Moment: AtFinish}, "", onTarget},
		{"slow start", Fault{Kind: SlowStart, Moment: AtCall}, "", onTarget},
		{"guest off in the copy", Fault{Kind: GuestOff, Moment: AtCopy, After: time.Second}, hypervisor.ClassFailed, show{{"shutoff", "shutdown", "none"}, {"absent", "", "none"}}},
		{"guest off in finish", Fault{Kind: GuestOff, Moment: AtFinish}, "", show{{"shutoff", "migrated", "none"}, {"shutoff", "shutdown", "none"}}},
		{"left paused", Fault{Kind: LeftPaused, Moment: AtCopy}, hypervisor.ClassUnknownOutcome, show{{"paused", "migration", "none"}, {"absent", "", "none"}}},
		{"daemon restart in the copy", Fault{Kind: DaemonRestart, Moment: AtCopy, For: time.Second}, hypervisor.ClassUnknownOutcome, onSource},
		{"daemon restart in the switchover", Fault{Kind: DaemonRestart, Moment: AtSwitchover, For: time.Second}, hypervisor.ClassUnknownOutcome, taken},
		{"daemon restart in finish", Fault{Kind: DaemonRestart, Moment: AtFinish, For: time.Second}, hypervisor.ClassUnknownOutcome, show{{"paused", "migration", "none"}, {"running", "migrated", "none"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, DomainConfig{})
				l.f.Inject(tc.f)
				l.wantClass(l.src.Migrate(l.ctx, l.spec()), tc.want)
				time.Sleep(2 * time.Minute)
				if d := cmp.Diff(tc.seen, l.see()); d != "" {
					t.Errorf("what both hosts show (-want +got):\n%s", d)
				}
			})
		})
	}
}

func TestResumeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		l.f.Inject(Fault{Kind: ResumeFails, Moment: AtCopy})
		l.f.Inject(Fault{Kind: AbortOutside, Moment: AtSwitchover})
		l.wantClass(l.src.Migrate(l.ctx, l.spec()), hypervisor.ClassAborted)
		l.wantSeen("after", [2][3]string{{"paused", "api-error", "none"}, {"absent", "", "none"}})
		if err := l.src.Resume(l.ctx, vm); err != nil {
			t.Fatal(err)
		}
		l.wantRunning("a")
		if w := l.f.Wrongs(); len(w) > 0 {
			t.Errorf("wrongs %v for a resume that was right", w)
		}
	})
}

func TestWrongsAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		l.f.Inject(Fault{Kind: DaemonRestart, Moment: AtFinish, For: time.Second})
		_ = l.src.Migrate(l.ctx, l.spec())
		time.Sleep(2 * time.Second)
		l.wantClass(l.src.Undefine(l.ctx, vm), hypervisor.ClassInvalid)
		if err := l.src.Resume(l.ctx, vm); err != nil {
			t.Fatal(err)
		}
		l.wantRunning("a", "b")
		l.f.Destroy("b", vm)
		l.f.Destroy("a", vm)
		l.wantRunning()
		_, _ = l.src.Undefine(l.ctx, vm), l.dst.Undefine(l.ctx, vm)
		if w := l.f.Wrongs(); len(w) != 2 {
			t.Errorf("wrongs %v, want the double resume and the last definition", w)
		}
	})
}

func TestAbort(t *testing.T) {
	for _, tc := range []struct {
		name    string
		ignored bool
		want    hypervisor.Class
		runs    string
	}{{"heeded", false, hypervisor.ClassAborted, "a"}, {"ignored", true, "", "b"}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, DomainConfig{})
				if tc.ignored {
					l.f.Inject(Fault{Kind: AbortIgnored, Moment: AtCall})
				}
				result := l.start(l.spec())
				l.waitStage(copying)
				if err := l.src.Abort(l.ctx, vm); err != nil {
					t.Errorf("abort: %v", err)
				}
				l.wantClass(<-result, tc.want)
				l.wantRunning(tc.runs)
			})
		})
	}
}

func TestCallerMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		ctx, cancel := context.WithTimeout(l.ctx, time.Second)
		defer cancel()
		l.wantClass(l.src.Migrate(ctx, l.spec()), hypervisor.ClassUnknownOutcome)
		l.wantRunning("a")
		time.Sleep(5 * time.Second)
		l.wantSeen("later", onTarget)
	})
}

func TestMonitorHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		l.f.Inject(Fault{Kind: MonitorHang, Domain: vm, After: time.Second, For: time.Minute})
		result := l.start(l.spec())
		time.Sleep(1100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		defer cancel()
		_, err := l.src.JobStats(ctx, vm)
		l.wantClass(err, hypervisor.ClassUnknownOutcome)
		began := time.Now()
		if s, err := l.src.Sight(l.ctx, vm); err != nil || s.State != hypervisor.StateShutoff {
			t.Errorf("sight after the hang: %+v, %v", s, err)
		}
		if d := time.Since(began); d < 40*time.Second {
			t.Errorf("sight was answered after %s, want it to hang for the rest of the minute", d)
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestConnectionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		events := l.src.Events()
		l.f.Inject(Fault{Kind: ConnLost, Moment: AtCopy, For: 10 * time.Second})
		l.wantClass(l.src.Migrate(l.ctx, l.spec()), hypervisor.ClassUnknownOutcome)
		_, err := l.src.Sight(l.ctx, vm)
		l.wantClass(err, hypervisor.ClassUnavailable)
		_, err = l.src.Load(l.ctx)
		l.wantClass(err, hypervisor.ClassUnavailable)
		time.Sleep(11 * time.Second)
		l.wantSeen("after", onTarget)
		var last hypervisor.EventKind
		for len(events) > 0 {
			last = (<-events).Kind
		}
		if last != hypervisor.EventReset {
			t.Errorf("last event %q, want a reset: what happened meanwhile is lost", last)
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		from, to := l.src.Events(), l.dst.Events()
		if err := l.src.Migrate(l.ctx, l.spec()); err != nil {
			t.Fatal(err)
		}
		for _, side := range []struct {
			name   string
			events <-chan hypervisor.Event
			want   []hypervisor.EventKind
		}{
			{"source", from, []hypervisor.EventKind{hypervisor.EventSuspended, hypervisor.EventStopped}},
			{"target", to, []hypervisor.EventKind{hypervisor.EventStarted, hypervisor.EventResumed}},
		} {
			var got []hypervisor.EventKind
			for len(side.events) > 0 {
				e := <-side.events
				if e.Kind == hypervisor.EventRound {
					continue
				}
				if !e.Migration {
					t.Errorf("%s: %s is not marked as a migration's", side.name, e.Kind)
				}
				got = append(got, e.Kind)
			}
			if d := cmp.Diff(side.want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", side.name, d)
			}
		}
	})
}

func TestAutostartFlag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{Autostart: true})
		if err := l.src.SetAutostart(l.ctx, vm, false); err != nil || l.src.Autostart(vm) {
			t.Errorf("set autostart: %v, flag %v", err, l.src.Autostart(vm))
		}
		l.f.Inject(Fault{Kind: AutostartRefused, Moment: AtCall})
		if err := l.src.Migrate(l.ctx, l.spec()); err != nil {
			t.Fatal(err)
		}
		l.wantClass(l.src.SetAutostart(l.ctx, vm, true), hypervisor.ClassInvalid)
		if err := l.dst.SetAutostart(l.ctx, vm, true); err != nil || !l.dst.Autostart(vm) || !l.dst.Defined(vm) {
			t.Errorf("on the target: %v", err)
		}
	})
}
