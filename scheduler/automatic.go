package scheduler

import (
	"context"
	"fmt"
	"time"

	"drover/precopy"
	"drover/scheduler/auto"
	"drover/scheduler/fleet"
	"drover/scheduler/signal"
)

// Plans is what a leader reads and writes for automatic moves. Writes are fenced as those of [Orders], and give
// the same errors.
type Plans interface {
	// Write writes a plan as it was read at the revision, and the run that begins with it, if any.
	Write(ctx context.Context, p fleet.StoredPlan, run *fleet.Run) error
	// SaveInput keeps what a plan was made from, for replays.
	SaveInput(ctx context.Context, plan string, input []byte) error
	// Retire lets a plan that has ended leave the fleet's picture, Prune deletes those of long ago.
	Retire(ctx context.Context, p fleet.StoredPlan) error
	Prune(ctx context.Context) error
	// Since returns the migrations in the history that began after then, and perhaps others.
	Since(ctx context.Context, then time.Time) ([]precopy.Migration, error)
	// Load reads what leaders have kept of VMs' load, SaveLoad keeps one part of it.
	Load(ctx context.Context) ([][]byte, error)
	SaveLoad(ctx context.Context, part int, text []byte) error
}

const (
	// keepLoadEvery is how often a part of the VMs' load is kept.
	keepLoadEvery = 30 * time.Second
	// recallAgain is the pause after a failed try to learn what was before this leader.
	recallAgain = 5 * time.Second
	// longMigration is how long before its end a migration may have begun.
	longMigration = 24 * time.Hour
)

// automatic is the leader's part in automatic moves. It is for the loop's goroutine.
type automatic struct {
	memory   *auto.Memory // nil until what was before is known
	tried    time.Time
	kept     time.Time
	part     int // of the load that is kept next
	revision int64
	fault    string // of the policy that settings are of
	settings auto.Settings
	known    bool // settings are
}

// automate takes one pass over plans and automatic runs. It does nothing before this leader knows where VMs have
// been: else one could be sent back to a host that it has just left.
func (l *Loop) automate(ctx context.Context, snap *fleet.Snapshot) error {
	if l.Plans == nil {
		return nil
	}
	now, a := time.Now(), &l.automatic
	l.configure(snap)
	if a.memory == nil || a.memory.Load.Slot() != a.settings.Slot {
		if now.Sub(a.tried) < recallAgain && a.memory == nil {
			return nil
		}
		a.tried = now
		memory, err := l.recall(ctx, now)
		if err != nil {
			if ctx.Err() == nil {
				l.Log.Warn("no automatic moves yet: what was before is not known", "err", err)
			}
			return nil
		}
		a.memory = memory
	}
	look := a.memory.See(snap, a.settings.Rule, now)
	if now.Sub(a.kept) >= keepLoadEvery {
		a.kept = now
		if err := l.keepLoad(ctx); err != nil {
			return err
		}
	}
	decisions, err := auto.Decide(auto.Inputs{Fleet: snap, Memory: a.memory, Settings: a.settings, Look: look, Now: now})
	if err != nil {
		l.Log.Error("no plan made", "err", err)
	}
	if look {
		l.Metrics.looked(snap, a.memory)
	}
	for _, d := range decisions {
		if err := l.carryOut(ctx, snap, d, now); err != nil {
			return err
		}
	}
	return nil
}

// configure reads the policy, once for each of its revisions. What can't be read moves nothing.
func (l *Loop) configure(snap *fleet.Snapshot) {
	a, p := &l.automatic, snap.Policy
	if a.known && a.revision == p.Revision && a.fault == p.Fault {
		return
	}
	settings, err := auto.SettingsOf(p.Automation)
	switch {
	case p.Fault != "":
		settings = auto.DefaultSettings()
		settings.Stopped = "the policy can't be read"
	case err != nil:
		settings.Stopped = err.Error()
		l.Log.Error("no automatic moves: the policy's windows can't be read", "err", err)
	}
	a.settings, a.known, a.revision, a.fault = settings, true, p.Revision, p.Fault
	l.Log.Info("automatic moves", "level", settings.Level, "mark", settings.Rule.Mark, "hold", settings.Rule.Hold, "policy", p.Revision)
}

// recall makes a memory of what was before this leader: VMs' load as it was kept, and where they have been in the
// last day. The migrations of the fleet's picture are seen in every pass; those of the history were moved there
// from among them.
func (l *Loop) recall(ctx context.Context, now time.Time) (*auto.Memory, error) {
	memory := auto.NewMemory(l.automatic.settings.Slot)
	past, err := l.Plans.Since(ctx, now.Add(-signal.NoReturn-longMigration))
	if err != nil {
		return nil, fmt.Errorf("moves of the last day: %w", err)
	}
	for _, m := range past {
		memory.Trail.See(m, now)
	}
	parts, err := l.Plans.Load(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := memory.Load.Restore(p); err != nil {
			l.Log.Warn("part of the VMs' load is learned anew", "err", err)
		}
	}
	l.Log.Info("automatic moves: what was before is known", "vms", memory.Load.Len(), "migrations", len(past))
	return memory, nil
}

// keepLoad writes the next part of the VMs' load that has any.
func (l *Loop) keepLoad(ctx context.Context) error {
	a := &l.automatic
	for range signal.Chunks {
		part := a.part
		a.part = (a.part + 1) % signal.Chunks
		if text := a.memory.Load.Chunk(part); text != nil {
			return l.tolerate(ctx, "VMs' load not kept", l.Plans.SaveLoad(ctx, part, text))
		}
	}
	return nil
}

// carryOut does one thing that was decided. What fails is decided again.
func (l *Loop) carryOut(ctx context.Context, snap *fleet.Snapshot, d auto.Decision, now time.Time) error {
	var err error
	what := "plan not written, it will be tried again"
	switch {
	case d.Plan != nil:
		if d.Plan.Revision == 0 {
			l.saveInput(ctx, snap, d.Plan.ID, now)
		}
		var run *fleet.Run
		if d.Run != nil {
			run = &d.Run.Run
		}
		if err = l.Plans.Write(ctx, *d.Plan, run); err == nil {
			l.Metrics.planned(snap.Plans[d.Plan.ID].Plan, d.Plan.Plan)
		}
	case d.Run != nil:
		what = "run not written, the step will be taken again"
		if err = l.Runs.Update(ctx, RunWrite{Old: snap.Runs[d.Run.ID], New: d.Run.Run}); err == nil {
			l.Metrics.moved(snap.Runs[d.Run.ID].Run, d.Run.Run)
		}
	case d.Create != nil:
		what, err = "migration not asked for, it will be tried again", l.Runs.Create(ctx, *d.Create)
	case d.Cancel != nil:
		old := snap.Migrations[d.Cancel.ID]
		what = "migration not cancelled, it will be tried again"
		_, err = l.Orders.Update(ctx, Write{Old: old, New: d.Cancel.Migration})
	case d.Retire != nil:
		what, err = "plan not moved to the past", l.Plans.Retire(ctx, *d.Retire)
	}
	if err == nil && d.Log != "" {
		l.Log.Info("automatic moves: " + d.Log)
	}
	return l.tolerate(ctx, what, err)
}

// saveInput keeps what a plan is made from. A plan without is as good, but can't be replayed.
func (l *Loop) saveInput(ctx context.Context, snap *fleet.Snapshot, id string, now time.Time) {
	input, err := auto.Freeze(snap, l.automatic.memory, now)
	if err == nil {
		err = l.Plans.SaveInput(ctx, id, input)
	}
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("what the plan is made from is not kept", "plan", id, "err", err)
	}
}
