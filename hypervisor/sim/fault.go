package sim

import (
	"fmt"
	"time"

	"drover/hypervisor"
)

// FaultKind is what goes wrong.
type FaultKind string

// The faults.
const (
	// ConnLost breaks the agent's connection to the source's libvirt for a while; the migrate call
	// returns with an unknown outcome and the job goes on.
	ConnLost FaultKind = "connection-lost"
	// DaemonRestart ends the source's libvirtd for a while: its connection to the target breaks, so
	// that the target's copy is killed unless it runs, and its statistics are gone. It takes back
	// what it finds when it returns, but dares not resume a guest that may run on the target.
	DaemonRestart FaultKind = "daemon-restart"
	// TargetDies turns the target off, for a while or for good.
	TargetDies FaultKind = "target-dies"
	// FinishLost loses the target's last answer: the target runs, and the source is resumed.
	FinishLost FaultKind = "finish-lost"
	// AbortIgnored lets aborts return nil and do nothing.
	AbortIgnored FaultKind = "abort-ignored"
	// AbortOutside aborts the job, as virsh domjobabort would.
	AbortOutside FaultKind = "abort-outside"
	// SlowStart keeps the job invisible for 3 s after the call: an abort finds none.
	SlowStart FaultKind = "slow-start"
	// StatsLost loses the statistics of the completed job.
	StatsLost FaultKind = "statistics-lost"
	// GuestOff shuts the guest down from inside.
	GuestOff FaultKind = "guest-off"
	// LeftPaused interrupts the switchover: no job, the source paused, the target's copy gone.
	LeftPaused FaultKind = "left-paused"
	// ResumeFails leaves the source paused when a switchover is taken back.
	ResumeFails FaultKind = "resume-fails"
	// MonitorHang lets every call about the domain on the source block for a while.
	MonitorHang FaultKind = "monitor-hang"
	// AutostartRefused makes the source refuse to change the flag, from then on.
	AutostartRefused FaultKind = "autostart-refused"
	// PostcopyCut breaks the stream of a post-copy, which can't go on for a while.
	PostcopyCut FaultKind = "postcopy-cut"
	// PostcopyRefused makes libvirt refuse to switch to post-copy.
	PostcopyRefused FaultKind = "postcopy-refused"
)

// Faults lists all kinds.
func Faults() []FaultKind {
	return []FaultKind{
		ConnLost, DaemonRestart, TargetDies, FinishLost, AbortIgnored, AbortOutside, SlowStart,
		StatsLost, GuestOff, LeftPaused, ResumeFails, MonitorHang, AutostartRefused,
		PostcopyCut, PostcopyRefused,
	}
}

// Moment is a point in a migration's life.
type Moment string

// The moments.
const (
	AnyTime      Moment = ""           // counted from when it was injected
	AtCall       Moment = "call"       // the migrate call arrives
	AtPrepare    Moment = "prepare"    // the job becomes visible
	AtCopy       Moment = "copy"       // the first page goes
	AtSwitchover Moment = "switchover" // the vCPUs were stopped
	AtPostcopy   Moment = "postcopy"   // the target runs, the rest of the memory follows
	AtFinish     Moment = "finish"     // the target runs, the source does not know yet
)

// Fault is one thing to go wrong, once: After later than Moment in the migration of Domain (the next
// of any domain if empty; AnyTime needs one). One that has no bearing on a migration as far as it has
// come is lost.
type Fault struct {
	Kind   FaultKind
	Domain hypervisor.DomainID
	Moment Moment
	After  time.Duration
	// For is how long a connection, daemon, host or monitor stays away; 0 is for good.
	For time.Duration
}

// String is the fault in one word, such as "target-dies@copy+2s/60s".
func (f Fault) String() string {
	s := fmt.Sprintf("%s@%s+%s", f.Kind, f.Moment, f.After)
	if f.For > 0 {
		s += "/" + f.For.String()
	}
	return s
}

const slowStart = 3 * time.Second

// Inject adds a fault to the schedule.
func (f *Fleet) Inject(x Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.Moment != AnyTime {
		f.faults = append(f.faults, x)
		return
	}
	f.later(x.After, func() {
		if g := f.guests[x.Domain]; g != nil && g.job != nil {
			g.job.strike(x)
		}
	})
}

// reached sets off the faults that wait for this moment; f.mu is held.
func (j *job) reached(m Moment) {
	var wait []Fault
	for _, x := range j.f.faults {
		switch {
		case x.Moment != m || x.Domain != "" && x.Domain != j.g.ID:
			wait = append(wait, x)
		case x.After <= 0:
			j.strike(x)
		default:
			j.f.later(x.After, func() { j.strike(x) })
		}
	}
	j.f.faults = wait
}

