// Package footprint keeps drover's daemons small: they run beside guests, or beside a store.
package footprint

import (
	"os"
	"runtime/debug"
)

// percent of the live heap may be garbage before it is collected. The daemons' heaps are a few MiB,
// so that collecting twice as often as Go's default costs next to nothing, and half the swing is gone.
const percent = 40

// Small makes the heap small and steady. GOGC in the environment wins.
func Small() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
