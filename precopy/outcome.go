package precopy

import (
	"context"
	"errors"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// succeeded records that libvirt's own call said so: its Finish step returned the running domain
// from the target before it ended the source's, which is proof of both.
func (d *drive) succeeded(ctx context.Context) {
	d.moved(ctx, "moved to "+d.rec.current().Target)
}

// moved ends a migration whose guest is on the target.
func (d *drive) moved(ctx context.Context, reason string) {
	d.mended()
	e := ending{reason: reason}
	if d.rec.current().Cancel != nil {
		e.code, e.note = "cancelled-too-late", "cancelled too late: the guest already runs on the target"
	}
	d.end(ctx, Done, e)
}

// movedAndStopped ends a migration whose guest reached the target and was stopped there since. The
// source's definition goes only if the target has one.
func (d *drive) movedAndStopped(ctx context.Context, why string, defined bool) {
	m := d.rec.current()
	e := ending{reason: "moved to " + m.Target + ": " + why, note: "it was stopped on " + m.Target + " since", leave: !defined}
	if !defined {
		e.note += ", which has no definition of it: its definition is left on " + m.Source
	}
	d.end(ctx, Done, e)
}

// failed finds out where the guest is after libvirt's call returned an error.
func (d *drive) failed(ctx context.Context, cause error) {
	d.log.Info("libvirt's call returned an error, looking at both hosts", "err", cause)
	if hypervisor.IsClass(cause, hypervisor.ClassUnknownOutcome) && !d.split() {
		// The call's connection broke: the migration may well go on.
		d.enter(Unknown, "the connection to the source's libvirt broke during the migration")
		d.brake = newBrake(ctx, d.w.Throttle, d.rec.current().Migration, d.log)
		defer func() { d.brake.release() }()
	}
	for ctx.Err() == nil {
		if _, err := d.follow(ctx); err != nil || d.settledElsewhere(ctx) {
			return
		}
		if d.resolve(ctx, cause) {
			return
		}
		sleep(ctx, evidenceEvery)
	}
}

// resolve looks at both hosts and ends the migration if they say how; true then.
func (d *drive) resolve(ctx context.Context, cause error) bool {
	ectx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	src, err := d.w.Migrator.Sight(ectx, d.domain)
	if err != nil {
		d.undecided("the source's libvirt does not answer")
		return false
	}
	if src.Active() && src.Reason == hypervisor.ReasonPostcopyFailed {
		return d.goOn(ctx)
	}
	dst, ok := d.sightTarget(ectx)
	firm := cause != nil && !hypervisor.IsClass(cause, hypervisor.ClassUnknownOutcome)
	if firm && src.State == hypervisor.StateRunning && src.Job == hypervisor.JobNone {
		// libvirt rolled back and says so: no need for the target, which may be what failed. The one
		// case in which both run is the lost Finish reply. Only a migration that reached its
		// switchover can have got that far, and libvirt marks a source that it resumed; events may
		// have been lost.
		never := !d.switched && src.Reason != hypervisor.ReasonMigrationCanceled
		if ok && !dst.Active() || !ok && never {
			return d.rolledBack(ctx, cause)
		}
	}
	if !ok {
		d.undecided("the target's agent does not answer, so nobody can say where the guest runs")
		return false
	}
	evidence := Evidence{Source: src, Target: dst, Persistent: d.rec.current().Persistent}
	verdict, why := Resolve(evidence)
	d.log.Info("evidence of both hosts", "verdict", verdict, "why", why, "source", said(src), "target", said(dst))
	if verdict == Moved {
		d.movedAndStopped(ctx, why, dst.State != hypervisor.StateAbsent)
		return true
	}
	return d.judge(ctx, verdict, why, cause)
}

func (d *drive) sightTarget(ctx context.Context) (hypervisor.Sighting, bool) {
	s, _, ok := d.askTarget(ctx)
	return s, ok
}

// askTarget asks the target's agent what its libvirt has of the domain, and for that libvirt's version,
// which may be known where the former is not.
func (d *drive) askTarget(ctx context.Context) (hypervisor.Sighting, uint32, bool) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	a, err := d.w.Queue.Ask(ctx, d.rec.current().Target, Question{Kind: AskSight, Domain: d.domain})
	if err != nil || a.Error != "" || a.Sighting == nil {
		d.log.Info("the target could not be asked", "err", err, "answer", a.Error)
		return hypervisor.Sighting{}, a.Libvirt, false
	}
	return *a.Sighting, a.Libvirt, true
}

