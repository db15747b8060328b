// Package flow shares links between streams: max-min fairly, within the streams' own caps.
//
// No stream can have more without another that has no more than it having less: so do TCP streams of equal
// round-trip times, roughly. A [Network] is told of changes and shares anew on [Network.Share], and only between
// the streams that a change can reach. It is deterministic, and not safe for concurrent use. Rates are in bytes
// per second.
package flow

import (
	"cmp"
	"math"
	"slices"
)

// Link is an index into the network's links.
type Link int

// Stream is what flows over a path of links.
type Stream struct {
	// Rate is what it was given last.
	Rate float64
	cap  float64
	path []Link
	id   int
	mark int
	done bool // its share is settled, while sharing
}

// Cap is the most that it takes.
func (s *Stream) Cap() float64 { return s.cap }

// Unlimited is the cap of a stream that takes what there is.
const Unlimited = math.MaxFloat64

type link struct {
	capacity float64
	streams  []*Stream // by id
	dirty    bool
	mark     int
	left     float64 // while sharing
	open     int
}

// Network is links and the streams over them. The zero value is empty.
type Network struct {
	links []link
	dirty []Link
	next  int
	pass  int
}

// AddLink adds a link of a capacity, one way.
func (n *Network) AddLink(capacity float64) Link {
	n.links = append(n.links, link{capacity: capacity})
	return Link(len(n.links) - 1)
}

// SetCapacity changes what a link carries.
func (n *Network) SetCapacity(l Link, capacity float64) {
	if n.links[l].capacity != capacity {
		n.links[l].capacity = capacity
		n.touch(l)
	}
}

// Capacity is what a link carries.
func (n *Network) Capacity(l Link) float64 { return n.links[l].capacity }

// Used is what flows over a link.
func (n *Network) Used(l Link) float64 {
	sum := 0.0
	for _, s := range n.links[l].streams {
		sum += s.Rate
	}
	return sum
}

// Streams is how many there are over a link.
func (n *Network) Streams(l Link) int { return len(n.links[l].streams) }

// Add begins a stream; it has nothing before the next Share.
func (n *Network) Add(limit float64, path ...Link) *Stream {
	n.next++
	s := &Stream{cap: limit, path: path, id: n.next}
	for _, l := range path {
		n.links[l].streams = append(n.links[l].streams, s)
		n.touch(l)
	}
	return s
}

// Remove ends a stream.
func (n *Network) Remove(s *Stream) {
	for _, l := range s.path {
		n.links[l].streams = slices.DeleteFunc(n.links[l].streams, func(x *Stream) bool { return x == s })
		n.touch(l)
	}
	s.Rate = 0
}

// SetCap changes the most that a stream takes.
func (n *Network) SetCap(s *Stream, limit float64) {
	if s.cap == limit {
		return
	}
	s.cap = limit
	for _, l := range s.path {
		n.touch(l)
	}
}

func (n *Network) touch(l Link) {
	if !n.links[l].dirty {
		n.links[l].dirty = true
		n.dirty = append(n.dirty, l)
	}
}

// Share divides anew what has changed since the last call, and calls changed for each stream that is given
// another rate by it, before the stream says so.
func (n *Network) Share(changed func(s *Stream, rate float64)) {
	if len(n.dirty) == 0 {
		return
	}
	links, streams := n.reach()
	for _, l := range links {
		x := &n.links[l]
		x.left, x.open = x.capacity, len(x.streams)
	}
	rates := make([]float64, len(streams))
	for open := len(streams); open > 0; {
		// The narrowest place settles whoever passes it.
		least := math.Inf(1)
		for _, l := range links {
			if x := &n.links[l]; x.open > 0 {
				least = min(least, max(x.left, 0)/float64(x.open))
			}
		}
		capped := false
		for i, s := range streams {
			if !s.done && s.cap <= least {
				rates[i], capped = s.cap, true
				open -= n.settle(s, s.cap)
			}
		}
		if capped {
			continue // others may have more then
		}
		for i, s := range streams {
			if !s.done && n.narrow(s, least) {
				rates[i] = least
				open -= n.settle(s, least)
			}
		}
	}
	for i, s := range streams {
		s.done = false
		if rates[i] != s.Rate {
			changed(s, rates[i])
			s.Rate = rates[i]
		}
	}
}

func (n *Network) settle(s *Stream, rate float64) int {
	s.done = true
	for _, l := range s.path {
		n.links[l].left -= rate
		n.links[l].open--
	}
	return 1
}

// narrow reports whether any link of the stream's has no more than so much for each of its open streams.
func (n *Network) narrow(s *Stream, least float64) bool {
	for _, l := range s.path {
		if x := &n.links[l]; max(x.left, 0)/float64(x.open) <= least*(1+1e-9) {
			return true
		}
	}
	return false
}

// reach finds all links and streams that the touched links have to do with.
func (n *Network) reach() ([]Link, []*Stream) {
	n.pass++
	queue := n.dirty
	n.dirty = nil
	var links []Link
	var streams []*Stream
	for len(queue) > 0 {
		l := queue[0]
		queue = queue[1:]
		x := &n.links[l]
		x.dirty = false
		if x.mark == n.pass {
			continue
		}
		x.mark = n.pass
		links = append(links, l)
		for _, s := range x.streams {
			if s.mark != n.pass {
				s.mark = n.pass
				streams = append(streams, s)
				queue = append(queue, s.path...)
			}
		}
	}
	slices.SortFunc(streams, func(a, b *Stream) int { return cmp.Compare(a.id, b.id) })
	return links, streams
}
