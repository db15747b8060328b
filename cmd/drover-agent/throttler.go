package main

import (
	"context"
	"log/slog"

	"drover/cmd/internal/conf"
	"drover/hypervisor"
	"drover/hypervisor/throttle"
	"drover/precopy"
)

// newThrottler opens what slows guests on this host. Nil where that can't be had: migrations then go
// on without. closeAll gives back what is still held.
func newThrottler(s *conf.Agent, log *slog.Logger) (open precopy.Throttler, closeAll func() error) {
	t, err := throttle.New(throttle.Config{Dir: throttleDir(s), Watchdog: []string{throttleWatchdog}, Logger: log})
	if err != nil {
		log.Error("guests can't be slowed on this host", "err", err)
		return nil, func() error { return nil }
	}
	return func(ctx context.Context, id hypervisor.DomainID, name string) (precopy.Throttle, error) {
		th, err := t.Begin(ctx, id, name)
		if err != nil {
			return nil, err
		}
		return throttled{th}, nil
	}, t.Close
}

type throttled struct {
	*throttle.Throttle
}

func (t throttled) Busiest() (hypervisor.Cores, error) {
	u, err := t.Use()
	return u.Busiest(), err
}
