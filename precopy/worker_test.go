package precopy

import (
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Migrator = (*sim.Host)(nil)

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
	inWorld(t, setting{domain: sim.DomainConfig{Autostart: true}}, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(10 * time.Second)
		w.report(w.problems(true))
		if rec.Phase != Done || rec.Outcome == nil || !rec.Outcome.PauseKnown || rec.Outcome.PauseMS < 25 || rec.Outcome.PauseMS > 60 {
			t.Errorf("record %s, outcome %+v; want done with a pause of about 30 ms", rec.Phase, rec.Outcome)
		}
		if rec.Outcome.Bytes < 64*hypervisor.MiB || rec.Outcome.Seconds < 1 || rec.Outcome.Rounds < 1 {
			t.Errorf("outcome %+v, want 64 MiB in over a second", rec.Outcome)
		}
		if len(rec.Attempts) != 1 || rec.Attempts[0].Ended == nil || rec.Attempts[0].Agent != "a-1" || rec.Attempts[0].Adopted {
			t.Errorf("attempts %+v", rec.Attempts)
		}
		if len(w.store.progress) < 1 {
			t.Error("no progress was written")
		}
	})
}
