package memstore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"drover/store/kv"
)

// Fault is what goes wrong with one transaction.
type Fault int

// The faults of transactions.
const (
	// Unavailable: the store was not reached; nothing was written.
	Unavailable Fault = iota + 1
	// LostAnswer: the transaction was carried out, but the client is told that nobody knows.
	LostAnswer
	// LostRequest: the transaction was not carried out, and the client is told that nobody knows.
	LostRequest
	// LateRequest: the client is told that nobody knows, and the transaction is carried out after
	// somebody's next one.
	LateRequest
	// Full: the store is over its quota.
	Full
)

// Client is one program's connection to a [Server]. It implements [kv.KV].
type Client struct {
	s  *Server
	wg sync.WaitGroup

	mu     sync.Mutex
	cut    bool
	faults []Fault
	turned chan struct{} // closed and replaced when cut changes
	closed chan struct{}
	ended  bool
}

var _ kv.KV = (*Client)(nil)

// Client returns a new connection to the server. Close it.
func (s *Server) Client() *Client {
	return &Client{s: s, turned: make(chan struct{}), closed: make(chan struct{})}
}

// Partition cuts the client off from the server, or heals the cut. A client that is cut off gets
// errors at once, no events, and cannot renew its leases.
func (c *Client) Partition(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != cut {
		c.cut = cut
		close(c.turned)
		c.turned = make(chan struct{})
	}
}

// FailTxns makes the client's next transactions fail, one fault each, in order; 0 lets one pass. It
// replaces what was set before: none ends all faults.
func (c *Client) FailTxns(faults ...Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = slices.Clone(faults)
}

// state returns whether the client is cut off, and a channel that closes when that changes.
func (c *Client) state() (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut, c.turned
}

// reach returns an error unless a call can be made now.
func (c *Client) reach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-c.closed:
		return fmt.Errorf("client is closed: %w", kv.ErrUnavailable)
	default:
	}
	if cut, _ := c.state(); cut {
		return kv.ErrUnavailable
	}
	return nil
}

// Get implements [kv.KV].
func (c *Client) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := c.reach(ctx); err != nil {
		return kv.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	e, ok := c.s.keys[key]
	if !ok {
		return kv.Entry{}, fmt.Errorf("get %s: %w", key, kv.ErrNotFound)
	}
	return e, nil
}

// List implements [kv.KV].
func (c *Client) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	if err := c.reach(ctx); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.list(prefix), c.s.rev, nil
}

// Last implements [kv.KV].
func (c *Client) Last(ctx context.Context, prefix string, n int) ([]kv.Entry, error) {
	all, _, err := c.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	return all[:min(max(n, 0), len(all))], nil
}

// Txn implements [kv.KV].
func (c *Client) Txn(ctx context.Context, conds []kv.Cond, ops []kv.Op) (bool, int64, error) {
	if err := c.reach(ctx); err != nil {
		return false, 0, fmt.Errorf("txn: %w", err)
	}
	c.mu.Lock()
	var fault Fault
	if len(c.faults) > 0 {
		fault, c.faults = c.faults[0], c.faults[1:]
	}
	c.mu.Unlock()

	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch fault {
	case Unavailable:
		return false, 0, fmt.Errorf("txn: %w", kv.ErrUnavailable)
	case Full:
		return false, 0, fmt.Errorf("txn: %w", kv.ErrNoSpace)
	case LostRequest:
		return false, 0, fmt.Errorf("txn: %w", kv.ErrMaybeApplied)
	case LateRequest:
		conds, ops = slices.Clone(conds), slices.Clone(ops)
		c.s.late = append(c.s.late, func() { _, _, _ = c.s.txn(conds, ops) })
		return false, 0, fmt.Errorf("txn: %w", kv.ErrMaybeApplied)
	}
	held, rev, err := c.s.txn(conds, ops)
	c.s.flushLate()
	if fault == LostAnswer {
		return false, 0, fmt.Errorf("txn: %w", kv.ErrMaybeApplied)
	}
	if err != nil {
		return false, 0, fmt.Errorf("txn: %w", err)
	}
	return held, rev, nil
}

// Watch implements [kv.KV].
func (c *Client) Watch(ctx context.Context, prefix string) <-chan kv.Batch {
	out := make(chan kv.Batch)
	if !c.spawn(func() {
		defer close(out)
		c.watch(ctx, prefix, out)
	}) {
		close(out)
	}
	return out
}

// watch is the life of one watcher.
func (c *Client) watch(ctx context.Context, prefix string, out chan<- kv.Batch) {
	pulse := time.NewTicker(kv.Pulse)
	defer pulse.Stop()
	var pos int64
	first, beat := true, false
	for {
		cut, turned := c.state()
		var changed <-chan struct{}
		var batch kv.Batch
		if !cut {
			c.s.mu.Lock()
			changed = c.s.changed
			batch = c.s.since(prefix, pos, first)
			c.s.mu.Unlock()
		}
		if !cut && (batch.Reset || len(batch.Events) > 0 || beat) {
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			case <-c.closed:
				return
			}
			first = false
		}
		if !cut && !first {
			pos = batch.Rev
		}
		beat = false
		select {
		case <-changed:
		case <-turned:
			beat = true // after a cut, the watcher learns at once that it is up to date
		case <-pulse.C:
			beat = true
		case <-ctx.Done():
			return
		case <-c.closed:
			return
		}
	}
}

// spawn runs f on a goroutine that Close waits for; false once the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.wg.Go(f)
	return true
}

// Close implements [kv.KV]: watches end, and leases run out by the server's clock.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.ended {
		c.ended = true
		close(c.closed)
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}