// judge acts on a verdict; true when the migration has ended by it.
func (d *drive) judge(ctx context.Context, v Verdict, why string, cause error) bool {
	switch v {
	case OnTarget:
		d.moved(ctx, "found on "+d.rec.current().Target+": "+why)
		return true
	case OnSource:
		return d.rolledBack(ctx, cause)
	case SourcePaused:
		switch where, err := d.w.elsewhere(ctx, d.rec.current().Migration); {
		case err != nil:
			d.undecided("the guest is paused on the source, and is resumed once no other host is known to have it: " + err.Error())
			return false
		case where.host != "":
			d.log.Error("THE GUEST STANDS STILL and is not resumed: another host has it", "host", where.host)
			d.undecided("ALARM: the guest is paused on the source and is not resumed: " + where.host + " has it " + said(where.Sighting) +
				" and may have written to its disks; start it where they are current, then, if need be: drover migration resolve")
			return false
		}
		d.log.Warn("resuming the guest that an interrupted migration left paused", "why", why)
		rctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := d.w.Migrator.Resume(rctx, d.domain); err != nil {
			d.log.Error("the guest could not be resumed", "err", err)
			d.undecided("the guest is paused on the source and could not be resumed: " + err.Error())
		}
		return false // the next look sees it running
	case Stopped:
		e := ending{code: "guest-stopped", reason: why, cause: cause}
		switch where, err := d.w.elsewhere(ctx, d.rec.current().Migration); {
		case err != nil:
			e.leave, e.note = true, "neither its autostart flag nor any disk files were touched: "+err.Error()
		case where.host != "":
			e.leave, e.note = true, "neither its autostart flag nor any disk files were touched: "+where.host+" has it "+said(where.Sighting)
		}
		d.end(ctx, Failed, e)
		return true
	case Nowhere:
		// Whichever host ran it last has the only current state of its disks.
		d.end(ctx, Failed, ending{
			code: "guest-stopped", reason: why, cause: cause, leave: true,
			note: "neither its autostart flag nor any disk files were touched: nobody can say which host ran it last",
		})
		return true
	case Stranded:
		d.log.Error("THE GUEST STANDS STILL and is not resumed: a person must decide", "why", why)
		d.undecided("ALARM: " + why + "; nothing is resumed, since the target may have written to its disks: " +
			"start it where its disks are current, then, if need be: drover migration resolve")
	case Both:
		d.log.Error("TWO COPIES RUN; nothing is touched, a person must decide", "why", why)
		d.undecided("ALARM: " + why + "; check both, stop the wrong one by hand, then: drover migration resolve")
	case InProgress, Undecided, Moved:
		d.undecided(why)
	}
	return false
}

// rolledBack ends a migration whose guest is proven to be where it was.
func (d *drive) rolledBack(ctx context.Context, cause error) bool {
	m := d.rec.current()
	switch {
	case m.Cancel != nil:
		d.finish(ctx, Aborted, "cancelled", "cancelled by "+m.Cancel.By+"; the guest runs on "+m.Source, cause)
	case m.gaveUp() != nil && m.gaveUp().Code == restarting:
		d.finish(ctx, Failed, "not-restarted", "the attempt was ended to begin again with another strategy, which could not be done; the guest runs on "+m.Source, cause)
	case m.gaveUp() != nil:
		d.finish(ctx, Aborted, m.gaveUp().Code, m.gaveUp().Reason, cause)
	case hypervisor.IsClass(cause, hypervisor.ClassAborted):
		d.finish(ctx, Aborted, "aborted-outside", "aborted outside drover (such as virsh domjobabort); the guest runs on "+m.Source, cause)
	default:
		d.finish(ctx, Failed, "rolled-back", "libvirt took the migration back; the guest runs on "+m.Source, cause)
	}
	return true
}

// undecided says in the record that nobody can say; looks go on.
func (d *drive) undecided(why string) { d.stands("", why) }

// stands says in the record why the migration stands where nobody can say how it ends.
func (d *drive) stands(code, why string) {
	if m := d.rec.current(); m.Phase == Unknown && m.Reason == why && m.ReasonCode == code {
		return
	}
	d.rec.change(func(m *Migration) {
		if !m.Phase.Final() {
			m.Phase, m.Reason, m.ReasonCode = Unknown, why, code
		}
	})
}

// finish ends a migration whose guest is on the source.
func (d *drive) finish(ctx context.Context, p Phase, code, reason string, cause error) {
	d.end(ctx, p, ending{code: code, reason: reason, cause: cause})
}

// ending is what is known at the end, besides the phase.
type ending struct {
	code, reason, note string
	cause              error
	leave              bool // nothing is to be tidied up on either host
}

// endUnstarted ends a migration for which libvirt was never called. There is nothing that a crash
// could lose: the next run of the agent finds the record unstarted and ends it too. A record that has
// gone on in other hands is left alone.
func (d *drive) endUnstarted(ctx context.Context, p Phase, e ending) {
	was, now := d.rec.current(), time.Now()
	var notes []string
	if was.Agent != "" {
		notes = d.w.discardDisks(ctx, was.Migration)
	}
	d.rec.change(func(m *Migration) {
		// A claim whose answer was lost is this agent's too; a step further is not unstarted.
		if m.Started != nil || m.Phase.Final() || m.Agent != was.Agent && m.Agent != d.w.Instance {
			return
		}
		m.Notes = append(m.Notes[:len(m.Notes):len(m.Notes)], notes...)
		m.Phase, m.Reason, m.ReasonCode, m.Finished = p, e.reason, e.code, &now
		if e.cause != nil {
			m.Error = e.cause.Error()
		}
	})
	d.log.Info("migration ended before it began", "phase", p, "code", e.code, "reason", e.reason, "err", e.cause)
	if err := d.rec.flush(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("the record went on without this agent", "err", err)
	}
}

