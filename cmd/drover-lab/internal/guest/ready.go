package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"drover/hypervisor"
)

// bootTimeout covers a boot under emulation on a busy machine; filling the working set comes on top.
const bootTimeout = 30 * time.Second

// fillRate is how fast the slowest machine fills a working set, for the timeout.
const fillRate = 16 * hypervisor.MiB

// readyPoll is how often the serial file is looked at; a boot takes a hundred times as long.
const readyPoll = 10 * time.Millisecond

// waitReady returns when the guest says that its load has begun.
func waitReady(ctx context.Context, r Record) error {
	timeout := bootTimeout + time.Duration(float64(r.WSS)/float64(fillRate)*float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		data, err := os.ReadFile(r.Serial)
		if err != nil {
			return err
		}
		if bytes.Contains(data, []byte("\nR ")) {
			return nil
		}
		if bytes.Contains(data, []byte("Kernel panic")) {
			return fmt.Errorf("%s: kernel panic at boot: %q: %w", r.Name, tail(data), ErrSilent)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready after %v, last words %q: %w", r.Name, timeout, tail(data), ErrSilent)
		case <-time.After(readyPoll):
		}
	}
}

// tail returns the end of data, short enough for a message.
func tail(data []byte) []byte {
	const keep = 300
	return data[max(0, len(data)-keep):]
}
