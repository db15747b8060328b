package kvm

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

const (
	keepAliveInterval = 5 // seconds
	keepAliveCount    = 5 // missed answers before the connection is given up
	openLimit         = 15 * time.Second
	firstBackoff      = 200 * time.Millisecond
	lastBackoff       = 10 * time.Second
)

// conn is one libvirt connection that is closed when it was given up and its last user is done.
// Counting here, rather than with libvirt's own references, keeps the binding's pointer stable while
// a call uses it.
type conn struct {
	lv *libvirt.Connect
	// dead is set when libvirt told that the connection broke.
	dead atomic.Bool

	mu     sync.Mutex
	users  int
	gone   bool // no new users
	events []int
}

// hold registers a user; false means that the connection was given up or broke.
func (c *conn) hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.dead.Load() {
		return false
	}
	c.users++
	return true
}

func (c *conn) release() {
	c.mu.Lock()
	c.users--
	last := c.gone && c.users == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// retire lets no new users in and closes the connection once the present ones are done.
func (c *conn) retire() {
	c.mu.Lock()
	first := !c.gone
	c.gone = true
	last := first && c.users == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// close frees the connection. Callbacks hold references to it and must go first; on a broken
// connection that fails, which is all the same.
func (c *conn) close() {
	for _, id := range c.events {
		_ = c.lv.DomainEventDeregister(id)
	}
	_ = c.lv.UnregisterCloseCallback()
	_, _ = c.lv.Close()
}

// connector opens a libvirt connection.
type connector func(uri string) (*libvirt.Connect, error)

// dial opens a connection with keepalive. Local in-process drivers have no keepalive and need none.
func dial(connect connector, uri string) (*conn, error) {
	lv, err := connect(uri)
	if err != nil {
		return nil, err
	}
	if err := lv.SetKeepAlive(keepAliveInterval, keepAliveCount); err != nil && !isCode(err, libvirt.ERR_NO_SUPPORT) {
		_, _ = lv.Close()
		return nil, err
	}
	return &conn{lv: lv}, nil
}

// dialBoxed is dial under a time limit; a connection that comes too late is closed again.
func dialBoxed(ctx context.Context, t *tracker, connect connector, uri string) (*conn, error) {
	r := request{op: "connect", limit: openLimit, slots: newSlots(1)}
	return askOrDrop(ctx, t, r, func() (*conn, error) { return dial(connect, uri) }, (*conn).retire)
}

// link is a connection that is made anew whenever it breaks.
type link struct {
	uri     string
	connect connector
	log     *slog.Logger
	t       *tracker
	// prepare registers what must be on every new connection; nil when nothing is.
	prepare func(*conn) error
	// restored is called after each successful connect but the first.
	restored func()

	// broken wakes the supervisor. It says nothing of which connection broke, so that no signal is
	// worth more than another and one that waits already is enough: what counts is the mark on now.
	broken chan struct{}

	mu  sync.Mutex
	now *conn // nil while down
	why error // of the last attempt while down
}

func newLink(name string, cfg Config, t *tracker) *link {
	return &link{
		uri: cfg.URI, connect: cfg.connect, log: cfg.Logger.With("connection", name), t: t,
		broken: make(chan struct{}, 1),
	}
}

// open connects once and installs the close callback.
func (l *link) open(ctx context.Context) error {
	c, err := dialBoxed(ctx, l.t, l.connect, l.uri)
	if err == nil {
		err = l.install(c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.why = err
		return err
	}
	l.now, l.why = c, nil
	return nil
}

func (l *link) install(c *conn) error {
	err := c.lv.RegisterCloseCallback(func(_ *libvirt.Connect, reason libvirt.ConnectCloseReason) {
		if reason == libvirt.CONNECT_CLOSE_REASON_CLIENT {
			return
		}
		l.lost(c)
	})
	if err != nil && !isCode(err, libvirt.ERR_NO_SUPPORT) {
		c.retire()
		return err
	}
	if l.prepare == nil {
		return nil
	}
	if err := l.prepare(c); err != nil {
		c.retire()
		return err
	}
	return nil
}

// lost marks a connection as broken and wakes the supervisor. It never blocks: libvirt calls it on the
// event loop's goroutine.
func (l *link) lost(c *conn) {
	c.dead.Store(true)
	select {
	case l.broken <- struct{}{}:
	default:
	}
}

// supervise reconnects until ctx ends.
func (l *link) supervise(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.broken:
			if !l.dropDead() {
				continue
			}
			l.log.Warn("connection to libvirt lost")
			if !l.reopen(ctx) {
				return
			}
		}
	}
}

// dropDead takes the present connection out of service if it broke; false when it did not, as when
// the signal was about an earlier one.
func (l *link) dropDead() bool {
	l.mu.Lock()
	old := l.now
	if old == nil || !old.dead.Load() {
		l.mu.Unlock()
		return false
	}
	l.now, l.why = nil, errors.New("connection lost")
	l.mu.Unlock()
	old.retire()
	return true
}

// drop takes whatever connection there is out of service.
func (l *link) drop() {
	l.mu.Lock()
	old := l.now
	l.now, l.why = nil, errors.New("connection given up")
	l.mu.Unlock()
	if old != nil {
		old.retire()
	}
}

// reopen connects again, with back-off; false when ctx ended first.
func (l *link) reopen(ctx context.Context) bool {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := l.open(ctx)
		if err == nil {
			l.log.Info("connection to libvirt restored")
			if l.restored != nil {
				l.restored()
			}
			return true
		}
		l.log.Debug("no connection to libvirt yet", "err", err)
		// Half fixed, half random, so that many agents don't knock in step.
		wait := backoff/2 + rand.N(backoff/2)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// use returns the present connection, held; the caller releases it.
func (l *link) use(op string, id hypervisor.DomainID) (*conn, error) {
	l.mu.Lock()
	c, why := l.now, l.why
	l.mu.Unlock()
	if c == nil || !c.hold() {
		return nil, &hypervisor.Error{
			Op: op, Domain: id, Class: hypervisor.ClassUnavailable, Message: "no connection to libvirt", Err: why,
		}
	}
	return c, nil
}
