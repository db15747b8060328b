package precopy

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// brakes slows the guests of a simulated host. Its guests use half a core.
type brakes struct {
	host *sim.Host

	mu     sync.Mutex
	held   int     // throttles that were not ended
	share  float64 // of a core, now
	least  float64 // that was ever set
	refuse error   // of opening
	fails  int     // how many more times setting fails
}

const guestUse = hypervisor.Cores(0.5)

func (b *brakes) open(context.Context, hypervisor.DomainID, string) (Throttle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return nil, b.refuse
	}
	b.held++
	return &simThrottle{b: b}, nil
}

type simThrottle struct {
	b     *brakes
	ended bool
}

func (s *simThrottle) Set(share float64, _ hypervisor.Cores, _ time.Duration) (float64, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.fails > 0 {
		s.b.fails--
		return 0, errors.New("no such group")
	}
	if err := s.b.host.Slow(context.Background(), vm, min(1, share/float64(guestUse))); err != nil {
		return 0, err
	}
	s.b.share, s.b.least = share, min(s.b.least, share)
	return share, nil
}

func (s *simThrottle) Busiest() (hypervisor.Cores, error)            { return guestUse, nil }
func (s *simThrottle) Least(hypervisor.Cores, time.Duration) float64 { return 0.05 }

func (s *simThrottle) End() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.ended {
		return errors.New("ended twice")
	}
	s.ended = true
	s.b.held--
	s.b.share = 1
	_ = s.b.host.Slow(context.Background(), vm, 1)
	return nil
}

// hot can't be moved within the promise unless it is slowed.
var hot = setting{
	domain: sim.DomainConfig{Memory: 256 * hypervisor.MiB, Pattern: sim.Pattern{Kind: sim.Pages, Rate: 24_000, WorkingSet: 128 * hypervisor.MiB}},
	policy: &Policy{MaxPauseMS: 150, MaxPauseCeilingMS: 150, MaxSlowdown: 0.5, BudgetSeconds: 120},
}

// TestGuestIsSlowed moves a guest that only converges slowed: it is, within the intent, and has its
// speed back whatever becomes of the migration.
func TestGuestIsSlowed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		during func(*world)
		phase  Phase
		slowed bool
	}{
		{"moves", nil, Done, true},
		{"setting fails at first", func(w *world) { w.src.brakes.fails = 3 }, Done, true},
		{"can't be slowed", func(w *world) { w.src.brakes.refuse = errors.New("no control groups") }, Aborted, false},
		{"cancelled while slowed", func(w *world) {
			w.awaitSlowed()
			_ = w.store.edit(w.id, ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "ops", At: time.Now()} })
		}, Aborted, true},
		{"agent stopped while slowed, another goes on", func(w *world) {
			w.awaitSlowed()
			w.src.stop()
			w.src.brakes.mu.Lock()
			defer w.src.brakes.mu.Unlock()
			if w.src.brakes.held != 0 || w.src.brakes.share != 1 {
				w.t.Errorf("an agent that stopped left the guest at %v, holding %d", w.src.brakes.share, w.src.brakes.held)
			}
			w.src.start(kill{})
		}, Done, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, hot, func(w *world) {
				w.src.brakes = &brakes{host: w.src.host, share: 1, least: 1}
				if tc.name == "setting fails at first" || !tc.slowed {
					tc.during(w)
				}
				w.dst.start(kill{})
				w.src.start(kill{})
				if tc.during != nil && tc.slowed && w.src.brakes.fails == 0 {
					tc.during(w)
				}
				rec := w.awaitFinal(3 * time.Minute)
				w.report(w.problems(false))
				if rec.Phase != tc.phase {
					w.t.Fatalf("ended %s (%s), want %s", rec.Phase, rec.Reason, tc.phase)
				}
				b := w.src.brakes
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.held != 0 || b.share != 1 {
					w.t.Errorf("left at %v of a core, %d throttles held", b.share, b.held)
				}
				if (b.least < 1) != tc.slowed {
					w.t.Errorf("least share %v, slowed wanted: %v", b.least, tc.slowed)
				}
				if o := rec.Outcome; tc.slowed && (o == nil || o.ThrottleMaxPercent == 0 || o.Slowdown <= 0 || o.Slowdown > 0.5) {
					w.t.Errorf("outcome %+v tells not how it was slowed", o)
				}
			})
		})
	}
}

