package main

import (
	"context"
	"errors"
	"time"

	"drover/precopy"
)

const (
	// answerTime bounds the answer to one question; who asks waits no longer than that.
	answerTime = 10 * time.Second
	// diskTime is that for files: a little less than who asks waits for them, so that an answer comes.
	diskTime = 28 * time.Second
)

// timeFor is how long the answer may take.
func timeFor(k precopy.QuestionKind) time.Duration {
	if k == precopy.AskCreateDisks || k == precopy.AskDiscardDisks {
		return diskTime
	}
	return answerTime
}

// answer finds out what was asked. It is called concurrently.
func (a *agent) answer(ctx context.Context, q precopy.Question) precopy.Answer {
	ctx, cancel := context.WithTimeout(ctx, timeFor(q.Kind))
	defer cancel()
	out := precopy.Answer{Schema: precopy.Schema, Nonce: q.Nonce, Host: a.conf.Name, SampledAt: time.Now(), Libvirt: a.host.LibvirtVersion()}
	if err := a.find(ctx, q, &out); err != nil {
		out.Error = err.Error()
	}
	return out
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
	case precopy.AskPeerCheck:
		out.PeerReport = a.peerReport(ctx, q.Peers)
		return nil
	}
	return errors.New("this agent does not know the question " + string(q.Kind))
}
