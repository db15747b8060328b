package main

import (
	"context"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// shares follows the shares of all migrations.
func (a *agent) shares(ctx context.Context) <-chan precopy.ShareUpdate {
	out := make(chan precopy.ShareUpdate)
	go func() {
		defer close(out)
		for b := range a.store.WatchShares(ctx) {
			select {
			case out <- precopy.ShareUpdate(b):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

const (
	// linkEvery is the time between two samples of the migration network while a stream comes or goes, and
	// linkAfter how long they go on after the last one.
	linkEvery = time.Second
	linkAfter = 5 * time.Second
)

// watchLink tells the fleet what the migration network carries while a stream comes or goes: a leader
// leaves to tenants what they use.
func (a *agent) watchLink(ctx context.Context) error {
	tick := time.NewTicker(linkEvery)
	defer tick.Stop()
	var meter hypervisor.LinkMeter
	var until time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if a.worker.Streaming() {
			until = now.Add(linkAfter)
		}
		if now.After(until) {
			meter = hypervisor.LinkMeter{}
			continue
		}
		counters, err := a.host.LinkCounters()
		if err != nil {
			a.log.Debug("the migration network can't be read", "err", err)
			continue
		}
		load, ok := meter.Note(counters, now)
		s := a.sessions.get()
		if !ok || s == nil {
			continue
		}
		pctx, cancel := context.WithTimeout(ctx, linkEvery)
		if err := s.PublishLink(pctx, load); err != nil && ctx.Err() == nil {
			a.log.Debug("the migration network's sample is not published", "err", err)
		}
		cancel()
	}
}
