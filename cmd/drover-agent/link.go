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
	// linkBusy is how long they go on where there is other traffic: what a leader has last seen of that holds the
	// next migration up until it sees less, which the host's load tells no sooner.
	linkBusy = 20 * time.Second
	// quietLink is traffic that holds nothing up.
	quietLink = hypervisor.BytesPerSecond(hypervisor.MiB)
)

// linkWatch says when the migration network is sampled.
type linkWatch struct {
	streamed time.Time // when a stream last came or went
	until    time.Time
}

// wanted reports whether to take a sample now.
func (w *linkWatch) wanted(now time.Time, streaming bool) bool {
	if streaming {
		w.streamed, w.until = now, now.Add(linkAfter)
	}
	return !now.After(w.until)
}

// saw takes a sample in.
func (w *linkWatch) saw(l hypervisor.LinkLoad) {
	if rx, tx := l.Tenants(); max(rx, tx) > quietLink && l.At.Sub(w.streamed) < linkBusy {
		w.until = l.At.Add(linkAfter)
	}
}

// watchLink tells the fleet what the migration network carries while a stream comes or goes: a leader
// leaves to tenants what they use.
func (a *agent) watchLink(ctx context.Context) error {
	tick := time.NewTicker(linkEvery)
	defer tick.Stop()
	var meter hypervisor.LinkMeter
	var when linkWatch
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if !when.wanted(now, a.worker.Streaming()) {
			meter = hypervisor.LinkMeter{}
			continue
		}
		counters, err := a.host.LinkCounters()
		if err != nil {
			a.log.Debug("the migration network can't be read", "err", err)
			continue
		}
		load, ok := meter.Note(counters, now)
		if ok {
			when.saw(load)
		}
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
