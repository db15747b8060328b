package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store/kv"
)

// ActiveError names the unfinished migration that stands in the way of a new one. It matches
// [ErrActive].
type ActiveError struct {
	ID     string
	Domain hypervisor.DomainID
}

// Error implements error.
func (e *ActiveError) Error() string {
	return fmt.Sprintf("domain %s is being migrated already, by migration %s", e.Domain, e.ID)
}

// Is matches ErrActive.
func (e *ActiveError) Is(target error) bool { return errors.Is(target, ErrActive) }

// activeRecord is the value of an active key.
type activeRecord struct {
	Schema    int    `json:"schema"`
	Migration string `json:"migration"`
}

func (s *Store) migrations() Table[precopy.Migration] {
	return Table[precopy.Migration]{s, migrationsPrefix, "migration"}
}

func stored(r Row[precopy.Migration]) precopy.Stored {
	return precopy.Stored{Migration: r.Value, Revision: r.Revision, Raw: r.Raw}
}

// CreateMigration writes a new record, in phase requested, together with the key that makes it the
// domain's only unfinished one; a domain that has one gives an [ActiveError]. Creating a record again
// under the same ID returns what is there. A leader names its fence, people none.
func (s *Store) CreateMigration(ctx context.Context, m precopy.Migration, fence ...Fence) (precopy.Stored, error) {
	if err := errors.Join(checkName("migration", m.ID), checkName("domain", string(m.UUID))); err != nil {
		return precopy.Stored{}, err
	}
	op := "create migration " + m.ID
	if m.Phase != precopy.Requested {
		return precopy.Stored{}, fmt.Errorf("%s: a migration begins as requested, not as %s", op, m.Phase)
	}
	m.Schema = max(m.Schema, precopy.Schema)
	value, err := encode(m)
	if err != nil {
		return precopy.Stored{}, fmt.Errorf("%s: %w", op, err)
	}
	active, err := encode(activeRecord{Schema, m.ID})
	if err != nil {
		return precopy.Stored{}, fmt.Errorf("%s: %w", op, err)
	}
	conds := []kv.Cond{kv.IfAbsent(activeKey(m.UUID)), kv.IfAbsent(migrationKey(m.ID)), kv.IfAbsent(historyKey(m.ID))}
	for _, f := range fence {
		conds = append(conds, f.cond())
	}
	var out precopy.Stored
	err = decide(ctx, op, func(bool) (bool, error) {
		held, rev, err := s.kv.Txn(ctx, conds, []kv.Op{
			kv.Put(activeKey(m.UUID), active), kv.Put(migrationKey(m.ID), value),
		})
		if err != nil {
			return false, err
		}
		if held {
			out = precopy.Stored{Migration: m, Revision: rev, Raw: value}
			return true, nil
		}
		var found bool
		out, found, err = s.whyNotCreated(ctx, m, fence)
		return found, err
	})
	return out, err
}

// whyNotCreated looks for what stood against a new record: the record itself (which is then found), a
// lost fence, or another migration of the domain. All gone by now is none of these.
func (s *Store) whyNotCreated(ctx context.Context, m precopy.Migration, fence []Fence) (precopy.Stored, bool, error) {
	there, err := s.GetMigration(ctx, m.ID)
	if err == nil {
		if there.UUID != m.UUID {
			return there, false, fmt.Errorf("%w: the ID is that of a migration of %s", ErrConflict, there.UUID)
		}
		return there, true, nil
	}
	if !errors.Is(err, kv.ErrNotFound) {
		return there, false, err
	}
	for _, f := range fence {
		if err := s.checkFence(ctx, &f); err != nil {
			return there, false, err
		}
	}
	id, err := s.ActiveMigration(ctx, m.UUID)
	if err == nil && id != "" {
		err = &ActiveError{ID: id, Domain: m.UUID}
	}
	return there, false, err
}

// GetMigration reads a record, from the history when it was moved there; such a one is Past, and can't be
// changed any more. kv.ErrNotFound when there is none.
func (s *Store) GetMigration(ctx context.Context, id string) (precopy.Stored, error) {
	r, err := s.migrations().Get(ctx, id)
	if !errors.Is(err, kv.ErrNotFound) {
		return stored(r), err
	}
	old := Table[precopy.Migration]{s, historyPrefix, "migration"}
	r, err = old.Get(ctx, id)
	out := stored(r)
	out.Past = err == nil
	return out, err
}

// ListMigrations reads all records but those in the history, oldest first.
func (s *Store) ListMigrations(ctx context.Context) ([]precopy.Stored, error) {
	rows, err := s.migrations().List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]precopy.Stored, 0, len(rows))
	for _, r := range rows {
		out = append(out, stored(r))
	}
	return out, nil
}

