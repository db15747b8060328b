package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"drover/store/kv"
)

// lease is a lease that is being kept alive. It implements [kv.Lease].
type lease struct {
	c       *Client
	id      clientv3.LeaseID
	ttl     time.Duration
	done    chan struct{}
	revoked chan struct{}
	once    sync.Once
}

// Grant implements [kv.KV]. etcd may grant more than was asked for, at least some 2 s.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	seconds := max(int64((ttl+time.Second-1)/time.Second), 1)
	cctx, cancel := c.call(ctx)
	defer cancel()
	sent := time.Now()
	res, err := c.etcd.Grant(cctx, seconds)
	if err != nil {
		// A lease that was granted and never heard of runs out by itself: nothing was written.
		return nil, c.wrap(ctx, "grant lease", false, err)
	}
	l := &lease{
		c: c, id: res.ID, ttl: time.Duration(res.TTL) * time.Second,
		done: make(chan struct{}), revoked: make(chan struct{}),
	}
	if !c.spawn(func() { l.keep(ctx, sent) }) {
		return nil, c.wrap(ctx, "grant lease", false, clientv3.ErrNoAvailableEndpoints)
	}
	return l, nil
}

// keep renews the lease until it is lost. Only this loop decides that: etcd's own keep-alive channel
// also closes for lesser reasons, and is then opened again.
func (l *lease) keep(ctx context.Context, alive time.Time) {
	defer close(l.done)
	// By the monotonic clock, the deadline counts from when the grant was asked for, so it is not later
	// than the server's. A renewal counts from when its answer came, since the client does not say when
	// it asked: later than the server's by the answer's way. Nobody may rely on that much; what must not
	// happen after the lease's end is a transaction that compares the lease's key.
	deadline := time.NewTimer(time.Until(alive.Add(l.ttl)))
	defer deadline.Stop()
	kctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := l.open(kctx)
	ended := ctx.Done()
	for {
		select {
		case a, ok := <-answers:
			if ok && a.TTL > 0 {
				deadline.Reset(time.Duration(a.TTL) * time.Second)
				continue
			}
			answers = nil
			if ctx.Err() != nil {
				continue
			}
			if l.expired(kctx) {
				return
			}
			answers = l.open(kctx)
		case <-ended:
			// No more renewals were wanted: the lease runs out by itself.
			ended, answers = nil, nil
		case <-deadline.C:
			return
		case <-l.revoked:
			return
		case <-l.c.life.Done():
			return
		}
	}
}

// open starts etcd's keep-alive; nil, which blocks for ever, when that can't be.
func (l *lease) open(ctx context.Context) <-chan *clientv3.LeaseKeepAliveResponse {
	ch, err := l.c.etcd.KeepAlive(ctx, l.id)
	if err != nil {
		return nil
	}
	return ch
}

// expired asks the server whether it has forgotten the lease; without an answer it is not known to
// be lost.
func (l *lease) expired(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, min(l.ttl/3, l.c.cfg.RequestTimeout))
	defer cancel()
	res, err := l.c.etcd.TimeToLive(ctx, l.id)
	return err == nil && res.TTL <= 0
}

// ID implements [kv.Lease].
func (l *lease) ID() kv.LeaseID { return kv.LeaseID(l.id) }

// Done implements [kv.Lease].
func (l *lease) Done() <-chan struct{} { return l.done }

// Revoke implements [kv.Lease].
func (l *lease) Revoke(ctx context.Context) error {
	l.once.Do(func() { close(l.revoked) })
	cctx, cancel := l.c.call(ctx)
	defer cancel()
	_, err := l.c.etcd.Revoke(cctx, l.id)
	if err = l.c.wrap(ctx, "revoke lease", true, err); isLost(err) {
		return nil
	}
	return err
}
