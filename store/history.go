package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/precopy"
	"drover/store/kv"
)

// PruneMigrations moves finished records to the history, for the leader: those that finished before
// olderThan, but of all finished ones the newest keep stay where they are. It returns how many it
// moved, also along with an error.
func (s *Store) PruneMigrations(ctx context.Context, fence Fence, olderThan time.Time, keep int) (int, error) {
	all, err := s.ListMigrations(ctx)
	if err != nil {
		return 0, fmt.Errorf("prune migrations: %w", err)
	}
	final := slices.DeleteFunc(all, func(m precopy.Stored) bool { return !m.Phase.Final() })
	slices.SortFunc(final, func(a, b precopy.Stored) int { return strings.Compare(b.ID, a.ID) })
	moved := 0
	for _, m := range final[min(max(keep, 0), len(final)):] {
		if m.Finished == nil || m.Finished.Before(olderThan) {
			held, err := s.toHistory(ctx, fence, m)
			if err != nil {
				return moved, fmt.Errorf("prune migration %s: %w", m.ID, err)
			}
			if held {
				moved++
			}
		}
	}
	return moved, nil
}

// toHistory moves one record; false when it changed in the meantime, which the next pass sees.
func (s *Store) toHistory(ctx context.Context, fence Fence, m precopy.Stored) (bool, error) {
	key := migrationKey(m.ID)
	held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond(), kv.IfMod(key, m.Revision)}, []kv.Op{
		kv.Put(historyKey(m.ID), pack(m.Raw)), kv.Delete(key),
	})
	if err != nil || held {
		return held, err
	}
	return false, s.checkFence(ctx, &fence)
}

// History returns the newest records of the history, newest first, at most limit.
func (s *Store) History(ctx context.Context, limit int) ([]precopy.Stored, error) {
	entries, err := s.kv.Last(ctx, historyPrefix, limit)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var out []precopy.Stored
	for _, e := range entries {
		m := precopy.Stored{Revision: e.Mod, Raw: e.Value}
		if err := decode(e.Value, &m.Migration); err != nil {
			s.log.Error("record left out", "key", e.Key, "err", err)
			continue
		}
		out = append(out, m)
	}
	return out, nil
}

// PruneHistory deletes from the history, for the leader, all but the newest keep records.
func (s *Store) PruneHistory(ctx context.Context, fence Fence, keep int) (int, error) {
	n, err := s.pruneLog(ctx, fence, historyPrefix, keep)
	if err != nil {
		return n, fmt.Errorf("prune history: %w", err)
	}
	return n, nil
}

// pruneLog deletes the oldest keys under a prefix whose keys begin with a time.
func (s *Store) pruneLog(ctx context.Context, fence Fence, prefix string, keep int) (int, error) {
	entries, _, err := s.kv.List(ctx, prefix)
	if err != nil {
		return 0, err
	}
	deleted := 0
	doomed := entries[:max(len(entries)-max(keep, 0), 0)]
	for chunk := range slices.Chunk(doomed, kv.MaxOps/2) {
		var ops []kv.Op
		for _, e := range chunk {
			ops = append(ops, kv.Delete(e.Key))
		}
		held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond()}, ops)
		if err != nil {
			return deleted, err
		}
		if !held {
			return deleted, ErrFenced
		}
		deleted += len(chunk)
	}
	return deleted, nil
}
