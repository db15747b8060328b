package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"drover/cmd/internal/conf"
	"drover/cmd/internal/footprint"
	"drover/cmd/internal/hooks"
	"drover/cmd/internal/serve"
	"drover/cmd/internal/version"
	"drover/hypervisor"
	"drover/hypervisor/kvm"
	"drover/hypervisor/sockets"
	"drover/precopy"
	"drover/store"
	"drover/store/etcd"
)

// serveAgent is the one place where the agent is put together. It returns when ctx ends, after a
// graceful stop: running migrations are left to libvirt, and adopted at the next start.
func serveAgent(ctx context.Context, s *conf.Agent, log *slog.Logger) error {
	client, err := etcd.Open(etcd.Config{
		Endpoints: s.Endpoints, CA: s.CA, Cert: s.Cert, Key: s.Key, Insecure: s.Insecure, Log: log,
	})
	if err != nil {
		return err
	}
	st := store.New(client)
	defer st.Close()
	host, err := kvm.Open(ctx, kvm.Config{
		URI: s.LibvirtURI, Name: s.Name, PeerURI: s.PeerURI, MigrationAddress: s.MigrationAddress,
		StateDir: s.SpoolDir, Capacity: s.Capacity, LoadSource: kvm.LoadSource(s.LoadSource), QueryQEMU: s.QueryQEMU,
		AgentVersion: version.Version, ProtocolMin: precopy.Schema, ProtocolMax: precopy.Schema,
		Logger: log,
	})
	if err != nil {
		return fmt.Errorf("libvirt at %s: %w", s.LibvirtURI, err)
	}
	defer host.Close()
	// Last: with faulty settings nothing is made on this host.
	spool, err := precopy.OpenSpool(filepath.Join(s.SpoolDir, "spool"))
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	a := &agent{
		conf: s, log: log, host: host, store: st,
		instance: uuid.NewString(), metrics: newMetrics(registry, host), disks: newDisks(s.Name, host, st),
		hooks: hooks.Open(s.HooksDir),
	}
	a.reporter = hypervisor.NewReporter(hypervisor.ReporterConfig{Sampler: host, Sink: a, Log: log})
	throttler, unthrottle := newThrottler(s, log)
	defer func() {
		if err := unthrottle(); err != nil {
			log.Error("not all CPU quotas are given back", "err", err)
		}
	}()
	a.worker = precopy.NewWorker(precopy.Config{
		Host: s.Name, Instance: a.instance, Migrator: host, Queue: &queue{agent: a}, Spool: spool,
		Shares: func(ctx context.Context) <-chan precopy.ShareUpdate { return a.shares(ctx) },
		Log:    log, Events: host.Events(), Observe: a.observe, Throttle: throttler,
		SendQueue: func(id hypervisor.DomainID, begun bool) precopy.SendQueue {
			return sockets.NewKeeper(id, host.MigrationPorts(), begun)
		},
		Hooks: vmHooks{a.hooks, s.LibvirtURI},
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return footprint.Keep(ctx, kvm.TrimMemory) })
	g.Go(func() error { return a.holdSession(ctx) })
	g.Go(func() error { return a.worker.Run(ctx) })
	g.Go(func() error { return a.reporter.Run(ctx) })
	g.Go(func() error { return a.watchLink(ctx) })
	g.Go(func() error { return pokeOnEvents(ctx, host.Events(), a.reporter.Poke) })
	g.Go(func() error {
		return serve.Run(ctx, serve.Config{
			Address: s.MetricsAddress, TLS: serve.Files{CA: s.CA, Cert: s.Cert, Key: s.Key}, Insecure: s.Insecure,
			Logger: log, Metrics: registry, Ready: a.ready, Status: a.status,
		})
	})
	log.Info("agent started", "host", s.Name, "instance", a.instance, "version", version.Version)
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("agent stopped", "left_running", a.worker.Active())
	return nil
}

type agent struct {
	conf     *conf.Agent
	log      *slog.Logger
	host     *kvm.Host
	store    *store.Store
	instance string
	reporter *hypervisor.Reporter
	worker   *precopy.Worker
	metrics  *metrics
	disks    *disks
	hooks    *hooks.Dir
	sessions sessionHolder
}

// observe is called for each migration that ended here.
func (a *agent) observe(m precopy.Migration) {
	a.metrics.ended(m)
	a.reporter.Poke()
}

// pokeAfter is how long after an event of a migration a report waits: in the middle of a switchover, and while the
// guest takes up its work, QEMU and libvirt have better to do than to answer.
const pokeAfter = 500 * time.Millisecond

// pokeOnEvents reports afresh when a domain came or went, so that nobody looks for it in vain.
func pokeOnEvents(ctx context.Context, events <-chan hypervisor.Event, poke func()) error {
	var later <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-later:
			later = nil
			poke()
		case e, ok := <-events:
			switch {
			case !ok:
				return nil
			case e.Kind == hypervisor.EventRound || e.Migration && later != nil:
			case e.Migration:
				later = time.After(pokeAfter)
			default:
				poke()
			}
		}
	}
}

func (a *agent) ready() error {
	if a.sessions.get() == nil {
		return errors.New("no lease: the store is away, or another machine holds the name")
	}
	return nil
}

func (a *agent) status() serve.Page {
	state := "holds its lease"
	if err := a.ready(); err != nil {
		state = err.Error()
	}
	return serve.Page{Title: "drover-agent on " + a.conf.Name, Rows: []serve.Row{
		{Name: "session", Value: state},
		{Name: "instance", Value: a.instance},
		{Name: "version", Value: version.Version},
		{Name: "migrations under way", Value: fmt.Sprint(a.worker.Active())},
		{Name: "libvirt calls that do not return", Value: fmt.Sprint(a.host.Stragglers())},
	}}
}
