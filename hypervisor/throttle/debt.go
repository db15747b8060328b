package throttle

import (
	"slices"
	"time"
)

// A vCPU that is in the kernel when its quota is spent runs on until it is back in user space (since Linux 6.18: "sched/fair:
// Switch to task based throttle model"). What it ran over is taken from the quotas of the next periods: a page fault of
// 10 ms, as a guest's first write to a huge page is where memory is scarce, costs a vCPU that has 1 ms in each period ten
// periods of silence. Setting a quota, be it the same, forgives the debt (tg_set_cfs_bandwidth in kernel/sched/core.c).

const (
	// debtEvery is the part of a period after which vCPUs are looked at, and leastDebtEvery the least time: what is
	// overdrawn of periods shorter than that is soon paid.
	debtEvery      = 1.0 / 8
	leastDebtEvery = 5 * time.Millisecond
	// debtCost is the least time for each vCPU: a look at one takes some 40 µs.
	debtCost = 500 * time.Microsecond
)

// stand is how long a vCPU has stood still.
type stand struct {
	cpu     time.Duration
	periods int64 // in which its quota ran out, at since
	since   time.Time
}

// indebted reports whether the vCPU stands still for its quotas for that time.
func (s *stand) indebted(u VCPUUse, now time.Time, most time.Duration) bool {
	if s.since.IsZero() || u.CPU != s.cpu {
		*s = stand{cpu: u.CPU, periods: u.ThrottledPeriods, since: now}
		return false
	}
	if u.ThrottledPeriods == s.periods || now.Sub(s.since) < most {
		return false
	}
	s.periods, s.since = u.ThrottledPeriods, now
	return true
}

// account is what is known of a vCPU that is slowed.
type account struct {
	stand
	refund
}

// forgiveDebts sets the quotas of vCPUs that are in debt, are owed a piece, or are waited for, anew until stop is closed.
func (th *Throttle) forgiveDebts(stop <-chan struct{}) {
	accounts := make([]account, len(th.groups))
	timer := time.NewTimer(leastDebtEvery)
	defer timer.Stop()
	waits := time.NewTicker(awaitEvery)
	defer waits.Stop()
	w := waiter{thread: th.t.kernel.migration(th.process.PID), cpu: make([]time.Duration, len(th.groups))}
	if w.thread == 0 {
		waits.Stop()
	}
	for {
		select {
		case <-stop:
			return
		case <-waits.C:
			th.attend(stop, &w)
		case <-timer.C:
			timer.Reset(th.forgive(stop, accounts))
		}
	}
}

// forgive looks at the vCPUs once and returns how soon to look again.
func (th *Throttle) forgive(stop <-chan struct{}, accounts []account) (next time.Duration) {
	th.mu.Lock()
	defer th.mu.Unlock()
	select {
	case <-stop: // while this waited: the quotas are given back
		return leastDebtEvery
	default:
	}
	next = max(leastDebtEvery, time.Duration(len(th.groups))*debtCost)
	for i, g := range th.groups {
		b := th.inForce[i]
		if b == th.originals[i] {
			continue
		}
		next = max(next, time.Duration(debtEvery*float64(b.Period)))
		most := b.Period // one that did not overdraw has run again by then
		if th.beat == nil {
			most *= silentPeriods // it overdraws by up to a tick as a rule
		}
		u, err := g.use()
		if err != nil {
			continue
		}
		now, a := time.Now(), &accounts[i]
		owes := a.indebted(u, now, most)
		faults, state, err := th.t.kernel.faults(th.process.PID, g.thread)
		owed := err == nil && a.due(u.CPU, faults, state, now, b.Period)
		if !owes && !owed {
			continue
		}
		th.renew(i)
	}
	return next
}

// renew sets a vCPU's quota anew: it has all of it again. Under th.mu.
func (th *Throttle) renew(i int) {
	if err := th.groups[i].rewrite(th.t.kernel.write, th.inForce[i]); err != nil {
		th.t.log.Debug("a spent quota could not be set anew", "domain", th.id, "vcpu", th.groups[i].vcpu, "err", err)
	}
}

// forgiveSlowed and stopForgiving are called under th.mu. A guest that could not be set to another share still has the one
// before, and its debts.
func (th *Throttle) forgiveSlowed() {
	if th.forgiver == nil && th.inForce != nil && !slices.Equal(th.inForce, th.originals) {
		th.forgiver = make(chan struct{})
		go th.forgiveDebts(th.forgiver)
	}
}

func (th *Throttle) stopForgiving() {
	if th.forgiver != nil {
		close(th.forgiver)
		th.forgiver = nil
	}
}
