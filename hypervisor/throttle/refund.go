package throttle

import (
	"fmt"
	"strconv"
	"time"
)

// A piece in which a vCPU's thread has page faults is spent, in part at least, on what the host does for it: it gives it
// memory, or QEMU translates code that an emulated guest comes upon for the first time, as guests do that begin to stand
// still. That may take it several pieces, in which the guest gives no sign of life: with 3 % of a core, 5 ms of it are
// 150 ms of silence. So such a piece is given again at once, as a debt is forgiven: by setting the quota anew.

const (
	// mostRefunds is how many pieces may be given again one after another, and refundPart how many in each period in the
	// long run: a guest that gets new memory all the time shall be slowed too.
	mostRefunds = 4
	refundPart  = 0.1
)

// refund is what a vCPU is owed of the pieces that it spent.
type refund struct {
	at     time.Time
	cpu    time.Duration
	faults uint64
	owed   bool    // since it last stood still
	credit float64 // pieces
}

// due reports whether the vCPU, which has had so many faults and used so much CPU time, stands still for having spent a
// piece that is to be given again. state is its thread's.
func (r *refund) due(cpu time.Duration, faults uint64, state byte, now time.Time, period time.Duration) bool {
	if r.at.IsZero() {
		*r = refund{at: now, cpu: cpu, faults: faults, credit: mostRefunds}
		return false
	}
	r.credit = min(mostRefunds, r.credit+refundPart*now.Sub(r.at).Seconds()/period.Seconds())
	owed, stands := r.owed || faults != r.faults, cpu == r.cpu
	r.at, r.cpu, r.faults = now, cpu, faults
	due := owed && stands && state == runnable && r.credit >= 1
	r.owed = owed && (!stands || state == waiting)
	if due {
		r.credit--
	}
	return due
}

// States of a thread, of those in proc_pid_stat(5): it runs or could, and it waits for a fault's page.
const (
	runnable = 'R'
	waiting  = 'D'
)

// faults returns how many page faults the thread has had, and its state.
func (k kernel) faults(pid, thread int) (n uint64, state byte, err error) {
	const minor, major = 7, 9 // after the state
	file := k.path(pid, "task", strconv.Itoa(thread), "stat")
	fields, err := stat(file, major)
	if err != nil {
		return 0, 0, err
	}
	for _, f := range []int{minor, major} {
		x, err := strconv.ParseUint(string(fields[f]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", file, err)
		}
		n += x
	}
	return n, fields[0][0], nil
}
