package precopy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// HookRunner runs the hooks that a host's settings allow. It returns when the hook is over, which is in its
// time limit and grace at the latest, or when ctx ends. An attempt that is asked for again gives the same
// result.
type HookRunner interface {
	Run(ctx context.Context, c HookCall) HookResult
}

const (
	// defaultHookTime is a VM hook's time limit unless its policy has one.
	defaultHookTime = 30 * time.Second
	// hookGrace is the pause between TERM and KILL of a VM's hook.
	hookGrace = 5 * time.Second
	// hookLate is the age of a migration's end from which the hook after it is not run any more.
	hookLate = 10 * time.Minute
)

// HookTime is how long each hook of the VM may take.
func (p Policy) HookTime() time.Duration {
	if p.HookSeconds > 0 {
		return time.Duration(p.HookSeconds * float64(time.Second))
	}
	return defaultHookTime
}

// BeforeTime is how much later than others a migration begins at the latest because of the hook before it.
func (p Policy) BeforeTime() time.Duration {
	if p.BeforeHook == "" {
		return 0
	}
	return p.HookTime() + 2*hookGrace
}

// before runs the hook before the migration, on the source. What became of it is in the record; the migration
// goes on without it unless the policy says otherwise. False when the migration has ended, or is not ours.
func (d *drive) before(ctx context.Context) bool {
	m := d.rec.current()
	name := m.Policy.BeforeHook
	if name == "" || m.BeforeHook != nil {
		return true
	}
	hctx, cancel := context.WithTimeout(ctx, m.Policy.BeforeTime())
	defer cancel()
	ended := make(chan HookResult, 1)
	d.w.wg.Go(func() { ended <- d.w.runHook(hctx, name, m.Migration, "before") })
	var r HookResult
	for waiting := true; waiting; {
		select {
		case r = <-ended:
			waiting = false
		case <-d.news:
			if d.rec.current().Cancel != nil {
				cancel() // the hook ends by itself; the migration does now
				r, waiting = HookResult{Exit: -1, Lost: true, Error: "not waited for: the migration was cancelled"}, false
			}
		}
	}
	if ctx.Err() != nil {
		return false
	}
	if !d.step(ctx, stepUp{
		from:    Claimed,
		change:  func(m *Migration) { m.BeforeHook = &r },
		written: func(m Migration) bool { return m.BeforeHook != nil && m.Agent == d.w.Instance },
	}) {
		return false
	}
	if r.Failed() {
		d.log.Warn("the hook before the migration failed", "hook", name, "exit", r.Exit, "err", r.Error)
		if m.Policy.HookRequired {
			d.endUnstarted(ctx, Failed, ending{code: "hook-failed", reason: fmt.Sprintf("hook %s before the migration failed: %s", name, r.Text())})
			return false
		}
	}
	return true
}

// Text says in a few words how a hook failed.
func (r HookResult) Text() string {
	if r.Error != "" {
		return r.Error
	}
	return fmt.Sprintf("exit status %d", r.Exit)
}

// afterHere reports whether the hook after the migration is still to be run, and here: where the guest is.
// Where it stayed, the hook is run if the one before may have been.
func (w *Worker) afterHere(m Migration) bool {
	switch {
	case m.Policy.AfterHook == "" || m.AfterHook != nil || !m.Phase.Final():
		return false
	case m.Phase == Done:
		return m.Target == w.Host
	}
	return m.Source == w.Host && m.Agent != ""
}

// after runs the hook after a migration, and tells the record what became of it. It may run again after a
// restart of the agent.
func (w *Worker) after(ctx context.Context, rec Stored) {
	r := HookResult{Exit: -1, Error: "not run: the migration ended too long ago"}
	if rec.Finished == nil || time.Since(*rec.Finished) < hookLate {
		hctx, cancel := context.WithTimeout(ctx, rec.Policy.HookTime()+2*hookGrace)
		r = w.runHook(hctx, rec.Policy.AfterHook, rec.Migration, "after")
		cancel()
	}
	if ctx.Err() != nil {
		return
	}
	if r.Failed() {
		w.Log.Warn("the hook after the migration failed", "migration", rec.ID, "hook", rec.Policy.AfterHook, "exit", r.Exit, "err", r.Error)
	}
	err := retry(ctx, func() error {
		m := rec.Migration
		m.AfterHook = &r
		_, err := w.Queue.Update(ctx, rec, m)
		if errors.Is(err, ErrConflict) {
			return nil // the changed record comes by the watch
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		w.Log.Error("what became of the hook is not in the record", "migration", rec.ID, "err", err)
	}
}

// runHook runs one of the two hooks of a migration.
func (w *Worker) runHook(ctx context.Context, name string, m Migration, when string) HookResult {
	if w.Hooks == nil {
		return HookResult{Exit: -1, Error: "this host has no hooks (hooks-dir)"}
	}
	env := map[string]string{
		"DROVER_HOST": w.Host, "DROVER_HOOK": name, "DROVER_WHEN": when, "DROVER_ATTEMPT": m.ID + "/" + when,
		"DROVER_MIGRATION": m.ID, "DROVER_RUN": m.Run, "DROVER_VM": m.Domain, "DROVER_VM_UUID": string(m.UUID),
		"DROVER_SOURCE": m.Source, "DROVER_TARGET": m.Target,
	}
	if when == "after" {
		env["DROVER_OUTCOME"] = string(m.Phase)
	}
	return w.Hooks.Run(ctx, HookCall{
		Name: name, Attempt: m.ID + "/" + when, Timeout: m.Policy.HookTime(), Grace: hookGrace, Env: env,
	})
}
