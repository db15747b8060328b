package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	etcdembed "go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
)

// fatalHook turns an entry after which etcd would end the process into an error, and ends only the
// goroutine that met it. It is called once for each such goroutine.
type fatalHook chan error

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("%w: %s", ErrFatal, ce.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	select {
	case h <- err:
	default: // the first cause is the one that counts
	}
	runtime.Goexit()
}

// Server is a running etcd server. Its methods are safe for concurrent use.
type Server struct {
	cfg   Config
	etcd  *etcdembed.Etcd
	level slog.LevelVar // from which etcd's own words are logged
	lock  *os.File
	fatal fatalHook
	errs  chan error

	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	mu     sync.Mutex
	broken bool
}

// closeTime bounds how long Close waits for a server that has failed.
const closeTime = 5 * time.Second

// Start starts a server and returns once it takes requests. It fails, with one of this package's
// errors where one fits, when that can't be or ctx ends first.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd: %w", err)
	}
	s := &Server{cfg: cfg, lock: lock, fatal: make(fatalHook, 1), errs: make(chan error, 1), stop: make(chan struct{})}
	s.level.Set(slog.LevelError)
	if err := s.start(ctx); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("start embedded etcd: %w", err)
	}
	s.wg.Go(s.supervise)
	s.wg.Go(s.maintain)
	return s, nil
}

// start runs etcd's own start on a goroutine of its own, because the fatal hook ends the goroutine
// that it is called on.
func (s *Server) start(ctx context.Context) error {
	ecfg, err := s.cfg.etcd(s.fatal, &s.level)
	if err != nil {
		return err
	}
	type result struct {
		etcd *etcdembed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		e, err := etcdembed.StartEtcd(ecfg)
		started <- result{e, err}
	}()
	select {
	case err := <-s.fatal:
		return err
	case r := <-started:
		if r.err != nil {
			return s.explain(r.err)
		}
		s.etcd = r.etcd
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.fatal:
		return err
	case err := <-s.etcd.Err():
		s.etcd.Close()
		return s.explain(err)
	case <-ctx.Done():
		s.etcd.Close()
		return ctx.Err()
	}
}

// explain gives an error of etcd's start the sentinel that fits.
func (s *Server) explain(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: %s (another scheduler or an etcd may be running): %w", ErrAddressInUse, s.cfg.ListenURL, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrDirNotWritable, err)
	}
	return err
}

// supervise passes on the first failure.
func (s *Server) supervise() {
	var err error
	select {
	case err = <-s.fatal:
		s.mu.Lock()
		s.broken = true
		s.mu.Unlock()
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %w", ErrDiskFull, err)
		}
	case err = <-s.etcd.Err():
		err = fmt.Errorf("%w: %w", ErrFatal, err)
	case <-s.etcd.Server.StopNotify():
		err = fmt.Errorf("%w: the server stopped by itself", ErrFatal)
	case <-s.stop:
		return
	}
	s.errs <- err
}

// Err gives the cause, once, when the server fails. Close it then.
func (s *Server) Err() <-chan error { return s.errs }

// Endpoints returns the URLs for clients.
func (s *Server) Endpoints() []string {
	if s.cfg.AdvertiseURL != "" {
		return []string{s.cfg.AdvertiseURL}
	}
	u, err := url.Parse(s.cfg.ListenURL)
	if err != nil || len(s.etcd.Clients) == 0 {
		return []string{s.cfg.ListenURL}
	}
	_, port, err := net.SplitHostPort(s.etcd.Clients[0].Addr().String())
	if err != nil {
		return []string{s.cfg.ListenURL}
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		// The wildcard is no address to connect to; this host's programs can use the loopback.
		host = "localhost"
	}
	u.Host = net.JoinHostPort(host, port)
	return []string{u.String()}
}

// Close stops the server and frees the directory and the port. A server that has failed may not be
// able to stop: Close then returns ErrFatal after a few seconds, and the process should end.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		s.wg.Wait()
		s.mu.Lock()
		broken := s.broken
		s.mu.Unlock()
		if !broken {
			// All that is left to say are errors about being stopped.
			s.level.Set(slog.LevelError + 1)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			s.etcd.Close()
		}()
		var late <-chan time.Time
		if broken {
			late = time.After(closeTime)
		}
		select {
		case <-closed:
			err = s.lock.Close()
		case <-late:
			err = fmt.Errorf("%w: it could not be stopped", ErrFatal)
		}
	})
	return err
}
