// Package serve is the small HTTP side of drover's daemons, and their manners towards systemd:
//
//	/healthz  200 while the process works at all; 503 with the reason otherwise
//	/readyz   200 while it can do its job; 503 with the reason otherwise
//	/metrics  Prometheus text format
//	/         a status page for people
//
// On a loopback address this is plain HTTP. Elsewhere it is HTTPS with the program's certificate;
// metrics and the status page then need a client certificate of the same authority, the two health
// checks do not. An address written with http:// in front, or --insecure, asks for plain text.
package serve

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what [Run] serves. Only Logger is required; the functions must be safe for concurrent use
// and answer fast.
type Config struct {
	Address string // host:port, or a URL with http or https; empty serves nothing
	TLS     Files
	// Insecure allows plain HTTP on any address.
	Insecure bool
	Logger   *slog.Logger
	// Metrics is what /metrics shows; nil shows nothing.
	Metrics prometheus.Gatherer
	// Healthy and Ready return nil, or why not. nil means always.
	Healthy func() error
	Ready   func() error
	// Status is what the status page shows.
	Status func() Page
}

// Files are PEM files; they are read anew for each connection, so that a renewed certificate needs
// no restart.
type Files struct{ CA, Cert, Key string }

// Page is what the status page shows: a heading and lines of names and values.
type Page struct {
	Title string
	Rows  []Row
}

// Row is one line of the status page.
type Row struct{ Name, Value string }

// Signals returns a context that ends at SIGTERM or SIGINT. A second signal ends the process at once.
func Signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Run listens, tells systemd that the program is up, and serves until ctx ends; then it tells systemd
// that the program is stopping, and returns nil once running requests are answered. An address that
// can't be listened on is an error at once.
func Run(ctx context.Context, cfg Config) error {
	// The two parts end together: when one fails the other is stopped and waited for.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listener net.Listener
	if cfg.Address != "" {
		var err error
		if listener, err = listen(ctx, cfg); err != nil {
			return fmt.Errorf("serve %s: %w", cfg.Address, err)
		}
	}
	notified := make(chan struct{})
	go func() {
		defer close(notified)
		notify(ctx, cfg)
	}()
	var err error
	if listener == nil {
		<-ctx.Done()
	} else {
		err = serveHTTP(ctx, cfg, listener)
	}
	cancel()
	<-notified
	return err
}

func serveHTTP(ctx context.Context, cfg Config, listener net.Listener) error {
	server := &http.Server{
		Handler:           Handler(cfg),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", cfg.Address, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", cfg.Address, err)
	}
	return nil
}

// Handler returns the HTTP handler that [Run] serves.
func Handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", check(cfg.Healthy))
	mux.HandleFunc("GET /readyz", check(cfg.Ready))
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", known(promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{
			ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
		})))
	}
	if cfg.Status != nil {
		mux.Handle("GET /{$}", known(statusPage(cfg)))
	}
	return mux
}

// known lets only clients with a certificate of our authority through, where there is TLS.
func known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "a client certificate is required", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func check(state func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if state != nil {
			if err := state(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintln(w, err)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	}
}

var pageTemplate = template.Must(template.New("status").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>
<style>body{font-family:sans-serif;margin:2em}td{padding:.2em 1em .2em 0;vertical-align:top}</style></head>
<body><h1>{{.Title}}</h1><table>
{{range .Rows}}<tr><td>{{.Name}}</td><td>{{.Value}}</td></tr>
{{end}}</table><p><a href="/metrics">metrics</a> <a href="/healthz">health</a> <a href="/readyz">ready</a></p></body></html>
`))

func statusPage(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := pageTemplate.Execute(w, cfg.Status()); err != nil {
			cfg.Logger.Debug("status page not sent", "err", err)
		}
	}
}
