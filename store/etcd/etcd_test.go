package etcd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"drover/store/embed"
	"drover/store/kv"
	"drover/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs an embedded etcd for the test.
func startServer(t *testing.T, cfg embed.Config) *embed.Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.ListenURL == "" {
		cfg.ListenURL, cfg.Insecure = "http://127.0.0.1:0", true
	}
	cfg.NoSync = true
	s, err := embed.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func plain(endpoints ...string) Config { return Config{Endpoints: endpoints, Insecure: true} }

// cutter is a TCP proxy whose connections can be broken.
type cutter struct {
	l     net.Listener
	to    string
	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func newCutter(t *testing.T, endpoint string) *cutter {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, to: u.Host}
	c.wg.Go(c.serve)
	t.Cleanup(func() { _ = l.Close(); c.cut(); c.wg.Wait() })
	return c
}

func (c *cutter) serve() {
	for {
		in, err := c.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
			c.wg.Go(func() {
				_, _ = io.Copy(p[0], p[1])
				_, _ = p[0].Close(), p[1].Close()
			})
		}
	}
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.conns {
		_ = n.Close()
	}
	c.conns = nil
}

func (c *cutter) url() string { return "http://" + c.l.Addr().String() }

func TestContract(t *testing.T) {
	server := startServer(t, embed.Config{})
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		ep := server.Endpoints()[0]
		cut := newCutter(t, ep)
		a, b := open(t, plain(cut.url())), open(t, plain(ep))
		if _, err := b.etcd.Delete(t.Context(), "/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		return storetest.Harness{
			KV: a, Other: b,
			Cut: func(*testing.T) { cut.cut() },
			Compact: func(t *testing.T) {
				res, err := b.etcd.Get(t.Context(), "/")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.etcd.Compact(t.Context(), res.Header.Revision); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestWatchBehindCompaction cuts a watch off while its history is compacted away: it must begin
// again with a Reset.
func TestWatchBehindCompaction(t *testing.T) {
	ep := startServer(t, embed.Config{}).Endpoints()[0]
	cut := newCutter(t, ep)
	a, b := open(t, plain(cut.url())), open(t, plain(ep))
	write := func(k string) int64 {
		_, rev, err := b.Txn(t.Context(), nil, []kv.Op{kv.Put(k, []byte("x"))})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	write("/a")
	ch := a.Watch(t.Context(), "/")
	if first := <-ch; !first.Reset {
		t.Fatalf("first batch %+v", first)
	}
	_ = cut.l.Close()
	cut.cut()
	write("/b")
	if _, err := b.etcd.Compact(t.Context(), write("/c")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", cut.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cut.l = l
	cut.wg.Go(cut.serve)
	t.Cleanup(func() { _ = l.Close() })
	timeout := time.After(20 * time.Second)
	for {
		select {
		case b := <-ch:
			if b.Reset && len(b.Events) == 3 {
				return
			}
			if len(b.Events) > 0 {
				t.Fatalf("got %+v, want a Reset with all keys", b)
			}
		case <-timeout:
			t.Fatal("no Reset")
		}
	}
}

// TestRestart stops the server and starts it again: a waiting write, the lease and the watch live on.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	first, err := embed.Start(t.Context(), embed.Config{Dir: dir, ListenURL: "http://127.0.0.1:0", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	ep := first.Endpoints()[0]
	c := open(t, plain(ep))
	lease, err := c.Grant(t.Context(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Txn(t.Context(), nil, []kv.Op{kv.PutLeased("/a", nil, lease.ID())}); err != nil {
		t.Fatal(err)
	}
	ch := c.Watch(t.Context(), "/")
	<-ch
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, _, err := c.Txn(context.Background(), nil, []kv.Op{kv.Put("/b", nil)})
		wrote <- err
	}()
	time.Sleep(300 * time.Millisecond)
	startServer(t, embed.Config{Dir: dir, ListenURL: ep, Insecure: true})
	if err := <-wrote; err != nil {
		t.Errorf("write during a short restart: %v", err)
	}
	timeout := time.After(20 * time.Second)
	for seen := false; !seen; {
		select {
		case b := <-ch:
			for _, e := range b.Events {
				seen = seen || e.Entry.Key == "/b"
			}
		case <-timeout:
			t.Fatal("the watch did not survive the restart")
		}
	}
	select {
	case <-lease.Done():
		t.Error("the lease did not survive the restart")
	default:
	}
}

func TestDeadEndpoint(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ep := "http://" + l.Addr().String()
	_ = l.Close()
	c := open(t, Config{Endpoints: []string{ep}, Insecure: true, RequestTimeout: time.Second})
	start := time.Now()
	err = c.Ping(t.Context())
	if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), ep) {
		t.Errorf("ping: %v, want ErrUnavailable naming %s", err, ep)
	}
	t.Log(err)
	for name, f := range map[string]func() error{
		"get":   func() error { _, err := c.Get(t.Context(), "/a"); return err },
		"list":  func() error { _, _, err := c.List(t.Context(), "/a"); return err },
		"grant": func() error { _, err := c.Grant(t.Context(), time.Second); return err },
		"txn":   func() error { _, _, err := c.Txn(t.Context(), nil, []kv.Op{kv.Put("/a", nil)}); return err },
	} {
		err := f()
		if !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrMaybeApplied) || !strings.Contains(err.Error(), ep) {
			t.Errorf("%s: %v, want ErrUnavailable naming %s, and not ErrMaybeApplied", name, err, ep)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestLostAnswer hangs a write on a server that takes it and stays silent.
func TestLostAnswer(t *testing.T) {
	server := startServer(t, embed.Config{})
	cut := newCutter(t, server.Endpoints()[0])
	c := open(t, Config{Endpoints: []string{cut.url()}, Insecure: true, RequestTimeout: time.Second})
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A context that ends while the request is on its way.
	maybe := false
	for i := 0; i < 200 && !maybe; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*20)*time.Microsecond)
		_, _, err := c.Txn(ctx, nil, []kv.Op{kv.Put("/a", nil)})
		cancel()
		if err != nil && !errors.Is(err, kv.ErrMaybeApplied) && !errors.Is(err, kv.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		maybe = errors.Is(err, kv.ErrMaybeApplied)
	}
	if !maybe {
		t.Error("no write was ever in doubt, though its context ended on the way")
	}
}

// TestDeadMember: one member of several that is gone is not noticed.
func TestDeadMember(t *testing.T) {
	server := startServer(t, embed.Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	_ = l.Close()
	c := open(t, plain(dead, server.Endpoints()[0]))
	for range 20 {
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Txn(t.Context(), nil, []kv.Op{kv.Put("/a", nil)}); err != nil {
			t.Fatal(err)
		}
	}
}
