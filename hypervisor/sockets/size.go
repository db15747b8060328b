package sockets

import (
	"time"

	"drover/hypervisor"
)

const (
	// queueTime is how long what a stream has queued in front of its link may take to be carried.
	queueTime = 5 * time.Millisecond
	// leastBuffer lets a stream grow faster than it was: 256 KiB in a round trip of 0.2 ms are 10 Gbit/s.
	leastBuffer = 256 * hypervisor.KiB
	// worthSetting is the factor by which a buffer must be off to be set anew.
	worthSetting = 1.25
)

// bufferFor is the send buffer for a stream that carries so much: what is under way, which is the rate
// times the round trip, and what may be queued. Both are had twice over where the round trip is the
// larger of them, so that a stream that its buffer holds back, and that so carries buffer over round trip, is
// given twice as much: it is no longer held back after a few steps.
func bufferFor(rate hypervisor.BytesPerSecond, roundTrip time.Duration) hypervisor.Bytes {
	return max(leastBuffer, hypervisor.Bytes(float64(rate)*(2*roundTrip+queueTime).Seconds()))
}

// next is the buffer to set where the present one is so large (0: the kernel's own choice); the present
// one where another is not worth it. A stream that carries less for a moment loses no more than half.
func next(present hypervisor.Bytes, rate hypervisor.BytesPerSecond, roundTrip time.Duration) hypervisor.Bytes {
	want := bufferFor(rate, roundTrip)
	if present == 0 {
		return want
	}
	want = max(want, present/2)
	if large, small := max(want, present), min(want, present); float64(large) < worthSetting*float64(small) {
		return present
	}
	return want
}
