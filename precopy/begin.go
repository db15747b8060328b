package precopy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
)

// errNotBegun: the libvirt call was not made, since the record no longer allows it.
var errNotBegun = errors.New("the migration was not begun")

// prepare claims the order and does all that comes before the libvirt call, whose parameters it
// returns; false when the migration has ended, or is not ours.
func (d *drive) prepare(ctx context.Context) (hypervisor.MigrateSpec, bool) {
	m := d.rec.current()
	none := hypervisor.MigrateSpec{}
	if m.Order == nil {
		d.endUnstarted(ctx, Failed, ending{code: "bad-order", reason: "the order has no parameters"})
		return none, false
	}
	if d.abandonedBefore(ctx) || d.expired(ctx) {
		return none, false
	}
	if !d.step(ctx, stepUp{
		from: Queued,
		change: func(m *Migration) {
			m.Phase, m.Reason, m.ReasonCode, m.Agent = Claimed, "claimed by the source's agent", "", d.w.Instance
		},
		written: func(m Migration) bool { return m.Phase == Claimed && m.Agent == d.w.Instance },
	}) {
		return none, false
	}
	ictx, cancel := context.WithTimeout(ctx, inspectLimit)
	seen, err := d.w.Migrator.Inspect(ictx, d.domain)
	cancel()
	if ctx.Err() != nil {
		return none, false // the agent is stopping; its next run gives the claim up
	}
	if err != nil {
		d.endUnstarted(ctx, Failed, ending{code: "source-libvirt", reason: "the source's libvirt could not be asked", cause: err})
		return none, false
	}
	if why := cannotLeave(seen, m.Migration); why != nil {
		d.endUnstarted(ctx, Failed, ending{code: string(why.Code), reason: why.Detail})
		return none, false
	}
	if !d.before(ctx) {
		return none, false
	}
	disks, ok := d.makeDisks(ctx, seen)
	if !ok {
		return none, false
	}
	return d.lastStep(ctx, seen, disks)
}

// cannotLeave looks once more, right before the start, for what admission has checked already.
func cannotLeave(seen hypervisor.Inspection, m Migration) *hypervisor.Blocker {
	for _, b := range seen.Facts.Blockers {
		if b.Code == hypervisor.BlockLocalDisk && m.CopyStorage {
			continue
		}
		return &b
	}
	if seen.Sighting.Job != hypervisor.JobNone {
		return &hypervisor.Blocker{Code: hypervisor.BlockJob, Detail: "another job runs on the VM: " + string(seen.Sighting.Job)}
	}
	if !seen.Sighting.Active() {
		return &hypervisor.Blocker{Code: hypervisor.BlockNotRunning, Detail: "the VM is not running here: " + string(seen.Sighting.State)}
	}
	return nil
}

// lastStep writes "preparing" under the living lease, right before the libvirt call.
func (d *drive) lastStep(ctx context.Context, seen hypervisor.Inspection, disks []string) (hypervisor.MigrateSpec, bool) {
	m := d.rec.current()
	d.brake = newBrake(ctx, d.w.Throttle, m.Migration, d.log)
	d.tuner = d.w.tuner(m.Policy, startOf(m.Migration, seen.Facts.Memory))
	d.mirrors = len(disks)
	d.tuner.Allow(d.allowed(), d.alone())
	d.limit = d.tuner.Limit()
	spec := d.spec()
	d.cap = spec.Bandwidth
	spec.Persistent, spec.CopyDisks = seen.Facts.Persistent, disks
	now := time.Now()
	up := stepUp{
		from: Claimed,
		change: func(m *Migration) {
			m.Phase, m.Reason, m.Started = Preparing, "handing over to libvirt", &now
			m.Autostart, m.Persistent = seen.Facts.Autostart, seen.Facts.Persistent
			m.Attempts = append(m.Attempts[:len(m.Attempts):len(m.Attempts)], Attempt{
				Number: len(m.Attempts) + 1, Strategy: encoding(spec.Strategy), Stream: &spec.Strategy, Started: now,
				DowntimeMS: spec.Downtime.Milliseconds(), Agent: d.w.Instance,
			})
		},
		written: func(m Migration) bool {
			return m.Phase == Preparing && m.Agent == d.w.Instance && m.Started != nil && m.Started.Equal(now)
		},
	}
	if !d.step(ctx, up) {
		return spec, false
	}
	return spec, !seen.Facts.Autostart || d.takeFlagOff(ctx)
}

