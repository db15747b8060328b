package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"drover/precopy"
	"drover/store/kv"
)

const (
	// askTTL is the life of the lease under which this process's questions stand, in case it dies.
	askTTL = 30 * time.Second
	// askWatch is how often a waiting question looks whether there is still an agent to answer it.
	askWatch = time.Second
	// askWorkers is how many questions an agent works on at once.
	askWorkers = 8
	// answerAgain is the pause before an answer is written again that the store did not take.
	answerAgain = 500 * time.Millisecond
)

// Ask puts a question to a host's agent and waits for the answer, as long as ctx allows. A host without
// a living agent gives ErrNoAgent at once. Errors match [precopy.ErrNotAsked] where no agent can have seen the
// question. The nonce is set here. What the agent could not find out
// comes as the answer's Error, not as an error.
func (s *Store) Ask(ctx context.Context, host string, q precopy.Question) (precopy.Answer, error) {
	if err := checkName("host", host); err != nil {
		return precopy.Answer{}, err
	}
	op := fmt.Sprintf("ask %s (%s)", host, q.Kind)
	q.Schema, q.Nonce = max(q.Schema, Schema), uuid.NewString()
	value, err := encode(q)
	if err != nil {
		return precopy.Answer{}, fmt.Errorf("%s: %w", op, err)
	}
	// The watch is set up while the question is on its way.
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := s.kv.Watch(wctx, answerKey(host, q.Nonce))
	if err := s.putAsk(ctx, host, q.Nonce, value); err != nil {
		if !errors.Is(err, kv.ErrMaybeApplied) {
			err = fmt.Errorf("%w: %w", precopy.ErrNotAsked, err)
		}
		return precopy.Answer{}, fmt.Errorf("%s: %w", op, err)
	}
	defer s.tidyAsk(host, q.Nonce)
	a, err := s.awaitAnswer(ctx, host, q.Nonce, answers)
	if err != nil {
		return precopy.Answer{}, fmt.Errorf("%s: %w", op, err)
	}
	return a, nil
}

// putAsk writes the question. Writing it twice does no harm: it is answered under its nonce.
func (s *Store) putAsk(ctx context.Context, host, nonce string, value []byte) error {
	for attempt := 0; ; attempt++ {
		lease, err := s.askLease(ctx)
		if err != nil {
			return err
		}
		held, _, err := s.kv.Txn(ctx, []kv.Cond{kv.IfExists(reportKey(host, partSession))},
			[]kv.Op{kv.PutLeased(askKey(host, nonce), value, lease.ID())})
		switch {
		case err == nil && !held:
			return ErrNoAgent
		case err == nil:
			return nil
		case errors.Is(err, kv.ErrLeaseLost):
			s.dropAskLease(lease)
		case !errors.Is(err, kv.ErrMaybeApplied):
			return err
		}
		if attempt >= 2 {
			return err
		}
		if rest(ctx, 50*time.Millisecond<<attempt) != nil {
			return err
		}
	}
}

// askLease returns the lease that all questions of this process share: granting one per question would
// double the time that a question takes.
func (s *Store) askLease(ctx context.Context) (kv.Lease, error) {
	s.asks.Lock()
	defer s.asks.Unlock()
	if l := s.asks.lease; l != nil {
		select {
		case <-l.Done():
		default:
			return l, nil
		}
	}
	if err := s.life.Err(); err != nil {
		return nil, fmt.Errorf("store is closed: %w", err)
	}
	// The caller's context bounds the grant; the lease lives as long as the store.
	lctx, cancel := context.WithCancel(s.life)
	stop := context.AfterFunc(ctx, cancel)
	l, err := s.kv.Grant(lctx, askTTL)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s.asks.lease = l
	return l, nil
}

// dropAskLease forgets a lease that the store has forgotten.
func (s *Store) dropAskLease(l kv.Lease) {
	s.asks.Lock()
	defer s.asks.Unlock()
	if s.asks.lease == l {
		s.asks.lease = nil
	}
}

// awaitAnswer waits for the answer that quotes the nonce.
func (s *Store) awaitAnswer(ctx context.Context, host, nonce string, answers <-chan kv.Batch) (precopy.Answer, error) {
	look := time.NewTicker(askWatch)
	defer look.Stop()
	for {
		select {
		case b, ok := <-answers:
			if !ok {
				if err := ctx.Err(); err != nil {
					return precopy.Answer{}, fmt.Errorf("no answer: %w", err)
				}
				return precopy.Answer{}, fmt.Errorf("no answer: %w", kv.ErrUnavailable)
			}
			for _, e := range b.Events {
				var a precopy.Answer
				if e.Deleted {
					continue
				}
				if err := decode(e.Entry.Value, &a); err != nil || a.Nonce != nonce {
					return precopy.Answer{}, fmt.Errorf("answer: %w", errors.Join(err, ErrCorrupt))
				}
				return a, nil
			}
		case <-look.C:
			if _, alive, err := s.get(ctx, reportKey(host, partSession)); err == nil && !alive {
				return precopy.Answer{}, ErrNoAgent
			}
		case <-ctx.Done():
			return precopy.Answer{}, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
}

// tidyAsk removes question and answer in the background; their lease would, in the end.
func (s *Store) tidyAsk(host, nonce string) {
	s.asks.Lock()
	defer s.asks.Unlock()
	if s.life.Err() != nil {
		return // Close is waiting, and revokes the lease
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, cleanupTime)
		defer cancel()
		_, _, _ = s.kv.Txn(ctx, nil, []kv.Op{kv.Delete(askKey(host, nonce)), kv.Delete(answerKey(host, nonce))})
	})
}
