package precopy

import (
	"context"
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy/tune"
)

// watch follows a migration that this agent started, until libvirt's call returns, and returns what
// the call did; the context's error when the agent is stopping.
func (d *drive) watch(ctx context.Context, result <-chan error) error {
	// Whatever is to be found out or told afterwards, and however long that takes, the guest runs at
	// full speed.
	defer d.brake.release()
	began := time.Now()
	tick := time.NewTimer(pollFast)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case e := <-d.events:
			d.event(e)
			if e.Kind != hypervisor.EventRound || time.Since(d.read) < pollLeast {
				continue
			}
		case <-d.news:
		case <-tick.C:
		}
		if !d.called() {
			tick.Reset(pollFast) // a job seen now would be somebody else's
			continue
		}
		if d.unwanted() {
			// Through the window between claim and job an abort finds no job: try until the call
			// returns. What it returns, not what the abort said, is the outcome.
			d.abort(ctx)
			tick.Reset(abortEvery)
			continue
		}
		if d.poll(ctx) == tune.Abort {
			d.abort(ctx)
		}
		tick.Reset(pollEvery(began))
	}
}

// unwanted reports whether the running migration is to be aborted: somebody cancelled it, the
// controller gave it up, or the record was closed meanwhile with the guest said to be on the source. Once
// it may be in post-copy, nobody's wish ends it.
func (d *drive) unwanted() bool {
	if d.split() {
		return false
	}
	m := d.rec.current()
	if m.Phase.Final() {
		return m.Phase != Done
	}
	return m.Cancel != nil || m.gaveUp() != nil
}

// called reports whether the libvirt call was let through.
func (d *drive) called() bool {
	select {
	case <-d.begun:
		return true
	default:
		return false
	}
}

func pollEvery(began time.Time) time.Duration {
	if time.Since(began) < 5*time.Second {
		return pollFast
	}
	return pollSlow
}

// poll reads the job once, tells the record and the progress, and does what the tuner says.
func (d *drive) poll(ctx context.Context) tune.Action {
	if time.Now().Before(d.quiet) && !d.split() {
		return tune.Wait
	}
	pctx, cancel := context.WithTimeout(ctx, d.patience(5*time.Second))
	defer cancel()
	stats, err := d.w.Migrator.JobStats(pctx, d.domain)
	if err != nil || stats.Kind != hypervisor.JobOutgoing {
		d.unread()
		return tune.Wait // not begun yet, over already, or libvirt is away: the call tells
	}
	d.last, d.read = stats, time.Now()
	d.stand(stats)
	now := time.Now()
	d.pace.note(now, stats.Processed())
	d.tuner.Allow(d.allowed(), d.alone())
	d.brake.look(now)
	dec := d.tuner.Step(tune.Reading{
		JobStats: stats, Share: d.brake.told(), Silence: d.brake.silence, ShortQueue: d.keepQueue(now), Now: now,
		Least: d.brake.least(), Warming: d.brake.warming(),
	})
	if d.split() {
		// No limit binds any more, and there is nothing left to decide.
		d.report(stats, tune.Decision{Text: d.following(stats)})
		if !stats.Postcopy {
			d.askPostCopy(pctx)
		}
		return tune.Wait
	}
	if dec.Near != d.near {
		d.near, d.bar.At = dec.Near, time.Time{}
	}
	d.need = dec.Need
	d.apply(pctx, dec)
	d.acknowledge()
	d.report(stats, dec)
	switch {
	case dec.Action == tune.Abort:
		d.giveUp(dec)
		return tune.Abort
	case dec.Action == tune.Restart:
		d.next = dec.Next
		d.giveUp(dec)
		return tune.Abort
	case dec.Action == tune.StartPostCopy && d.wish == nil:
		d.wish = d.wishFor(stats, now)
	}
	if d.wish != nil && d.wish.due(stats, now) {
		d.startPostCopy(pctx, now)
	}
	return tune.Wait
}

