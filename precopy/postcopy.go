package precopy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
	"drover/precopy/tune"
)

const (
	// nearlySent is the share of a pass that may be unsent when it counts as over.
	nearlySent = 0.05
	// askAgain is the pause between two calls that ask for post-copy, until it shows.
	askAgain = 2 * time.Second
	// refusedFor is how long the hypervisor must refuse post-copy before it is taken as never begun: an
	// earlier call, of this agent or the one before, has taken effect by then.
	refusedFor = 10 * time.Second
	// recoverLeast and recoverMost bound the pause between two tries to go on with a broken post-copy.
	recoverLeast = time.Second
	recoverMost  = 30 * time.Second
)

// interrupted is the reason code of a post-copy migration whose stream is broken.
const interrupted = "postcopy-interrupted"

// wish is the tuner's decision for post-copy, which waits for the moment at which the least is left.
type wish struct {
	round int
	size  hypervisor.Bytes // what was unsent of the pass
	at    time.Time
}

// due reports whether to switch now: the moment has come, or the pass is over.
func (w wish) due(s hypervisor.JobStats, now time.Time) bool {
	return !now.Before(w.at) || s.Round != w.round || float64(s.MemRemaining) <= nearlySent*float64(w.size)
}

// bestMoment returns how long after the beginning of a pass over size a switch to post-copy leaves the
// least to follow. A share x of the pass into it, the rest is what was not sent yet, size (1 - x), and
// what the guest has rewritten of what was, x D(t) for a guest that writes all over: D is what it dirties
// in the time. A slow writer is best switched at the pass's end, one much faster than the link at once.
func bestMoment(size hypervisor.Bytes, speed hypervisor.BytesPerSecond, g model.Growth) time.Duration {
	const steps = 20
	if speed <= 0 || g.Rate <= 0 {
		return 0
	}
	var best time.Duration
	least := float64(size)
	for i := 1; i <= steps; i++ {
		x := float64(i) / steps
		t := time.Duration(x * float64(speed.Time(size)))
		if rest := float64(size)*(1-x) + x*float64(g.Dirtied(t)); rest < least {
			best, least = t, rest
		}
	}
	return best
}

// wishFor plans the switch to post-copy that the tuner decided on at the reading.
func (d *drive) wishFor(s hypervisor.JobStats, now time.Time) *wish {
	r := d.tuner.Learned()
	speed := r.Achieved
	if r.Ratio > 0 {
		speed = hypervisor.BytesPerSecond(float64(speed) / r.Ratio)
	}
	return &wish{round: s.Round, size: s.MemRemaining, at: now.Add(bestMoment(s.MemRemaining, speed, r.Growth))}
}

// split reports whether the guest may run on the target with part of its memory still here. From then
// on nothing may be aborted, resumed or tidied up: the guest would be lost.
func (d *drive) split() bool {
	m := d.rec.current()
	return d.last.Postcopy || m.Phase == Postcopy || m.attempt().PostCopy != nil
}

// startPostCopy writes down that post-copy is asked for, and asks.
func (d *drive) startPostCopy(ctx context.Context, now time.Time) {
	if err := d.commit(ctx, now); err != nil {
		d.log.Warn("post-copy waits until the store has it", "err", err)
		return
	}
	d.log.Info("switching to post-copy", "remaining", d.last.MemRemaining)
	d.brake.release()
	d.askPostCopy(ctx)
}

// commit writes that the guest may be on both hosts from now on, under the living lease, before it can
// be: an agent that finds the migration later must know. Nobody may have wished for its end before.
func (d *drive) commit(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := d.rec.flush(ctx); err != nil {
		return err
	}
	if d.unwanted() {
		return errors.New("its end is wished for")
	}
	err := d.rec.begin(ctx, func(m *Migration) {
		m.changeAttempt(func(a *Attempt) { a.PostCopy = &now })
	})
	if errors.Is(err, ErrConflict) {
		d.reread(ctx)
	}
	return err
}

// askPostCopy asks the hypervisor for post-copy, again and again until it shows. Where it keeps refusing
// the migration is given up.
func (d *drive) askPostCopy(ctx context.Context) {
	now := time.Now()
	if now.Sub(d.asked) < askAgain {
		return
	}
	d.asked = now
	err := d.w.Migrator.StartPostCopy(ctx, d.domain)
	if err == nil {
		return
	}
	d.log.Warn("post-copy not started, trying again", "err", err)
	switch hypervisor.ClassOf(err) {
	case hypervisor.ClassInvalid, hypervisor.ClassUnsupported, hypervisor.ClassArgument, hypervisor.ClassDenied:
	default:
		return
	}
	if at := d.rec.current().attempt().PostCopy; at == nil || now.Sub(*at) < refusedFor || now.Sub(d.seen) < refusedFor {
		return
	}
	d.rec.change(func(m *Migration) { m.changeAttempt(func(a *Attempt) { a.PostCopy = nil }) })
	d.giveUp(tune.Decision{Reason: tune.NotConverged, Text: "pre-copy does not converge, and post-copy is refused: " + err.Error()})
}

