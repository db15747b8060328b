package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/budget"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// State is the leader's picture of the fleet.
type State interface {
	Snapshot() *fleet.Snapshot
	// Changed has a value whenever the picture changed since the last receive.
	Changed() <-chan struct{}
}

// Orders is what a leader writes. Every write carries its fence: precopy.ErrFenced means that this
// leader is deposed, precopy.ErrConflict that the record, or that of an order's target, changed.
type Orders interface {
	Update(ctx context.Context, w Write) (precopy.Stored, error)
	BindHost(ctx context.Context, name, libvirtUUID string) error
	// Share changes what streams may send; those that changed meanwhile are left out. It returns how many
	// were written, and the store's revision after that.
	Share(ctx context.Context, w []budget.Write) (written int, revision int64, err error)
	// Retire moves a finished migration to the history.
	Retire(ctx context.Context, m precopy.Stored) error
	// Prune deletes what is too old in the history.
	Prune(ctx context.Context) error
}

// Config is what a Loop is made of; all but Limits, Hooks, Placer and Plans is needed. Without Plans nothing moves by itself.
type Config struct {
	Identity string
	Fence    int64
	State    State
	Orders   Orders
	Runs     Runs
	Plans    Plans
	Profiles Profiles
	Asker    Asker
	Placer   Placer
	// Hooks runs the hooks of this control host; nil allows none.
	Hooks   HookRunner
	Limits  Limits
	Log     *slog.Logger
	Metrics *Metrics
}

const (
	tick        = time.Second
	retireEvery = 10 * time.Second
	pruneEvery  = 10 * time.Minute
	tendEvery   = time.Hour
	writesAtOne = 8 // writes of one pass under way at once
)

// Loop is one term of leadership. Run may be called once.
type Loop struct {
	Config

	mu     sync.Mutex
	memory Memory
	// fetching are the domains whose profiles are being read for runs.
	fetching map[hypervisor.DomainID]bool
	clocks   clocks
	// traffic and streams are written to before each pass, by the loop's goroutine only.
	traffic budget.Traffic
	streams budget.Memory
	shared  time.Time // when shares were written last
	own     ownWrites
	kick    chan struct{} // a preflight came back

	automatic automatic
}

// NewLoop returns a loop that does nothing until Run.
func NewLoop(c Config) *Loop {
	if c.Placer == nil {
		c.Placer = LeastLoaded{}
	}
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	return &Loop{
		Config: c, kick: make(chan struct{}, 1),
		memory: Memory{Preflights: map[Key]Result{}, Learned: map[string]bool{}, Profiles: map[hypervisor.DomainID]forecast.Profile{}, Hooks: map[string]*precopy.HookResult{}},
		clocks: clocks{}, fetching: map[hypervisor.DomainID]bool{},
	}
}

// Run leads until ctx ends (nil), or until a write shows that another leads (precopy.ErrFenced).
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var asks sync.WaitGroup
	defer asks.Wait()
	defer cancel()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	defer l.Metrics.over()
	pruned, retiredAt, tended := time.Now(), time.Now(), time.Now()
	for {
		if err := l.pass(ctx, &asks); err != nil {
			return err
		}
		if time.Since(retiredAt) > retireEvery {
			retiredAt = time.Now()
			if err := l.retire(ctx); err != nil {
				return err
			}
		}
		if time.Since(pruned) > pruneEvery {
			pruned = time.Now()
			if err := l.Orders.Prune(ctx); err != nil && ctx.Err() == nil {
				l.Log.Warn("history not pruned", "err", err)
			}
			if err := l.pruneRuns(ctx); err != nil {
				return err
			}
		}
		if time.Since(tended) > tendEvery {
			tended = time.Now()
			if err := l.tend(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.State.Changed():
		case <-l.kick:
		case <-ticker.C:
		}
	}
}

