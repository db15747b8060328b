package store

import (
	"context"
	"fmt"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

// Runs is the table of drains and other runs, by ID. People create them and ask for their end, the leader
// does the rest.
func (s *Store) Runs() Table[fleet.Run] { return Table[fleet.Run]{s, runsPrefix, "run"} }

// Remove deletes a record that is as it was at the revision; ErrConflict when it is otherwise.
func (t Table[T]) Remove(ctx context.Context, fence *Fence, id string, revision int64) error {
	if err := checkName(t.noun, id); err != nil {
		return err
	}
	key := t.prefix + id
	held, _, err := t.s.kv.Txn(ctx, fenced([]kv.Cond{kv.IfMod(key, revision)}, fence), []kv.Op{kv.Delete(key)})
	if err == nil && !held {
		if err = t.s.checkFence(ctx, fence); err == nil {
			err = ErrConflict
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.op("remove", id), err)
	}
	return nil
}