// keepQueue keeps the queue in front of the link short, and reports whether it is.
func (d *drive) keepQueue(now time.Time) bool {
	if d.queue == nil {
		return false
	}
	short, err := d.queue.Keep(now)
	switch {
	case err != nil && !d.unkept:
		d.unkept = true // told once
		d.log.Warn("the queue in front of the link is not kept short: the pause may be longer", "err", err)
	case short != d.short:
		d.log.Info("queue in front of the link", "short", short)
	}
	d.short = short
	return short
}

// stand enters the phase that a job shows.
func (d *drive) stand(s hypervisor.JobStats) {
	switch p := d.rec.current().Phase; {
	case s.PostcopyBroken:
		d.broken()
	case s.Postcopy:
		d.mended()
		if d.rec.current().Phase != Postcopy {
			d.bar.At = time.Time{} // who waits is told at once that the guest runs on the target
		}
		d.enter(Postcopy, d.following(s))
	case p != Switching:
		// The job is seen through the switchover too; that it was taken back comes as an event.
		d.enter(Copying, "memory is being copied")
	}
}

// giveUp notes that the attempt is to end, and why.
func (d *drive) giveUp(dec tune.Decision) {
	d.log.Info("giving up", "reason", dec.Reason, "why", dec.Text)
	d.rec.change(func(m *Migration) {
		if m.Phase.Final() || m.gaveUp() != nil {
			return
		}
		m.Reason, m.ReasonCode = dec.Text, string(dec.Reason)
		m.changeAttempt(func(a *Attempt) { a.GaveUp = &GivingUp{Code: m.ReasonCode, Reason: m.Reason} })
	})
}

// unread gives a slowed guest its speed back while its migration can't be read: it may be over, or go
// on for who knows how long.
func (d *drive) unread() {
	if d.brake.asked != 1 && time.Since(d.read) > unreadLimit {
		d.brake.lapse()
	}
}

// patience is how long a question to libvirt may take: less while the guest is slowed.
func (d *drive) patience(most time.Duration) time.Duration {
	if d.brake.asked != 1 {
		return unreadLimit
	}
	return most
}

// apply brings the downtime limit and the guest's speed to where the tuner wants them. What fails is
// tried again at the next poll.
func (d *drive) apply(ctx context.Context, dec tune.Decision) {
	changed := d.brake.set(d.tuner.Share())
	if limit := d.tuner.Limit(); limit != d.limit {
		if err := d.w.Migrator.SetDowntime(ctx, d.domain, limit); err != nil {
			d.log.Warn("downtime limit not set, trying again", "limit", limit, "err", err)
		} else {
			d.log.Info("downtime limit set", "limit", limit, "reason", dec.Reason)
			d.limit, changed = limit, true
		}
	}
	if limit := d.perStream(d.tuner.Bandwidth()); limit > 1 && limit != d.cap && d.canCap() {
		if err := d.w.Migrator.SetBandwidth(ctx, d.domain, limit); err != nil {
			d.log.Warn("bandwidth limit not set, trying again", "limit", limit, "err", err)
		} else {
			d.log.Info("bandwidth limit set", "limit", limit)
			d.cap = limit
		}
	}
	limit, lost := d.limit, d.tuner.Lost().Seconds()
	if !changed && lost < d.toldLost+1 {
		return
	}
	d.toldLost = lost
	d.rec.change(func(m *Migration) {
		if !m.Phase.Final() {
			m.changeAttempt(func(a *Attempt) {
				if limit > 0 {
					a.LimitMS = limit.Milliseconds()
				}
				a.LostSeconds = lost
			})
		}
	})
}

// enter notes a phase of the running migration, once.
func (d *drive) enter(p Phase, why string) {
	if d.rec.current().Phase == p {
		return
	}
	d.rec.change(func(m *Migration) {
		if CheckTransition(m.Phase, p, ActorSource) == nil && !m.Phase.Final() {
			m.Phase, m.Reason, m.ReasonCode = p, why, ""
		}
	})
}