// takeFlagOff clears the autostart flag: from here on a crash of the host must not start a second
// copy at its next boot. If libvirt took its time over it, lease and record are looked at again.
func (d *drive) takeFlagOff(ctx context.Context) bool {
	actx, cancel := context.WithTimeout(ctx, flagLimit)
	defer cancel()
	err := d.w.Migrator.SetAutostart(actx, d.domain, false)
	if ctx.Err() != nil {
		return false // the agent is stopping; its next run finds that nothing was begun
	}
	if err != nil {
		d.finish(ctx, Failed, "autostart", "the autostart flag could not be taken off", err)
		return false
	}
	if time.Since(d.confirmed) < freshFor {
		return true
	}
	return d.step(ctx, stillPreparing())
}

// stepUp is one step towards the libvirt call.
type stepUp struct {
	from   Phase
	change func(*Migration)
	// written recognises this very step in the store, whose answer was lost.
	written func(Migration) bool
}

// stillPreparing changes nothing: it only asks whether the record is as it was, and the lease alive.
func stillPreparing() stepUp {
	return stepUp{from: Preparing, change: func(*Migration) {}, written: func(Migration) bool { return false }}
}

// step writes a step towards the libvirt call, however long the store or the lease is away, unless
// the gate closes. What the store confirmed too long ago it is asked to confirm again.
func (d *drive) step(ctx context.Context, up stepUp) bool {
	var first time.Time // when the store may have taken the step
	for ctx.Err() == nil {
		if !d.gate(ctx, up) {
			return false
		}
		if m := d.rec.current(); up.written(m.Migration) {
			if d.confirmed = first; time.Since(first) < freshFor {
				return true
			}
			up, first = stepUp{from: m.Phase, change: func(*Migration) {}, written: func(Migration) bool { return false }}, time.Time{}
		}
		sent := time.Now()
		if first.IsZero() {
			first = sent
		}
		err := d.rec.begin(ctx, up.change)
		switch {
		case err == nil && time.Since(sent) < freshFor:
			d.confirmed = sent
			return true
		case err == nil:
			continue // the store took its time: the record is now one of which up.written tells
		case errors.Is(err, ErrConflict):
			if !d.reread(ctx) {
				return false
			}
			continue // a cancel request, most likely
		case errors.Is(err, ErrFenced):
			d.log.Warn("waiting: the agent's lease is lost")
		default:
			d.log.Warn("store away before the start, waiting", "err", err)
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	return false
}

// gate is passed before every try of a step towards the libvirt call: the record stands where this
// agent brought it, nobody wants it cancelled, and the order is not too old. When it closes, what
// there is to do about that has been done.
func (d *drive) gate(ctx context.Context, up stepUp) bool {
	return (up.written(d.rec.current().Migration) || d.stillOurs(ctx, up.from)) && !d.abandonedBefore(ctx) && !d.expired(ctx)
}

// proceed is the last look at the record, right before libvirt is called: what the hypervisor did to
// prepare for that may have taken its time. It runs on the goroutine of the call.
func (d *drive) proceed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*freshFor)
	defer cancel()
	for sent := d.confirmed; ; {
		m := d.rec.current()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: the store does not confirm the order: %w", errNotBegun, ctx.Err())
		case m.Phase != Preparing || m.Agent != d.w.Instance:
			return fmt.Errorf("%w: the record became %s", errNotBegun, m.Phase)
		case m.Cancel != nil:
			return fmt.Errorf("%w: it was cancelled by %s", errNotBegun, m.Cancel.By)
		case time.Since(sent) < freshFor:
			d.begunOnce()
			return nil
		}
		sent = time.Now()
		err := d.rec.begin(ctx, func(*Migration) {})
		switch {
		case errors.Is(err, ErrConflict):
			if sent = (time.Time{}); !d.reread(ctx) {
				return fmt.Errorf("%w: %w", errNotBegun, err)
			}
		case err != nil:
			return fmt.Errorf("%w: %w", errNotBegun, err)
		}
	}
}

// encoding names how the stream is sent, whether or not post-copy may end it.
func encoding(s hypervisor.Strategy) string {
	s.PostCopy = false
	return s.Name()
}

// begunOnce says that libvirt was called; calls of it do not overlap.
func (d *drive) begunOnce() {
	if !d.called() {
		close(d.begun)
	}
}

// notBegun ends a migration whose libvirt call was held back at the last moment. Whatever the record
// has become, the guest was not touched.
func (d *drive) notBegun(ctx context.Context, cause error) {
	m := d.rec.current()
	switch {
	case d.settledElsewhere(ctx):
	case m.Agent != d.w.Instance:
		d.log.Warn("the libvirt call was not made: another run of the agent has the record", "agent", m.Agent)
	case m.Cancel != nil:
		d.end(ctx, Aborted, ending{code: "cancelled", reason: "cancelled by " + m.Cancel.By + " before it began"})
	default:
		d.finish(ctx, Failed, "not-confirmed", "the order could not be confirmed right before the start; order it again", cause)
	}
}