// end keeps the outcome on disk, tidies up on this host, and tells the store. The file on disk is
// removed last: after a crash the next start does what is left.
func (d *drive) end(ctx context.Context, p Phase, e ending) {
	now := time.Now()
	// libvirt gives the statistics once: an agent that is just being stopped still reads them.
	local := context.WithoutCancel(ctx)
	s := Spooled{
		ID: d.rec.current().ID, Phase: p, Reason: e.reason, ReasonCode: e.code,
		Finished: now.Format(time.RFC3339Nano), Outcome: d.outcome(local, p),
		Leave: e.leave,
	}
	if e.cause != nil {
		s.Error = e.cause.Error()
	}
	if e.note != "" {
		s.Notes = []string{e.note}
	}
	if err := d.w.Spool.Put(s); err != nil {
		// Not even this stops the truth from being told to the store.
		d.log.Error("outcome not kept on local disk", "err", err)
	}
	tidyErr := d.tidy(local, s, time.Time{})
	d.rec.change(s.apply)
	d.log.Info("migration ended", "phase", p, "code", e.code, "reason", e.reason, "err", e.cause)
	err := d.rec.flush(ctx)
	for until := now.Add(askedFor); tidyErr != nil && ctx.Err() == nil; {
		d.log.Warn("this host could not be tidied up yet", "err", tidyErr)
		sleep(ctx, evidenceEvery)
		if tidyErr = d.tidy(ctx, s, until); tidyErr == nil {
			err = d.rec.flush(ctx)
		}
	}
	if tidyErr != nil || err != nil && !errors.Is(err, errGone) {
		d.log.Warn("outcome kept on local disk: not all is done yet", "err", errors.Join(err, tidyErr))
		return
	}
	if err := d.w.Spool.Remove(s.ID); err != nil {
		d.log.Error("spool", "err", err)
	}
}

// tidy leaves this host as it should be; what can't be is noted in the record. An error is returned
// for what may be possible later.
func (d *drive) tidy(ctx context.Context, s Spooled, until time.Time) error {
	if s.Leave {
		return nil
	}
	notes, err := d.w.tidy(ctx, d.rec.current().Migration, s.Phase, until)
	if len(notes) > 0 {
		d.rec.change(func(m *Migration) {
			for _, n := range notes {
				m.Notes = appendNew(m.Notes, n)
			}
		})
	}
	return err
}

// outcome reads the completed job's statistics; for a migration that did not complete, what was last
// seen of it.
func (d *drive) outcome(ctx context.Context, p Phase) *Outcome {
	m := d.rec.current()
	if m.Started == nil {
		return nil
	}
	o := &Outcome{
		Seconds: time.Since(*m.Started).Seconds(), Bytes: d.last.Processed(),
		Rounds: d.last.Round, ThrottleMaxPercent: d.last.Throttle, Strategy: "plain",
	}
	if a := m.attempt(); a.Number > 0 {
		o.Strategy = a.Strategy
	}
	if p == Done && d.split() {
		o.Strategy += forecast.UsedPostCopy
	}
	defer func() {
		d.receipt(o, p)
		if p == Done {
			o.throughout(m.Migration)
		}
	}()
	if p != Done {
		return o
	}
	cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, ok, err := d.w.Migrator.CompletedStats(cctx, d.domain)
	if err != nil || !ok {
		d.log.Warn("libvirt no longer has the completed job's statistics; the pause is not known", "err", err)
		return o
	}
	o.Seconds, o.Bytes = s.Elapsed.Seconds(), s.Processed()
	o.PauseMS, o.PauseKnown = s.Downtime.Milliseconds(), true
	if s.Round > 0 {
		o.Rounds = s.Round
	}
	return o
}

// receipt adds what the migration has shown of the domain.
func (d *drive) receipt(o *Outcome, p Phase) {
	if d.tuner == nil || d.last.MemTotal == 0 {
		return // never seen at work
	}
	m := d.rec.current()
	r := d.tuner.Learned()
	r.ID, r.At, r.Done, r.Encrypt = m.ID, time.Now(), p == Done, m.Policy.Encrypt
	// What it had to wait for bandwidth says nothing of the guest.
	r.Seconds, r.Bytes, r.PauseMS, r.Rounds, r.Strategy = o.Seconds, o.Bytes, o.PauseMS, o.Rounds, o.Strategy
	r.Seconds = max(r.Seconds-r.Waited.Seconds(), r.Seconds/4)
	o.ThrottleMaxPercent = max(o.ThrottleMaxPercent, slowedPercent(r.LeastShare))
	o.Slowdown, o.Receipt = r.Slowdown, &r
}

func slowedPercent(share float64) int {
	if share <= 0 || share >= 1 {
		return 0
	}
	return int(100*(1-share) + 0.5)
}
