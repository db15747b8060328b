package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"drover/store/kv"
)

func isLost(err error) bool { return errors.Is(err, kv.ErrLeaseLost) }

// retryWatch is the pause before a watch that failed is made again.
const retryWatch = 200 * time.Millisecond

// Watch implements [kv.KV].
func (c *Client) Watch(ctx context.Context, prefix string) <-chan kv.Batch {
	out := make(chan kv.Batch)
	if !c.spawn(func() {
		defer close(out)
		w := &watcher{c: c, prefix: prefix, out: out}
		w.run(ctx)
	}) {
		close(out)
	}
	return out
}

// watcher is one watch's position: everything up to and including rev was delivered.
type watcher struct {
	c       *Client
	prefix  string
	out     chan<- kv.Batch
	rev     int64
	cluster uint64
	void    bool // what was delivered no longer counts: list again
}

// run follows the prefix, anew whenever that breaks, until ctx or the client ends.
func (w *watcher) run(ctx context.Context) {
	// etcd's client must see the end of either: ctx, or the client's life.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.c.life, cancel)()
	w.c.countWatch(1)
	defer w.c.countWatch(-1)

	w.void = true
	for ctx.Err() == nil {
		w.follow(ctx)
		pause(ctx)
	}
}

// pause waits a little, less when ctx ends.
func pause(ctx context.Context) {
	select {
	case <-time.After(retryWatch):
	case <-ctx.Done():
	}
}

// reset reads and delivers the whole state.
func (w *watcher) reset(ctx context.Context) bool {
	entries, rev, err := w.c.List(ctx, w.prefix)
	if err != nil {
		return false
	}
	b := kv.Batch{Reset: true, Rev: rev}
	for _, e := range entries {
		b.Events = append(b.Events, kv.Event{Entry: e})
	}
	if !w.deliver(ctx, b) {
		return false
	}
	w.rev, w.cluster, w.void = rev, 0, false
	return true
}

func (w *watcher) deliver(ctx context.Context, b kv.Batch) bool {
	select {
	case w.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow delivers what comes after rev until the watch breaks. When nothing that was delivered counts,
// it delivers the whole state first: read after the watch was made, so that the watch begins at the
// server's present. A watch that begins in the past, be it by one revision, waits for etcd's next
// round of catching up, 100 ms, which is long for a question and its answer.
//
// etcd's client reconnects by itself and goes on where it was. RequireLeader makes a member that has
// lost the cluster say so, instead of staying silent for ever.
func (w *watcher) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify()}
	if !w.void {
		opts = append(opts, clientv3.WithRev(w.rev+1))
	}
	for res := range w.c.etcd.Watch(clientv3.WithRequireLeader(ctx), w.prefix, opts...) {
		if err := res.Err(); err != nil {
			w.void = w.void || errors.Is(err, rpctypes.ErrCompacted)
			return
		}
		if w.void && !w.reset(ctx) {
			return
		}
		if w.rewound(&res) {
			w.void = true
			return
		}
		if !res.Created && !w.deliverEvents(ctx, &res) {
			return
		}
	}
}

// deliverEvents delivers what an answer has beyond rev.
func (w *watcher) deliverEvents(ctx context.Context, res *clientv3.WatchResponse) bool {
	b := kv.Batch{Rev: w.rev}
	for _, e := range res.Events {
		if e.Kv.ModRevision <= w.rev {
			continue // part of the state that was read
		}
		b.Events = append(b.Events, event(e))
	}
	if n := len(b.Events); n > 0 {
		b.Rev = b.Events[n-1].Entry.Mod
	} else if res.IsProgressNotify() {
		b.Rev = max(b.Rev, res.Header.Revision)
	} else {
		return true
	}
	if !w.deliver(ctx, b) {
		return false
	}
	w.rev = b.Rev
	return true
}

// rewound reports that the answers come from another history: the cluster was made anew or restored
// from a backup. Its revisions mean nothing to this watch, which might else wait for years. A member
// that lags behind can look the same; reading anew does no harm then.
func (w *watcher) rewound(res *clientv3.WatchResponse) bool {
	if res.IsProgressNotify() && res.Header.Revision < w.rev {
		return true
	}
	id := res.Header.GetClusterId()
	if id == 0 {
		return false
	}
	if w.cluster == 0 {
		w.cluster = id
	}
	return w.cluster != id
}

// event converts an event of etcd's.
func event(e *clientv3.Event) kv.Event {
	if e.Type == mvccpb.DELETE {
		return kv.Event{Deleted: true, Entry: kv.Entry{Key: string(e.Kv.Key), Mod: e.Kv.ModRevision}}
	}
	return kv.Event{Entry: entry(e.Kv)}
}

func (c *Client) countWatch(d int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches += d
}

// pulse asks the server, on the one stream that all watches share, to tell every watch how far it
// is. It runs as long as the client.
func (c *Client) pulse() {
	tick := time.NewTicker(kv.Pulse)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.life.Done():
			return
		}
		c.mu.Lock()
		quiet := c.watches == 0
		c.mu.Unlock()
		if quiet {
			continue
		}
		ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(c.life), kv.Pulse)
		// A failure shows as the absence of batches, which is what watchers look at.
		_ = c.etcd.RequestProgress(ctx)
		cancel()
	}
}
