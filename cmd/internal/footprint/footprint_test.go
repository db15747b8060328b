package footprint

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestNoHeapProfile(t *testing.T) {
	if runtime.MemProfileRate != 0 {
		t.Errorf("one allocation in %d bytes is sampled", runtime.MemProfileRate)
	}
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		heap uint64
		want time.Duration
	}{
		{0, 20 * time.Second},
		{6 << 20, 20468750 * time.Microsecond},
		{640 << 20, 70 * time.Second},
	} {
		if got := pause(c.heap); got != c.want {
			t.Errorf("heap of %d bytes: %s, want %s", c.heap, got, c.want)
		}
	}
}

func TestKeepTrims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 130*time.Second)
		defer cancel()
		trims := 0
		if err := Keep(ctx, func() { trims++ }); err != nil {
			t.Error(err)
		}
		// The test's own heap is between 0 and 256 MiB.
		if trims < 3 || trims > 6 {
			t.Errorf("trimmed %d times in 130 s", trims)
		}
	})
}
