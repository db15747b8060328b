package scheduler

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/auto"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
	"drover/scheduler/rolling"
)

// Runs is what a leader writes for runs. Writes are fenced as those of [Orders], and give the same errors;
// precopy.ErrConflict also when a domain has an unfinished migration already.
type Runs interface {
	Update(ctx context.Context, w RunWrite) error
	// Cordon sets or removes one holder's cordon; one that is as it should be is no error.
	Cordon(ctx context.Context, c drain.Cordon) error
	// Create makes a migration's record, once however often it is called.
	Create(ctx context.Context, m precopy.Migration) error
	// ShutDown asks a host's agent to ask a guest to shut down, and says so in the audit. It waits for the answer.
	ShutDown(ctx context.Context, s drain.ShutDown) error
	// Start makes a run's record, unless it is there.
	Start(ctx context.Context, r fleet.Run) error
	Remove(ctx context.Context, r fleet.StoredRun) error
}

// RunWrite changes a run's record.
type RunWrite struct {
	Old fleet.StoredRun
	New fleet.Run
}

// runLife is how long a run that is over is kept; longer while a host is cordoned by it.
const runLife = 30 * 24 * time.Hour

// runs takes every run one step on, but for automatic ones, which have their own pass.
func (p *pass) runs() {
	for _, r := range p.Fleet.UnfinishedRuns() {
		switch {
		case auto.Owns(r.Run):
			continue
		case r.Kind == fleet.RunMaintenance:
			p.roll(r)
			continue
		}
		if ids := p.unread(r.Run); len(ids) > 0 {
			p.decisions = append(p.decisions, Decision{Fetch: ids})
			if r.Phase == fleet.RunRequested {
				continue // its first forecast rests on them
			}
		}
		next, requests := drain.Step(drain.Input{
			Run: auto.Doubt(p.Fleet, r), Fleet: p.Fleet, Now: p.Now, Outgoing: p.Limits.Outgoing, Incoming: p.Limits.Incoming,
			Ahead: budget.Lively(p.budget.Network), Foresee: Foresee(p.Fleet, p.Memory.Profiles, p.Now),
		})
		if !drain.Same(r.Run, next) {
			p.decisions = append(p.decisions, Decision{Run: &RunWrite{Old: r, New: next}})
		}
		for _, q := range requests {
			switch {
			case q.Cordon != nil:
				p.decisions = append(p.decisions, Decision{Cordon: q.Cordon})
			case q.Create != nil:
				p.decisions = append(p.decisions, Decision{Create: q.Create})
			case q.ShutDown != nil:
				p.decisions = append(p.decisions, Decision{ShutDown: q.ShutDown})
			case q.Abort != nil:
				p.write(q.Abort.Old, func(m *precopy.Migration) { m.Cancel = &q.Abort.Cancel })
			}
		}
	}
}