// ActiveMigration returns the ID of the domain's unfinished migration, "" when there is none.
func (s *Store) ActiveMigration(ctx context.Context, id hypervisor.DomainID) (string, error) {
	a, _, err := s.active(ctx, id)
	return a.Migration, err
}

func (s *Store) active(ctx context.Context, id hypervisor.DomainID) (activeRecord, kv.Entry, error) {
	var a activeRecord
	e, ok, err := s.get(ctx, activeKey(id))
	if err == nil && ok {
		err = decode(e.Value, &a)
	}
	if err != nil {
		return a, e, fmt.Errorf("active migration of %s: %w", id, err)
	}
	return a, e, nil
}

// UpdateMigration writes m over the record as it was read, in old. It fails when the actor may not
// take that step ([precopy.CheckTransition]), with ErrConflict when the record is no longer old or is
// gone, and with ErrFenced when the fence does not stand; nothing was written then. fence is nil for
// people, and for an agent that tells what happened.
//
// A final phase ends, in the same transaction, the domain's active key, the progress and the share.
func (s *Store) UpdateMigration(ctx context.Context, actor precopy.Actor, fence *Fence, old precopy.Stored, m precopy.Migration) (precopy.Stored, error) {
	return s.updateMigration(ctx, actor, fence, old, m, nil)
}

// OrderMigration is UpdateMigration for a leader's order, and gives ErrConflict too when the target's
// record no longer has the revision that the leader decided by (0 for no record): it may be cordoned.
func (s *Store) OrderMigration(ctx context.Context, fence Fence, old precopy.Stored, m precopy.Migration, targetRevision int64) (precopy.Stored, error) {
	return s.orderMigration(ctx, fence, old, m, targetRevision)
}

func (s *Store) orderMigration(ctx context.Context, fence Fence, old precopy.Stored, m precopy.Migration, targetRevision int64, along ...kv.Op) (precopy.Stored, error) {
	if err := checkName("host", m.Target); err != nil {
		return precopy.Stored{}, err
	}
	target := kv.IfAbsent(hostKey(m.Target))
	if targetRevision > 0 {
		target = kv.IfMod(hostKey(m.Target), targetRevision)
	}
	return s.updateMigration(ctx, precopy.ActorLeader, &fence, old, m, along, target)
}

func (s *Store) updateMigration(ctx context.Context, actor precopy.Actor, fence *Fence, old precopy.Stored, m precopy.Migration, along []kv.Op, also ...kv.Cond) (precopy.Stored, error) {
	op := "update migration " + old.ID
	if m.ID != old.ID || m.UUID != old.UUID {
		return precopy.Stored{}, fmt.Errorf("%s: its ID and domain can't change", op)
	}
	if err := precopy.CheckTransition(old.Phase, m.Phase, actor); err != nil {
		return precopy.Stored{}, fmt.Errorf("%s: %w", op, err)
	}
	m.Schema = max(m.Schema, old.Schema, precopy.Schema)
	if old.Phase.Final() {
		m.EndRevision = old.EndedAt()
	}
	value, err := s.rewritten(old, m)
	if err != nil {
		return precopy.Stored{}, fmt.Errorf("%s: %w", op, err)
	}
	var out precopy.Stored
	err = decide(ctx, op, func(doubt bool) (bool, error) {
		if doubt {
			if done, err := s.wasWritten(ctx, old, value, &out); done || err != nil {
				return done, err
			}
		}
		conds, ops, err := s.migrationTxn(ctx, old, m, value)
		if err != nil {
			return false, err
		}
		held, rev, err := s.kv.Txn(ctx, append(fenced(conds, fence), also...), append(ops, along...))
		if err != nil {
			return false, err
		}
		if held {
			out = precopy.Stored{Migration: m, Revision: rev, Raw: value}
			return true, nil
		}
		// A final write that is repeated, by whoever got no answer to the first, is done.
		if doubt || m.Phase.Final() {
			if done, err := s.wasWritten(ctx, old, value, &out); done || err != nil {
				return done, err
			}
		} else if err := s.stillAt(ctx, old); err != nil {
			return false, err
		}
		if err := s.checkFence(ctx, fence); err != nil || len(also) == 0 {
			return false, err
		}
		return false, fmt.Errorf("%w: the target's record changed", ErrConflict)
	})
	return out, err
}

// rewritten is the record's new stored form, with the fields kept that this program does not know.
func (s *Store) rewritten(old precopy.Stored, m precopy.Migration) ([]byte, error) {
	if len(old.Raw) == 0 {
		return encode(m)
	}
	// What raw was read as, not old.Migration: the caller may have written through its pointers.
	var before precopy.Migration
	if err := decode(old.Raw, &before); err != nil {
		return nil, err
	}
	return rewrite(old.Raw, before, m)
}

