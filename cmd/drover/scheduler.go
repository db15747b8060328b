package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/conf"
	"drover/cmd/internal/footprint"
	"drover/cmd/internal/hooks"
	"drover/cmd/internal/logs"
	"drover/cmd/internal/serve"
	"drover/scheduler"
	"drover/store"
	"drover/store/embed"
	"drover/store/etcd"
)

const schedulerHelp = `Reads the fleet and orders migrations. Run it on one to three control hosts: they elect a leader
through the store, the others stand by.

With --embedded-etcd the store runs inside this process, for a site without an etcd cluster of its
own: one process, no failover. While it is away running migrations go on and nothing new starts.`

func schedulerCommand() *cli.Command {
	settings := conf.DefaultScheduler()
	var flags []cli.Flag
	// The store's own flags are global ones already.
	for _, f := range conf.Flags(settings) {
		if !isGlobal(f) {
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name: "scheduler", Usage: "the service that decides", Subcommands: []*cli.Command{{
			Name: "run", Usage: "run a scheduler until SIGTERM", Description: schedulerHelp,
			Flags: append(flags, conf.ConfigFlag()), Action: takes(0, 0, "", runScheduler),
		}},
	}
}

func isGlobal(f cli.Flag) bool {
	for _, g := range globalFlags() {
		if g.Names()[0] == f.Names()[0] {
			return true
		}
	}
	return false
}

func runScheduler(c *cli.Context) error {
	settings := conf.DefaultScheduler()
	if err := conf.Load(conf.FromContext(c), settings); err != nil {
		return err
	}
	if settings.EmbeddedDir != "" && c.IsSet("etcd-endpoints") {
		return cliargs.Usagef(c, "--etcd-endpoints does not go with --embedded-etcd: the store is in this process")
	}
	log, err := logs.New(c.App.ErrWriter, settings.Format, settings.Level)
	if err != nil {
		return err
	}
	return schedule(c.Context, settings, log)
}

// schedule runs everything that a scheduler is made of until ctx ends:
//
//	embedded store (if any) <- client <- View -> Loop -> orders
//	                                      health, metrics, systemd
func schedule(ctx context.Context, settings *conf.Scheduler, log *slog.Logger) (err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return footprint.Keep(ctx, nil) })
	endpoints := settings.Endpoints
	if settings.EmbeddedDir != "" {
		server, serr := startStore(ctx, settings, log)
		if serr != nil {
			return serr
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		endpoints = server.Endpoints()
		g.Go(func() error {
			select {
			case err := <-server.Err():
				return fmt.Errorf("embedded store: %w", err)
			case <-ctx.Done():
				return nil
			}
		})
	}
	client, err := etcd.Open(etcd.Config{
		Endpoints: endpoints, CA: settings.CA, Cert: settings.Cert, Key: settings.Key,
		Insecure: settings.Insecure, Log: log,
	})
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	t := &terms{
		store: store.New(client), identity: settings.Identity, log: log,
		metrics: scheduler.NewMetrics(registry), hooks: hooks.Open(settings.HooksDir),
	}
	log.Info("scheduler started", "version", version(), "identity", settings.Identity, "endpoints", endpoints)
	g.Go(func() error { return t.run(ctx) })
	g.Go(func() error {
		return serve.Run(ctx, serve.Config{
			Address: settings.MetricsAddress, Insecure: settings.Insecure, Logger: log, Metrics: registry,
			TLS:   serve.Files{CA: settings.CA, Cert: settings.Cert, Key: settings.Key},
			Ready: t.ready, Status: t.page,
		})
	})
	err = g.Wait()
	log.Info("scheduler stopped", "err", err)
	return err
}

func startStore(ctx context.Context, settings *conf.Scheduler, log *slog.Logger) (*embed.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	server, err := embed.Start(ctx, embed.Config{
		Dir: settings.EmbeddedDir, ListenURL: settings.EtcdListen, Insecure: settings.Insecure,
		CA: settings.CA, Cert: settings.Cert, Key: settings.Key, Log: log,
	})
	if errors.Is(err, embed.ErrConfig) {
		return nil, &cliargs.UsageError{Command: "drover scheduler run", Err: err}
	}
	return server, err
}