// unread are the VMs of a run whose earlier migrations were not read yet.
func (p *pass) unread(r fleet.Run) []hypervisor.DomainID {
	if p.Memory.Profiles == nil {
		return nil // this leader reads none
	}
	var out []hypervisor.DomainID
	add := func(id hypervisor.DomainID) {
		if _, read := p.Memory.Profiles[id]; !read && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	for _, m := range r.Moves {
		if !m.State.Final() {
			add(m.UUID)
		}
	}
	switch {
	case r.Phase != fleet.RunRequested || r.Cancel != nil:
	case r.Kind == fleet.RunRestore && !r.None:
		for _, o := range drain.Origins(p.Fleet, r.Hosts) {
			add(o.Domain.Facts.ID)
		}
	case r.Kind == fleet.RunDrain:
		for _, name := range r.Hosts {
			if h := p.Fleet.Hosts[name]; h != nil {
				for _, d := range h.Domains() {
					add(d.Facts.ID)
				}
			}
		}
	}
	return out
}

// fetch reads what earlier migrations have shown of domains; what can't be read counts as nothing.
func (l *Loop) fetch(ctx context.Context, asks *sync.WaitGroup, ids []hypervisor.DomainID) {
	l.mu.Lock()
	ids = slices.DeleteFunc(ids, func(id hypervisor.DomainID) bool { return l.fetching[id] })
	for _, id := range ids {
		l.fetching[id] = true
	}
	l.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	asks.Go(func() {
		var g errgroup.Group
		g.SetLimit(writesAtOne)
		for _, id := range ids {
			g.Go(func() error {
				profile, err := l.Profiles.Profile(ctx, id)
				if err != nil && ctx.Err() == nil {
					l.Log.Warn("earlier migrations are not known for the forecast", "domain", id, "err", err)
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.memory.Profiles[id] = profile
				delete(l.fetching, id)
				return nil
			})
		}
		_ = g.Wait()
		l.again()
	})
}

// roll takes a maintenance run one step on.
func (p *pass) roll(r fleet.StoredRun) {
	next, requests := rolling.Step(rolling.Input{
		Run: r, Fleet: p.Fleet, Now: p.Now, Outgoing: p.Limits.Outgoing, Incoming: p.Limits.Incoming,
		Ahead: budget.Lively(p.budget.Network), Foresee: Foresee(p.Fleet, p.Memory.Profiles, p.Now), Hooks: p.Memory.Hooks,
	})
	if !drain.Same(r.Run, next) {
		p.decisions = append(p.decisions, Decision{Run: &RunWrite{Old: r, New: next}})
	}
	for _, q := range requests {
		p.decisions = append(p.decisions, Decision{Start: q.Start, Cordon: q.Cordon, Hook: q.Hook})
	}
}

// outgoing is how many streams may leave the migration's host for it to start, too.
func (p *pass) outgoing(m precopy.Migration) int {
	if r, ok := p.Fleet.Runs[m.Run]; ok && r.MaxParallel > 0 {
		return r.MaxParallel
	}
	return p.Limits.Outgoing
}

// Foresee forecasts moves of a fleet for runs, given what earlier migrations have shown of domains; nil if that
// is not known.
func Foresee(s *fleet.Snapshot, profiles map[hypervisor.DomainID]forecast.Profile, now time.Time) drain.Foresee {
	return func(d fleet.Domain, target string, pause time.Duration) (forecast.Forecast, *hypervisor.Blocker) {
		decided, err := s.PolicyOf(d)
		promise := decided.Policy
		if err != nil {
			promise = precopy.DefaultPolicy()
		}
		if pause > 0 {
			promise.MaxPauseMS = pause.Milliseconds()
		}
		f := Forecast(s, d, target, promise, false, profiles[d.Facts.ID], now)
		return f, HopelessBlocker(f, promise)
	}
}

func (l *Loop) writeRun(ctx context.Context, w RunWrite) error {
	err := l.Runs.Update(ctx, w)
	if err == nil && w.Old.Phase != w.New.Phase {
		l.Log.Info("run decided", "run", w.New.ID, "kind", w.New.Kind, "phase", w.New.Phase, "hosts", w.New.Hosts, "reason", w.New.Reason)
	}
	if o := w.New.Outlook; err == nil && o != nil && o.Late && (w.Old.Outlook == nil || !w.Old.Outlook.Late) {
		l.Log.Warn("run slips past its deadline", "run", w.New.ID, "end", o.End, "deadline", w.New.Deadline)
	}
	return l.tolerate(ctx, "run not written, the step will be taken again", err)
}

// pruneRuns removes the runs that are over for long and that no cordon names.
func (l *Loop) pruneRuns(ctx context.Context) error {
	snap := l.State.Snapshot()
	if snap == nil {
		return nil
	}
	for _, r := range outdated(snap, time.Now()) {
		if err := l.tolerate(ctx, "run not removed", l.Runs.Remove(ctx, r)); err != nil {
			return err
		}
	}
	return nil
}

func outdated(s *fleet.Snapshot, now time.Time) []fleet.StoredRun {
	held := map[string]bool{}
	for _, h := range s.Hosts {
		for _, c := range h.Record.Cordons {
			held[c.Holder] = true
		}
	}
	var out []fleet.StoredRun
	for _, r := range s.Runs {
		if r.Phase.Final() && r.Finished != nil && now.Sub(*r.Finished) > runLife && !held[r.Holder()] {
			out = append(out, r)
		}
	}
	return out
}
