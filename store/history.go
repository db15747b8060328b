package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drover/precopy"
	"drover/store/kv"
)

// Retention is how much of the past is kept: of the history and of the events the newest.
type Retention struct {
	HistoryKeep int
	EventsKeep  int
}

// DefaultRetention keeps some tens of megabytes at most.
func DefaultRetention() Retention {
	return Retention{HistoryKeep: 20_000, EventsKeep: 20_000}
}

// Prune deletes what is beyond the retention, for the leader.
func (s *Store) Prune(ctx context.Context, fence Fence, r Retention) error {
	return errors.Join(
		s.pruneLog(ctx, fence, historyPrefix, r.HistoryKeep),
		s.pruneLog(ctx, fence, eventsPrefix, r.EventsKeep))
}

// Retire moves a finished record, as it was read, to the history, for the leader. ErrConflict when it
// has changed since, or is gone.
func (s *Store) Retire(ctx context.Context, fence Fence, m precopy.Stored) error {
	op := "move migration " + m.ID + " to the history"
	if !m.Phase.Final() {
		return fmt.Errorf("%s: it is %s", op, m.Phase)
	}
	key := migrationKey(m.ID)
	held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond(), kv.IfMod(key, m.Revision)}, []kv.Op{
		kv.Put(historyKey(m.ID), pack(m.Raw)), kv.Delete(key),
	})
	if err == nil && !held {
		if err = s.checkFence(ctx, &fence); err == nil {
			err = ErrConflict
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// History returns the newest records of the history, newest first, at most limit.
func (s *Store) History(ctx context.Context, limit int) ([]precopy.Migration, error) {
	entries, err := s.kv.Last(ctx, historyPrefix, limit)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var out []precopy.Migration
	for _, e := range entries {
		var m precopy.Migration
		if err := decode(e.Value, &m); err != nil {
			s.log.Error("record left out", "key", e.Key, "err", err)
			continue
		}
		out = append(out, m)
	}
	return out, nil
}

// pruneLog deletes all but the newest keep of the keys under a prefix that begin with a time.
func (s *Store) pruneLog(ctx context.Context, fence Fence, prefix string, keep int) error {
	entries, _, err := s.kv.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("prune %s: %w", prefix, err)
	}
	doomed := entries[:max(len(entries)-max(keep, 0), 0)]
	for chunk := range slices.Chunk(doomed, kv.MaxOps/2) {
		var ops []kv.Op
		for _, e := range chunk {
			ops = append(ops, kv.Delete(e.Key))
		}
		held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond()}, ops)
		if err == nil && !held {
			err = ErrFenced
		}
		if err != nil {
			return fmt.Errorf("prune %s: %w", prefix, err)
		}
	}
	return nil
}
