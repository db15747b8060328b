package precopy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/precopy/tune"
)

// keptQueue is a queue that somebody keeps short, or fails to.
type keptQueue struct {
	looks    atomic.Int64
	released atomic.Int64
	err      error
}

func (q *keptQueue) Release() { q.released.Add(1) }

func (q *keptQueue) Keep(time.Time) (bool, error) {
	q.looks.Add(1)
	return q.err == nil, q.err
}

// TestQueueIsKept says that the queue in front of the link is kept short for drover's own controller, which
// then leaves the cap alone, and not for the fixed policies that it is compared with.
func TestQueueIsKept(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tuning string
		err    error
		looked bool
	}{{"own", "", nil, true}, {"refused", "", errors.New("not permitted"), true}, {"fixed", "default", nil, false}} {
		t.Run(tc.name, func(t *testing.T) {
			s := setting{
				domain: sim.DomainConfig{Memory: 256 * hypervisor.MiB, Pattern: sim.Pattern{Kind: sim.Pages, Rate: 2_000, WorkingSet: 32 * hypervisor.MiB}},
				policy: &Policy{MaxPauseMS: 150, MaxPauseCeilingMS: 900, BudgetSeconds: 120, Tuning: tc.tuning},
			}
			inWorld(t, s, func(w *world) {
				q := &keptQueue{err: tc.err}
				w.src.queue = q
				w.dst.start(kill{})
				w.src.start(kill{})
				if rec := w.awaitFinal(time.Minute); rec.Phase != Done {
					w.t.Fatalf("ended %s (%s)", rec.Phase, rec.Reason)
				}
				w.src.stop()
				if looked, released := q.looks.Load() > 0, q.released.Load() == 1; looked != tc.looked || released != tc.looked {
					w.t.Errorf("looked %d times, released %d times", q.looks.Load(), q.released.Load())
				}
				if n := strings.Count(w.log.tail(1<<20), "not kept short"); n > 1 || (n == 1) != (tc.err != nil) {
					w.t.Errorf("warned %d times", n)
				}
			})
		})
	}
}

// questions counts what libvirt is asked.
type questions struct {
	Migrator
	asked int
}

func (q *questions) JobStats(context.Context, hypervisor.DomainID) (hypervisor.JobStats, error) {
	q.asked++
	return hypervisor.JobStats{}, nil
}

// TestNothingIsAskedDuringTheSwitchover: while the guest stands still, libvirt has better things to do; not
// for ever, and not once the switchover was taken back.
func TestNothingIsAskedDuringTheSwitchover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &questions{}
		w := NewWorker(Config{Migrator: q, Log: slog.New(slog.DiscardHandler)})
		d := newDrive(w, Stored{Migration: Migration{Phase: Copying}})
		d.brake = newBrake(t.Context(), nil, Migration{}, d.log)
		ask := func(want int, when string) {
			t.Helper()
			if action := d.poll(t.Context()); action != tune.Wait || q.asked != want {
				t.Errorf("%s: asked %d times in all, want %d", when, q.asked, want)
			}
		}
		ask(1, "before")
		d.event(hypervisor.Event{Kind: hypervisor.EventSuspended, Migration: true})
		ask(1, "during")
		time.Sleep(switchQuiet + time.Millisecond)
		ask(2, "long after")
		d.event(hypervisor.Event{Kind: hypervisor.EventSuspended, Migration: true})
		ask(2, "during another")
		d.event(hypervisor.Event{Kind: hypervisor.EventResumed, Migration: true})
		ask(3, "taken back")
	})
}
