package memstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"drover/store/kv"
)

// lease is a client's lease and its keep-alive loop. It implements [kv.Lease].
type lease struct {
	c       *Client
	id      kv.LeaseID
	ttl     time.Duration
	done    chan struct{}
	revoked chan struct{}
	once    sync.Once
}

// Grant implements [kv.KV].
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	if err := c.reach(ctx); err != nil {
		return nil, fmt.Errorf("grant lease: %w", err)
	}
	ttl = max((ttl + time.Second - 1).Truncate(time.Second), time.Second)
	l := &lease{c: c, ttl: ttl, done: make(chan struct{}), revoked: make(chan struct{})}
	c.s.mu.Lock()
	l.id = c.s.grant(ttl)
	c.s.mu.Unlock()
	if !c.spawn(func() { l.keep(ctx) }) {
		return nil, fmt.Errorf("grant lease: client is closed: %w", kv.ErrUnavailable)
	}
	return l, nil
}

// keep renews the lease until it is lost, by the same rules as with etcd: a lease whose time to live
// passed without an answer is lost, whatever the server thinks.
func (l *lease) keep(ctx context.Context) {
	defer close(l.done)
	deadline := time.NewTimer(l.ttl)
	defer deadline.Stop()
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	ended := ctx.Done()
	for {
		select {
		case <-tick.C:
			if cut, _ := l.c.state(); cut || ctx.Err() != nil {
				continue
			}
			l.c.s.mu.Lock()
			alive := l.c.s.renew(l.id)
			l.c.s.mu.Unlock()
			if !alive {
				return
			}
			deadline.Reset(l.ttl)
		case <-ended:
			ended = nil
		case <-deadline.C:
			return
		case <-l.revoked:
			return
		case <-l.c.closed:
			return
		}
	}
}

// ID implements [kv.Lease].
func (l *lease) ID() kv.LeaseID { return l.id }

// Done implements [kv.Lease].
func (l *lease) Done() <-chan struct{} { return l.done }

// Revoke implements [kv.Lease].
func (l *lease) Revoke(ctx context.Context) error {
	l.once.Do(func() { close(l.revoked) })
	if err := l.c.reach(ctx); err != nil {
		return fmt.Errorf("revoke lease: %w", err)
	}
	l.c.s.mu.Lock()
	defer l.c.s.mu.Unlock()
	l.c.s.endLease(l.id)
	return nil
}
