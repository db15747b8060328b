package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"drover/precopy"
	"drover/store/kv"
)

// ServeAsks answers the questions to a host, several at once, until ctx ends (whose error it returns)
// or the session's fence no longer stands (ErrFenced). The handler gets ctx, and is not told when
// whoever asked has gone. All handlers have returned when ServeAsks does.
func (s *Store) ServeAsks(ctx context.Context, host string, fence Fence, handler func(context.Context, precopy.Question) precopy.Answer) error {
	if err := checkName("host", host); err != nil {
		return err
	}
	sv := &askServer{s: s, host: host, fence: fence, handler: handler, slots: make(chan struct{}, askWorkers), seen: map[string]bool{}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer sv.wg.Wait()
	sv.cancel = cancel
	for b := range s.kv.Watch(ctx, asksPrefix+host+"/") {
		if b.Reset {
			sv.forgetGone(b)
		}
		for _, e := range b.Events {
			sv.take(ctx, e)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return fmt.Errorf("serve questions to %s: watch ended: %w", host, kv.ErrUnavailable)
}

// askServer is the state of one ServeAsks; seen belongs to its loop.
type askServer struct {
	s       *Store
	host    string
	fence   Fence
	handler func(context.Context, precopy.Question) precopy.Answer
	slots   chan struct{}
	seen    map[string]bool // keys of questions that were taken and still exist
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
}

// forgetGone keeps, of the questions taken, only those that still exist.
func (sv *askServer) forgetGone(b kv.Batch) {
	was := sv.seen
	sv.seen = map[string]bool{}
	for _, e := range b.Events {
		if was[e.Entry.Key] {
			sv.seen[e.Entry.Key] = true
		}
	}
}

// take starts on a question that was not seen before.
func (sv *askServer) take(ctx context.Context, e kv.Event) {
	key := e.Entry.Key
	if e.Deleted {
		delete(sv.seen, key)
		return
	}
	if sv.seen[key] {
		return
	}
	sv.seen[key] = true
	var q precopy.Question
	if err := decode(e.Entry.Value, &q); err != nil {
		sv.s.log.Error("question left out", "key", key, "err", err)
		return
	}
	// The key says what the question is called, whatever it calls itself.
	q.Nonce = strings.TrimPrefix(key, asksPrefix+sv.host+"/")
	sv.wg.Go(func() {
		select {
		case sv.slots <- struct{}{}:
			defer func() { <-sv.slots }()
		case <-ctx.Done():
			return
		}
		a := sv.handler(ctx, q)
		a.Schema, a.Nonce, a.Host = max(a.Schema, Schema), q.Nonce, sv.host
		sv.deliver(ctx, e.Entry, q, a)
	})
}

// deliver writes the answer, again and again while the store is away: nobody asks a second time, and the
// question's lease outlasts a short outage.
func (sv *askServer) deliver(ctx context.Context, ask kv.Entry, q precopy.Question, a precopy.Answer) {
	for tries := 1; ; tries++ {
		err := sv.answer(ctx, ask, a)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrFenced):
			sv.cancel(fmt.Errorf("serve questions to %s: %w", sv.host, err))
			return
		case tries == 1:
			sv.s.log.Warn("answer not delivered yet", "host", sv.host, "question", q.Kind, "err", err)
		}
		away := errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrMaybeApplied)
		if !away || rest(ctx, answerAgain) != nil {
			return
		}
	}
}

// answer writes the answer under the question's lease, if the question still stands, and removes the
// question. Writing it twice does no harm.
func (sv *askServer) answer(ctx context.Context, ask kv.Entry, a precopy.Answer) error {
	value, err := encode(a)
	if err != nil {
		return err
	}
	return decide(ctx, "answer", func(bool) (bool, error) {
		held, _, err := sv.s.kv.Txn(ctx, []kv.Cond{kv.IfExists(ask.Key), sv.fence.cond()}, []kv.Op{
			kv.PutLeased(answerKey(sv.host, a.Nonce), value, ask.Lease), kv.Delete(ask.Key),
		})
		if errors.Is(err, kv.ErrLeaseLost) {
			return true, nil // who asked is gone
		}
		if err != nil || held {
			return held, err
		}
		// No question any more: who asked has given up, or has the answer already.
		return true, sv.s.checkFence(ctx, &sv.fence)
	})
}
