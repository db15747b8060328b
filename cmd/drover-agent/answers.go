package main

import (
	"context"
	"errors"
	"time"

	"drover/precopy"
)

// answerTime bounds the answer to one question; who asks waits no longer than that.
const answerTime = 10 * time.Second

// answer finds out what was asked. It is called concurrently.
func (a *agent) answer(ctx context.Context, q precopy.Question) precopy.Answer {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out := precopy.Answer{Schema: precopy.Schema, Nonce: q.Nonce, Host: a.conf.Name, SampledAt: time.Now()}
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
		return a.host.CreateDisks(ctx, q.Migration, q.Disks)
	case precopy.AskDiscardDisks:
		return a.host.RemoveDisks(ctx, q.Migration)
	case precopy.AskPeerCheck:
		out.PeerReport = a.peerReport(ctx, q.Peers)
		return nil
	}
	return errors.New("this agent does not know the question " + string(q.Kind))
}
