package sim

import (
	"time"

	"drover/precopy"
	"drover/test/sim/guest"
)

// succeed tells that the guest runs on the target.
func (r *Running) succeed() {
	r.w.judge.paused(r.job.StoppedAt(), r)
	r.end(precopy.Done, "", "moved to "+r.target.Name)
}

// abort ends the copy; the guest runs on where it is.
func (r *Running) abort() {
	r.unstream()
	r.step.Stop()
	r.job.SetShare(r.w.now, 1)
	r.share = 1
	r.step = r.w.After(abortTakes, func() {
		m := r.w.store.migrations[r.ID]
		switch {
		case m.Cancel != nil:
			r.end(precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By+"; the guest runs on "+r.source.Name)
		case r.reason != nil:
			r.end(precopy.Aborted, string(r.reason.Reason), r.reason.Text)
		default:
			r.end(precopy.Failed, "rolled-back", "libvirt took the migration back; the guest runs on "+r.source.Name)
		}
	})
}

// fail ends a migration whose guest stayed.
func (r *Running) fail(code, reason string) {
	if !r.ended {
		r.unstream()
		r.end(precopy.Failed, code, reason)
	}
}

// end writes the outcome, or keeps it until somebody can.
func (r *Running) end(p precopy.Phase, code, reason string) {
	if !r.ended {
		r.ended = true
		r.step.Stop()
		r.next.Stop()
		r.guest.move = nil
		if p != precopy.Done {
			r.target.gone(r.guest)
		}
	}
	now := r.w.Time()
	outcome := r.outcome(p)
	r.finish(func(m *precopy.Migration) {
		m.Phase, m.ReasonCode, m.Reason, m.Finished, m.Outcome = p, code, reason, &now, outcome
		if p == precopy.Done && m.Cancel != nil {
			m.ReasonCode, m.Notes = "cancelled-too-late", []string{"cancelled too late: the guest already runs on the target"}
		}
		if n := len(m.Attempts); n > 0 {
			m.Attempts = r.noted(m.Attempts)
			m.Attempts[n-1].Ended, m.Attempts[n-1].Result = &now, string(p)
		}
	})
}

// finish writes the last word, at once or when the agent is back.
func (r *Running) finish(change func(*precopy.Migration)) {
	if !r.source.agent {
		r.drop() // whoever comes next finds out by looking
		return
	}
	if !r.source.connected() {
		r.source.spool = append(r.source.spool, func() { r.finish(change) })
		return
	}
	r.write(change)
	r.drop()
	for _, h := range []*Host{r.source, r.target} {
		if h.connected() {
			h.report.Stop()
			h.report = r.w.After(r.w.Timing.Write, h.publish)
		}
	}
}

// endUnstarted ends a migration for which libvirt was never called.
func (r *Running) endUnstarted(p precopy.Phase, code, reason string) {
	now := r.w.Time()
	r.write(func(m *precopy.Migration) { m.Phase, m.ReasonCode, m.Reason, m.Finished = p, code, reason, &now })
	r.drop()
}

// drop frees the migration's place on its agent.
func (r *Running) drop() {
	h := r.source
	delete(h.drives, r.ID)
	r.ended = true
	if len(h.waiting) > 0 && h.connected() {
		id := h.waiting[0]
		h.waiting = h.waiting[1:]
		h.look(id)
	}
}

// outcome is what libvirt's statistics say.
func (r *Running) outcome(p precopy.Phase) *precopy.Outcome {
	if r.job == nil {
		return nil
	}
	s := r.job.Stats(r.w.now, r.began)
	o := &precopy.Outcome{
		Seconds: s.Elapsed.Seconds(), Bytes: s.MemProcessed, Rounds: s.Round, ThrottleMaxPercent: s.Throttle,
		Strategy: r.tuner.Strategy().Name(),
	}
	if p == precopy.Done {
		o.PauseMS, o.PauseKnown = r.pause().Milliseconds(), true
	}
	l := r.tuner.Learned()
	l.ID, l.At, l.Done = r.ID, r.w.Time(), p == precopy.Done
	l.Encrypt = r.w.store.migrations[r.ID].Policy.Encrypt
	l.Seconds, l.Bytes, l.PauseMS, l.Rounds, l.Strategy = o.Seconds, o.Bytes, o.PauseMS, o.Rounds, o.Strategy
	l.Seconds = max(l.Seconds-l.Waited.Seconds(), l.Seconds/4) // as the real worker
	if l.LeastShare > 0 && l.LeastShare < 1 {
		o.ThrottleMaxPercent = max(o.ThrottleMaxPercent, int(100*(1-l.LeastShare)+0.5))
	}
	o.Slowdown, o.Receipt = l.Slowdown, &l
	return o
}

// pause is how long the guest stood still.
func (r *Running) pause() time.Duration {
	if r.followed {
		return r.w.Timing.Overhead
	}
	return r.arrived - r.job.StoppedAt()
}

// adopt goes on with what runs, on an agent that has just come back.
func (r *Running) adopt() {
	if r.ended || r.job == nil || r.job.Stage() != guest.Copying {
		return
	}
	m := r.w.store.migrations[r.ID]
	if r.anew {
		r.anew = false
		r.tuner = precopy.TunerFor(m.Migration, r.guest.Memory.Total)
	}
}

// resolve ends a migration of which nothing runs any more, by where the guest is.
func (r *Running) resolve() {
	now := r.w.Time()
	m := r.w.store.migrations[r.ID]
	change := func(m *precopy.Migration) {
		m.Phase, m.ReasonCode, m.Reason, m.Finished = precopy.Failed, "guest-stopped", "the guest is off on both hosts", &now
	}
	switch {
	case r.guest == nil || r.guest.Host == nil:
	case m.Started == nil:
		change = func(m *precopy.Migration) {
			m.Phase, m.ReasonCode, m.Reason, m.Finished = precopy.Failed, "agent-restarted", "the source's agent was away before the copy began; order it again", &now
		}
	case r.guest.Host == r.target:
		change = func(m *precopy.Migration) {
			m.Phase, m.ReasonCode, m.Reason, m.Finished = precopy.Done, "", "found on "+m.Target, &now
			m.Outcome = &precopy.Outcome{Strategy: "plain"}
		}
	default:
		change = func(m *precopy.Migration) {
			m.Phase, m.ReasonCode, m.Reason, m.Finished = precopy.Failed, "rolled-back", "the guest runs on "+m.Source, &now
		}
	}
	r.write(change)
	r.drop()
}