// following says in words how a post-copy migration stands.
func (d *drive) following(s hypervisor.JobStats) string {
	m := d.rec.current()
	switch {
	case s.PostcopyBroken:
		return "post-copy is interrupted: the guest on " + m.Target + " waits for memory that is still on " + m.Source
	case s.Postcopy:
		return "post-copy: the guest runs on " + m.Target + ", the rest follows"
	}
	return "switching to post-copy"
}

// goOn tries to go on with a migration whose post-copy broke, and follows it; true when the migration
// has ended. Neither side is touched otherwise, however often it fails: the guest runs on the target, and
// part of its memory is only here.
func (d *drive) goOn(ctx context.Context) bool {
	d.broken()
	dst, version, seen := d.askTarget(ctx)
	result := make(chan error, 1)
	spec := d.spec()
	spec.TargetLibvirt = version
	d.w.wg.Go(func() { result <- d.w.Migrator.Recover(ctx, spec) })
	d.begunOnce()
	err := d.watch(ctx, result)
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		d.mended()
		d.succeeded(ctx)
		return true
	}
	d.log.Warn("post-copy does not go on yet", "err", err)
	since := d.rec.current().attempt().PostCopyBroken
	if since == nil {
		return false // it went on for a while: the next look tells
	}
	if seen && !dst.Active() {
		d.stands(interrupted, d.lost(dst))
	} else {
		d.stands(interrupted, d.standstill(*since, err))
	}
	d.pause = min(max(2*d.pause, recoverLeast), recoverMost)
	for next := time.Now().Add(d.pause); ctx.Err() == nil && time.Now().Before(next); {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		case <-d.news:
			if d.rec.current().Phase.Final() {
				return false
			}
		}
	}
	return false
}

// lost says what is left of a guest that ended on the target in the middle of post-copy.
func (d *drive) lost(dst hypervisor.Sighting) string {
	m := d.rec.current()
	return fmt.Sprintf("ALARM: post-copy was interrupted, and %s has the guest %s now: what %s still holds of it can't run any more; "+
		"end it (virsh destroy on %s), start the guest where its disks are current, then: drover migration resolve",
		m.Target, said(dst), m.Source, m.Source)
}

// standstill says why a broken post-copy does not go on, and what a person must not do, or must.
func (d *drive) standstill(since time.Time, cause error) string {
	text := waits(d.rec.current(), since) + "drover goes on by itself as soon as it can: " + cause.Error()
	switch hypervisor.ClassOf(cause) {
	case hypervisor.ClassUnsupported, hypervisor.ClassArgument, hypervisor.ClassDenied:
		return "ALARM: a person must see to this: " + text
	}
	return text
}

// waits says how it stands with the guest of a broken post-copy, and the danger.
func waits(m Stored, since time.Time) string {
	return fmt.Sprintf("post-copy was interrupted at %s: the guest runs on %s and waits for memory that is still on %s; "+
		"IT IS LOST IF EITHER SIDE IS STOPPED; ", since.UTC().Format(time.TimeOnly), m.Target, m.Source)
}

// broken notes since when the stream is broken, and says so. The call under way may take long to notice:
// it ends when the target's side has.
func (d *drive) broken() {
	now := time.Now()
	if d.rec.current().attempt().PostCopyBroken != nil {
		return
	}
	d.log.Error("post-copy broke: the guest runs on the target and waits for memory that is still here; trying to go on")
	d.rec.change(func(m *Migration) {
		m.changeAttempt(func(a *Attempt) {
			if a.PostCopyBroken == nil {
				a.PostCopyBroken = &now
			}
			if a.PostCopy == nil {
				a.PostCopy = &now
			}
		})
	})
	d.stands(interrupted, waits(d.rec.current(), now)+"drover goes on by itself as soon as both sides have noticed")
}

// mended notes that a broken post-copy goes on, and for how long it did not.
func (d *drive) mended() {
	since := d.rec.current().attempt().PostCopyBroken
	if since == nil {
		return
	}
	d.pause = 0
	note := fmt.Sprintf("post-copy was interrupted at %s for %s: meanwhile the guest stood still where it needed memory that had not come",
		since.UTC().Format(time.TimeOnly), time.Since(*since).Round(100*time.Millisecond))
	d.log.Info("post-copy goes on", "after", time.Since(*since))
	d.rec.change(func(m *Migration) {
		if at := m.attempt().PostCopyBroken; at == nil || !at.Equal(*since) {
			return
		}
		m.changeAttempt(func(a *Attempt) { a.PostCopyBroken = nil })
		m.Notes = appendNew(m.Notes, note)
	})
}
