// Package footprint keeps drover's daemons small: they run beside guests, or beside a store.
package footprint

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// percent of the live heap may be garbage before it is collected. The daemons' heaps are a few
	// MiB, so that collecting twice as often as Go's default costs next to nothing.
	percent = 40
	// giveBackEvery is how often unused memory goes back to the kernel, so that a daemon that does
	// little holds little more than what it needs.
	giveBackEvery = 20 * time.Second
	// giveBackHeap is the heap, in bytes, for which as much time again passes in between: collecting it
	// takes some 1 ms per MiB, so that 1 % of a core or so is the most that it costs.
	giveBackHeap = 256 << 20
)

// The runtime samples allocations for heap profiles in every program that links net/http/pprof, as etcd's
// server does, and keeps each sampled place for good: a megabyte in ten minutes, for profiles that
// nobody can ask for.
func init() { runtime.MemProfileRate = 0 }

// Keep makes the heap small and steady until ctx ends; GOGC in the environment wins over the small
// part. trim, if any, gives back what C code holds. It returns nil when ctx ends.
func Keep(ctx context.Context, trim func()) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	for heap := uint64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause(heap)):
			debug.FreeOSMemory()
			if trim != nil {
				trim()
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = m.HeapAlloc
		}
	}
}

// pause is how long to wait before memory is given back again, by the size of the heap.
func pause(heap uint64) time.Duration {
	return giveBackEvery + time.Duration(heap/(1<<20))*giveBackEvery/(giveBackHeap>>20)
}
