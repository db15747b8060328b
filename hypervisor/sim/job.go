package sim

import (
	"time"

	"drover/hypervisor"
)

// stage is how far a migration has come.
type stage int

const (
	called    stage = iota // libvirt works on the call, no job shows
	setup                  // the job shows, no page was sent
	copying                // pre-copy
	stopped                // vCPUs stopped, the rest goes over
	following              // post-copy: the target runs, the rest goes over
	broken                 // post-copy: the target runs, nothing goes over
	finish                 // the target runs, the source does not know it yet
	over
)

// tick is the step of virtual time while pages are sent; slice is QEMU's unit of rate limiting and
// of measuring bandwidth.
const (
	tick  = 10 * time.Millisecond
	slice = 100 * time.Millisecond
	// reply is how long the target's answer takes back to the source.
	reply = 5 * time.Millisecond
)

// job is one peer-to-peer migration, from the source libvirtd's point of view. Its goroutine belongs
// to the fleet, not to the caller: callers come and go. Guarded by Fleet.mu but for the result.
type job struct {
	f        *Fleet
	g        *guest
	src, dst *Host
	spec     hypervisor.MigrateSpec
	from, to *instance

	stage    stage
	downtime time.Duration
	limit    hypervisor.BytesPerSecond
	before   hypervisor.Sighting // the source's state before
	mem      memory
	copy     progress
	flags    map[FaultKind]bool
	gone     bool              // the target is, and nothing arrives
	end      *hypervisor.Error // set when it must end; how
	wake     chan struct{}
	result   *result // of the call that is under way

	switchNow bool      // post-copy was asked for
	cutUntil  time.Time // a broken post-copy can't go on before
}

// begin starts a migration of the copy; f.mu is held.
func (h *Host) begin(in *instance, spec hypervisor.MigrateSpec) (*job, error) {
	const op = "migrate"
	id := spec.Domain
	dst := h.f.hostByURI(spec.PeerURI)
	switch {
	case spec.Bandwidth <= 0 || spec.Downtime < time.Millisecond:
		return nil, fault(op, id, hypervisor.ClassArgument, "bandwidth %d, downtime %s: want limits above zero", spec.Bandwidth, spec.Downtime)
	case in.guest.job != nil && in.active():
		return nil, fault(op, id, hypervisor.ClassInvalid, "another migration job is already running for domain")
	case !in.active():
		return nil, fault(op, id, hypervisor.ClassInvalid, "domain is not running")
	case h.f.closed:
		return nil, fault(op, id, hypervisor.ClassUnavailable, "the fleet is closed")
	case dst == nil || dst == h:
		return nil, fault(op, id, hypervisor.ClassFailed, "unable to connect to %q", spec.PeerURI)
	}
	j := &job{
		f: h.f, g: in.guest, src: h, dst: dst, spec: spec, from: in,
		downtime: spec.Downtime.Truncate(time.Millisecond), limit: wholeMiB(spec.Bandwidth), before: in.sighting(),
		flags: map[FaultKind]bool{}, wake: make(chan struct{}, 1), result: newResult(),
	}
	in.guest.job = j
	in.completed = nil
	j.reached(AtCall)
	h.f.wg.Go(j.run)
	return j, nil
}

func (j *job) run() {
	f := j.f
	f.mu.Lock()
	defer f.mu.Unlock()
	connect := f.cfg.Connect
	if j.flags[SlowStart] {
		connect += slowStart
	}
	alive := j.pause(connect) && j.prepare() && j.pause(f.cfg.Setup) && j.copyRounds()
	if alive && j.switchNow {
		j.postCopy()
		return
	}
	alive = alive && j.stopAndCopy()
	switch {
	case f.closed:
		return
	case !alive && j.stage != over:
		j.rollBack()
	}
}

// prepare makes the target's copy and shows the job.
func (j *job) prepare() bool {
	if !j.from.active() {
		j.end = fault("migrate", j.g.ID, hypervisor.ClassInvalid, "domain is not running")
	} else if err := j.dst.receive(j.g); err != nil {
		j.end = err
	}
	if j.end != nil {
		return false
	}
	j.to = j.dst.copies[j.g.ID]
	j.from.job = hypervisor.JobOutgoing
	j.stage = setup
	j.copy.began = time.Now()
	j.reached(AtPrepare)
	return j.end == nil
}

