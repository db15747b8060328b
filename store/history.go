package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/precopy"
	"drover/store/kv"
)

// Retention is how much of the past is kept.
type Retention struct {
	// FinishedFor is how long a finished migration stays among the others; of all finished ones the
	// newest FinishedKeep stay in any case.
	FinishedFor  time.Duration
	FinishedKeep int
	// HistoryKeep and EventsKeep are how many records of each are kept, the newest.
	HistoryKeep int
	EventsKeep  int
}

// DefaultRetention keeps some tens of megabytes at most.
func DefaultRetention() Retention {
	return Retention{FinishedFor: 7 * 24 * time.Hour, FinishedKeep: 200, HistoryKeep: 20_000, EventsKeep: 20_000}
}

// Prune moves finished migrations to the history and deletes what is beyond the retention, for the
// leader.
func (s *Store) Prune(ctx context.Context, fence Fence, r Retention) error {
	return errors.Join(
		s.PruneMigrations(ctx, fence, r.FinishedFor, r.FinishedKeep),
		s.pruneLog(ctx, fence, historyPrefix, r.HistoryKeep),
		s.pruneLog(ctx, fence, eventsPrefix, r.EventsKeep))
}

// PruneMigrations moves finished records to the history, for the leader: those that finished longer
// ago than olderThan, but of all finished ones the newest keep stay where they are.
func (s *Store) PruneMigrations(ctx context.Context, fence Fence, olderThan time.Duration, keep int) error {
	all, err := s.ListMigrations(ctx)
	if err != nil {
		return fmt.Errorf("prune migrations: %w", err)
	}
	final := slices.DeleteFunc(all, func(m precopy.Stored) bool { return !m.Phase.Final() })
	slices.SortFunc(final, func(a, b precopy.Stored) int { return strings.Compare(b.ID, a.ID) })
	before := time.Now().Add(-olderThan)
	for _, m := range final[min(max(keep, 0), len(final)):] {
		if m.Finished != nil && !m.Finished.Before(before) {
			continue
		}
		if err := s.toHistory(ctx, fence, m); err != nil {
			return fmt.Errorf("prune migration %s: %w", m.ID, err)
		}
	}
	return nil
}

// toHistory moves one record, unless it changed in the meantime: the next pass sees to it then.
func (s *Store) toHistory(ctx context.Context, fence Fence, m precopy.Stored) error {
	key := migrationKey(m.ID)
	held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond(), kv.IfMod(key, m.Revision)}, []kv.Op{
		kv.Put(historyKey(m.ID), pack(m.Raw)), kv.Delete(key),
	})
	if err != nil || held {
		return err
	}
	return s.checkFence(ctx, &fence)
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