// migrationTxn is the transaction that writes a record.
func (s *Store) migrationTxn(ctx context.Context, old precopy.Stored, m precopy.Migration, value []byte) ([]kv.Cond, []kv.Op, error) {
	conds := []kv.Cond{kv.IfMod(migrationKey(m.ID), old.Revision)}
	ops := []kv.Op{kv.Put(migrationKey(m.ID), value)}
	if !m.Phase.Final() {
		return conds, ops, nil
	}
	ops = append(ops, kv.Delete(progressKey(m.ID)), kv.Delete(shareKey(m.ID)))
	a, e, err := s.active(ctx, m.UUID)
	if err != nil {
		return nil, nil, err
	}
	if a.Migration == m.ID {
		// The key of a later migration of the domain is none of ours.
		conds = append(conds, kv.IfMod(e.Key, e.Mod))
		ops = append(ops, kv.Delete(e.Key))
	}
	return conds, ops, nil
}

// wasWritten reports whether the record is what was to be written. A record that is neither that nor
// old is a conflict.
func (s *Store) wasWritten(ctx context.Context, old precopy.Stored, value []byte, out *precopy.Stored) (bool, error) {
	r, err := s.migrations().Get(ctx, old.ID)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return false, fmt.Errorf("%w: it is gone", ErrConflict)
	case err != nil:
		return false, err
	case r.Revision == old.Revision:
		return false, nil
	case bytes.Equal(r.Raw, value):
		*out = stored(r)
		return true, nil
	}
	return false, fmt.Errorf("%w: it is %s now", ErrConflict, r.Value.Phase)
}

// stillAt returns ErrConflict when the record is not what was read.
func (s *Store) stillAt(ctx context.Context, old precopy.Stored) error {
	r, err := s.migrations().Get(ctx, old.ID)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return fmt.Errorf("%w: it is gone", ErrConflict)
	case err != nil:
		return err
	case r.Revision != old.Revision:
		return fmt.Errorf("%w: it is %s now", ErrConflict, r.Value.Phase)
	}
	return nil
}

// MigrationBatch is what [Store.WatchMigrations] delivers.
type MigrationBatch struct {
	// Reset says that Records are all there are.
	Reset   bool
	Records []precopy.Stored
	// Removed are the IDs of records that are gone: moved to the history.
	Removed []string
	Rev     int64
}

// WatchMigrations delivers the present records and every change until ctx ends, when the channel is
// closed. It survives cuts and compaction, with a Reset where history was lost.
func (s *Store) WatchMigrations(ctx context.Context) <-chan MigrationBatch {
	out := make(chan MigrationBatch)
	in := s.migrations().Watch(ctx)
	go func() {
		defer close(out)
		for rows := range in {
			b := MigrationBatch{Reset: rows.Reset, Removed: rows.Removed, Rev: rows.Rev}
			for _, r := range rows.Changed {
				b.Records = append(b.Records, stored(r))
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// MigrationNews gives a signal when a migration's record has changed, until ctx ends or the store is closed, when
// the channel is closed. Several changes may be one signal, and one may come without any.
func (s *Store) MigrationNews(ctx context.Context, id string) <-chan struct{} {
	out := make(chan struct{}, 1)
	in := s.kv.Watch(ctx, migrationKey(id))
	go func() {
		defer close(out)
		for range in {
			select {
			case out <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return out
}

// GetProgress reads a migration's volatile part; kv.ErrNotFound when it has none at the moment.
func (s *Store) GetProgress(ctx context.Context, id string) (*precopy.Progress, error) {
	r, err := Table[progressRecord]{s, progressPrefix, "progress"}.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &r.Value.Progress, nil
}

// WatchProgress delivers a migration's volatile part as it changes, the present one first if there is
// one, until ctx ends, when the channel is closed. A slow reader misses what is outdated.
func (s *Store) WatchProgress(ctx context.Context, id string) <-chan precopy.Progress {
	out := make(chan precopy.Progress)
	in := s.kv.Watch(ctx, progressKey(id))
	go func() {
		defer close(out)
		var latest precopy.Progress
		var ready chan precopy.Progress // out, while there is something to tell
		for {
			select {
			case b, ok := <-in:
				if !ok {
					return
				}
				for _, e := range b.Events {
					var p progressRecord
					if e.Deleted || e.Entry.Key != progressKey(id) {
						continue
					}
					if err := decode(e.Entry.Value, &p); err != nil {
						s.log.Error("progress left out", "migration", id, "err", err)
						continue
					}
					latest, ready = p.Progress, out
				}
			case ready <- latest:
				ready = nil
			}
		}
	}()
	return out
}
