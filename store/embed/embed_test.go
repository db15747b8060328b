package embed

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

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