// strike lets the fault happen; f.mu is held.
func (j *job) strike(x Fault) {
	id := j.g.ID
	switch x.Kind {
	case ConnLost:
		j.src.disconnect(x.For)
	case DaemonRestart:
		j.daemonRestarts(x.For)
	case TargetDies:
		j.dst.die(x.For)
	case GuestOff:
		j.guestOff()
	case MonitorHang:
		j.src.hang(id, x.For)
	case AbortOutside:
		j.abort(fault("migrate", id, hypervisor.ClassAborted, "operation aborted: migration out job: canceled by client"))
	case PostcopyCut:
		j.cutStream(x.For)
	case AutostartRefused:
		j.src.refuseOn = true
	case FinishLost, AbortIgnored, SlowStart, StatsLost, LeftPaused, ResumeFails, PostcopyRefused:
		j.flags[x.Kind] = true
	}
}

// disconnect breaks the agent's connection; what libvirt does goes on.
func (h *Host) disconnect(d time.Duration) {
	if h.broken {
		return
	}
	h.broken = true
	close(h.cut)
	if d <= 0 {
		return
	}
	h.f.later(d, func() {
		h.broken, h.cut = false, make(chan struct{})
		h.emit(hypervisor.Event{Kind: hypervisor.EventReset})
	})
}

// hang makes a domain's monitor silent.
func (h *Host) hang(id hypervisor.DomainID, d time.Duration) {
	if h.hung[id] != nil {
		return
	}
	answers := make(chan struct{})
	h.hung[id] = answers
	if d <= 0 {
		return
	}
	h.f.later(d, func() {
		delete(h.hung, id)
		close(answers)
	})
}

// die turns the host off: all that ran there is gone, what migrates to it fails once it is noticed.
func (h *Host) die(d time.Duration) {
	h.down = true
	for id, in := range h.copies {
		if j := in.guest.job; j != nil && j.dst == h {
			h.f.later(h.f.cfg.Notice, func() {
				j.fail(fault("migrate", id, hypervisor.ClassFailed, "lost connection to destination host"))
			})
			j.gone = true
		}
		if in.job == hypervisor.JobOutgoing {
			in.guest.job.fail(fault("migrate", id, hypervisor.ClassUnknownOutcome, "the host died"))
		}
		h.kill(id, hypervisor.ReasonOther)
	}
	if d > 0 {
		h.f.later(d, func() { h.down = false })
	}
}

// guestOff is a shutdown from inside: on the target, if it runs there already.
func (j *job) guestOff() {
	switch j.stage {
	case called, setup, copying:
		j.src.kill(j.g.ID, hypervisor.ReasonShutdown)
		j.fail(fault("migrate", j.g.ID, hypervisor.ClassFailed, "domain is not running"))
	case following, broken:
		j.dst.kill(j.g.ID, hypervisor.ReasonShutdown)
		j.fail(fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "post-copy phase of migration failed"))
	case finish, over:
		j.dst.kill(j.g.ID, hypervisor.ReasonShutdown)
	case stopped: // no vCPU runs that could shut anything down
	}
}

// daemonRestarts is the end of the source's libvirtd, and its recovery.
func (j *job) daemonRestarts(d time.Duration) {
	j.src.disconnect(d)
	if j.stage == following || j.stage == broken || j.stage == stopped && j.switchNow {
		// QEMU goes on by itself, and the new daemon lets it; the call is lost, and the statistics.
		j.flags[StatsLost] = true
		j.result.set(fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "the daemon ended"))
		return
	}
	running := j.stage == finish
	if j.stage != over {
		if !running && j.to != nil {
			j.dst.kill(j.g.ID, hypervisor.ReasonDestroyed)
		}
		j.orphan()
	}
	j.f.later(d, func() {
		for _, in := range j.src.copies {
			in.completed = nil
			if !in.active() {
				in.reason = hypervisor.ReasonOther
			}
		}
		stoppedByUs := j.from.state == hypervisor.StatePaused && j.from.reason == hypervisor.ReasonMigration
		if stoppedByUs && !running {
			j.from.to(hypervisor.StateRunning, hypervisor.ReasonMigrationCanceled)
		}
	})
}

// orphan ends a migration whose libvirtd is gone: no roll-back until it returns.
func (j *job) orphan() {
	j.from.job = hypervisor.JobNone
	if j.to != nil {
		j.to.job = hypervisor.JobNone
	}
	j.end = fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "the daemon ended")
	j.settle(j.end)
	select {
	case j.wake <- struct{}{}:
	default:
	}
}
