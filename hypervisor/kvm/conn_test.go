package kvm

import (
	"context"
	"log/slog"
	"testing"

	"drover/hypervisor"
)

// embedLink is a link to the embedded driver, with its supervisor when it is wanted.
func embedLink(t *testing.T) (l *link, supervise func()) {
	t.Helper()
	l = newLink("test", Config{URI: embedURI, Logger: slog.New(slog.DiscardHandler), connect: lendEmbed}, quietTracker())
	if err := l.open(soon(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	close(ended)
	t.Cleanup(func() {
		cancel()
		<-ended
		l.drop()
	})
	return l, func() {
		ended = make(chan struct{})
		go func() { defer close(ended); l.supervise(ctx) }()
	}
}

func (l *link) present() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func TestEveryLossIsNoticed(t *testing.T) {
	l, supervise := embedLink(t)
	first := l.present()
	// An earlier connection's signal still waits when the present one breaks.
	l.lost(&conn{})
	l.lost(first)
	if _, err := l.use("op", ""); !hypervisor.IsClass(err, hypervisor.ClassUnavailable) {
		t.Errorf("a broken connection was lent: %v", err)
	}
	supervise()
	eventually(t, "a new connection", func() bool { now := l.present(); return now != nil && now != first })
	c, err := l.use("op", "")
	if err != nil {
		t.Fatalf("after the reconnect: %v", err)
	}
	c.release()
}

func TestLateSignalSparesNewConnection(t *testing.T) {
	l, supervise := embedLink(t)
	now := l.present()
	supervise()
	for range 3 {
		l.lost(&conn{}) // one that was retired before
	}
	eventually(t, "the signal to be taken", func() bool { return len(l.broken) == 0 })
	if c, err := l.use("op", ""); err != nil || c != now {
		t.Errorf("connection %p, %v: want the one that works kept, %p", c, err, now)
	} else {
		c.release()
	}
}
