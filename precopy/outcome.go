package precopy

import (
	"context"
	"errors"
	"time"

	"drover/hypervisor"
)

// succeeded records that libvirt's own call said so: its Finish step returned the running domain
// from the target before it ended the source's, which is proof of both.
func (d *drive) succeeded(ctx context.Context) {
	m := d.rec.current()
	if m.Cancel != nil {
		d.end(ctx, Done, ending{code: "cancelled-too-late", reason: "moved to " + m.Target,
			note: "cancelled too late: the guest already runs on the target"})
		return
	}
	d.end(ctx, Done, ending{reason: "moved to " + m.Target})
}

// failed finds out where the guest is after libvirt's call returned an error.
func (d *drive) failed(ctx context.Context, cause error) {
	d.log.Info("libvirt's call returned an error, looking at both hosts", "err", cause)
	if hypervisor.IsClass(cause, hypervisor.ClassUnknownOutcome) {
		// The call's connection broke: the migration may well go on.
		d.enter(Unknown, "the connection to the source's libvirt broke during the migration")
	}
	for ctx.Err() == nil {
		if _, err := d.follow(ctx); err != nil {
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
	if src.State == hypervisor.StateRunning && src.Job == hypervisor.JobNone && cause != nil &&
		!hypervisor.IsClass(cause, hypervisor.ClassUnknownOutcome) {
		// libvirt rolled back and says so: no need for the target, which may be what failed. The one
		// case in which both run is the lost Finish reply, for which the target is asked below.
		// Only a migration that reached its switchover can have got that far.
		dst, ok := d.sightTarget(ectx)
		if ok && !runs(dst) || !ok && !d.switched {
			return d.rolledBack(ctx, cause)
		}
	}
	dst, ok := d.sightTarget(ectx)
	if !ok {
		d.undecided("the target's agent does not answer, so nobody can say where the guest runs")
		return false
	}
	verdict, why := Resolve(src, dst)
	d.log.Info("evidence of both hosts", "verdict", verdict, "why", why, "source", src.State, "target", dst.State)
	return d.judge(ctx, verdict, why, cause)
}

func (d *drive) sightTarget(ctx context.Context) (hypervisor.Sighting, bool) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	a, err := d.w.Queue.Ask(ctx, d.rec.current().Target, Question{Kind: AskSight, Domain: d.domain})
	if err != nil || a.Error != "" || a.Sighting == nil {
		d.log.Info("the target could not be asked", "err", err, "answer", a.Error)
		return hypervisor.Sighting{}, false
	}
	return *a.Sighting, true
}

// judge acts on a verdict; true when the migration has ended by it.
func (d *drive) judge(ctx context.Context, v Verdict, why string, cause error) bool {
	switch v {
	case OnTarget:
		d.end(ctx, Done, ending{reason: "found on " + d.rec.current().Target + ": " + why})
		return true
	case OnSource:
		return d.rolledBack(ctx, cause)
	case SourcePaused:
		d.log.Warn("resuming the guest that an interrupted migration left paused", "why", why)
		if err := d.w.Migrator.Resume(ctx, d.domain); err != nil {
			d.log.Error("the guest could not be resumed", "err", err)
			d.undecided("the guest is paused on the source and could not be resumed: " + err.Error())
		}
		return false // the next look sees it running
	case Nowhere:
		d.end(ctx, Failed, ending{code: "guest-stopped", reason: why, cause: cause})
		return true
	case Both:
		d.log.Error("TWO COPIES RUN; nothing is touched, a person must decide", "why", why)
		d.undecided("ALARM: " + why + "; check both, stop the wrong one by hand, then: drover migration resolve")
	case InProgress, Undecided:
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
	case m.ReasonCode != "":
		// The tuner gave up, and has said why.
		d.finish(ctx, Aborted, m.ReasonCode, m.Reason, cause)
	case hypervisor.IsClass(cause, hypervisor.ClassAborted):
		d.finish(ctx, Aborted, "aborted-outside", "aborted outside drover (such as virsh domjobabort); the guest runs on "+m.Source, cause)
	default:
		d.finish(ctx, Failed, "rolled-back", "libvirt took the migration back; the guest runs on "+m.Source, cause)
	}
	return true
}

// undecided says in the record that nobody can say; looks go on.
func (d *drive) undecided(why string) {
	if m := d.rec.current(); m.Phase == Unknown && m.Reason == why {
		return
	}
	d.rec.change(func(m *Migration) {
		if !m.Phase.Final() {
			m.Phase, m.Reason = Unknown, why
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
}

// end tidies up on this host, keeps the outcome on disk, and tells the store, in that order: a crash
// between two of them is mended by the next start.
func (d *drive) end(ctx context.Context, p Phase, e ending) {
	now := time.Now()
	// libvirt gives the statistics once: an agent that is just being stopped still reads them.
	local := context.WithoutCancel(ctx)
	s := Spooled{
		ID: d.rec.current().ID, Phase: p, Reason: e.reason, ReasonCode: e.code,
		Finished: now.Format(time.RFC3339Nano), Outcome: d.outcome(local, p),
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
	d.tidy(local, p)
	d.rec.change(func(m *Migration) {
		s.apply(m)
		if n := len(m.Attempts); n > 0 {
			m.Attempts = append([]Attempt(nil), m.Attempts...)
			m.Attempts[n-1].Ended, m.Attempts[n-1].Result = &now, string(p)
		}
	})
	d.log.Info("migration ended", "phase", p, "code", e.code, "reason", e.reason, "err", e.cause)
	if err := d.rec.flush(ctx); err != nil && !errors.Is(err, errGone) {
		d.log.Warn("outcome kept on local disk until the store takes it", "err", err)
		return
	}
	if err := d.w.Spool.Remove(s.ID); err != nil {
		d.log.Error("spool", "err", err)
	}
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
	if n := len(m.Attempts); n > 0 {
		o.Strategy = m.Attempts[n-1].Strategy
	}
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

// tidy leaves this host as it should be: no definition of a guest that has left, the autostart flag
// of one that has not.
func (d *drive) tidy(ctx context.Context, p Phase) {
	m := d.rec.current()
	if m.Started == nil {
		return
	}
	tctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if p == Done {
		if err := d.w.Migrator.Undefine(tctx, d.domain); err != nil {
			d.log.Error("the definition is left on the source", "err", err)
			d.rec.change(func(m *Migration) {
				m.Notes = appendNew(m.Notes, "its definition is left on "+m.Source+": "+err.Error())
			})
		}
		return
	}
	if m.Autostart {
		if err := d.w.Migrator.SetAutostart(tctx, d.domain, true); err != nil {
			d.log.Error("autostart flag not restored on the source", "err", err)
			d.rec.change(func(m *Migration) {
				m.Notes = appendNew(m.Notes, "its autostart flag was not restored on "+m.Source)
			})
		}
	}
	d.discardDisks(tctx)
}
