package throttle

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestIndebted(t *testing.T) {
	const period = 40 * ms
	type look struct {
		at, cpu   time.Duration
		throttled int64
		want      bool
	}
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"a spent quota, and the next", []look{{0, 1 * ms, 1, false}, {20 * ms, 1 * ms, 1, false}, {39 * ms, 1 * ms, 2, false}, {50 * ms, 2 * ms, 2, false}, {89 * ms, 2 * ms, 3, false}, {91 * ms, 3 * ms, 3, false}}},
		{"overdrawn", []look{{0, 10 * ms, 1, false}, {39 * ms, 10 * ms, 2, false}, {41 * ms, 10 * ms, 2, true}}},
		{"overdrawn again at once", []look{{0, 10 * ms, 1, false}, {50 * ms, 10 * ms, 2, true}, {60 * ms, 10 * ms, 2, false}, {90 * ms, 20 * ms, 3, false}, {145 * ms, 20 * ms, 4, true}}},
		{"forgiven in vain", []look{{0, 10 * ms, 1, false}, {50 * ms, 10 * ms, 2, true}, {89 * ms, 10 * ms, 3, false}, {91 * ms, 10 * ms, 3, true}}},
		{"nothing to do", []look{{0, 10 * ms, 1, false}, {50 * ms, 10 * ms, 1, false}, {time.Second, 10 * ms, 1, false}, {1010 * ms, 11 * ms, 1, false}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s stand
			began := time.Now()
			for _, l := range tc.looks {
				if got := s.indebted(VCPUUse{CPU: l.cpu, ThrottledPeriods: l.throttled}, began.Add(l.at), period); got != l.want {
					t.Errorf("at %s: %t, want %t", l.at, got, l.want)
				}
			}
		})
	}
}

// slowed slows the guest to 5 ms in 50 ms, and counts how often that is written again from then on, by directory.
func (tr *tree) slowed(t *testing.T, x *Throttle) (writes map[string]int) {
	t.Helper()
	if err := set(x, 0.1); err != nil {
		t.Fatal(err)
	}
	writes = map[string]int{}
	tr.onWrite = func(g group, b Bandwidth) error {
		if want := (Bandwidth{5 * ms, 50 * ms}); b != want {
			t.Errorf("%v is written, want %v", b, want)
		}
		writes[g.dir]++
		return nil
	}
	return writes
}

// The quota of a vCPU in debt is set anew, unchanged, for as long as it stands still; that of one that runs is left alone, as
// is everything once the guest was given back its speed.
func TestForgive(t *testing.T) {
	versions(t, func(t *testing.T, v2 bool) {
		tr := newTree(t, func(tr *tree) { tr.v2 = v2 })
		th := tr.throttler(&fakeKeeper{})
		synctest.Test(t, func(t *testing.T) {
			x := tr.begin(t, th)
			writes := tr.slowed(t, x)
			for range 20 { // vCPU 0 runs, vCPU 1 stands still
				tr.spent++
				tr.counters(0, time.Duration(tr.spent)*5*ms, 0)
				tr.counters(1, 0, 0)
				time.Sleep(50 * ms)
				synctest.Wait()
			}
			// Every two periods, without a metronome, and up to a quarter more for being looked at only so often.
			if n := writes[tr.dir(1)]; n < 8 || n > 10 || writes[tr.dir(0)] != 0 {
				t.Errorf("writes: %v", writes)
			}
			tr.onWrite = nil
			if err := set(x, 1); err != nil {
				t.Fatal(err)
			}
			before := tr.writes
			tr.spent++
			tr.counters(1, 0, 0)
			time.Sleep(time.Second)
			synctest.Wait()
			if tr.writes != before || tr.read(1) != tr.leaf {
				t.Errorf("%d writes after the guest got back its speed, %v", tr.writes-before, tr.read(1))
			}
			if err := set(x, 0.1); err != nil {
				t.Fatal(err)
			}
			if err := x.End(); err != nil {
				t.Fatal(err)
			}
		})
	})
}