// awaitSlowed lets time pass until the guest is slowed.
func (w *world) awaitSlowed() {
	w.t.Helper()
	for range 600 {
		w.src.brakes.mu.Lock()
		share := w.src.brakes.share
		w.src.brakes.mu.Unlock()
		if share < 1 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal("the guest was never slowed")
}

// TestBrake says what shares of its own use mean in cores.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.1}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 100, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		if b.least() != 1 || b.set(0.5) {
			t.Error("slowed before its use is known")
		}
		b.look(time.Now())
		if l := b.least(); math.Abs(l-0.25) > 1e-9 {
			t.Errorf("least %v, want a quarter of its use", l)
		}
		b.set(0.5)
		time.Sleep(warmUp)
		if !b.set(0.5) || f.set != 0.2 || b.share != 0.5 {
			t.Errorf("half of 0.4 is %v of a core, share %v", f.set, b.share)
		}
		if b.set(0.5) {
			t.Error("set again to the same")
		}
		if !b.set(0.01) || b.share != 0.25 {
			t.Errorf("share %v, want what the throttle could do", b.share)
		}
		if !b.set(1) || f.set != 1 || b.share != 1 {
			t.Errorf("full speed is %v of a core, share %v", f.set, b.share)
		}
		b.release()
		b.release()
		if f.ends != 1 || b.set(0.5) || b.share != 1 {
			t.Errorf("ended %d times, want once and for all", f.ends)
		}
	})
}

// TestBrakeWarmsUp: a guest that begins to be slowed keeps twice as much for a second; so does one that could not be slowed
// at first, and one that ran at full speed in between, but not one that is slowed more.
func TestBrakeWarmsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.08, fails: true}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 100, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		b.set(0.4)
		f.fails = false
		time.Sleep(slowAgain)
		for _, step := range []struct {
			share float64
			after time.Duration
			cores float64
			told  float64
		}{
			{0.4, 0, 0.32, 0.8},
			{0.4, warmUp - 1, 0.32, 0.8},
			{0.4, 1, 0.16, 0.4},
			{0.3, 0, 0.12, 0.3},
			{0.3, time.Minute, 0.12, 0.3},
			{1, 0, 1, 1},
			{0.01, 0, 0.16, 0.4},
			{0.01, warmUp, 0.08, 0.2}, // no less than the throttle can do
			{1, 0, 1, 1},
			{0.8, 0, 0.64, 1},
			{0.8, warmUp, 0.32, 0.8},
			{1, 0, 1, 1},
			{0.5, 0, 0.4, 1},
			{1, 0, 1, 1},
			{0.4, 0, 0.32, 0.8},
		} {
			time.Sleep(step.after)
			b.set(step.share)
			if math.Abs(f.set-step.cores) > 1e-9 || math.Abs(b.share-step.told) > 1e-9 {
				t.Errorf("share %v after %s: %v of a core, and %v is told, want %v and %v", step.share, step.after, f.set, b.share, step.cores, step.told)
			}
		}
	})
}

// TestBrakeOutgrown: once the throttle can do no more than less than it did, the share that is in force is told.
func TestBrakeOutgrown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.02}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 100}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		b.set(0.1)
		time.Sleep(warmUp)
		b.set(0.1)
		f.least = 0.08
		if before := f.sets; !b.set(0.1) || f.sets != before+1 || math.Abs(b.share-0.2) > 1e-9 {
			t.Errorf("set %d times more, share %v, want 0.2", f.sets-before, b.share)
		}
		if b.set(0.1) {
			t.Error("set again for nothing")
		}
	})
}

// TestLostWhileLibvirtHangs: what the guest lost while its migration could not be read is lost.
func TestLostWhileLibvirtHangs(t *testing.T) {
	s := hot
	s.domain.Memory, s.domain.Pattern.WorkingSet = hypervisor.GiB, 640*hypervisor.MiB
	inWorld(t, s, func(w *world) {
		w.src.brakes = &brakes{host: w.src.host, share: 1, least: 1}
		w.dst.start(kill{})
		w.src.start(kill{})
		w.awaitSlowed()
		time.Sleep(warmUp + time.Second)
		before := w.store.get(w.id).attempt().LostSeconds
		share := w.src.brakes.share / float64(guestUse)
		w.fleet.Hang("a", vm, 5*time.Second)
		time.Sleep(6 * time.Second)
		m := w.store.get(w.id)
		// It is given its speed back when nobody has read it for unreadLimit, and slowed again after it. The record is told
		// of whole seconds.
		least, most := (1-share)*unreadLimit.Seconds()-0.2, (1-share)*(unreadLimit.Seconds()+1)+1
		if lost := m.attempt().LostSeconds - before; lost < least || lost > most {
			w.t.Errorf("lost %.1f s in %s, want %.1f to %.1f: those in which it was slowed and nobody read it too", lost, m.Phase, least, most)
		}
		w.awaitFinal(3 * time.Minute)
		w.report(w.problems(false))
	})
}

