package scheduler

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/rolling"
)

// HookRunner runs the hooks that a control host's settings allow.
type HookRunner interface {
	// Run returns when the hook is over, which is in its time limit and grace at the latest. An attempt that
	// is asked for again gives the same result.
	Run(ctx context.Context, c precopy.HookCall) precopy.HookResult
}

const (
	// hookSlack is how much longer than its time limits a host's agent may take to answer about a hook.
	hookSlack = 30 * time.Second
	// hookAgain is the pause before a hook is asked for again of which nobody knows how it ended.
	hookAgain = 2 * time.Second
)

// hook has a hook run, and remembers what became of it. The end of this term does not end the hook.
func (l *Loop) hook(ctx context.Context, asks *sync.WaitGroup, o rolling.HookOrder) {
	l.mu.Lock()
	l.memory.Hooks[o.Call.Attempt] = nil
	l.mu.Unlock()
	l.Log.Info("hook begins", "host", o.Host, "hook", o.Call.Name, "on", o.On, "attempt", o.Call.Attempt)
	asks.Go(func() {
		r := l.runHook(ctx, o)
		if ctx.Err() != nil {
			return // the next leader asks again
		}
		l.Log.Info("hook ended", "host", o.Host, "hook", o.Call.Name, "exit", r.Exit, "err", r.Error, "lost", r.Lost)
		l.mu.Lock()
		l.memory.Hooks[o.Call.Attempt] = &r
		l.mu.Unlock()
		select {
		case l.kick <- struct{}{}:
		default:
		}
	})
}

func (l *Loop) runHook(ctx context.Context, o rolling.HookOrder) precopy.HookResult {
	if o.On != fleet.OnAgent {
		if l.Hooks == nil {
			return precopy.HookResult{Exit: -1, Error: "this control host has no hooks (hooks-dir)"}
		}
		return l.Hooks.Run(ctx, o.Call)
	}
	actx, cancel := context.WithTimeout(ctx, o.Call.Timeout+o.Call.Grace+hookSlack)
	defer cancel()
	a, err := l.Asker.Ask(actx, o.Host, precopy.Question{Kind: precopy.AskHook, Hook: &o.Call})
	switch {
	case err == nil && a.Error == "" && a.Hook != nil:
		return *a.Hook
	case err == nil && a.Error == "":
		err = errors.New("the agent's answer is empty")
	case err == nil:
		return precopy.HookResult{Exit: -1, Error: a.Error}
	}
	select {
	case <-ctx.Done():
	case <-time.After(hookAgain):
	}
	return precopy.HookResult{Exit: -1, Lost: true, Unasked: errors.Is(err, precopy.ErrNotAsked), Error: err.Error()}
}

// forgetHooks drops the results that no unfinished run has noted; l.mu is held.
func (l *Loop) forgetHooks(snap *fleet.Snapshot) {
	if len(l.memory.Hooks) == 0 {
		return
	}
	noted := map[string]bool{}
	for _, r := range snap.UnfinishedRuns() {
		if r.Roll == nil {
			continue
		}
		for _, h := range r.Roll.Rolled {
			for _, run := range h.Hooks {
				noted[run.Attempt] = true
			}
		}
	}
	maps.DeleteFunc(l.memory.Hooks, func(attempt string, r *precopy.HookResult) bool { return r != nil && !noted[attempt] })
}