// pass decides once and carries the decisions out.
func (l *Loop) pass(ctx context.Context, asks *sync.WaitGroup) error {
	snap := l.State.Snapshot()
	if snap == nil {
		return nil
	}
	began := time.Now()
	if !l.own.seen(snap.Revision, began) {
		return nil // the picture lacks what this leader gave away itself; it follows
	}
	l.lookAtStreams(snap, began)
	decisions := Decide(Inputs{
		Fleet: snap, Memory: l.remember(snap), Limits: l.Limits, Placer: l.Placer,
		Leader: l.Identity, Fence: l.Fence, Now: began,
	})
	l.Metrics.passed(time.Since(began), snap)
	g, wctx := errgroup.WithContext(ctx)
	g.SetLimit(writesAtOne)
	for _, d := range decisions {
		switch {
		case d.Ask != nil:
			l.ask(ctx, asks, *d.Ask)
		case d.Bind != nil:
			g.Go(func() error {
				return l.tolerate(ctx, "host not bound", l.Orders.BindHost(wctx, d.Bind.Host, d.Bind.LibvirtUUID))
			})
		case d.Learn != nil:
			g.Go(func() error { return l.learn(wctx, *d.Learn) })
		case d.Shares != nil:
			if l.mayShare(began) {
				g.Go(func() error { return l.writeShares(wctx, d.Shares) })
			}
		case d.Write != nil:
			g.Go(func() error { return l.write(wctx, *d.Write) })
		case d.Run != nil:
			g.Go(func() error { return l.writeRun(wctx, *d.Run) })
		case d.Cordon != nil:
			g.Go(func() error {
				return l.tolerate(ctx, "cordon not written, it will be tried again", l.Runs.Cordon(wctx, *d.Cordon))
			})
		case d.Fetch != nil:
			l.fetch(ctx, asks, d.Fetch)
		case d.ShutDown != nil:
			asks.Go(func() {
				if err := l.Runs.ShutDown(ctx, *d.ShutDown); err != nil && ctx.Err() == nil {
					l.Log.Warn("a guest was not asked to shut down, it will be tried again", "domain", d.ShutDown.VM, "host", d.ShutDown.Host, "err", err)
				}
			})
		case d.Hook != nil:
			l.hook(ctx, asks, *d.Hook)
		case d.Start != nil:
			g.Go(func() error {
				return l.tolerate(ctx, "run not begun, it will be tried again", l.Runs.Start(wctx, *d.Start))
			})
		case d.Create != nil:
			g.Go(func() error {
				return l.tolerate(ctx, "migration not asked for, it will be tried again", l.Runs.Create(wctx, *d.Create))
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return l.automate(ctx, snap)
}

// retire moves what is over and done with to the history.
func (l *Loop) retire(ctx context.Context) error {
	snap := l.State.Snapshot()
	if snap == nil {
		return nil
	}
	over := slices.DeleteFunc(Retired(snap, time.Now()), l.unlearned)
	for _, m := range over[:min(len(over), retireAtOnce)] {
		if err := l.tolerate(ctx, "not moved to the history", l.Orders.Retire(ctx, m)); err != nil {
			return err
		}
	}
	return nil
}

// remember brings the leader's memory up to date with a snapshot and returns a copy for one pass.
func (l *Loop) remember(snap *fleet.Snapshot) Memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for k := range l.memory.Preflights {
		if m, ok := snap.Migrations[k.Migration]; !ok || m.Phase.Final() {
			delete(l.memory.Preflights, k)
		}
	}
	l.forgetHooks(snap)
	maps.DeleteFunc(l.memory.Learned, func(id string, _ bool) bool { _, there := snap.Migrations[id]; return !there })
	if len(snap.UnfinishedRuns()) == 0 {
		clear(l.memory.Profiles)
	}
	l.memory.AwaySince, l.memory.DownSince = l.absences(snap, now)
	l.clocks.look(snap)
	for name, off := range l.clocks.news() {
		l.Log.Warn("a host's clock differs from this one's", "host", name, "ahead", off.Round(time.Millisecond))
	}
	for k, res := range l.memory.Preflights {
		_, source := l.memory.DownSince[snap.Migrations[k.Migration].Source]
		_, target := l.memory.DownSince[k.Target]
		if (source || target) && !res.At.IsZero() {
			delete(l.memory.Preflights, k) // not answered, or by an agent that has gone: to be asked again
		}
	}
	out := Memory{
		Preflights: make(map[Key]Result, len(l.memory.Preflights)), AwaySince: l.memory.AwaySince, DownSince: l.memory.DownSince,
		Clocks: l.clocks.offsets(), Learned: maps.Clone(l.memory.Learned), Profiles: maps.Clone(l.memory.Profiles), Hooks: maps.Clone(l.memory.Hooks),
		Traffic: &l.traffic, Streams: &l.streams,
	}
	for k, v := range l.memory.Preflights {
		out.Preflights[k] = v
	}
	return out
}

// absences says since when hosts are away and down, as far as this leader has seen. A host that only an
// unfinished migration still names is both.
func (l *Loop) absences(snap *fleet.Snapshot, now time.Time) (away, down map[string]time.Time) {
	away, down = map[string]time.Time{}, map[string]time.Time{}
	since := func(old map[string]time.Time, host string) time.Time {
		if at, known := old[host]; known {
			return at
		}
		return now
	}
	names := snap.HostNames()
	for _, m := range snap.Unfinished() {
		names = append(names, m.Source)
	}
	for _, name := range names {
		h := snap.Hosts[name]
		if h == nil || h.Session == nil {
			away[name] = since(l.memory.AwaySince, name)
		}
		if h == nil || feasible.Up(snap, h) != nil {
			down[name] = since(l.memory.DownSince, name)
		}
	}
	return away, down
}

func (l *Loop) ask(ctx context.Context, asks *sync.WaitGroup, a Ask) {
	l.mu.Lock()
	since := l.memory.Preflights[a.Key].Since
	if since.IsZero() {
		since = time.Now()
	}
	l.memory.Preflights[a.Key] = Result{Since: since}
	l.mu.Unlock()
	asks.Go(func() {
		blockers, silent := AskHosts(ctx, l.Asker, a.Request, a.Key.Target)
		profile, err := l.Profiles.Profile(ctx, a.Request.Domain.Facts.ID)
		if err != nil && ctx.Err() == nil {
			l.Log.Warn("earlier migrations are not known for the forecast", "domain", a.Request.Domain.Facts.Name, "err", err)
		}
		l.mu.Lock()
		found := Result{At: time.Now(), Blockers: blockers, Silent: silent, Profile: profile}
		if silent != "" {
			found.Since = since
		}
		l.memory.Preflights[a.Key] = found
		l.mu.Unlock()
		l.again()
	})
}

func (l *Loop) write(ctx context.Context, w Write) error {
	stored, err := l.Orders.Update(ctx, w)
	if w.Share != nil {
		l.own.wrote(stored.Revision, err)
	}
	if err == nil && w.Old.Phase != w.New.Phase {
		l.Log.Info("migration decided", "migration", w.New.ID, "domain", w.New.Domain, "phase", w.New.Phase,
			"source", w.New.Source, "target", w.New.Target, "reason", w.New.Reason)
		l.Metrics.decided(w.New.Phase, w.New.ReasonCode)
	}
	return l.tolerate(ctx, "decision not written, it will be taken again", err)
}

// tolerate lets a pass go on after an error that the next pass mends, and ends the term after one
// that means that it is over.
func (l *Loop) tolerate(ctx context.Context, what string, err error) error {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, precopy.ErrConflict):
		return nil
	case errors.Is(err, precopy.ErrFenced):
		return fmt.Errorf("leader: %w", err)
	}
	l.Log.Warn(what, "err", err)
	return nil
}
