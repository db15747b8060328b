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
	// giveBackEvery is how often unused memory goes back to the kernel: a burst of migrations must not
	// leave the daemon larger for hours.
	giveBackEvery = 20 * time.Second
)

// Keep makes the heap small and steady until ctx ends; GOGC in the environment wins over the small
// part. trim, if any, gives back what C code holds. It returns nil when ctx ends.
func Keep(ctx context.Context, trim func()) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	ticker := time.NewTicker(giveBackEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			debug.FreeOSMemory()
			if trim != nil {
				trim()
			}
		}
	}
}
