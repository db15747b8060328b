package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHandler(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "drover_test_total", Help: "A test."})
	registry.MustRegister(counter)
	counter.Inc()
	var ready error
	h := Handler(Config{
		Logger: slog.New(slog.DiscardHandler), Metrics: registry,
		Ready:  func() error { return ready },
		Status: func() Page { return Page{Title: "drover <test>", Rows: []Row{{"leader", "<me>"}}} },
	})
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	tests := []struct {
		name, path string
		ready      error
		code       int
		body       string
	}{
		{"healthy", "/healthz", nil, 200, "ok"},
		{"ready", "/readyz", nil, 200, "ok"},
		{"not ready", "/readyz", errors.New("the store is away"), 503, "the store is away"},
		{"healthy though not ready", "/healthz", errors.New("the store is away"), 200, "ok"},
		{"metrics", "/metrics", nil, 200, "drover_test_total 1"},
		{"status is escaped", "/", nil, 200, "drover &lt;test&gt;"},
		{"unknown path", "/secret", nil, 404, "not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ready = tt.ready
			code, body := get(tt.path)
			if code != tt.code || !strings.Contains(body, tt.body) {
				t.Errorf("GET %s: %d %q, want %d with %q", tt.path, code, body, tt.code, tt.body)
			}
		})
	}
}

func TestTransport(t *testing.T) {
	tests := []struct {
		address            string
		haveCert, insecure bool
		hostPort           string
		encrypted, fails   bool
	}{
		{address: "127.0.0.1:9177", hostPort: "127.0.0.1:9177"},
		{address: "127.0.0.1:9177", haveCert: true, hostPort: "127.0.0.1:9177"},
		{address: "[::1]:9177", hostPort: "[::1]:9177"},
		{address: "localhost:9177", hostPort: "localhost:9177"},
		{address: "192.0.2.1:9177", fails: true},
		{address: ":9177", fails: true},
		{address: ":9177", insecure: true, hostPort: ":9177"},
		{address: ":9177", haveCert: true, hostPort: ":9177", encrypted: true},
		{address: "http://192.0.2.1:9177", haveCert: true, hostPort: "192.0.2.1:9177"},
		{address: "https://127.0.0.1:9177", haveCert: true, hostPort: "127.0.0.1:9177", encrypted: true},
		{address: "https://127.0.0.1:9177", fails: true},
		{address: "9177", fails: true},
	}
	for _, tt := range tests {
		hostPort, encrypted, err := transport(tt.address, tt.haveCert, tt.insecure)
		if hostPort != tt.hostPort || encrypted != tt.encrypted || (err != nil) != tt.fails {
			t.Errorf("transport(%q, %v, %v) = %q, %v, %v", tt.address, tt.haveCert, tt.insecure, hostPort, encrypted, err)
		}
	}
}

// systemd hears READY, WATCHDOG while healthy, and STOPPING.
func TestRunNotifiesSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	os.Unsetenv("WATCHDOG_PID")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Address: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	}()
	read := func() string {
		buf := make([]byte, 200)
		socket.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("no message to systemd: %v", err)
		}
		return string(buf[:n])
	}
	if got := read(); got != "READY=1" {
		t.Errorf("first message %q, want READY=1", got)
	}
	if got := read(); got != "WATCHDOG=1" {
		t.Errorf("second message %q, want WATCHDOG=1", got)
	}
	cancel()
	for got := ""; got != "STOPPING=1"; {
		got = read()
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Run(t.Context(), Config{Address: l.Addr().String(), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Run on a taken address: %v, want an error that names it", err)
	}
}

// With TLS, health checks need no client certificate, metrics do.
func TestRunTLSNeedsClientCertificate(t *testing.T) {
	h := Handler(Config{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	server := httptest.NewTLSServer(h)
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 403} {
		resp, err := client.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s without certificate: %d, want %d", path, resp.StatusCode, want)
		}
	}
}
