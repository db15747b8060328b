package throttle

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// QEMU's migration thread waits for the vCPUs when it stops the guest, and for those of an emulated one also at the end of each
// pass, when it takes over what they have written (tcg_log_global_after_sync). A vCPU that stands still for its quota notices
// only in its next piece: up to a period in which nothing is sent, and before a switchover two in which the guest may be
// silent. So it is given a piece at once.

const (
	// awaitEvery is how often the migration thread is looked at. What it waits for when it is seen to wait twice is no lock that
	// is held for a moment.
	awaitEvery = 2 * time.Millisecond
	// mostAwaited is how many pieces a vCPU is given for one wait: the first may have been spent by when QEMU is heeded.
	mostAwaited = 2
)

// Names of QEMU's threads as libvirt has them named: of the migration itself (live_migration before QEMU 9.2), and of multifd's
// channels, for which the migration thread waits all the time.
var (
	migrationThreads = []string{"mig/src/main", "live_migration"}
	multifdThreads   = []string{"mig/src/send", "multifdsend"}
)

// waiter watches what the migration thread of a QEMU process waits for.
type waiter struct {
	thread int // 0 if there is none whose waits say anything
	on     string
	given  int             // pieces, for this wait
	cpu    []time.Duration // used by each vCPU at the look before
}

// migration returns the process's migration thread; 0 if it has none, or one whose waits say nothing.
func (k kernel) migration(pid int) (thread int) {
	tasks, err := os.ReadDir(k.path(pid, "task"))
	if err != nil {
		return 0
	}
	for _, t := range tasks {
		name, err := os.ReadFile(k.path(pid, "task", t.Name(), "comm"))
		switch {
		case err != nil:
		case hasPrefix(name, multifdThreads):
			return 0
		case hasPrefix(name, migrationThreads):
			thread, _ = strconv.Atoi(t.Name())
		}
	}
	return thread
}

// hasPrefix reports whether a name has one of the prefixes.
func hasPrefix(name []byte, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(string(name), p) {
			return true
		}
	}
	return false
}

// waits returns what the thread waits for without limit of time, "" if it does not (proc_pid_syscall(5)).
func (k kernel) waits(pid, thread int) string {
	const number, address, timeout = 0, 1, 4
	text, err := os.ReadFile(k.path(pid, "task", strconv.Itoa(thread), "syscall"))
	if err != nil {
		return ""
	}
	fields := bytes.Fields(text)
	if len(fields) <= timeout || string(fields[number]) != futex || string(fields[timeout]) != "0x0" {
		return ""
	}
	return string(fields[address])
}

var futex = strconv.Itoa(syscall.SYS_FUTEX)

// attend looks at the migration thread once, and gives a piece to each vCPU that stands still while it waits.
func (th *Throttle) attend(stop <-chan struct{}, w *waiter) {
	on := th.t.kernel.waits(th.process.PID, w.thread)
	again := on == w.on
	if w.on = on; !again {
		w.given = 0
	}
	if on == "" || w.given == mostAwaited {
		return
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	select {
	case <-stop: // while this waited: the quotas are given back
		return
	default:
	}
	given := false
	for i, g := range th.groups {
		u, err := g.use()
		stands := err == nil && again && u.CPU == w.cpu[i]
		w.cpu[i] = u.CPU
		if stands && th.inForce[i] != th.originals[i] {
			th.renew(i)
			given = true
		}
	}
	if given {
		w.given++
	}
}
