package hypervisor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSampler gives what it is told to.
type fakeSampler struct {
	mu       sync.Mutex
	name     string
	factsErr error
	loadErr  error
}

func (f *fakeSampler) set(change func(*fakeSampler)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeSampler) Facts(context.Context) (HostFacts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return HostFacts{Name: f.name}, f.factsErr
}

func (f *fakeSampler) Load(context.Context) (HostLoad, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return HostLoad{At: time.Now(), CPU: 1}, f.loadErr
}

// fakeSink notes when, since its start, it was given what.
type fakeSink struct {
	start time.Time
	hang  bool

	mu    sync.Mutex
	facts []time.Duration
	loads []time.Duration
	last  HostLoad
	err   error
}

func (f *fakeSink) PublishFacts(ctx context.Context, _ HostFacts) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.facts = append(f.facts, time.Since(f.start))
	}
	return f.err
}

func (f *fakeSink) PublishLoad(ctx context.Context, l HostLoad) error {
	if f.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.loads, f.last = append(f.loads, time.Since(f.start)), l
	}
	return f.err
}

func (f *fakeSink) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeSink) seen() (facts, loads []time.Duration, last HostLoad) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.facts), slices.Clone(f.loads), f.last
}

// report runs a Reporter in virtual time for the length of fn.
func report(t *testing.T, fn func(r *Reporter, from *fakeSampler, to *fakeSink)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		from, to := &fakeSampler{name: "kvm1"}, &fakeSink{start: time.Now()}
		r := NewReporter(ReporterConfig{Sampler: from, Sink: to, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		fn(r, from, to)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}

func wantTimes(t *testing.T, what string, got []time.Duration, want ...time.Duration) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s at %v, want %v", what, got, want)
	}
}

func TestReporterPeriods(t *testing.T) {
	report(t, func(_ *Reporter, from *fakeSampler, to *fakeSink) {
		time.Sleep(12 * time.Second)
		from.set(func(f *fakeSampler) { f.name = "renamed" })
		time.Sleep(65 * time.Second)
		facts, loads, _ := to.seen()
		wantTimes(t, "facts", facts, 0, 15*time.Second, 75*time.Second)
		if len(loads) != 16 || loads[1] != 5*time.Second || loads[15] != 75*time.Second {
			t.Errorf("loads at %v, want one every 5 s", loads)
		}
	})
}

func TestReporterPoke(t *testing.T) {
	report(t, func(r *Reporter, _ *fakeSampler, to *fakeSink) {
		time.Sleep(2 * time.Second)
		for range 100 {
			r.Poke()
		}
		time.Sleep(100 * time.Millisecond)
		r.Poke()
		time.Sleep(6 * time.Second)
		facts, loads, _ := to.seen()
		// One report for all pokes that come until the first has settled, then the period anew.
		wantTimes(t, "loads", loads, 0, 2*time.Second+settle, 7*time.Second+settle)
		wantTimes(t, "facts", facts, 0)
	})
}

func TestReporterRepublish(t *testing.T) {
	report(t, func(r *Reporter, _ *fakeSampler, to *fakeSink) {
		time.Sleep(2 * time.Second)
		r.Republish()
		time.Sleep(time.Second)
		facts, _, _ := to.seen()
		wantTimes(t, "facts", facts, 0, 2*time.Second+settle)
	})
}

func TestReporterPokedAgain(t *testing.T) {
	report(t, func(r *Reporter, _ *fakeSampler, to *fakeSink) {
		time.Sleep(2 * time.Second)
		r.Poke()
		time.Sleep(settle + 100*time.Millisecond)
		r.Poke()
		time.Sleep(3 * time.Second)
		_, loads, _ := to.seen()
		wantTimes(t, "loads", loads, 0, 2*time.Second+settle, 3*time.Second+settle)
	})
}

func TestReporterSamplerFails(t *testing.T) {
	report(t, func(_ *Reporter, from *fakeSampler, to *fakeSink) {
		from.set(func(f *fakeSampler) { f.factsErr, f.loadErr = errors.New("facts away"), errors.New("libvirt away") })
		time.Sleep(6 * time.Second)
		_, loads, last := to.seen()
		if len(loads) != 2 || last.Problem != "libvirt away" || last.CPU != 1 {
			t.Errorf("load %+v after %v: want the part there is, with the problem", last, loads)
		}
		from.set(func(f *fakeSampler) { f.loadErr = nil })
		time.Sleep(5 * time.Second)
		if _, _, last = to.seen(); last.Problem != "facts away" {
			t.Errorf("problem %q: want that of the facts", last.Problem)
		}
		from.set(func(f *fakeSampler) { f.factsErr = nil })
		time.Sleep(5 * time.Second)
		if _, _, last = to.seen(); last.Problem != "" {
			t.Errorf("problem %q after both are well: want none", last.Problem)
		}
	})
}

func TestReporterSinkFails(t *testing.T) {
	report(t, func(_ *Reporter, from *fakeSampler, to *fakeSink) {
		time.Sleep(time.Second)
		to.fail(errors.New("store away"))
		from.set(func(f *fakeSampler) { f.name = "renamed" })
		time.Sleep(10 * time.Second)
		to.fail(nil)
		time.Sleep(10 * time.Second)
		facts, loads, _ := to.seen()
		wantTimes(t, "facts", facts, 0, 15*time.Second)
		wantTimes(t, "loads", loads, 0, 15*time.Second, 20*time.Second)
	})
}

func TestReporterSinkHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &fakeSink{start: time.Now(), hang: true}
		from := &fakeSampler{name: "kvm1"}
		r := NewReporter(ReporterConfig{Sampler: from, Sink: to, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Second)
		defer cancel()
		go func() {
			time.Sleep(7 * time.Second)
			from.set(func(f *fakeSampler) { f.name = "renamed" })
		}()
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		facts, _, _ := to.seen()
		if len(facts) != 2 {
			t.Errorf("facts at %v: want the change to get through a sink that hangs on loads", facts)
		}
	})
}
