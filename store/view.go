package store

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

// View is the fleet's picture, kept up to date by a watch. It is safe for concurrent use.
type View struct {
	mu      sync.Mutex
	picture *picture
	last    *fleet.Snapshot // of the picture as it is now; nil after a change
	heard   time.Time       // when the store was last heard of
	changed chan struct{}
	end     context.CancelFunc
	done    chan struct{}
}

// OpenView returns once the whole picture is there. The view follows the store until ctx ends or Close.
func (s *Store) OpenView(ctx context.Context) (*View, error) {
	life, end := context.WithCancel(ctx)
	v := &View{picture: newPicture(s.log), changed: make(chan struct{}, 1), end: end, done: make(chan struct{})}
	batches := s.kv.Watch(life, live)
	select {
	case b, ok := <-batches:
		if ok {
			v.take(b)
			break
		}
		end()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("open view: %w", err)
		}
		return nil, fmt.Errorf("open view: %w", kv.ErrUnavailable)
	case <-ctx.Done():
		end()
		return nil, fmt.Errorf("open view: %w: %w", kv.ErrUnavailable, ctx.Err())
	}
	go func() {
		defer close(v.done)
		for b := range batches {
			v.take(b)
		}
	}()
	return v, nil
}

func (v *View) take(b kv.Batch) {
	now := time.Now()
	v.mu.Lock()
	changed := v.picture.apply(b, now)
	v.heard = now
	if changed || b.Rev != 0 && v.last != nil && v.last.Revision != v.picture.rev {
		v.last = nil
	}
	v.mu.Unlock()
	if changed {
		select {
		case v.changed <- struct{}{}:
		default: // a notice is waiting already
		}
	}
}

// Snapshot returns the fleet as of now. It is immutable and cheap: unchanged parts are shared between
// snapshots.
func (v *View) Snapshot() *fleet.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if v.last == nil {
		v.last = v.picture.snapshot(now)
	}
	s := *v.last
	s.Now = now
	return &s
}

// Changed has a value whenever the picture changed since the last receive.
func (v *View) Changed() <-chan struct{} { return v.changed }

// Age is how long ago the store was last heard of; some [kv.Pulse] at most while it answers.
func (v *View) Age() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.heard)
}

// Stale reports that the store has been silent for so long that the picture may be out of date.
func (v *View) Stale() bool { return v.Age() > 3*kv.Pulse }

// Broken returns the keys that are left out because they can't be read, and why.
func (v *View) Broken() map[string]error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.picture.broken)
}

// Close ends the view; its last snapshot stays good.
func (v *View) Close() {
	v.end()
	<-v.done
}

// ReadSnapshot reads the whole picture once, at one revision.
func (s *Store) ReadSnapshot(ctx context.Context) (*fleet.Snapshot, error) {
	entries, rev, err := s.kv.List(ctx, live)
	if err != nil {
		return nil, fmt.Errorf("read fleet: %w", err)
	}
	p := newPicture(s.log)
	b := kv.Batch{Reset: true, Rev: rev}
	for _, e := range entries {
		b.Events = append(b.Events, kv.Event{Entry: e})
	}
	now := time.Now()
	p.apply(b, now)
	return p.snapshot(now), nil
}
