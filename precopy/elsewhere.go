package precopy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/hypervisor"
)

const (
	// elsewhereLimit bounds the look at all other hosts, askedAtOnce how many are asked at a time.
	elsewhereLimit = 15 * time.Second
	askedAtOnce    = 32
)

// found is what a host has of a guest.
type found struct {
	host string
	hypervisor.Sighting
}

// elsewhere looks for a host that is neither source nor target and has the guest, one that runs it first: while
// the source's libvirt was away, somebody may have moved it on from the target. Every host with a living agent
// is asked, for its report may be older than that; one that lists the guest must answer. What a migration left
// behind there, or never brought there, does not count. None is found where the host's name is empty.
func (w *Worker) elsewhere(ctx context.Context, m Migration) (found, error) {
	ctx, cancel := context.WithTimeout(ctx, elsewhereLimit)
	defer cancel()
	listing, others, err := w.Queue.Listing(ctx, m.UUID)
	if err != nil {
		return found{}, err
	}
	var mu sync.Mutex
	var best found
	var silent error
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	ask := func(host string, must bool) {
		if host == m.Source || host == m.Target {
			return
		}
		g.Go(func() error {
			a, err := w.Queue.Ask(ctx, host, Question{Kind: AskSight, Domain: m.UUID})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && a.Sighting != nil && a.Error == "":
				left := a.Sighting.Reason == hypervisor.ReasonMigrated || a.Sighting.Reason == hypervisor.ReasonFailed
				if a.Sighting.Active() || a.Sighting.State != hypervisor.StateAbsent && !left && best.host == "" {
					best = found{host, *a.Sighting}
				}
			case must && err != nil:
				silent = fmt.Errorf("%s reported it, and does not answer: %w", host, err)
			case must:
				silent = fmt.Errorf("%s reported it, and does not know: %s", host, a.Error)
			}
			return nil
		})
	}
	for _, h := range listing {
		ask(h, true)
	}
	for _, h := range others {
		ask(h, false)
	}
	_ = g.Wait()
	if best.host == "" && silent != nil {
		return found{}, silent
	}
	return best, nil
}
