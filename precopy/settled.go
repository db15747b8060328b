package precopy

import (
	"context"
	"time"
)

// ResolvedByHand is the reason code of a record that a person closed: believed, but tidied up after
// only as far as both hosts bear it out.
const ResolvedByHand = "resolved-by-hand"

// settledElsewhere ends the drive of a migration that somebody else resolved in the meantime, the
// leader by evidence or a person by hand; what that leaves to do on this host is done, if the hosts
// bear it out.
func (d *drive) settledElsewhere(ctx context.Context) bool {
	m := d.rec.current()
	if !m.Phase.Final() {
		return false
	}
	d.log.Info("resolved elsewhere", "phase", m.Phase, "reason", m.Reason)
	e := ending{code: m.ReasonCode, reason: m.Reason}
	if e.note = d.contradicted(ctx, m.Migration); ctx.Err() != nil {
		return true // the next run of the agent takes it up
	}
	e.leave = e.note != ""
	d.end(ctx, m.Phase, e)
	d.markTidied(ctx)
	return true
}

// contradicted returns why what is to be tidied up after a record that somebody else closed must be
// left as it is; empty when the hosts bear the record out. It waits until this host's libvirt answers.
func (d *drive) contradicted(ctx context.Context, m Migration) string {
	for ; ctx.Err() == nil; sleep(ctx, evidenceEvery) {
		ectx, cancel := context.WithTimeout(ctx, 20*time.Second)
		src, err := d.w.Migrator.Sight(ectx, d.domain)
		if err != nil {
			cancel()
			d.log.Warn("waiting for libvirt before anything is tidied up", "err", err)
			continue
		}
		dst, ok := d.sightTarget(ectx)
		cancel()
		switch {
		case postcopy(src) || postcopy(dst):
			return "nothing is tidied up on either host: it was seen in post-copy, with memory on both"
		case m.Phase == Done && ok && runs(dst) && !src.Active():
			return ""
		case m.Phase == Done:
			return "its definition is left on " + m.Source + ": it was not seen running on " + m.Target + " alone"
		case src.Active() && !(ok && dst.Active()):
			return ""
		}
		return "its autostart flag and any disk files are left as they are: it was not seen on " + m.Source + " alone"
	}
	return ""
}

// Untidied reports whether a person closed the record and its source's agent has not looked at it since. Disk
// files are made before the libvirt call.
func (m Migration) Untidied() bool {
	begun := m.Started != nil || m.CopyStorage && m.Agent != ""
	return m.Phase.Final() && m.ReasonCode == ResolvedByHand && begun && !m.Tidied
}

// markTidied keeps later runs of the agent from looking again.
func (d *drive) markTidied(ctx context.Context) {
	if !d.rec.current().Untidied() {
		return
	}
	d.rec.change(func(m *Migration) { m.Tidied = true })
	if err := d.rec.flush(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("not marked as tidied up", "err", err)
	}
}
