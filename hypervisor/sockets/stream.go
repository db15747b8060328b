package sockets

import (
	"time"

	"drover/hypervisor"
)

const (
	// queueTime is how long what a stream has queued in front of its link may take to be carried, and longQueue from
	// when on that is no short queue.
	queueTime = 8 * time.Millisecond
	longQueue = 25 * time.Millisecond
	// leastBuffer is for whole segments and TLS records, whose bookkeeping counts too; all streams of this host
	// together may have so much more than they carry.
	leastBuffer  = 128 * hypervisor.KiB
	leastOfMany  = 64 * hypervisor.KiB
	worthSetting = 1.25 // the factor by which a buffer must be off to be set anew
	// held is the part of what a stream carried before below which it may be its buffer that holds it back.
	held = 0.7
)

// bufferFor is the send buffer for one of so many streams that carries so much: what is under way, which is the rate
// times the round trip, twice over so that a stream can get faster, and what may be queued.
func bufferFor(rate hypervisor.BytesPerSecond, roundTrip time.Duration, streams int) hypervisor.Bytes {
	least := max(leastOfMany, leastBuffer/hypervisor.Bytes(max(streams, 1)))
	return max(least, hypervisor.Bytes(float64(rate)*(2*roundTrip+queueTime).Seconds()))
}

// differs reports whether a buffer is so far from the present one that it is worth setting.
func differs(a, b hypervisor.Bytes) bool {
	return float64(max(a, b)) >= worthSetting*float64(min(a, b))
}

// state is what is done about a stream.
type state int

const (
	watching state = iota // the kernel sizes the buffer: what the stream carries so is measured
	kept                  // the buffer is set
	left                  // it is beside traffic that would starve it: the kernel sizes the buffer
)

const (
	// measured is how long a stream is watched before its buffer is set, and leftFor how long one is left alone
	// that was held back by its buffer twice in a row.
	measured = 300 * time.Millisecond
	again    = 1500 * time.Millisecond // after it was held back: the kernel's buffer has to grow first
	leftFor  = 30 * time.Second
	trusted  = 10 * time.Second // a buffer that held nothing back for so long is right
)

// stream is what a keeper knows of one.
type stream struct {
	fd     int
	acked  uint64
	busy   time.Duration
	held   time.Duration
	at     time.Time
	rtt    time.Duration // the shortest ever seen: of a link that is full for long, the kernel forgets it
	rate   hypervisor.BytesPerSecond
	state  state
	since  time.Time        // when that began
	wait   time.Duration    // how long it is watched
	buffer hypervisor.Bytes // as set; 0 is the kernel's
	best   hypervisor.BytesPerSecond
	fails  int // how often in a row it was held back
}

// decide takes one look at a stream, and returns the buffer that it should have: 0 is for the kernel to decide.
//
// A small buffer keeps the queue short, but beside somebody else's long queue it takes what the stream would
// get: what it carries is then its buffer per round trip. So what a stream carries with the kernel's own buffer is the
// measure. One that carries clearly less with a set one, and would carry more, gets the kernel's back and is measured
// anew; if it falls behind once more, it is left alone for a while.
func (s *stream) decide(c Conn, now time.Time, streams int) hypervisor.Bytes {
	took := now.Sub(s.at)
	s.rate = hypervisor.Rate(hypervisor.Bytes(c.Acked-s.acked), took)
	// Without data under way most of the time it has little to send: that says nothing of link or buffer.
	busy := c.Busy-s.busy >= took/2
	limited := c.Held-s.held >= took/2
	s.acked, s.busy, s.held, s.at = c.Acked, c.Busy, c.Held, now
	if s.rtt == 0 || c.MinRTT < s.rtt {
		s.rtt = c.MinRTT
	}
	lasted := now.Sub(s.since)
	switch {
	case !busy:
	case s.state == watching && lasted >= s.wait:
		s.best = s.rate
		s.enter(kept, now, bufferFor(s.rate, s.rtt, streams))
	case s.state == kept && limited && float64(s.rate) < held*float64(s.best):
		if s.fails++; s.fails > 1 {
			s.enter(left, now, 0)
			break
		}
		s.wait = again
		s.enter(watching, now, 0)
	case s.state == kept:
		if lasted >= trusted {
			s.fails = 0
		}
		s.best = max(s.best, s.rate)
		if want := bufferFor(s.best, s.rtt, streams); differs(want, s.buffer) {
			s.buffer = want
		}
	case s.state == left && lasted >= leftFor:
		s.wait = again
		s.enter(watching, now, 0)
	}
	return s.buffer
}

func (s *stream) enter(to state, now time.Time, buffer hypervisor.Bytes) {
	s.state, s.since, s.buffer = to, now, buffer
}

// short reports whether what it has queued is carried soon.
func (s *stream) short() bool {
	return s.state == kept && s.best.Time(s.buffer) <= 2*s.rtt+longQueue
}