// TestToldOfALapse: of the time in which nobody read, only what came before the guest was given its speed back was lost.
func TestToldOfALapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 1}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 1000}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		b.set(0.2)
		time.Sleep(2 * warmUp)
		b.set(0.2)
		b.told()
		time.Sleep(time.Second)
		if got := b.told(); got != 0.2 {
			t.Errorf("slowed: told %v", got)
		}
		time.Sleep(3 * time.Second)
		b.lapse()
		time.Sleep(57 * time.Second)
		if got := b.told(); math.Abs(got-0.96) > 1e-9 {
			t.Errorf("slowed for 3 s of a minute: told %v, want 0.96", got)
		}
		time.Sleep(time.Second)
		if got := b.told(); got != 1 {
			t.Errorf("afterwards: told %v", got)
		}
	})
}

// TestBrakeLetsGo says how long a slowed guest is told to be silent for, and that one which is paused for its switchover
// is let go until something is wanted again.
func TestBrakeLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 150, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		b.loosen() // nothing to let go
		b.set(0.4)
		time.Sleep(warmUp)
		for _, tc := range []struct {
			share   float64
			silence time.Duration
		}{{0.4, b.most}, {0.01, b.most}, {1, 0}} {
			b.set(tc.share)
			if b.silence != tc.silence || tc.share < 1 && f.silence != tc.silence {
				t.Errorf("share %v: silence %s, told %s, want %s", tc.share, b.silence, f.silence, tc.silence)
			}
		}
		b.set(0.4)
		time.Sleep(warmUp)
		b.set(0.4)
		b.loosen()
		if f.set != 1 || math.Abs(b.share-0.4) > 1e-9 {
			t.Errorf("let go: %v of a core, and the tuner is told %v", f.set, b.share)
		}
		if !b.set(0.4) || math.Abs(f.set-0.16) > 1e-9 {
			t.Errorf("the switchover was taken back: %v of a core", f.set)
		}
	})
}

// TestBrakeForgetsUseOfASlowedGuest: what a slowed guest used is no measure of what it uses.
func TestBrakeForgetsUseOfASlowedGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.01}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 150, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		b.set(0.2)
		f.slowed = true
		time.Sleep(5 * time.Second)
		b.set(1)
		for range 3 {
			b.look(time.Now())
			time.Sleep(useEvery)
		}
		if b.use != 0.4 {
			t.Errorf("it is thought to use %v of a core, want 0.4", b.use)
		}
	})
}

// TestBrakeWaitsAfterAFailure: slowing a guest starts a process and writes to a disk, which may be full.
func TestBrakeWaitsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.01, fails: true}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 150, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		b.look(time.Now())
		for range 100 {
			b.set(0.2)
			time.Sleep(100 * time.Millisecond)
		}
		if f.sets < 3 || f.sets > 6 {
			t.Errorf("tried %d times in 10 s", f.sets)
		}
		f.fails = false
		if !b.set(1) || f.set != 1 {
			t.Error("what it was given back has to wait")
		}
	})
}

type fakeThrottle struct {
	fails  bool // Set does
	sets   int
	slowed bool // since Busiest was read

	silence time.Duration

	use   hypervisor.Cores
	least float64
	set   float64
	ends  int
	// failing is how many more times End fails.
	failing int
}

func (f *fakeThrottle) open(_ context.Context, _ hypervisor.DomainID, _ string) (Throttle, error) {
	return f, nil
}

func (f *fakeThrottle) Set(share float64, _ hypervisor.Cores, silence time.Duration) (float64, error) {
	if f.sets++; f.fails {
		return 0, errors.New("no space left on device")
	}
	f.silence = silence
	f.set = max(share, f.Least(f.use, silence))
	return f.set, nil
}

func (f *fakeThrottle) Busiest() (hypervisor.Cores, error) {
	if f.slowed {
		f.slowed = false
		return f.use / 5, nil
	}
	return f.use, nil
}

func (f *fakeThrottle) Least(hypervisor.Cores, time.Duration) float64 { return f.least }

func (f *fakeThrottle) End() error {
	f.ends++
	if f.failing > 0 {
		f.failing--
		return errors.New("no such file")
	}
	return nil
}

// TestReleaseIsTriedAgain has the kernel refuse to take the quota back at first.
func TestReleaseIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeThrottle{use: 0.4, least: 0.1, failing: 3}
		b := newBrake(t.Context(), f.open, Migration{Policy: Policy{MaxSlowdown: 0.3, MaxPauseMS: 100, MaxPauseCeilingMS: 900}}, slog.New(slog.DiscardHandler))
		b.release()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if f.ends != 4 {
			t.Errorf("tried %d times, want until it worked, at the fourth", f.ends)
		}
	})
}
