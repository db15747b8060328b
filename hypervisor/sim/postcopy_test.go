package sim

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
)

// following starts a migration, switches it to post-copy, and returns while the rest follows, with the
// channel on which the call answers.
func (l *lab) following() <-chan error {
	l.Helper()
	spec := l.spec()
	spec.Strategy.PostCopy = true
	done := l.start(spec)
	time.Sleep(500 * time.Millisecond)
	if err := l.src.StartPostCopy(l.ctx, vm); err != nil {
		l.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	return done
}

var writing = DomainConfig{Pattern: Pattern{Kind: Pages, Rate: 40_000}}

// TestPostCopy shows what libvirt shows in each of its states, as its sources and the lab have it.
func TestPostCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, writing)
		l.f.Inject(Fault{Kind: PostcopyCut, Moment: AtPostcopy, After: 400 * time.Millisecond, For: 5 * time.Second})
		done := l.following()
		l.wantSeen("following", [2][3]string{{"paused", "postcopy", "outgoing"}, {"running", "postcopy", "incoming"}})
		if s, err := l.src.JobStats(l.ctx, vm); err != nil || !s.Postcopy || s.PostcopyBroken || s.MemRemaining == 0 {
			t.Errorf("following: job %+v, %v", s, err)
		}
		spec := l.spec()
		spec.Strategy.PostCopy = true
		l.wantClass(l.src.Recover(l.ctx, spec), hypervisor.ClassInvalid)

		l.wantClass(<-done, hypervisor.ClassUnknownOutcome)
		l.wantSeen("broken", [2][3]string{{"paused", "postcopy-failed", "outgoing"}, {"running", "postcopy-failed", "incoming"}})
		if s, err := l.src.JobStats(l.ctx, vm); err != nil || s.Kind != hypervisor.JobOutgoing || !s.PostcopyBroken {
			t.Errorf("broken: job %+v, %v", s, err)
		}
		l.wantClass(l.src.Recover(l.ctx, spec), hypervisor.ClassFailed)
		time.Sleep(6 * time.Second)
		if err := l.src.Recover(l.ctx, spec); err != nil {
			t.Errorf("recovery: %v", err)
		}
		l.wantSeen("done", [2][3]string{{"shutoff", "migrated", "none"}, {"running", "migrated", "none"}})
		if s, ok, err := l.src.CompletedStats(l.ctx, vm); err != nil || !ok || s.Downtime <= 0 || s.Downtime > 50*time.Millisecond {
			t.Errorf("completed: %+v, %v, %v", s, ok, err)
		}
		if w := l.f.Wrongs(); len(w) > 0 {
			t.Errorf("wrongs %q", w)
		}
	})
}

// TestPostCopyTouched notes every call that would lose a guest whose memory is on both hosts.
func TestPostCopyTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, writing)
		done := l.following()
		l.wantClass(l.src.Abort(l.ctx, vm), hypervisor.ClassInvalid)
		l.wantClass(l.src.Resume(l.ctx, vm), hypervisor.ClassInvalid)
		l.wantClass(l.src.Undefine(l.ctx, vm), hypervisor.ClassInvalid)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"abort of " + string(vm) + " on a in post-copy", "resume of " + string(vm) + " on a in post-copy", "undefine of " + string(vm) + " on a in post-copy"}
		if got := l.f.Wrongs(); !slices.Equal(got, want) {
			t.Errorf("wrongs %q, want %q", got, want)
		}
	})
}

// TestPostCopyNotAsked refuses to switch what was not begun so.
func TestPostCopyNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, writing)
		l.wantClass(l.src.StartPostCopy(l.ctx, vm), hypervisor.ClassInvalid)
		l.start(l.spec())
		time.Sleep(500 * time.Millisecond)
		l.wantClass(l.src.StartPostCopy(l.ctx, vm), hypervisor.ClassInvalid)
		l.wantRunning("a")
	})
}
