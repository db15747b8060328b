// Package footprint keeps drover's daemons small: they run beside guests, or beside a store.
package footprint

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

const (
	// percent of the live heap may be garbage before it is collected. The daemons' heaps are a few
	// MiB, so that collecting twice as often as Go's default costs next to nothing.
	percent = 40
	// giveBackEvery is how often unused memory goes back to the kernel, so that a daemon that does
	// little holds little more than what it needs.
	giveBackEvery = 5 * time.Second
	// costFactor bounds what that costs: the pause is this many times as long as it took. A scheduler
	// of a thousand hosts collects a heap of hundreds of MiB.
	costFactor = 200
)

// Keep makes the heap small and steady until ctx ends; GOGC in the environment wins over the small
// part. trim, if any, gives back what C code holds. It returns nil when ctx ends.
func Keep(ctx context.Context, trim func()) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	for pause := giveBackEvery; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
			began := time.Now()
			debug.FreeOSMemory()
			if trim != nil {
				trim()
			}
			pause = max(giveBackEvery, costFactor*time.Since(began))
		}
	}
}
