package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a store in memory with the clients that a test makes of it.
type world struct {
	t      testing.TB
	server *memstore.Server
	opened []func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, server: memstore.New()}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	for i := len(w.opened) - 1; i >= 0; i-- {
		w.opened[i]()
	}
	w.opened = nil
	w.server.Close()
}

// client returns one more program's view of the store.
func (w *world) client() (*Store, *memstore.Client) {
	c := w.server.Client()
	s := New(c)
	w.opened = append(w.opened, func() { _, _ = s.Close(), c.Close() })
	return s, c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testSession(host, machine, instance string) fleet.Session {
	return fleet.Session{Host: host, LibvirtUUID: machine, Instance: instance, Version: "test", Started: time.Unix(8e8, 0).UTC()}
}

func register(t testing.TB, s *Store, host, machine, instance string) *AgentSession {
	t.Helper()
	a, err := s.Register(context.Background(), testSession(host, machine, instance), 10*time.Second)
	must(t, err)
	return a
}

func lead(t testing.TB, s *Store, identity string) *Leadership {
	t.Helper()
	l, err := s.Campaign(context.Background(), identity, 10*time.Second)
	must(t, err)
	return l
}

// request is a new migration; n makes IDs that sort by age.
func request(n int, domain hypervisor.DomainID) precopy.Migration {
	return precopy.Migration{
		ID: fmt.Sprintf("m%06d", n), UUID: domain, Domain: "vm-" + string(domain), Source: "h1", Target: "h2",
		Phase: precopy.Requested, RequestedBy: "test", Policy: precopy.DefaultPolicy(),
		Created: time.Unix(8e8+int64(n), 0).UTC(),
	}
}

// step returns a copy of the record in another phase.
func step(m precopy.Stored, to precopy.Phase) precopy.Migration {
	next := m.Migration
	next.Phase = to
	if to.Final() {
		at := time.Unix(9e8, 0).UTC()
		next.Finished = &at
	}
	return next
}
