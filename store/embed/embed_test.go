package embed

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"drover/hypervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func insecure(dir string) Config {
	return Config{Dir: dir, ListenURL: "http://127.0.0.1:0", Insecure: true, NoSync: true}
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
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

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"nothing", Config{}, "no data directory"},
		{"plain text", Config{Dir: "/x", ListenURL: "http://127.0.0.1:2379"}, "--insecure"},
		{"no port", Config{Dir: "/x", ListenURL: "https://127.0.0.1"}, "want https://ADDRESS:PORT"},
		{"no certificate", Config{Dir: "/x", ListenURL: "https://127.0.0.1:2379"}, "certificate: required"},
		{"missing file", Config{Dir: "/x", ListenURL: "https://127.0.0.1:2379", CA: "/none/ca.pem"}, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Start(t.Context(), c.cfg)
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrConfig with %q", err, c.want)
			}
		})
	}
}

func TestStartFailures(t *testing.T) {
	dir := t.TempDir()
	running := start(t, insecure(dir))

	t.Run("directory in use", func(t *testing.T) {
		if _, err := Start(t.Context(), insecure(dir)); !errors.Is(err, ErrDirLocked) {
			t.Errorf("got %v, want ErrDirLocked", err)
		}
	})
	t.Run("address in use", func(t *testing.T) {
		cfg := insecure(t.TempDir())
		cfg.ListenURL = running.Endpoints()[0]
		if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrAddressInUse) {
			t.Errorf("got %v, want ErrAddressInUse", err)
		}
	})
	t.Run("directory is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(t.Context(), insecure(file)); !errors.Is(err, ErrDirNotWritable) {
			t.Errorf("got %v, want ErrDirNotWritable", err)
		}
	})
	t.Run("read-only file system", func(t *testing.T) {
		if _, err := Start(t.Context(), insecure("/proc/drover")); !errors.Is(err, ErrDirNotWritable) {
			t.Errorf("got %v, want ErrDirNotWritable", err)
		}
	})
}

func TestNoPeerPort(t *testing.T) {
	s := start(t, insecure(t.TempDir()))
	if n := len(s.etcd.Peers); n != 0 {
		t.Errorf("%d peer listeners, want none", n)
	}
}

func TestCloseFreesDirAndPort(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), insecure(dir))
	if err != nil {
		t.Fatal(err)
	}
	ep := s.Endpoints()[0]
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(ep, "http://"))
	if err != nil {
		t.Fatalf("port is not free: %v", err)
	}
	_ = l.Close()
	start(t, insecure(dir))
}

func TestWorthDefrag(t *testing.T) {
	for _, c := range []struct {
		file, used hypervisor.Bytes
		want       bool
	}{
		{10 * hypervisor.MiB, 0, false},
		{100 * hypervisor.MiB, 60 * hypervisor.MiB, false},
		{100 * hypervisor.MiB, 40 * hypervisor.MiB, true},
	} {
		if got := worthDefrag(c.file, c.used); got != c.want {
			t.Errorf("file %s, used %s: %v, want %v", c.file, c.used, got, c.want)
		}
	}
}

// TestFatal: what would make etcd end the process comes out as an error instead.
func TestFatal(t *testing.T) {
	s := start(t, insecure(t.TempDir()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.etcd.GetLogger().Fatal("failed to save", zap.Error(syscall.ENOSPC))
	}()
	select {
	case err := <-s.Err():
		if !errors.Is(err, ErrFatal) || !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "failed to save") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no error")
	}
	<-ended
}

// TestMakeRoom fills the store with history until it takes no more writes, and has it help itself.
func TestMakeRoom(t *testing.T) {
	cfg := insecure(t.TempDir())
	cfg.Quota = 8 * hypervisor.MiB
	s := start(t, cfg)
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	value := strings.Repeat("x", 500<<10)
	for n := 0; err == nil; n++ {
		if n > 100 {
			t.Fatal("the quota is not kept")
		}
		_, err = c.Put(t.Context(), "/a", value)
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) || !s.full() {
		t.Fatalf("got %v, full is %v", err, s.full())
	}
	s.makeRoom()
	if s.full() {
		file, used := s.Size()
		t.Fatalf("still full: file %s, used %s", file, used)
	}
	if _, err := c.Put(t.Context(), "/a", value); err != nil {
		t.Errorf("write after making room: %v", err)
	}
}
