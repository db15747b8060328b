package throttle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRefundIsDue(t *testing.T) {
	const period = 48 * ms
	type look struct {
		at, cpu time.Duration
		faults  uint64
		state   byte
		want    bool
	}
	first := look{0, 0, 7, 'R', false}
	for name, looks := range map[string][]look{
		"no faults":             {first, {6 * ms, ms, 7, 'R', false}, {12 * ms, ms, 7, 'R', false}},
		"a piece with faults":   {first, {6 * ms, ms, 9, 'R', false}, {12 * ms, ms, 9, 'R', true}, {18 * ms, ms, 9, 'R', false}},
		"seen in two parts":     {first, {6 * ms, ms, 9, 'R', false}, {12 * ms, 2 * ms, 9, 'R', false}, {18 * ms, 2 * ms, 9, 'R', true}},
		"it has nothing to do":  {first, {6 * ms, ms, 9, 'S', false}, {12 * ms, ms, 9, 'S', false}, {18 * ms, ms, 9, 'R', false}},
		"it waits for a page":   {first, {6 * ms, ms, 9, 'R', false}, {12 * ms, ms, 9, 'D', false}, {18 * ms, ms, 9, 'R', true}},
		"faults of long before": {first, {6 * ms, ms, 9, 'R', false}, {12 * ms, ms, 9, 'S', false}, {54 * ms, 2 * ms, 9, 'R', false}, {60 * ms, 2 * ms, 9, 'R', false}},
	} {
		var r refund
		began := time.Now()
		for _, l := range looks {
			if got := r.due(l.cpu, l.faults, l.state, began.Add(l.at), period); got != l.want {
				t.Errorf("%s: at %s: %t, want %t", name, l.at, got, l.want)
			}
		}
	}
}

// A guest that has faults all the time is slowed too: after a few pieces it gets a tenth more than its quota.
func TestRefundsAreFew(t *testing.T) {
	const period = 48 * ms
	var r refund
	now, cpu, faults, due := time.Now(), time.Duration(0), uint64(0), 0
	for range 4 * 100 { // twelve looks in each of a hundred periods, a piece spent by every third
		for _, spends := range []bool{true, false, false} {
			if spends {
				cpu, faults = cpu+ms, faults+1
			}
			if r.due(cpu, faults, 'R', now, period) {
				due++
			}
			now = now.Add(period / 12)
		}
	}
	if due < 9 || due > 10+mostRefunds {
		t.Errorf("%d refunds in 100 periods, want about %v", due, 100*refundPart)
	}
}

// The quota of a vCPU that had page faults while it spent the last one is set anew, for each vCPU by itself.
func TestRefund(t *testing.T) {
	tr := newTree(t, nil)
	th := tr.throttler(&fakeKeeper{})
	faults := func(vcpu, n int) {
		tr.put(fmt.Sprintf("proc/%d/task/%d/stat", qemuPID, qemuPID+1+vcpu), fmt.Sprintf("1 (CPU %d/TCG) R) R %s%d 0 1 0 0\n", vcpu, strings.Repeat("0 ", 6), n))
	}
	synctest.Test(t, func(t *testing.T) {
		faults(0, 3)
		faults(1, 3)
		x := tr.begin(t, th)
		writes := tr.slowed(t, x)
		for n := range 3 {
			time.Sleep(20 * ms)
			synctest.Wait()
			tr.spent++
			tr.counters(0, time.Duration(n+1)*5*ms, 0)
			tr.counters(1, time.Duration(n+1)*5*ms, 0)
			faults(0, 4+n)
			time.Sleep(30 * ms)
			synctest.Wait()
		}
		if writes[tr.dir(0)] != 3 || writes[tr.dir(1)] != 0 {
			t.Errorf("writes: %v", writes)
		}
		tr.onWrite = nil
		if err := x.End(); err != nil {
			t.Fatal(err)
		}
	})
}

// What one vCPU was given back stays so when another's quota can't be written: no debt is forgiven there, and nothing given
// again, by what was in force before.
func TestPartlyGivenBack(t *testing.T) {
	tr := newTree(t, nil)
	x := tr.begin(t, tr.throttler(&fakeKeeper{}))
	if err := set(x, 0.1); err != nil {
		t.Fatal(err)
	}
	tr.onWrite = func(g group, _ Bandwidth) error {
		if g.dir == tr.dir(1) {
			return errors.New("no")
		}
		return nil
	}
	if err := set(x, 1); err == nil {
		t.Fatal("a quota that can't be written is no error")
	}
	if x.inForce[0] != tr.leaf || x.inForce[1] == tr.leaf {
		t.Errorf("in force: %v, of which vCPU 0 has its own again", x.inForce)
	}
	tr.onWrite = nil
	if err := x.End(); err != nil || tr.read(1) != tr.leaf {
		t.Errorf("%v, %v at the end", err, tr.read(1))
	}
}
