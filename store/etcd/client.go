package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/peer"

	"drover/store/kv"
	"drover/store/zapslog"
)

// Client is [kv.KV] on an etcd cluster. It is safe for concurrent use.
type Client struct {
	cfg  Config
	tls  *tls.Config
	etcd *clientv3.Client
	diag diagnosis

	// life ends at Close; all goroutines are waited for there.
	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex // guards wg.Go against Close, ended and watches
	// watches counts the open watches, for which pulses are asked.
	watches int
	ended   bool
}

var _ kv.KV = (*Client)(nil)

// Open returns a client. It fails only for what is wrong with the configuration ([ErrConfig]); the
// network is not used yet.
func Open(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:   cfg.Endpoints,
		TLS:         tlsConfig,
		DialTimeout: cfg.RequestTimeout,
		// A dead peer is noticed within 13 s even when nothing is sent, and 3 s after something
		// was: well inside a session's time to live.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zapslog.New(cfg.Log.With("component", "etcd client"), slog.LevelError),
		DialOptions: []grpc.DialOption{
			// gRPC's own backoff goes up to two minutes, far too long after an outage of the store.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
			grpc.WithChainUnaryInterceptor(noteSent),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c := &Client{cfg: cfg, tls: tlsConfig, etcd: cli}
	c.life, c.end = context.WithCancel(context.Background())
	c.spawn(c.pulse)
	return c, nil
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

// Close implements [kv.KV].
func (c *Client) Close() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.end()
	err := c.etcd.Close()
	c.wg.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Ping returns nil when the cluster answers a linearizable read, and else an error that says what is
// wrong: within about a second when no endpoint answers at all, else within the request timeout.
func (c *Client) Ping(ctx context.Context) error {
	var bad joined
	if cause := c.diagnose(ctx); errors.As(cause, &bad) && len(bad) == len(c.cfg.Endpoints) {
		return &Error{Op: "reach the store", Err: kv.ErrUnavailable, Endpoints: c.cfg.names(), Cause: cause}
	}
	_, err := c.Get(ctx, "/drover/ping")
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		e.Op = "reach the store"
	}
	return err
}

// call bounds one call: by its own context, the client's life and the request timeout.
func (c *Client) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// sentKey carries the mark that noteSent sets.
type sentKey struct{}

// noteSent marks in the context whether a request was handed to a connection: the one thing that
// tells a write that surely did not happen from one that may have.
func noteSent(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	mark, ok := ctx.Value(sentKey{}).(*bool)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	var p peer.Peer
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Peer(&p))...)
	if p.Addr != nil {
		*mark = true
	}
	return err
}

// Get implements [kv.KV].
func (c *Client) Get(ctx context.Context, key string) (kv.Entry, error) {
	op := "get " + key
	cctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.etcd.Get(cctx, key)
	if err != nil {
		return kv.Entry{}, c.wrap(ctx, op, false, err)
	}
	if len(res.Kvs) == 0 {
		return kv.Entry{}, &Error{Op: op, Err: kv.ErrNotFound}
	}
	return entry(res.Kvs[0]), nil
}

// listPage is how many keys one request of a list returns.
const listPage = 500

// List implements [kv.KV].
func (c *Client) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	for {
		out, rev, err := c.list(ctx, prefix)
		if errors.Is(err, errListCompacted) {
			// The revision was compacted between two pages: begin again at a newer one.
			continue
		}
		return out, rev, err
	}
}

// Last implements [kv.KV].
func (c *Client) Last(ctx context.Context, prefix string, n int) ([]kv.Entry, error) {
	if n <= 0 {
		return nil, nil
	}
	cctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.etcd.Get(cctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(int64(n)),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return nil, c.wrap(ctx, "list last of "+prefix, false, err)
	}
	var out []kv.Entry
	for _, k := range res.Kvs {
		out = append(out, entry(k))
	}
	return out, nil
}

// Txn implements [kv.KV].
func (c *Client) Txn(ctx context.Context, conds []kv.Cond, ops []kv.Op) (bool, int64, error) {
	const op = "txn"
	size := 0
	for _, o := range ops {
		size += len(o.Key) + len(o.Value)
	}
	if size > kv.MaxValue || len(ops) > kv.MaxOps || len(conds) > kv.MaxOps {
		return false, 0, &Error{Op: op, Err: kv.ErrTooLarge}
	}
	cmps := make([]clientv3.Cmp, 0, len(conds))
	for _, cond := range conds {
		cmps = append(cmps, compare(cond))
	}
	writes := make([]clientv3.Op, 0, len(ops))
	for _, o := range ops {
		writes = append(writes, write(o))
	}
	cctx, cancel := c.call(ctx)
	defer cancel()
	sent := false
	res, err := c.etcd.Txn(context.WithValue(cctx, sentKey{}, &sent)).If(cmps...).Then(writes...).Commit()
	if err != nil {
		return false, 0, c.wrap(ctx, op, sent, err)
	}
	return res.Succeeded, res.Header.Revision, nil
}

func compare(c kv.Cond) clientv3.Cmp {
	switch c.Kind {
	case kv.Absent:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), "=", 0)
	case kv.Exists:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), ">", 0)
	case kv.ModIs:
		return clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Number)
	default:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), "=", c.Number)
	}
}

func write(o kv.Op) clientv3.Op {
	if o.Delete {
		return clientv3.OpDelete(o.Key)
	}
	return clientv3.OpPut(o.Key, string(o.Value), clientv3.WithLease(clientv3.LeaseID(o.Lease)))
}
