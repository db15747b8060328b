package sim

import (
	"context"
	"fmt"
	"time"

	"drover/hypervisor"
)

// StartPostCopy lets the domain's migration go over to post-copy at its next slice.
func (h *Host) StartPostCopy(ctx context.Context, id hypervisor.DomainID) error {
	const op = "start post-copy"
	in, err := h.enter(ctx, op, id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	switch {
	case in.job != hypervisor.JobOutgoing:
		return noJob(op, id)
	case !in.guest.job.spec.Strategy.PostCopy || in.guest.job.flags[PostcopyRefused]:
		return fault(op, id, hypervisor.ClassInvalid, "switching to post-copy requires migration to be started with POSTCOPY flag")
	}
	in.guest.job.switchNow = true
	return nil
}

// Recover goes on with a migration whose post-copy broke, and blocks like Migrate.
func (h *Host) Recover(ctx context.Context, spec hypervisor.MigrateSpec) error {
	const op = "recover"
	in, err := h.enter(ctx, op, spec.Domain)
	if err != nil {
		return err
	}
	j := in.guest.job
	if in.job != hypervisor.JobOutgoing || j.stage != broken {
		h.f.mu.Unlock()
		return fault(op, spec.Domain, hypervisor.ClassInvalid, "QEMU reports migration is still running, or there is none")
	}
	if spec.PeerURI != j.spec.PeerURI || spec.Strategy != j.spec.Strategy || spec.Persistent != j.spec.Persistent || spec.TLS != j.spec.TLS {
		h.f.wrongs = append(h.f.wrongs, fmt.Sprintf("%s: recovery with other options than it was begun with: %+v", spec.Domain, spec))
	}
	h.f.mu.Unlock()
	select {
	case <-time.After(h.f.cfg.Connect):
	case <-ctx.Done():
		return gaveUp(op, spec.Domain, ctx.Err())
	}
	h.f.mu.Lock()
	switch {
	case h.f.closed, j.stage != broken:
		h.f.mu.Unlock()
		return fault(op, spec.Domain, hypervisor.ClassInvalid, "there is no broken post-copy")
	case j.dst.down || !j.to.active() || time.Now().Before(j.cutUntil):
		h.f.mu.Unlock()
		return fault(op, spec.Domain, hypervisor.ClassFailed, "unable to connect to the target %s", j.dst.cfg.Name)
	}
	j.stage, j.end, j.result = following, nil, newResult()
	j.from.to(hypervisor.StatePaused, hypervisor.ReasonPostcopy)
	j.to.to(hypervisor.StateRunning, hypervisor.ReasonPostcopy)
	h.f.wg.Go(func() {
		h.f.mu.Lock()
		defer h.f.mu.Unlock()
		j.follow()
	})
	cut := h.cut
	r := j.result
	h.f.mu.Unlock()
	return r.wait(ctx, op, spec.Domain, cut)
}

// postCopy is the switchover before the memory is there, and what follows.
func (j *job) postCopy() {
	j.stage = stopped
	stop := time.Now()
	j.from.to(hypervisor.StatePaused, hypervisor.ReasonPostcopy)
	j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventSuspended, Migration: true})
	j.mem.sync()
	for wait := j.f.cfg.Overhead; !j.pause(wait); wait = 0 {
		// There is no way back any more.
		if j.f.closed {
			return
		}
		j.end = nil
	}
	j.stage = following
	if j.gone {
		j.breakOff(fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "lost connection to destination host"))
		return
	}
	j.copy.downtime = time.Since(stop)
	j.to.to(hypervisor.StateRunning, hypervisor.ReasonPostcopy)
	j.dst.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventResumed, Migration: true})
	if j.spec.Persistent {
		j.to.persistent = true
	}
	j.reached(AtPostcopy)
	j.follow()
}

// follow sends the rest to the guest that runs on the target, until it is there or the stream breaks.
func (j *job) follow() {
	for j.mem.remaining() > 0 {
		rate := j.share()
		if !j.pause(tick) {
			if !j.f.closed {
				j.breakOff(j.end)
			}
			return
		}
		if !j.gone {
			s := j.mem.send(float64(rate)*tick.Seconds(), j.price)
			j.count(s)
			j.copy.bandwidth = hypervisor.Rate(hypervisor.Bytes(s.cost), tick)
		}
	}
	if j.to.active() {
		j.to.to(hypervisor.StateRunning, hypervisor.ReasonMigrated)
	}
	j.succeeded()
}

// breakOff leaves both sides as they are: the guest runs on the target and waits for memory that the
// source has. The call returns, the job stays.
func (j *job) breakOff(why *hypervisor.Error) {
	j.stage = broken
	if j.from.active() {
		j.from.to(hypervisor.StatePaused, hypervisor.ReasonPostcopyFailed)
		j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventSuspended, Migration: true})
	}
	if j.to.active() {
		j.to.to(hypervisor.StateRunning, hypervisor.ReasonPostcopyFailed)
	}
	if !j.from.active() {
		j.g.job = nil
	}
	j.result.set(why)
}

// cutStream breaks the stream of a post-copy and keeps it from going on for d.
func (j *job) cutStream(d time.Duration) {
	if j.stage != following {
		return
	}
	j.cutUntil = time.Now().Add(d)
	j.fail(fault("migrate", j.g.ID, hypervisor.ClassUnknownOutcome, "post-copy phase of migration failed"))
}

// split reports whether the guest's memory is on both hosts.
func (in *instance) split() bool {
	return in.reason == hypervisor.ReasonPostcopy || in.reason == hypervisor.ReasonPostcopyFailed
}

// touched notes a call that would lose a guest in post-copy.
func (in *instance) touched(h *Host, op string) {
	j := in.guest.job
	if in.split() || op == "abort" && j != nil && j.switchNow {
		h.f.wrongs = append(h.f.wrongs, fmt.Sprintf("%s of %s on %s in post-copy", op, in.guest.ID, h.cfg.Name))
	}
}

// result is what one call for a migration returns; err is valid once done is closed.
type result struct {
	done chan struct{}
	err  *hypervisor.Error
}

func newResult() *result { return &result{done: make(chan struct{})} }

// set publishes the result, the first one given; the fleet's lock is held.
func (r *result) set(err *hypervisor.Error) {
	select {
	case <-r.done:
	default:
		r.err = err
		close(r.done)
	}
}

// wait returns what the call returns to a caller whose connection breaks when cut is closed.
func (r *result) wait(ctx context.Context, op string, id hypervisor.DomainID, cut <-chan struct{}) error {
	select {
	case <-r.done:
		if r.err != nil {
			return r.err
		}
		return nil
	case <-cut:
		return fault(op, id, hypervisor.ClassUnknownOutcome, "end of file while reading data: connection to libvirt broke")
	case <-ctx.Done():
		return gaveUp(op, id, ctx.Err())
	}
}
