package precopy

import (
	"context"
	"errors"
	"sync"
)

// record is one migration's record as its driver holds it. Changes are applied here at once and
// written by one goroutine in order, so that a slow store never delays the driving; a record that
// somebody else changed in between (a cancel request, the leader's "unknown") is read again and the
// change applied to that.
type record struct {
	queue Queue

	// writing is taken for one write and what it learns. A channel, so that waiting for a slow store
	// ends with the waiter's context.
	writing chan struct{}

	mu      sync.Mutex
	stored  Stored // as last read or written
	gone    bool   // the store has it no more, or only in the history
	pending []func(*Migration)
	kick    chan struct{}
}

func newRecord(q Queue, s Stored) *record {
	return &record{queue: q, stored: s, kick: make(chan struct{}, 1), writing: make(chan struct{}, 1)}
}

// current returns the record with all changes that were asked for, written or not.
func (r *record) current() Stored {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stored
	for _, f := range r.pending {
		f(&s.Migration)
	}
	return s
}

// told takes over what the store has now, if it is newer.
func (r *record) told(s Stored) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Revision > r.stored.Revision {
		r.stored = s
	}
}

// begin writes a step towards a libvirt call: at once, under the agent's living lease, and only if
// nobody changed the record. Nothing may be pending.
func (r *record) begin(ctx context.Context, change func(*Migration)) error {
	old := r.current()
	m := old.Migration
	change(&m)
	s, err := r.queue.Begin(ctx, old, m)
	if err != nil {
		return err
	}
	r.told(s)
	return nil
}

// change asks for a change to be written soon. The function may be called several times, and must
// not undo a final phase.
func (r *record) change(f func(*Migration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, f)
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// writeLoop writes pending changes until ctx ends.
func (r *record) writeLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
			_ = r.flush(ctx)
		}
	}
}

// flush writes all pending changes, however long it takes; it fails only when ctx ends, or when the
// record is gone or was finished by somebody else.
func (r *record) flush(ctx context.Context) error {
	var gone error
	err := retry(ctx, func() error {
		select {
		case r.writing <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-r.writing }()
		err := r.flushOnce(ctx)
		if errors.Is(err, errGone) {
			gone = err
			return nil
		}
		return err
	})
	return errors.Join(err, gone)
}

var errGone = errors.New("the record is gone or was finished by somebody else")

// flushOnce writes what is pending, in one write if the phases allow it: Unknown may become Copying and
// Copying Switching, but Unknown not Switching.
func (r *record) flushOnce(ctx context.Context) error {
	for {
		old, m, n := r.next()
		if n == 0 {
			return nil
		}
		if CheckTransition(old.Phase, m.Phase, ActorSource) != nil {
			r.drop(n)
			return errGone
		}
		s, err := r.queue.Update(ctx, old, m)
		if errors.Is(err, ErrConflict) {
			if err := r.reread(ctx, old, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.pending = r.pending[n:]
		if s.Revision > r.stored.Revision {
			r.stored = s
		}
		r.mu.Unlock()
	}
}

// next returns the record as stored, with as many of the pending changes as one write may make, and
// their number. A first change that can't be made is returned all the same.
func (r *record) next() (old Stored, m Migration, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, m = r.stored, r.stored.Migration
	for _, f := range r.pending {
		changed := m
		f(&changed)
		if n > 0 && CheckTransition(old.Phase, changed.Phase, ActorSource) != nil {
			break
		}
		m = changed
		n++
	}
	return old, m, n
}

// reread takes over what the store has after a conflict.
func (r *record) reread(ctx context.Context, old Stored, conflict error) error {
	fresh, err := r.queue.Get(ctx, old.ID)
	if errors.Is(err, ErrConflict) || err == nil && fresh.Past {
		r.setGone()
		return errGone
	}
	if err != nil {
		return err
	}
	r.told(fresh)
	if fresh.Revision < old.Revision { // the store was put back to a backup
		r.mu.Lock()
		r.stored = fresh
		r.mu.Unlock()
	}
	if fresh.Revision == old.Revision {
		// Unchanged after all, so the conflict lies elsewhere: don't spin on it.
		return conflict
	}
	return nil
}

func (r *record) setGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone, r.pending = true, nil
}

func (r *record) isGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

func (r *record) drop(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = r.pending[n:]
}
