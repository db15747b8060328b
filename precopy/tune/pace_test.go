package tune

import (
	"testing"
	"time"

	"drover/hypervisor"
)

// TestPace plays a link that carries less than was ordered, and later more.
func TestPace(t *testing.T) {
	const order = 100e6
	for _, tc := range []struct {
		name string
		// carries is what the link takes at a time; shrink what a page needs of its size.
		carries func(time.Duration) float64
		shrink  float64
		after   time.Duration
		low     float64
		high    float64
	}{
		{"as ordered", func(time.Duration) float64 { return 200e6 }, 1, 30 * time.Second, 100e6, 100e6},
		{"half of it", func(time.Duration) float64 { return 50e6 }, 1, 5 * time.Second, 44e6, 47e6},
		{"half of it, for long", func(time.Duration) float64 { return 50e6 }, 1, time.Minute, 44e6, 52e6},
		{"a dip", func(at time.Duration) float64 {
			if at > 5*time.Second && at < 8*time.Second {
				return 5e6
			}
			return 200e6
		}, 1, 40 * time.Second, 100e6, 100e6},
		{"half of it at first", func(at time.Duration) float64 {
			if at < 10*time.Second {
				return 50e6
			}
			return 200e6
		}, 1, 3 * time.Minute, 100e6, 100e6},
		{"a small cap, rounded down", func(time.Duration) float64 { return 5 << 20 }, 1, time.Minute, 6.1e6, 6.3e6},
		{"a queue kept short", func(time.Duration) float64 { return 50e6 }, 1, 30 * time.Second, 100e6, 100e6},
		{"pages that shrink", func(time.Duration) float64 { return 20e6 }, 0.2, 30 * time.Second, 100e6, 100e6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			order := float64(order)
			if tc.name == "a small cap, rounded down" {
				order = 5.9 * float64(1<<20)
			}
			p := newPace(hypervisor.BytesPerSecond(order), "")
			var prev Reading
			beyond, readings := 0, 0
			sent, left := 0.0, 1e12
			for at := time.Duration(0); at < tc.after; at += 250 * time.Millisecond {
				rate := min(float64(p.cap), tc.carries(at))
				sent += rate / 4
				left -= rate / 4 / tc.shrink
				r := Reading{JobStats: hypervisor.JobStats{
					Elapsed: at, Round: 1, MemTotal: 1e12, MemRemaining: hypervisor.Bytes(left), MemProcessed: hypervisor.Bytes(sent),
				}, ShortQueue: tc.name == "a queue kept short"}
				p.note(prev, r)
				prev = r
				if readings++; at > 5*time.Second && float64(p.cap) > tc.high {
					beyond++
				}
			}
			if beyond > readings/4 {
				t.Errorf("the cap was beyond %.1f MB/s in %d of %d readings", tc.high/1e6, beyond, readings)
			}
			if tc.name == "half of it, for long" {
				return // it may be probing
			}
			if got := float64(p.cap); got < tc.low || got > tc.high {
				t.Errorf("cap %.1f MB/s, want %.1f to %.1f", got/1e6, tc.low/1e6, tc.high/1e6)
			}
		})
	}
}

// TestPaceOfCompression is of streams that carry less than their cap since compressing takes its time: their
// cap is not lowered for that, which would only make them slower still.
func TestPaceOfCompression(t *testing.T) {
	const order = 100e6
	for _, tc := range []struct {
		compression string
		round       int
		lowered     bool
	}{{"", 1, true}, {"", 2, true}, {"xbzrle", 1, true}, {"xbzrle", 2, false}, {"zstd", 1, false}, {"zstd", 2, false}} {
		p := newPace(order, tc.compression)
		var prev Reading
		for n := range 40 {
			at, sent := time.Duration(n)*250*time.Millisecond, hypervisor.Bytes(n)*30e6/4
			r := Reading{JobStats: hypervisor.JobStats{Elapsed: at, Round: tc.round, MemTotal: 1e10, MemRemaining: 1e10 - sent, MemProcessed: sent}}
			p.note(prev, r)
			prev = r
		}
		if lowered := p.cap < order; lowered != tc.lowered {
			t.Errorf("%q, pass %d: cap %v of %v", tc.compression, tc.round, p.cap, hypervisor.BytesPerSecond(order))
		}
	}
}