// stopAndCopy is the switchover and what follows.
func (j *job) stopAndCopy() bool {
	j.stage = stopped
	stop := time.Now()
	if j.from.state == hypervisor.StateRunning {
		j.from.to(hypervisor.StatePaused, hypervisor.ReasonMigration)
		j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventSuspended, Migration: true})
	}
	j.mem.sync()
	// The cap is lifted now: what is left goes as fast as the link carries it.
	rest := j.drain()
	j.reached(AtSwitchover)
	if !j.pause(j.share().Time(rest)+j.f.cfg.Overhead) || !j.peerAnswers() {
		return false
	}
	if j.flags[LeftPaused] {
		j.interrupted()
		return true
	}
	j.stage = finish
	j.copy.downtime = time.Since(stop)
	if j.before.State == hypervisor.StateRunning {
		j.to.to(hypervisor.StateRunning, hypervisor.ReasonMigrated)
		j.dst.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventResumed, Migration: true})
	} else {
		j.to.to(hypervisor.StatePaused, hypervisor.ReasonUser)
	}
	if j.spec.Persistent {
		j.to.persistent = true
	}
	j.reached(AtFinish)
	if j.flags[FinishLost] {
		j.end = fault("migrate", j.g.ID, hypervisor.ClassFailed, "migration failed: no answer to Finish from the target")
	}
	if !j.pause(reply) || !j.peerAnswers() {
		return false
	}
	j.succeeded()
	return true
}

// peerAnswers waits for what is noticed of a target that is gone; false then.
func (j *job) peerAnswers() bool {
	for j.gone {
		if !j.pause(j.f.cfg.Notice) {
			return false
		}
	}
	return true
}

// succeeded ends the source's copy; both sides keep the statistics.
func (j *job) succeeded() {
	done := j.stats()
	done.Downtime, done.DowntimeNet, done.MemRemaining = j.copy.downtime, j.copy.downtime, 0
	atTarget := done
	atTarget.Kind = hypervisor.JobIncoming
	j.to.completed, j.to.job = &atTarget, hypervisor.JobNone
	j.src.kill(j.g.ID, hypervisor.ReasonMigrated)
	j.from.completed = &done
	if j.flags[StatsLost] {
		j.from.completed, j.to.completed = nil, nil
	}
	j.settle(nil)
}

// rollBack takes the migration back: the target's copy is killed, the source's runs on.
func (j *job) rollBack() {
	why := j.end
	if j.to != nil && j.stage != finish && !j.dst.down {
		j.dst.kill(j.g.ID, hypervisor.ReasonFailed)
	}
	if j.to != nil && j.stage == finish {
		j.to.job = hypervisor.JobNone
	}
	j.from.job = hypervisor.JobNone
	stoppedByUs := j.from.state == hypervisor.StatePaused && j.from.reason == hypervisor.ReasonMigration
	switch {
	case !stoppedByUs:
	case j.flags[ResumeFails]:
		j.from.to(hypervisor.StatePaused, hypervisor.ReasonAPIError)
	default:
		j.from.to(hypervisor.StateRunning, hypervisor.ReasonMigrationCanceled)
		j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventResumed, Migration: true})
	}
	j.settle(why)
}

// interrupted is a switchover that nobody finished: the target's copy is gone, the source's stays
// paused, and no job shows on it.
func (j *job) interrupted() {
	j.dst.kill(j.g.ID, hypervisor.ReasonOther)
	j.from.job = hypervisor.JobNone
	j.settle(fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "the migration was interrupted"))
}

// settle publishes the result.
func (j *job) settle(err *hypervisor.Error) {
	j.stage, j.g.job = over, nil
	j.result.set(err)
}

// abort asks for the end. Once the target was told to finish, nothing stops it any more.
func (j *job) abort(why *hypervisor.Error) {
	if j.flags[AbortIgnored] || j.stage >= following {
		return
	}
	j.fail(why)
}

// fail ends the migration at its next step.
func (j *job) fail(why *hypervisor.Error) {
	if j.end != nil || j.stage == over {
		return
	}
	j.end = why
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// pause lets d pass without the lock; false when the migration must end.
func (j *job) pause(d time.Duration) bool {
	if j.end != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	j.f.mu.Unlock()
	select {
	case <-timer.C:
	case <-j.wake:
	case <-j.f.stop:
	}
	j.f.mu.Lock()
	return j.end == nil && !j.f.closed
}

// share is what the network gives this stream now.
func (j *job) share() hypervisor.BytesPerSecond {
	out, in := 0, 0
	for _, g := range j.f.guests {
		if g.job == nil || g.job.stage < copying || g.job.stage > following {
			continue
		}
		if g.job.src == j.src {
			out++
		}
		if g.job.dst == j.dst {
			in++
		}
	}
	return min(j.src.cfg.Link/hypervisor.BytesPerSecond(max(out, 1)), j.dst.cfg.Link/hypervisor.BytesPerSecond(max(in, 1)))
}

// wholeMiB is the cap as libvirt can express it.
func wholeMiB(r hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	mib := hypervisor.BytesPerSecond(hypervisor.MiB)
	return max(r/mib, 1) * mib
}