// event takes what libvirt told: the switchover shows as a suspension whose cause is the migration.
func (d *drive) event(e hypervisor.Event) {
	if !e.Migration {
		return
	}
	switch e.Kind {
	case hypervisor.EventSuspended:
		d.switched, d.quiet = true, time.Now().Add(switchQuiet)
		d.enter(Switching, "the guest is paused, control passes to the target")
		d.brake.loosen()
	case hypervisor.EventResumed:
		d.quiet = time.Time{}
		d.enter(Copying, "the switchover was taken back")
	}
}

// abort asks for the migration's end, unless it may be in post-copy: QEMU would throw the guest away.
func (d *drive) abort(ctx context.Context) {
	if d.split() {
		return
	}
	d.brake.release()
	actx, cancel := context.WithTimeout(ctx, 35*time.Second)
	defer cancel()
	if err := d.w.Migrator.Abort(actx, d.domain); err != nil && !hypervisor.IsClass(err, hypervisor.ClassInvalid) {
		d.log.Warn("abort failed, trying again", "err", err)
	}
}

// report publishes progress at most every second, and never lets it run backwards.
func (d *drive) report(s hypervisor.JobStats, dec tune.Decision) {
	now := time.Now()
	if now.Sub(d.bar.At) < progressEvery {
		return
	}
	remaining := s.MemRemaining + s.DiskRemaining
	p := Progress{
		ID: d.rec.current().ID, At: now, Elapsed: s.Elapsed,
		Total: s.MemTotal + s.DiskTotal, Processed: s.Processed(), Remaining: remaining,
		Rate: s.Bandwidth, DirtyRate: s.DirtyRate, Round: s.Round,
		Downtime: d.limit, Throttle: max(s.Throttle, slowedPercent(d.brake.share)), Why: dec.Text,
		Cap: d.cap * d.streams(), Serial: d.serial, Achieved: d.pace.last,
		Need: d.need, Near: d.near,
	}
	if s.Bandwidth > 0 {
		p.ETA = s.Bandwidth.Time(remaining) // else nothing is known yet
	}
	if s.PostcopyBroken || !s.Postcopy && s.Round > 1 && s.DirtyRate >= s.Bandwidth {
		p.ETA = -1
	}
	if silent := d.pace.silent(now); silent > 0 {
		// What libvirt takes for the present bandwidth is the last that there was.
		p.ETA, p.Why = -1, fmt.Sprintf("nothing has got through for %d s", silent/time.Second)
	}
	if d.bar.Processed > p.Processed {
		p.Processed = d.bar.Processed
	}
	d.bar = p
	select {
	case <-d.progress: // an older one that the store did not take yet
	default:
	}
	d.progress <- p
}

func (d *drive) sendProgress(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-d.progress:
			pctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			if err := d.w.Queue.Progress(pctx, p); err != nil && ctx.Err() == nil {
				d.log.Debug("progress not written", "err", err)
			}
			cancel()
		}
	}
}

// adopt takes over a migration that an earlier run of the agent, or one whose store was away, left
// unfinished.
func (d *drive) adopt(ctx context.Context) {
	m := d.rec.current()
	d.log.Info("adopting", "phase", m.Phase)
	if m.Phase == Claimed || m.Phase == Unknown && m.Started == nil {
		// Without the step to "preparing" nobody called libvirt, nor can any more.
		d.abandonClaim(ctx)
		return
	}
	d.tuner = d.w.tuner(m.Policy, d.adoptedStart(ctx, m))
	if m.CopyStorage {
		d.mirrors = 1 // at least, with limits that nobody knows any more
	}
	d.rec.change(func(m *Migration) {
		if !m.Phase.Final() {
			m.changeAttempt(func(a *Attempt) { a.Adopted = true })
		}
	})
	// Copying was only ever written of a job that was seen; before that, one may be on its way.
	invisible := m.Phase == Preparing || m.Phase == Unknown
	deadline := time.Now().Add(beginGrace)
	for ctx.Err() == nil {
		running, err := d.follow(ctx)
		if err != nil || d.settledElsewhere(ctx) {
			return
		}
		if running {
			invisible = false
		}
		if invisible && time.Now().Before(deadline) {
			sleep(ctx, pollSlow)
			continue
		}
		if invisible && d.takeBack(ctx) {
			continue
		}
		invisible = false
		if d.resolve(ctx, nil) {
			return
		}
		sleep(ctx, evidenceEvery)
	}
}

