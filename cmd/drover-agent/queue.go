package main

import (
	"context"
	"errors"
	"fmt"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store/kv"
)

// queue is the store as precopy's Worker sees it, bound to this host and its living session.
type queue struct{ *agent }

// Watch implements precopy.Queue: only records that concern this host.
func (q *queue) Watch(ctx context.Context) <-chan precopy.Update {
	out := make(chan precopy.Update)
	go func() {
		defer close(out)
		for batch := range q.store.WatchMigrations(ctx) {
			u := precopy.Update{Reset: batch.Reset}
			for _, m := range batch.Records {
				if m.Source == q.conf.Name || m.Target == q.conf.Name {
					u.Records = append(u.Records, m)
				}
			}
			if len(u.Records) == 0 && !u.Reset {
				continue
			}
			select {
			case out <- u:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Get implements precopy.Queue. A record that is gone is one that changed.
func (q *queue) Get(ctx context.Context, id string) (precopy.Stored, error) {
	m, err := q.store.GetMigration(ctx, id)
	if errors.Is(err, kv.ErrNotFound) {
		err = fmt.Errorf("%w: %w", precopy.ErrConflict, err)
	}
	return m, err
}

// Begin implements precopy.Queue.
func (q *queue) Begin(ctx context.Context, old precopy.Stored, m precopy.Migration) (precopy.Stored, error) {
	s := q.sessions.get()
	if s == nil {
		return precopy.Stored{}, precopy.ErrFenced
	}
	fence := s.Fence()
	return q.store.UpdateMigration(ctx, precopy.ActorSource, &fence, old, m)
}

// Update implements precopy.Queue.
func (q *queue) Update(ctx context.Context, old precopy.Stored, m precopy.Migration) (precopy.Stored, error) {
	return q.store.UpdateMigration(ctx, precopy.ActorSource, nil, old, m)
}

// Progress implements precopy.Queue.
func (q *queue) Progress(ctx context.Context, p precopy.Progress) error {
	s := q.sessions.get()
	if s == nil {
		return errNoSession
	}
	return s.Progress(ctx, p)
}

// Ask implements precopy.Queue.
func (q *queue) Ask(ctx context.Context, host string, question precopy.Question) (precopy.Answer, error) {
	return q.store.Ask(ctx, host, question)
}

// Listing implements precopy.Queue.
func (q *queue) Listing(ctx context.Context, id hypervisor.DomainID) (listing, others []string, err error) {
	return q.store.Listing(ctx, id)
}
