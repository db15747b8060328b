package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/kv"
)

// sharesAtOnce is how many shares one transaction changes.
const sharesAtOnce = 64

// WriteShares replaces shares that are as they were read. As many as go together are one transaction;
// those that have changed, or whose migration has ended, are left out, with some of the others; the number of those written is returned, and the
// store's revision after the last of them.
// ErrFenced when the leader is deposed.
func (s *Store) WriteShares(ctx context.Context, fence Fence, writes []ShareWrite) (written int, revision int64, err error) {
	for batch := range slices.Chunk(writes, sharesAtOnce) {
		held, rev, err := s.writeShares(ctx, fence, batch)
		if err != nil {
			return written, revision, err
		}
		if held {
			written, revision = written+len(batch), rev
			continue
		}
		if err := s.checkFence(ctx, &fence); err != nil {
			return written, revision, fmt.Errorf("write shares: %w", err)
		}
		// One that is no longer as it was read keeps back no more than its half: the next pass follows soon.
		for _, half := range [][]ShareWrite{batch[:len(batch)/2], batch[len(batch)/2:]} {
			if len(half) == 0 {
				continue
			}
			held, rev, err := s.writeShares(ctx, fence, half)
			if err != nil {
				return written, revision, err
			}
			if held {
				written, revision = written+len(half), rev
			}
		}
	}
	return written, revision, nil
}

// ShareWrite changes a share.
type ShareWrite struct {
	Old fleet.StoredShare
	New precopy.Share
}

// writeShares is one transaction. A share whose write may have been applied is found as it is by the next
// pass, which compares with what the store has then.
func (s *Store) writeShares(ctx context.Context, fence Fence, writes []ShareWrite) (bool, int64, error) {
	conds := []kv.Cond{fence.cond()}
	var ops []kv.Op
	for _, w := range writes {
		value, err := encodeShare(w.New)
		if err != nil {
			return false, 0, fmt.Errorf("write share of %s: %w", w.New.ID, err)
		}
		conds = append(conds, kv.IfMod(shareKey(w.New.ID), w.Old.Revision))
		ops = append(ops, kv.Put(shareKey(w.New.ID), value))
	}
	held, rev, err := s.kv.Txn(ctx, conds, ops)
	if err != nil {
		return false, 0, fmt.Errorf("write shares: %w", err)
	}
	return held, rev, nil
}

func encodeShare(sh precopy.Share) ([]byte, error) {
	if err := checkName("migration", sh.ID); err != nil {
		return nil, err
	}
	sh.Schema = max(sh.Schema, Schema)
	return encode(sh)
}

// OrderWithShare is OrderMigration that also makes the migration's share, in the same transaction.
func (s *Store) OrderWithShare(ctx context.Context, fence Fence, old precopy.Stored, m precopy.Migration, targetRevision int64, share precopy.Share) (precopy.Stored, error) {
	value, err := encodeShare(share)
	if err != nil {
		return precopy.Stored{}, fmt.Errorf("share of %s: %w", m.ID, err)
	}
	return s.orderMigration(ctx, fence, old, m, targetRevision, kv.Put(shareKey(m.ID), value))
}

// ShareBatch is what [Store.WatchShares] delivers.
type ShareBatch struct {
	// Reset says that Shares are all there are.
	Reset  bool
	Shares []precopy.Share
	// Removed are the migrations whose shares are gone.
	Removed []string
}

// WatchShares delivers the present shares and every change until ctx ends, when the channel is closed.
func (s *Store) WatchShares(ctx context.Context) <-chan ShareBatch {
	out := make(chan ShareBatch)
	in := Table[precopy.Share]{s, sharesPrefix, "share"}.Watch(ctx)
	go func() {
		defer close(out)
		for rows := range in {
			b := ShareBatch{Reset: rows.Reset, Removed: rows.Removed}
			for _, r := range rows.Changed {
				b.Shares = append(b.Shares, r.Value)
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// GetShare reads a migration's share; nil when it has none.
func (s *Store) GetShare(ctx context.Context, id string) (*precopy.Share, error) {
	r, err := Table[precopy.Share]{s, sharesPrefix, "share"}.Get(ctx, id)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &r.Value, nil
}

// linkRecord is the stored form of a sample of the migration network.
type linkRecord struct {
	Schema int `json:"schema"`
	hypervisor.LinkLoad
}

// PublishLink replaces the host's sample of the migration network. ErrFenced when the session is lost.
func (a *AgentSession) PublishLink(ctx context.Context, l hypervisor.LinkLoad) error {
	_, err := a.publish(ctx, partLink, linkRecord{Schema, l})
	return err
}