// refused ends a migration that libvirt did not take on: something else was done to the domain in the
// moment since it was looked at, such as a migration by hand. That job is none of drover's, and is
// neither tuned nor ended.
func (d *drive) refused(ctx context.Context, cause error) {
	sctx, cancel := context.WithTimeout(ctx, flagLimit)
	defer cancel()
	src, err := d.w.Migrator.Sight(sctx, d.domain)
	if err != nil || src.Job == hypervisor.JobNone {
		d.failed(ctx, cause)
		return
	}
	d.last = hypervisor.JobStats{}
	d.finish(ctx, Failed, "job-under-way", "libvirt refused: another job runs on the VM, which drover did not start", cause)
}

// stillOurs reports whether the record stands where this agent brought it, as far as is known here.
// If not, what there is to do about it has been done.
func (d *drive) stillOurs(ctx context.Context, from Phase) bool {
	m := d.rec.current()
	mine := m.Agent == d.w.Instance
	switch {
	case m.Phase == from && (mine || from == Queued):
		return true
	case m.Phase.Final() && m.Started != nil && mine:
		d.settledElsewhere(ctx)
	case m.Phase.Final() && m.Phase != Done:
		// Whoever ended it may have asked for the disks' removal before this agent had them made.
		d.w.discardDisks(ctx, m.Migration)
	case m.Phase == Unknown && mine:
		// The leader gave this agent up. It has called nothing, and that can be shown.
		d.adopt(ctx)
	default:
		d.log.Warn("order not carried out: somebody else has the record", "phase", m.Phase, "agent", m.Agent)
	}
	return false
}

// reread takes over the store's record after a conflict; false when it is gone.
func (d *drive) reread(ctx context.Context) bool {
	var fresh Stored
	err := retry(ctx, func() error {
		var err error
		if fresh, err = d.w.Queue.Get(ctx, d.rec.current().ID); errors.Is(err, ErrConflict) {
			return nil // gone
		}
		return err
	})
	if err != nil {
		return false
	}
	if fresh.ID == "" {
		d.rec.setGone()
		return false
	}
	d.rec.told(fresh)
	return true
}

// abandonedBefore ends a migration whose cancel came before libvirt was called.
func (d *drive) abandonedBefore(ctx context.Context) bool {
	m := d.rec.current()
	if m.Cancel == nil || m.Phase.Final() {
		return m.Phase.Final()
	}
	d.endUncalled(ctx, Aborted, ending{code: "cancelled", reason: "cancelled by " + m.Cancel.By + " before it began"})
	return true
}

// expired ends a migration whose order is too old to be carried out.
func (d *drive) expired(ctx context.Context) bool {
	o, now := d.rec.current().Order, time.Now()
	if !o.Expired(d.seen, now, o.ClockOffset) {
		return false
	}
	d.endUncalled(ctx, Failed, ending{code: "order-expired", reason: fmt.Sprintf(
		"the order was too old when this host came to it: good until %s by the leader's clock; by this host's it is %s, known to be %s ahead",
		o.NotAfter.UTC().Format(time.TimeOnly), now.UTC().Format(time.TimeOnly), o.ClockOffset.Round(time.Millisecond))})
	return true
}

// endUncalled ends a migration before the libvirt call, however far the record is.
func (d *drive) endUncalled(ctx context.Context, p Phase, e ending) {
	if d.rec.current().Phase == Preparing {
		d.end(ctx, p, e) // the autostart flag may have been cleared
		return
	}
	d.endUnstarted(ctx, p, e)
}

// makeDisks has the target make the files for a storage copy, and returns which disks to copy.
func (d *drive) makeDisks(ctx context.Context, seen hypervisor.Inspection) ([]string, bool) {
	m := d.rec.current()
	if !m.CopyStorage {
		return nil, true
	}
	var disks []hypervisor.Disk
	var names []string
	for _, disk := range seen.Facts.Disks {
		if !disk.Shared && !disk.ReadOnly && disk.Source != "" {
			disks, names = append(disks, disk), append(names, disk.Target)
		}
	}
	if len(disks) == 0 {
		return nil, true
	}
	q := Question{Kind: AskCreateDisks, Domain: d.domain, Migration: m.ID, Disks: disks}
	actx, cancel := context.WithTimeout(ctx, disksLimit)
	a, err := d.w.Queue.Ask(actx, m.Target, q)
	cancel()
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil && len(a.Blockers) > 0 {
		err = errors.New(a.Blockers[0].String())
	}
	if ctx.Err() != nil {
		return nil, false
	}
	if err != nil {
		d.endUnstarted(ctx, Failed, ending{code: "target-storage", reason: "the target could not make the disks", cause: err})
		return nil, false
	}
	return names, true
}
