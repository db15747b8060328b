package budget

import (
	"cmp"
	"math"
	"slices"

	"drover/hypervisor"
)

// unit is what bandwidth is handed out in, and the least that a stream can be brought down to: libvirt
// takes whole MiB/s.
const unit = hypervisor.BytesPerSecond(hypervisor.MiB)

// Unlimited is the usable rate of a link of which nothing is known: it bounds nobody.
const Unlimited hypervisor.BytesPerSecond = math.MaxInt64 / 4

// Stream is one migration's part in a division.
type Stream struct {
	ID string
	// Links are the indexes of those that it crosses; one that does not end stands once.
	Links []int
	// Cap is the most that it may have, Need the least by which its promise can be kept; 0 is not known.
	Cap, Need hypervisor.BytesPerSecond
	// Rank decides whose need comes first, the higher; of equal ranks the one that stands first.
	Rank   int
	Weight float64 // above 0
	// Behind is one that is only being prepared, and Near one that is about to switch over. Slowed is one whose guest loses
	// work for as long as it takes: what it needs is not taken from it for another that is near.
	Behind, Near, Slowed bool
}

// Grant is what a division gives to a stream.
type Grant struct {
	Bandwidth hypervisor.BytesPerSecond
	// Link is the index of the link that keeps it from having more, -1 when that is its own cap.
	Link int
	// Short says that there was no room for its need, so that it gets what the others leave.
	Short bool
}

// turn is in whose turn a stream is served.
type turn int

const (
	turnNear turn = iota // the whole link for a moment
	turnMet              // its need is there
	turnRest             // what the others leave
)

// Divide gives every stream its part of the links, whose usable rates are given; see the package's
// definition of what is fair. All grants are whole MiB/s, at least one each.
func Divide(usable []hypervisor.BytesPerSecond, streams []Stream) []Grant {
	d := division{left: make([]int64, len(usable)), streams: streams, got: make([]int64, len(streams)), turns: make([]turn, len(streams))}
	for i, u := range usable {
		d.left[i] = int64(max(u, 0) / unit)
	}
	for i := range streams {
		d.give(i, 1)
	}
	d.needs()
	for t := turnNear; t <= turnRest; t++ {
		d.fill(t)
	}
	d.crumbs()
	out := make([]Grant, len(streams))
	for i := range streams {
		out[i] = Grant{Bandwidth: hypervisor.BytesPerSecond(d.got[i]) * unit, Link: d.bound(i), Short: d.turns[i] == turnRest && !streams[i].Behind}
	}
	return out
}

type division struct {
	streams []Stream
	left    []int64 // of each link, in units
	got     []int64 // by each stream
	turns   []turn
}

func (d *division) give(i int, n int64) {
	d.got[i] += n
	for _, l := range d.streams[i].Links {
		d.left[l] -= n
	}
}

func (d *division) cap(i int) int64 { return max(int64(d.streams[i].Cap/unit), 1) }

// room is how much more a stream could have.
func (d *division) room(i int) int64 {
	n := d.cap(i) - d.got[i]
	for _, l := range d.streams[i].Links {
		n = min(n, d.left[l])
	}
	return max(n, 0)
}

// bound is the link that has nothing left for a stream.
func (d *division) bound(i int) int {
	for _, l := range d.streams[i].Links {
		if d.left[l] < 1 && d.got[i] < d.cap(i) {
			return l
		}
	}
	return -1
}

// first puts what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// order is in which order needs are met.
func order(streams []Stream) []int {
	idx := make([]int, len(streams))
	for i := range idx {
		idx[i] = i
	}
	slices.SortStableFunc(idx, func(a, b int) int {
		s, t := &streams[a], &streams[b]
		return cmp.Or(first(s.Slowed, t.Slowed), first(s.Near, t.Near), cmp.Compare(t.Rank, s.Rank))
	})
	return idx
}

// needs puts aside what promises need, whole or not at all. What is about to switch over needs all that
// there is.
func (d *division) needs() {
	for _, i := range order(d.streams) {
		s := &d.streams[i]
		need := min(int64((s.Need+unit-1)/unit), d.cap(i)) - d.got[i]
		switch {
		case s.Near:
			d.turns[i] = turnNear
			d.give(i, d.room(i))
		case s.Behind || need > d.room(i):
			d.turns[i] = turnRest
		default:
			d.turns[i] = turnMet
			d.give(i, max(need, 0))
		}
	}
}

// fill divides what is left among the streams of one turn: a level rises, and each has its weight times
// the level, or what it has already if that is more, until its cap or a link of its stops it.
func (d *division) fill(t turn) {
	type flow struct {
		i        int
		x, floor float64
	}
	var open []*flow
	left := make([]float64, len(d.left))
	for l, n := range d.left {
		left[l] = float64(max(n, 0))
	}
	for i := range d.streams {
		if d.turns[i] == t && d.room(i) > 0 {
			x := float64(d.got[i])
			open = append(open, &flow{i, x, x})
		}
	}
	all := slices.Clone(open)
	weight := make([]float64, len(left)) // of the streams that rise
	for level := 0.0; len(open) > 0; {
		clear(weight)
		next := math.Inf(1)
		rises := func(f *flow) bool { return f.floor <= d.streams[f.i].Weight*level+1e-9 }
		for _, f := range open {
			s := &d.streams[f.i]
			if !rises(f) {
				next = min(next, f.floor/s.Weight)
				continue
			}
			next = min(next, float64(d.cap(f.i))/s.Weight)
			for _, l := range s.Links {
				weight[l] += s.Weight
			}
		}
		for l, w := range weight {
			if w > 0 {
				next = min(next, level+left[l]/w)
			}
		}
		step := max(next-level, 0)
		for _, f := range open {
			if s := &d.streams[f.i]; rises(f) {
				f.x = max(f.x, s.Weight*next)
			}
		}
		for l, w := range weight {
			left[l] -= w * step
		}
		level = next
		open = slices.DeleteFunc(open, func(f *flow) bool {
			s := &d.streams[f.i]
			return f.x >= float64(d.cap(f.i))-1e-6 || slices.ContainsFunc(s.Links, func(l int) bool { return left[l] < 1e-6 })
		})
	}
	for _, f := range all {
		d.give(f.i, min(int64(f.x+1e-6)-d.got[f.i], d.room(f.i)))
	}
	d.leftovers(func(i int) bool { return d.turns[i] == t })
}

// leftovers hands out the units that rounding kept back, to those that lost most of one by it.
func (d *division) leftovers(of func(int) bool) {
	for more := true; more; {
		more = false
		best, level := -1, math.Inf(1)
		for i := range d.streams {
			if of(i) && d.room(i) > 0 {
				if at := float64(d.got[i]+1) / d.streams[i].Weight; at < level {
					best, level = i, at
				}
			}
		}
		if best >= 0 {
			d.give(best, 1)
			more = true
		}
	}
}

// crumbs leaves no link idle that anybody could use.
func (d *division) crumbs() { d.leftovers(func(int) bool { return true }) }
