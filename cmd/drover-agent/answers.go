package main

import (
	"context"
	"errors"
	"time"

	"drover/cmd/internal/hooks"
	"drover/precopy"
)

const (
	// answerTime bounds the answer to one question; who asks waits no longer than that.
	answerTime = 10 * time.Second
	// diskTime is that for files: a little less than who asks waits for them, so that an answer comes.
	diskTime = 28 * time.Second
)

// hookTime is what the answer about a hook may take besides the hook.
const hookTime = 10 * time.Second

// timeFor is how long the answer may take.
func timeFor(q precopy.Question) time.Duration {
	switch {
	case q.Kind == precopy.AskCreateDisks || q.Kind == precopy.AskDiscardDisks:
		return diskTime
	case q.Kind == precopy.AskHook && q.Hook != nil:
		return q.Hook.Timeout + q.Hook.Grace + hookTime
	}
	return answerTime
}

// answer finds out what was asked. It is called concurrently.
func (a *agent) answer(ctx context.Context, q precopy.Question) precopy.Answer {
	ctx, cancel := context.WithTimeout(ctx, timeFor(q))
	defer cancel()
	out := precopy.Answer{Schema: precopy.Schema, Nonce: q.Nonce, Host: a.conf.Name, SampledAt: time.Now(), Libvirt: a.host.LibvirtVersion()}
	if err := a.find(ctx, q, &out); err != nil {
		out.Error = err.Error()
	}
	return out
}

// vmHooks runs the hooks of VMs, which may want to ask libvirt, or the guest through it.
type vmHooks struct {
	*hooks.Dir
	uri string
}

// Run implements precopy.HookRunner.
func (h vmHooks) Run(ctx context.Context, c precopy.HookCall) precopy.HookResult {
	c.Env["DROVER_LIBVIRT_URI"] = h.uri
	return h.Dir.Run(ctx, c)
}

func (a *agent) find(ctx context.Context, q precopy.Question, out *precopy.Answer) error {
	switch q.Kind {
	case precopy.AskSight:
		s, err := a.host.Sight(ctx, q.Domain)
		out.Sighting = &s
		return err
	case precopy.AskInspect:
		i, err := a.host.Inspect(ctx, q.Domain)
		out.Inspection = &i
		return err
	case precopy.AskCheckTarget:
		if q.Target == nil {
			return errors.New("the question names no domain to check")
		}
		var err error
		out.Blockers, err = a.host.CheckTarget(ctx, *q.Target)
		return err
	case precopy.AskCreateDisks:
		return a.disks.create(ctx, q)
	case precopy.AskDiscardDisks:
		return a.disks.discard(ctx, q)
	case precopy.AskShutDown:
		return a.host.ShutDown(ctx, q.Domain)
	case precopy.AskHook:
		if q.Hook == nil {
			return errors.New("the question names no hook")
		}
		a.log.Info("hook begins", "hook", q.Hook.Name, "attempt", q.Hook.Attempt)
		r := a.hooks.Run(ctx, *q.Hook)
		a.log.Info("hook ended", "hook", q.Hook.Name, "exit", r.Exit, "err", r.Error)
		out.Hook = &r
		return nil
	case precopy.AskPeerCheck:
		out.PeerReport = a.peerReport(ctx, q.Peers)
		return nil
	}
	return errors.New("this agent does not know the question " + string(q.Kind))
}
