package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"drover/cmd/internal/hooks"
	"drover/precopy"
	"drover/scheduler"
	"drover/store"
	"drover/store/memstore"
)

func newTerms(s *store.Store, identity string) *terms {
	return &terms{
		store: s, identity: identity, log: slog.New(slog.DiscardHandler),
		metrics: scheduler.NewMetrics(prometheus.NewRegistry()), hooks: hooks.Open(""),
	}
}

// leads reports whether t leads at this moment, as its status page says.
func leads(t *terms) bool { return strings.Contains(fmt.Sprint(t.page()), "leading since") }

// Of two schedulers one leads. Cut off from the store it says that it is not ready and stops leading
// within its lease's time; the other takes over, and nothing that the first still holds can be
// written.
func TestTermsFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memstore.New()
		clients := []*memstore.Client{server.Client(), server.Client(), server.Client()}
		var stores []*store.Store
		for _, c := range clients {
			stores = append(stores, store.New(c))
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, second := newTerms(stores[0], "first"), newTerms(stores[1], "second")
		done := make(chan error, 2)
		go func() { done <- first.run(ctx) }()
		time.Sleep(time.Second)
		go func() { done <- second.run(ctx) }()
		time.Sleep(time.Second)
		if !leads(first) || leads(second) {
			t.Fatalf("first: %v, second: %v; want the first to lead", first.page(), second.page())
		}
		if err := first.ready(); err != nil {
			t.Errorf("the leader is not ready: %v", err)
		}
		if err := second.ready(); err != nil {
			t.Errorf("the one that stands by is not ready: %v", err)
		}
		m, err := stores[2].CreateMigration(ctx, precopy.Migration{ID: "m1", Domain: "web", UUID: "u1", Phase: precopy.Requested})
		if err != nil {
			t.Fatal(err)
		}
		clients[0].Partition(true)
		time.Sleep(3 * leaderTTL)
		if leads(first) || !leads(second) {
			t.Errorf("first: %v, second: %v; want the second to lead", first.page(), second.page())
		}
		if first.ready() == nil {
			t.Error("a scheduler without a store is ready")
		}
		info, err := stores[2].Leader(ctx)
		if err != nil || info == nil || info.Identity != "second" {
			t.Errorf("leader %v, err %v", info, err)
		}
		// Without a report nobody knows the VM: the second leader has refused it.
		if m, err = stores[2].GetMigration(ctx, m.ID); err != nil || !m.Phase.Final() {
			t.Errorf("migration is %s, err %v; want it decided", m.Phase, err)
		}
		clients[0].Partition(false)
		time.Sleep(leaderTTL)
		if leads(first) || first.ready() != nil {
			t.Errorf("first after healing: %v, ready %v; want it to stand by", first.page(), first.ready())
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		}
		if info, err := stores[2].Leader(t.Context()); err != nil || info != nil {
			t.Errorf("leader after the end: %v, %v; want none, at once", info, err)
		}
		for i := range clients {
			_ = stores[i].Close()
			_ = clients[i].Close()
		}
	})
}
