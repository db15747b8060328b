package precopy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"drover/hypervisor/sim"
)

// resolve closes the record as the command line does.
func (w *world) resolve(p Phase) {
	if err := w.store.edit(w.id, ActorCLI, func(m *Migration) {
		now := time.Now()
		m.Phase, m.ReasonCode, m.Reason, m.Finished = p, ResolvedByHand, "alice says so", &now
	}); err != nil {
		w.t.Error(err)
	}
}

// TestResolvedWhileTheAgentIsAway resolves a record by hand between two runs of the agent: the next
// one tidies up, once, and only after looking at both hosts.
func TestResolvedWhileTheAgentIsAway(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fault  sim.Fault
		says   Phase
		ran    string // where the guest is
		noted  string
		undone bool // nothing is touched
	}{
		{"on the source, rightly", sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtCopy, After: time.Second}, Failed, "a", "", false},
		{"on the target, rightly", sim.Fault{Kind: sim.StatsLost, Moment: sim.AtCall}, Done, "b", "", false},
		{"on the source, wrongly", sim.Fault{Kind: sim.StatsLost, Moment: sim.AtCall}, Failed, "b", "it was not seen on a alone", true},
		{"on the target, wrongly", sim.Fault{Kind: sim.AbortOutside, Moment: sim.AtCopy, After: time.Second}, Done, "a", "it was not seen running on b alone", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, setting{domain: sim.DomainConfig{Autostart: true}, copies: true}, func(w *world) {
				w.fleet.Inject(tc.fault)
				w.dst.start(kill{})
				dead := w.src.start(kill{})
				time.Sleep(500 * time.Millisecond)
				dead.mu.Lock()
				dead.die()
				dead.mu.Unlock()
				<-dead.done
				time.Sleep(10 * time.Second)
				w.leaderNotices()
				w.resolve(tc.says)
				w.src.start(kill{})
				time.Sleep(10 * time.Second)
				rec := w.store.get(w.id)
				if on := w.fleet.RunningOn(vm); !slices.Equal(on, []string{tc.ran}) || rec.Phase != tc.says || !rec.Tidied {
					w.t.Errorf("it runs on %v, record %s, tidied %v", on, rec.Phase, rec.Tidied)
				}
				if !tc.undone {
					w.report(w.problems(true))
				} else if !w.src.host.Defined(vm) || w.src.host.Autostart(vm) || !w.dst.disks.Load() || w.src.agent.worker.Active() > 0 {
					w.t.Errorf("defined on the source %v, autostart %v, disks on the target %v, driving %d; want all left alone",
						w.src.host.Defined(vm), w.src.host.Autostart(vm), w.dst.disks.Load(), w.src.agent.worker.Active())
				}
				if noted := strings.Contains(strings.Join(rec.Notes, "; "), tc.noted); !noted {
					w.t.Errorf("notes %q", rec.Notes)
				}
				w.src.stop()
				a := w.src.start(kill{})
				time.Sleep(10 * time.Second)
				if n := a.count(); n != 0 {
					w.t.Errorf("the next run made %d calls about it", n)
				}
			})
		})
	}
}
