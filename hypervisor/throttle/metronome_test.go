package throttle

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeMetronomes counts those that run, or fails.
type fakeMetronomes struct {
	running, started int
	err, gone        error
}

func (f *fakeMetronomes) start(int, []int) (metronome, error) {
	f.started++
	if f.err != nil {
		return nil, f.err
	}
	f.running++
	return f, nil
}

func (f *fakeMetronomes) stop()       { f.running-- }
func (f *fakeMetronomes) lost() error { return f.gone }

// While a guest is slowed there is one metronome, and its quotas are fine; none before, nor after.
func TestBeating(t *testing.T) {
	tr := newTree(t, nil)
	th, fake := tr.throttler(&fakeKeeper{}), &fakeMetronomes{}
	th.metronomes = fake
	x := tr.begin(t, th)
	if got := x.Least(1, 50*ms); !near(got, 0.03) {
		t.Errorf("least share %v", got)
	}
	tr.onWrite = func(group, Bandwidth) error {
		if fake.running != 1 {
			t.Errorf("a write with %d metronomes", fake.running)
		}
		return nil
	}
	for i, step := range []struct {
		share float64
		want  Bandwidth
		runs  int
	}{
		{1, tr.leaf, 0},
		{0.05, Bandwidth{piece, 24 * ms}, 1},
		{0.4, Bandwidth{4 * ms, 10 * ms}, 1},
		{1, tr.leaf, 0},
		{0.1, Bandwidth{piece, 12 * ms}, 1},
	} {
		if err := set(x, step.share); err != nil {
			t.Fatal(err)
		}
		if got := tr.read(1); got != step.want || fake.running != step.runs {
			t.Errorf("step %d: %v with %d metronomes, want %v with %d", i, got, fake.running, step.want, step.runs)
		}
	}
	if err := x.End(); err != nil {
		t.Fatal(err)
	}
	if tr.read(0) != tr.leaf || fake.running != 0 || fake.started != 2 {
		t.Errorf("after the end: %v, %d metronomes of %d", tr.read(0), fake.running, fake.started)
	}
}

// Without a metronome, or with more vCPUs than one follows, the kernel's ticks are reckoned with.
func TestNoMetronome(t *testing.T) {
	for _, tc := range []struct {
		name    string
		vcpus   int
		fake    *fakeMetronomes
		started int
	}{
		{"the host allows none", 2, nil, 0},
		{"it can't be started", 2, &fakeMetronomes{err: errors.New("no")}, 1},
		{"too many vCPUs", mostBeaten + 1, &fakeMetronomes{}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t, func(tr *tree) { tr.vcpus = tc.vcpus })
			th := tr.throttler(&fakeKeeper{})
			if tc.fake != nil {
				th.metronomes = tc.fake
			}
			x := tr.begin(t, th)
			for range 2 {
				if err := set(x, 0.1); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := tr.read(0), (Bandwidth{5 * ms, 50 * ms}); got != want || !near(x.share, 0.1) || !near(x.Least(1, 150*ms), 1.0/12) {
				t.Errorf("%v, share %v, least %v", got, x.share, x.Least(1, 150*ms))
			}
			if tc.fake != nil && tc.fake.started != tc.started {
				t.Errorf("%d were started, want %d", tc.fake.started, tc.started)
			}
			if err := x.End(); err != nil || tr.read(0) != tr.leaf {
				t.Errorf("after the end: %v, %v", tr.read(0), err)
			}
		})
	}
}

// A metronome that can't follow its vCPUs any more is let go, and the quotas are for ticks at the next look.
func TestLostMetronome(t *testing.T) {
	tr := newTree(t, nil)
	th, fake := tr.throttler(&fakeKeeper{}), &fakeMetronomes{}
	th.metronomes = fake
	x := tr.begin(t, th)
	if err := set(x, 0.1); err != nil {
		t.Fatal(err)
	}
	if got := x.Least(1, 150*ms); !near(got, 0.01) || fake.running != 1 {
		t.Fatalf("least %v with %d metronomes", got, fake.running)
	}
	fake.gone = errors.New("another control group")
	if got := x.Least(1, 150*ms); !near(got, 1.0/12) {
		t.Errorf("least share then %v", got)
	}
	if got, want := tr.read(0), (Bandwidth{5 * ms, 50 * ms}); got != want || fake.running != 0 {
		t.Errorf("then %v with %d metronomes, want %v with none", got, fake.running, want)
	}
	if err := set(x, 0.25); err != nil || fake.started != 1 {
		t.Errorf("%v, %d were started", err, fake.started)
	}
	if err := x.End(); err != nil || tr.read(0) != tr.leaf {
		t.Errorf("after the end: %v, %v", tr.read(0), err)
	}
}

// A throttler that may schedule in real time has a metronome that follows the threads that it is given.
func TestRealTime(t *testing.T) {
	real, err := newMetronomes()
	th, errNew := New(Config{Dir: filepath.Join(t.TempDir(), "spool"), Logger: slog.New(slog.DiscardHandler), keeper: &fakeKeeper{}})
	if errNew != nil {
		t.Fatal(errNew)
	}
	if (th.metronomes != nil) != (err == nil) {
		t.Errorf("the throttler has %v, a try says %v", th.metronomes, err)
	}
	if err != nil {
		return // without cgo, or forbidden
	}
	before := realTimeThreads(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m, err := real.start(os.Getpid(), []int{os.Getpid(), syscall.Gettid()})
	if err != nil {
		t.Fatal(err)
	}
	if got := realTimeThreads(t) - before; got != 2 {
		t.Errorf("%d threads more are scheduled in real time, want 2", got)
	}
	follows(t)
	if err := m.lost(); err != nil {
		t.Error(err)
	}
	m.stop()
	within(t, time.Second, "they are gone", func() bool { return realTimeThreads(t) == before })
	if _, err := real.start(os.Getpid(), []int{os.Getpid(), 1 << 30}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a thread that is not there: %v", err)
	}
	within(t, time.Second, "the other one is gone", func() bool { return realTimeThreads(t) == before })
}

// follows moves this thread from CPU to CPU; the metronomes must come along.
func follows(t *testing.T) {
	t.Helper()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &all) }()
	for cpu := range 1024 {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, fmt.Sprintf("a metronome is on CPU %d", cpu), func() bool {
			return slices.Contains(realTimeAffinities(t), one)
		})
	}
}

func realTimeAffinities(t *testing.T) []unix.CPUSet {
	t.Helper()
	var out []unix.CPUSet
	for _, id := range realTimeIDs(t) {
		var set unix.CPUSet
		if unix.SchedGetaffinity(id, &set) == nil {
			out = append(out, set)
		}
	}
	return out
}

func realTimeThreads(t *testing.T) int {
	t.Helper()
	return len(realTimeIDs(t))
}

// realTimeIDs are this process's threads that are scheduled in real time.
func realTimeIDs(t *testing.T) []int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%s/stat", task.Name()))
		if err != nil {
			continue
		}
		const policy = 38 // after the name
		if f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])); f[policy] == "1" {
			id, _ := strconv.Atoi(task.Name())
			ids = append(ids, id)
		}
	}
	return ids
}