// takeBack ends a libvirt call that the agent before may have made and that shows no job yet, since
// libvirtd still tries to reach the target; true when there was one, or nobody can say.
func (d *drive) takeBack(ctx context.Context) bool {
	if d.split() {
		return false
	}
	actx, cancel := context.WithTimeout(ctx, 35*time.Second)
	defer cancel()
	err := d.w.Migrator.Abort(actx, d.domain)
	if hypervisor.IsClass(err, hypervisor.ClassInvalid) || hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return false // libvirt has nothing under way for it
	}
	d.log.Info("asked libvirt to end a call that shows no job", "err", err)
	sleep(ctx, evidenceEvery)
	return true
}

// abandonClaim ends a migration that was claimed and never handed to libvirt.
func (d *drive) abandonClaim(ctx context.Context) {
	if m := d.rec.current(); m.Cancel != nil {
		d.endUnstarted(ctx, Aborted, ending{code: "cancelled", reason: "cancelled by " + m.Cancel.By + " before it began"})
		return
	}
	d.endUnstarted(ctx, Failed, ending{
		code: "agent-restarted", reason: "the source's agent was away before the copy began; order it again",
	})
}

func (d *drive) adoptedStart(ctx context.Context, m Stored) tune.Start {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var memory hypervisor.Bytes
	if s, err := d.w.Migrator.JobStats(ctx, d.domain); err == nil {
		memory = s.MemTotal
	}
	// What an earlier run of the agent slowed, its end gave back: the brake is off.
	d.brake.release()
	d.brake = newBrake(ctx, d.w.Throttle, m.Migration, d.log)
	start := startOf(m.Migration, memory)
	goOn(&start, m.Migration)
	d.limit, d.cap = 0, 0 // what is in force only libvirt knows
	return start
}

// follow watches an adopted job by polling until libvirt shows none, or one that stands still because
// post-copy broke; true when it saw one.
func (d *drive) follow(ctx context.Context) (bool, error) {
	seen, began := false, time.Now()
	defer func() {
		if seen {
			d.brake.release()
		}
	}()
	for {
		if wait := time.Until(d.quiet); wait > 0 && !d.split() && !d.unwanted() {
			if !sleep(ctx, wait) {
				return seen, ctx.Err()
			}
		}
		pctx, cancel := context.WithTimeout(ctx, d.patience(10*time.Second))
		stats, err := d.w.Migrator.JobStats(pctx, d.domain)
		cancel()
		switch {
		case ctx.Err() != nil:
			return seen, ctx.Err()
		case err == nil && stats.Kind == hypervisor.JobNone,
			hypervisor.IsClass(err, hypervisor.ClassNoDomain):
			return seen, nil
		case err == nil && stats.Kind == hypervisor.JobOutgoing:
			seen = true
			if stats.PostcopyBroken {
				d.last = stats
				return seen, nil
			}
			if d.unwanted() || d.poll(ctx) == tune.Abort {
				d.abort(ctx)
			}
		case err != nil:
			d.unread()
			d.log.Debug("job of an adopted migration can't be read", "err", err)
			if d.unwanted() {
				// An abort may get through where a question does not.
				d.abort(ctx)
			}
		}
		if d.rec.current().Phase.Final() && (err != nil || stats.Kind != hypervisor.JobOutgoing) {
			return seen, nil
		}
		select {
		case <-ctx.Done():
			return seen, ctx.Err()
		case <-d.news:
		case e := <-d.events:
			d.event(e)
		case <-time.After(pollEvery(began)):
		}
	}
}
