package hypervisor

import "time"

// LinkCounters are running totals of a host's migration network.
type LinkCounters struct {
	Interface string
	Rx, Tx    uint64 // bytes
	// Streams are the migrations' connections by some name of theirs, nil where nobody can tell.
	Streams map[uint64]StreamCounters
}

// StreamCounters are running totals of one connection.
type StreamCounters struct{ Rx, Tx uint64 }

// LinkMeter makes rates of counters. Its zero value is ready; it is not safe for concurrent use.
type LinkMeter struct {
	at   time.Time
	last LinkCounters
	load LinkLoad
}

// leastLink is the shortest time that a rate of the network means anything over.
const leastLink = 500 * time.Millisecond

// Note takes in a reading and returns the rates since the one before; false for the first. Of a span in which a
// connection ended nobody can tell what it carried: it is not known then what was the streams'.
func (m *LinkMeter) Note(c LinkCounters, now time.Time) (LinkLoad, bool) {
	took := now.Sub(m.at)
	if !m.at.IsZero() && took < leastLink {
		return m.load, true
	}
	first := m.at.IsZero() || c.Interface != m.last.Interface || c.Rx < m.last.Rx || c.Tx < m.last.Tx
	before := m.last
	m.at, m.last = now, c
	if first {
		return LinkLoad{}, false
	}
	rate := func(before, after uint64) BytesPerSecond { return Rate(Bytes(after-before), took) }
	l := LinkLoad{At: now, Rx: rate(before.Rx, c.Rx), Tx: rate(before.Tx, c.Tx), Streams: c.Streams != nil && before.Streams != nil}
	var rx, tx uint64
	for id, was := range before.Streams {
		is, there := c.Streams[id]
		if !there {
			l.Streams = false
			continue
		}
		rx, tx = rx+is.Rx-was.Rx, tx+is.Tx-was.Tx
	}
	for id, is := range c.Streams {
		if _, there := before.Streams[id]; !there {
			rx, tx = rx+is.Rx, tx+is.Tx
		}
	}
	l.StreamsRx, l.StreamsTx = rate(0, rx), rate(0, tx)
	m.load = l
	return l, true
}
