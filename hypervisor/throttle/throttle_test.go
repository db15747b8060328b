package throttle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func versions(t *testing.T, fn func(t *testing.T, v2 bool)) {
	for _, v2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v1", true: "v2"}[v2], func(t *testing.T) { fn(t, v2) })
	}
}

func TestSetAndEnd(t *testing.T) {
	versions(t, func(t *testing.T, v2 bool) {
		limited := Bandwidth{Quota: 160 * ms, Period: 200 * ms}
		tr := newTree(t, func(tr *tree) { tr.v2, tr.leaf = v2, limited })
		keeper := &fakeKeeper{}
		th := tr.throttler(keeper)
		x := tr.begin(t, th)
		if diff := cmp.Diff(map[int]Bandwidth{0: limited, 1: limited}, x.Original()); diff != "" {
			t.Errorf("originals (-want +got):\n%s", diff)
		}
		if err := set(x, 0.9); err != nil {
			t.Fatal(err)
		}
		if tr.writes != 0 || keeper.held != 0 || len(tr.spooled()) != 0 {
			t.Errorf("a share above the original: %d writes, %d holds, spool %v", tr.writes, keeper.held, tr.spooled())
		}
		tr.onWrite = func(group, Bandwidth) error {
			if keeper.held != 1 || len(tr.spooled()) != 1 {
				t.Errorf("a write with %d holds and the spool %v", keeper.held, tr.spooled())
			}
			return nil
		}
		if err := set(x, 0.25); err != nil {
			t.Fatal(err)
		}
		for i := range tr.vcpus {
			if got, want := tr.read(i), (Bandwidth{5 * ms, 20 * ms}); got != want {
				t.Errorf("vCPU %d has %v, want %v", i, got, want)
			}
		}
		for range 2 { // the second does nothing
			if err := x.End(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range tr.vcpus {
			if got := tr.read(i); got != limited {
				t.Errorf("vCPU %d has %v after the end, want %v", i, got, limited)
			}
		}
		if keeper.held != 0 || len(tr.spooled()) != 0 {
			t.Errorf("after the end: %d holds, spool %v", keeper.held, tr.spooled())
		}
		if set(x, 0.5) == nil {
			t.Error("an ended throttle can be set")
		}
		if err := tr.begin(t, th).End(); err != nil {
			t.Error(err)
		}
	})
}

func TestSetRefuses(t *testing.T) {
	tr := newTree(t, nil)
	keeper := &fakeKeeper{err: ErrUnguarded}
	th := tr.throttler(keeper)
	x := tr.begin(t, th)
	_, err := th.Begin(t.Context(), guestID, "web")
	wantError(t, "a second Begin", err, ErrBusy)
	for _, share := range []float64{0, -1, 1.01} {
		if set(x, share) == nil {
			t.Errorf("share %v is taken", share)
		}
	}
	wantError(t, "no watchdog", set(x, 0.3), ErrUnguarded)
	if tr.writes != 0 || len(tr.spooled()) != 0 {
		t.Errorf("unguarded: %d writes, spool %v", tr.writes, tr.spooled())
	}
	keeper.err = nil
	if err := set(x, 0.3); err != nil {
		t.Fatal(err)
	}
	keeper.err = ErrUnguarded
	wantError(t, "the watchdog died", set(x, 0.2), ErrUnguarded)
	if x.forgiver == nil {
		t.Error("still slowed as before, and its debts are no longer forgiven")
	}
	if err := set(x, 0.4); err != nil {
		t.Errorf("giving back needs no watchdog: %v", err)
	}
	tr.endQEMU()
	wantError(t, "Set", set(x, 0.3), ErrNotRunning)
	_, err = x.Use()
	wantError(t, "Use", err, ErrNotRunning)
	if err := th.Close(); err != nil {
		t.Errorf("the end of a domain that is gone: %v", err)
	}
	if len(tr.spooled()) != 0 {
		t.Errorf("spool %v", tr.spooled())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = th.Begin(ctx, guestID, "web")
	wantError(t, "Begin", err, context.Canceled)
}

func TestPauseAndUse(t *testing.T) {
	versions(t, func(t *testing.T, v2 bool) {
		tr := newTree(t, func(tr *tree) { tr.v2, tr.parent = v2, Bandwidth{75 * ms, 100 * ms} })
		x := tr.begin(t, tr.throttler(&fakeKeeper{}))
		for _, step := range []struct {
			share float64
			pause time.Duration
			want  float64
		}{{0.01, 50 * ms, 0.25}, {0.01, 150 * ms, 1.0 / 12}, {0.9, 150 * ms, 0.75}, {1, 150 * ms, 0.75}} {
			got, err := x.Set(step.share, 1, step.pause)
			if err != nil {
				t.Fatal(err)
			}
			if !near(got, step.want) {
				t.Errorf("share %v within %s: %v in force, want %v", step.share, step.pause, got, step.want)
			}
		}
		tr.counters(0, 3*time.Second, 2*time.Second)
		tr.counters(1, time.Second, 0)
		got, err := x.sample()
		if err != nil {
			t.Fatal(err)
		}
		want := []VCPUUse{
			{VCPU: 0, CPU: 3 * time.Second, Throttled: 2 * time.Second, Periods: 7, ThrottledPeriods: 3},
			{VCPU: 1, CPU: time.Second, Periods: 7, ThrottledPeriods: 3},
		}
		if diff := cmp.Diff(want, got.use); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
		if u, err := x.Use(); err != nil || len(u.VCPUs) != 2 {
			t.Errorf("used %+v: %v", u, err)
		}
		if err := x.End(); err != nil {
			t.Error(err)
		}
	})
}

func TestUsage(t *testing.T) {
	now := time.Now()
	before := sample{now.Add(10 * time.Second), []VCPUUse{{VCPU: 0, CPU: 2 * time.Second, Throttled: 4 * time.Second}, {VCPU: 1}}}
	after := sample{now.Add(12 * time.Second), []VCPUUse{
		{VCPU: 0, CPU: 2500 * ms, Throttled: 5 * time.Second}, {VCPU: 1, CPU: 200 * ms}, {VCPU: 2, CPU: time.Hour},
	}}
	got := usage(before, after)
	want := Usage{
		Interval: 2 * time.Second,
		VCPUs:    []VCPUUsage{{0, 0.25, 0.5}, {1, 0.1, 0}, {2, 0, 0}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Busiest() != 0.25 {
		t.Errorf("busiest %v, want 0.25", got.Busiest())
	}
}

// A write that fails half way leaves some vCPUs throttled: End owes those too, and keeps owing while
// the kernel refuses.
func TestHalfWritten(t *testing.T) {
	tr := newTree(t, nil)
	keeper := &fakeKeeper{}
	x := tr.begin(t, tr.throttler(keeper))
	tr.failFrom = 3
	wantError(t, "Set", set(x, 0.3), syscall.EIO)
	if tr.read(0) == tr.leaf {
		t.Fatal("nothing was written: the test tests nothing")
	}
	wantError(t, "End", x.End(), syscall.EIO)
	if keeper.held != 1 || len(tr.spooled()) != 1 {
		t.Errorf("while it is owed: %d holds, spool %v", keeper.held, tr.spooled())
	}
	tr.failFrom = 0
	if err := x.End(); err != nil {
		t.Fatal(err)
	}
	if got := tr.read(0); got != tr.leaf || keeper.held != 0 || len(tr.spooled()) != 0 {
		t.Errorf("in the end: %v, %d holds, spool %v", got, keeper.held, tr.spooled())
	}
}

// What a dead process throttled is given back by the next, and only then; another QEMU's groups, even
// under the same path, are not touched.
func TestRecover(t *testing.T) {
	original, throttled := unlimited(), Bandwidth{5 * ms, 20 * ms}
	for _, tc := range []struct {
		name   string
		change func(tr *tree)
		want   Bandwidth
		r      Recovered
	}{
		{"owner dead", (*tree).restartSelf, original, Recovered{Restored: 1}},
		{"owner killed, not yet buried", func(tr *tree) {
			name := fmt.Sprintf("proc/%d/stat", os.Getpid())
			text, err := os.ReadFile(filepath.Join(tr.root, name))
			if err != nil {
				tr.fail("%v", err)
			}
			tr.put(name, strings.Replace(string(text), ") S", ") Z", 1))
		}, original, Recovered{Restored: 1}},
		{"owner alive", func(*tree) {}, throttled, Recovered{Kept: 1}},
		{"another QEMU has the pid", func(tr *tree) {
			tr.restartSelf()
			tr.start(qemuPID, "qemu-system-x86", 999)
		}, throttled, Recovered{Ended: 1}},
		{"another boot", func(tr *tree) {
			tr.restartSelf()
			tr.put("proc/sys/kernel/random/boot_id", "boot-2\n")
		}, throttled, Recovered{Ended: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := newTree(t, nil)
			th := tr.throttler(&fakeKeeper{})
			if err := set(tr.begin(t, th), 0.25); err != nil {
				t.Fatal(err)
			}
			tc.change(tr)
			r, err := recoverSpool(tr.kernel, th.spool, th.log, func(p process) bool { return !tr.kernel.lives(p) })
			if err != nil || r != tc.r {
				t.Errorf("got %+v, %v, want %+v", r, err, tc.r)
			}
			if got := tr.read(1); got != tc.want {
				t.Errorf("vCPU 1 has %v, want %v", got, tc.want)
			}
			if n := len(tr.spooled()); n != tc.r.Kept {
				t.Errorf("%d entries in the spool, want %d", n, tc.r.Kept)
			}
		})
	}
}

func TestRecoverFaults(t *testing.T) {
	tr := newTree(t, nil)
	th := tr.throttler(&fakeKeeper{})
	if err := set(tr.begin(t, th), 0.25); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(filepath.Join(tr.root, "nothing"), th.log); err != nil {
		t.Errorf("a spool that is not there: %v", err)
	}
	// One entry that says nothing does not keep the others from what they are owed.
	tr.put("spool/00000000-0000-4000-8000-000000000000.json", "{")
	tr.put("spool/11111111-2222-4333-8444-666666666666.json.new", `{"schema":1}`)
	tr.restartSelf()
	all := func(process) bool { return true }
	r, err := recoverSpool(tr.kernel, th.spool, th.log, all)
	if err == nil || r != (Recovered{Restored: 1}) {
		t.Errorf("got %+v, %v", r, err)
	}
	if got := tr.read(0); got != tr.leaf {
		t.Errorf("vCPU 0 has %v", got)
	}
	if n := len(tr.spooled()); n != 1 {
		t.Errorf("spool %v, want the faulty one", tr.spooled())
	}
}

// A process that comes after one that died in the middle takes the originals from the spool, not the
// throttled values that it finds.
func TestTakeOver(t *testing.T) {
	tr := newTree(t, nil)
	if err := set(tr.begin(t, tr.throttler(&fakeKeeper{})), 0.25); err != nil {
		t.Fatal(err)
	}
	other := tr.kernel
	tr.restartSelf()
	tr.failFrom = 1 // so that New can't give it back
	th := tr.throttler(&fakeKeeper{})
	tr.failFrom = 0
	x := tr.begin(t, th)
	if got := x.Original()[0]; got != tr.leaf {
		t.Errorf("original %v, want %v", got, tr.leaf)
	}
	if err := set(x, 0.5); err != nil {
		t.Fatal(err)
	}
	// The first one's watchdog comes late: it is no longer its business.
	first := process{PID: os.Getpid(), Start: 100}
	if _, err := recoverSpool(other, th.spool, th.log, func(p process) bool { return p == first }); err != nil {
		t.Fatal(err)
	}
	if got, want := tr.read(0), (Bandwidth{5 * ms, 10 * ms}); got != want {
		t.Errorf("vCPU 0 has %v, want %v", got, want)
	}
	if err := x.End(); err != nil {
		t.Fatal(err)
	}
	if got := tr.read(0); got != tr.leaf {
		t.Errorf("vCPU 0 has %v, want %v", got, tr.leaf)
	}
}

// What could not be given back so far is given back when the domain is looked at again, slowed or not.
func TestBeginGivesBack(t *testing.T) {
	tr := newTree(t, nil)
	if err := set(tr.begin(t, tr.throttler(&fakeKeeper{})), 0.25); err != nil {
		t.Fatal(err)
	}
	tr.restartSelf()
	tr.failFrom = 1
	th := tr.throttler(&fakeKeeper{})
	tr.failFrom = 0
	x := tr.begin(t, th)
	if err := x.End(); err != nil || tr.read(0) != tr.leaf || len(tr.spooled()) != 0 {
		t.Errorf("%v, vCPU 0 has %v, spool %v", err, tr.read(0), tr.spooled())
	}
}

// A guest gets its speed back although the spool is gone, and that is the end of it.
func TestEndWithoutASpool(t *testing.T) {
	tr := newTree(t, nil)
	th, fake := tr.throttler(&fakeKeeper{}), &fakeMetronomes{}
	th.metronomes = fake
	x := tr.begin(t, th)
	if err := set(x, 0.25); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(tr.root, "spool")); err != nil {
		t.Fatal(err)
	}
	if err := x.End(); err != nil || tr.read(0) != tr.leaf || tr.read(1) != tr.leaf || fake.running != 0 {
		t.Errorf("%v, the vCPUs have %v and %v, %d metronomes run", err, tr.read(0), tr.read(1), fake.running)
	}
	if th.active[guestID] != nil {
		t.Error("it is still held")
	}
}

// Where none of the groups is to be seen although the process lives, as in another mount namespace, nothing is forgotten.
func TestRecoverSeesNoGroups(t *testing.T) {
	tr := newTree(t, nil)
	th := tr.throttler(&fakeKeeper{})
	if err := set(tr.begin(t, th), 0.25); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(tr.root, "cg"), filepath.Join(tr.root, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	r, err := recoverSpool(tr.kernel, th.spool, th.log, func(process) bool { return true })
	if err == nil || r != (Recovered{}) || len(tr.spooled()) != 1 {
		t.Errorf("%+v, %v, spool %v", r, err, tr.spooled())
	}
}

// Any sequence of Set, End, crashes at any write, and restarts ends with the originals; nothing on the
// way is above the original, refused by the kernel, or silent for longer than promised.
func TestEverySequence(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		tr := buildTree(filepath.Join(root, fmt.Sprint(n)), t.Fatalf, func(tr *tree) {
			tr.v2 = rapid.Bool().Draw(t, "v2")
			tr.parent = genBandwidth("parent").Draw(t, "parent")
			tr.leaf = genBandwidth("leaf").Draw(t, "leaf")
			if tr.leaf.Share() > tr.parent.Share() {
				tr.leaf = unlimited() // v1 allows nothing else
			}
		})
		tr.onWrite = func(_ group, b Bandwidth) error {
			if b.Quota > 0 && b.Share() > tr.leaf.Share() {
				t.Fatalf("%v, the original is %v", b, tr.leaf)
			}
			return nil
		}
		th, keeper := tr.throttler(&fakeKeeper{}), &fakeKeeper{}
		pause := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause"))
		var x *Throttle
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if x == nil {
				var err error
				if x, err = th.Begin(context.Background(), guestID, "web"); err != nil {
					t.Fatalf("Begin: %v", err)
				}
			}
			switch rapid.SampledFrom([]string{"set", "set", "set", "end", "crash"}).Draw(t, "step") {
			case "set":
				if _, err := x.Set(rapid.Float64Range(0.001, 1).Draw(t, "share"), 1, pause); err != nil {
					t.Fatalf("Set: %v", err)
				}
				for i := range tr.vcpus {
					if b := tr.read(i); b != tr.leaf && silentPeriods*b.Period >= pause {
						t.Fatalf("%v within a pause of %s", b, pause)
					}
				}
			case "end":
				if err := x.End(); err != nil {
					t.Fatalf("End: %v", err)
				}
				x = nil
			case "crash":
				tr.failFrom = tr.writes + rapid.IntRange(1, 5).Draw(t, "at write")
				if _, err := x.Set(rapid.Float64Range(0.001, 1).Draw(t, "share"), 1, pause); err != nil && !errors.Is(err, syscall.EIO) {
					t.Fatalf("Set: %v", err)
				}
				if rapid.Bool().Draw(t, "while ending") {
					_ = x.End()
				}
				tr.failFrom = 0
				tr.restartSelf()
				x.die()
				th, x = tr.throttler(keeper), nil
			}
		}
		if rapid.Bool().Draw(t, "last crash") {
			if x != nil {
				x.die()
			}
			tr.restartSelf()
			tr.throttler(keeper)
		} else if err := th.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		for i := range tr.vcpus {
			if got := tr.read(i); got != tr.leaf {
				t.Fatalf("vCPU %d has %v in the end, had %v", i, got, tr.leaf)
			}
		}
		if len(tr.spooled()) != 0 {
			t.Fatalf("spool %v", tr.spooled())
		}
	})
}
