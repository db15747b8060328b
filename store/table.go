package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"drover/store/kv"
)

// Row is one record of a [Table].
type Row[T any] struct {
	ID       string
	Value    T
	Revision int64 // of the last change
	Raw      []byte
}

// Rows is what a table's watch delivers.
type Rows[T any] struct {
	// Reset says that Changed is all there is; rows not in it are gone.
	Reset   bool
	Changed []Row[T]
	Removed []string
	Rev     int64 // every change up to this revision is delivered
}

// Table is the records of one kind, which all have the JSON form of T. Records are changed by
// compare-and-set, and keep the fields that T does not know.
type Table[T any] struct {
	s      *Store
	prefix string
	noun   string
}

// VMs is the table of what people decided about domains, by UUID.
func VMs[T any](s *Store) Table[T] { return Table[T]{s, vmsPrefix, "vm"} }

// Policy is the table with the fleet's one policy record, whose ID is "policy".
func Policy[T any](s *Store) Table[T] {
	return Table[T]{s, strings.TrimSuffix(policyKey, PolicyID), "policy"}
}

// PolicyID is the ID of the one record of [Policy].
const PolicyID = "policy"

func (t Table[T]) op(verb, id string) string { return verb + " " + t.noun + " " + id }

func (t Table[T]) row(e kv.Entry) (Row[T], error) {
	r := Row[T]{ID: strings.TrimPrefix(e.Key, t.prefix), Revision: e.Mod, Raw: e.Value}
	if err := decode(e.Value, &r.Value); err != nil {
		return r, fmt.Errorf("%s: %w", e.Key, err)
	}
	return r, nil
}

// owns tells the table's keys from others under its prefix: the policy's prefix is everything's.
func (t Table[T]) owns(key string) bool {
	id := strings.TrimPrefix(key, t.prefix)
	return !strings.Contains(id, "/") && (t.prefix != live || key == policyKey)
}

// Get reads one record; kv.ErrNotFound when there is none.
func (t Table[T]) Get(ctx context.Context, id string) (Row[T], error) {
	if err := checkName(t.noun, id); err != nil {
		return Row[T]{}, err
	}
	e, err := t.s.kv.Get(ctx, t.prefix+id)
	if err != nil {
		return Row[T]{}, fmt.Errorf("%s: %w", t.op("get", id), err)
	}
	return t.row(e)
}

// List reads all records, in order of ID. One that can't be read is left out and logged.
func (t Table[T]) List(ctx context.Context) ([]Row[T], error) {
	entries, _, err := t.s.kv.List(ctx, t.prefix)
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", t.noun, err)
	}
	var out []Row[T]
	for _, e := range entries {
		if !t.owns(e.Key) {
			continue
		}
		r, err := t.row(e)
		if err != nil {
			t.s.log.Error("record left out", "key", e.Key, "err", err)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// Replace writes a record that is as it was at the revision, 0 for one that is not there; ErrConflict
// when it is otherwise. Fields that T does not know stay; a record that can't be read goes altogether.
func (t Table[T]) Replace(ctx context.Context, fence *Fence, id string, revision int64, v T) (Row[T], error) {
	verb := "replace"
	if revision == 0 {
		verb = "create"
	}
	return t.change(ctx, fence, t.op(verb, id), id, func(p *T, at int64) error {
		if at != revision {
			return ErrConflict
		}
		*p = v
		return nil
	}, true)
}

// Update changes a record through f, which is called again with a fresh value after a lost race; its
// error ends the update, and is returned as it is. kv.ErrNotFound when there is no record.
func (t Table[T]) Update(ctx context.Context, fence *Fence, id string, f func(*T) error) (Row[T], error) {
	return t.change(ctx, fence, t.op("update", id), id, func(p *T, at int64) error {
		if at == 0 {
			return kv.ErrNotFound
		}
		return refused(f(p))
	}, false)
}

// Upsert is Update that begins with the zero value when there is no record.
func (t Table[T]) Upsert(ctx context.Context, fence *Fence, id string, f func(*T) error) (Row[T], error) {
	return t.change(ctx, fence, t.op("update", id), id, func(p *T, _ int64) error { return refused(f(p)) }, false)
}

// refusal is the error of a caller's function. It says all by itself, unlike one of the store.
type refusal struct{ error }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return refusal{err}
}

func (r refusal) Unwrap() error { return r.error }

// edit changes a record; it gets the revision that the record is at, 0 when there is none.
type edit[T any] func(v *T, at int64) error

// change is the read-modify-write that all of them are. With anew, f does without what stands there.
func (t Table[T]) change(ctx context.Context, fence *Fence, op, id string, f edit[T], anew bool) (Row[T], error) {
	if err := checkName(t.noun, id); err != nil {
		return Row[T]{}, err
	}
	key := t.prefix + id
	var out Row[T]
	var sent []byte
	err := decide(ctx, op, func(doubt bool) (bool, error) {
		e, exists, err := t.s.get(ctx, key)
		if err != nil {
			return false, err
		}
		if doubt && exists && bytes.Equal(e.Value, sent) {
			out, err = t.row(e)
			return true, err
		}
		sent, err = t.changed(e, exists, f)
		if anew && errors.Is(err, ErrCorrupt) {
			sent, err = t.changed(kv.Entry{Mod: e.Mod}, false, f)
		}
		if err != nil {
			return false, err
		}
		conds := fenced([]kv.Cond{unchanged(key, e, exists)}, fence)
		held, rev, err := t.s.kv.Txn(ctx, conds, []kv.Op{kv.Put(key, sent)})
		if err != nil {
			return false, err
		}
		if !held {
			return false, t.s.checkFence(ctx, fence)
		}
		out, err = t.row(kv.Entry{Key: key, Value: sent, Mod: rev})
		return true, err
	})
	var r refusal
	if errors.As(err, &r) {
		err = r.error
	}
	return out, err
}

// changed applies f to a stored record and returns the new stored form.
func (t Table[T]) changed(e kv.Entry, exists bool, f edit[T]) ([]byte, error) {
	var before, after T
	if !exists {
		if err := f(&after, e.Mod); err != nil {
			return nil, err
		}
		return encode(after)
	}
	// Decoded twice, because f may write through what the value points to.
	for _, v := range []*T{&before, &after} {
		if err := decode(e.Value, v); err != nil {
			return nil, err
		}
	}
	if err := f(&after, e.Mod); err != nil {
		return nil, err
	}
	return rewrite(e.Value, before, after)
}

// Watch delivers the present records and every change until ctx ends, when the channel is closed.
// Records that can't be read are left out and logged.
func (t Table[T]) Watch(ctx context.Context) <-chan Rows[T] {
	out := make(chan Rows[T])
	in := t.s.kv.Watch(ctx, t.prefix)
	go func() {
		defer close(out)
		for b := range in {
			rows := t.rows(b)
			if !rows.Reset && len(rows.Changed) == 0 && len(rows.Removed) == 0 {
				continue
			}
			select {
			case out <- rows:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

func (t Table[T]) rows(b kv.Batch) Rows[T] {
	rows := Rows[T]{Reset: b.Reset, Rev: b.Rev}
	for _, e := range b.Events {
		if !t.owns(e.Entry.Key) {
			continue
		}
		if e.Deleted {
			rows.Removed = append(rows.Removed, strings.TrimPrefix(e.Entry.Key, t.prefix))
			continue
		}
		r, err := t.row(e.Entry)
		if err != nil {
			t.s.log.Error("record left out", "key", e.Entry.Key, "err", err)
			continue
		}
		rows.Changed = append(rows.Changed, r)
	}
	return rows
}
