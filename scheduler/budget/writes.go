package budget

import (
	"cmp"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const (
	// worthwhile is the part of a share by which it must differ for a change to be written.
	worthwhile = 1.0 / 8
	// rest is the least time between two changes of one share, unless a link is over-full.
	rest = 900 * time.Millisecond
	// AtOnce is how many shares one pass may change; the others follow in the next.
	AtOnce = 64
)

// Write is a share to be written.
type Write struct {
	Old fleet.StoredShare
	New precopy.Share
}

// Writes is which shares to change now: those that shrink first, and of those that grow only as much as
// is left beside all that may be in force.
func (a *Arbiter) Writes() []Write {
	switch {
	case len(a.flows) == 0:
		return nil
	case !a.lively():
		return a.fixed()
	}
	all := append(slices.Clone(a.flows), a.pending...)
	grants := Divide(a.usable(), streamsOf(all))
	left := a.usable()
	over := make([]bool, len(left))
	for _, f := range a.flows {
		for _, l := range f.Links {
			left[l] -= f.inForce
		}
	}
	for l := range left {
		over[l] = left[l] < -max(unit, a.links[l].Usable/32)
	}
	var out []Write
	var grow []int
	for i, f := range a.flows {
		want, have := grants[i].Bandwidth, f.share.Bandwidth
		switch {
		case f.pinned || f.ordered || len(out) >= AtOnce:
		case want < have && a.shrinks(f, want, have, slices.ContainsFunc(f.Links, func(l int) bool { return over[l] }), a.inTheWay(f)):
			out = append(out, a.write(f, want, grants[i]))
		case want > have:
			grow = append(grow, i)
		case a.outdated(f):
			out = append(out, a.write(f, have, grants[i]))
		}
	}
	slices.SortStableFunc(grow, func(i, j int) int { return a.flows[j].Rank - a.flows[i].Rank })
	for _, i := range grow {
		f := a.flows[i]
		want, have := grants[i].Bandwidth, f.share.Bandwidth
		for _, l := range f.Links {
			// What it may have in force already counts against the link, whatever it is given.
			want = min(want, left[l]+f.inForce)
		}
		want = want / unit * unit
		switch {
		case len(out) >= AtOnce:
			continue
		case a.grows(f, want, have):
		case a.outdated(f):
			want = have
		default:
			continue
		}
		if want > f.inForce {
			for _, l := range f.Links {
				left[l] -= want - f.inForce
			}
		}
		out = append(out, a.write(f, want, grants[i]))
	}
	return out
}

// fixed brings the streams of a time when links were divided live to what they would have been ordered with: else one that
// was held back then would be so for ever.
func (a *Arbiter) fixed() []Write {
	var out []Write
	for _, f := range a.flows {
		to := f.Cap
		if a.Network.Sharing == policy.SharingEqual {
			to = a.equalPart(f)
		}
		if !f.pinned && !f.ordered && f.share.Bandwidth < to/unit*unit && len(out) < AtOnce {
			out = append(out, a.write(f, to/unit*unit, Grant{Bandwidth: to, Link: -1}))
		}
	}
	return out
}

// inTheWay reports whether a candidate waits for room on a link of the stream's.
func (a *Arbiter) inTheWay(f *flow) bool {
	return slices.ContainsFunc(a.pending, func(p *flow) bool {
		return slices.ContainsFunc(f.Links, func(l int) bool { return slices.Contains(p.Links, l) })
	})
}

func (a *Arbiter) shrinks(f *flow, want, have hypervisor.BytesPerSecond, over, pending bool) bool {
	if over || pending && have-want >= unit {
		return have > want
	}
	return a.rested(f) && matters(have, want)
}

func (a *Arbiter) grows(f *flow, want, have hypervisor.BytesPerSecond) bool {
	// What is held back, or near its end, can't wait.
	if f.Near || have < 2*unit {
		return want-have >= unit
	}
	return a.rested(f) && want > have && matters(have, want)
}

// outdated reports whether a share, right in itself, says wrongly what more there is to wait for, or why it is so.
func (a *Arbiter) outdated(f *flow) bool {
	return a.rested(f) && (matters(cmp.Or(f.share.Alone, f.m.Order.Bandwidth), a.alone(f.Stream)) || f.share.Why == whyNear && !f.Near)
}

const whyNear = "it is about to switch over: for a moment the link is its own"

// matters reports whether one rate differs from another by enough for the change to be written.
func matters(have, want hypervisor.BytesPerSecond) bool {
	return max(want-have, have-want) >= max(2*unit, hypervisor.BytesPerSecond(worthwhile*float64(have)))
}

func (a *Arbiter) rested(f *flow) bool {
	age := a.Now.Sub(f.share.At)
	return age < 0 || age > rest // a former leader's clock may be ahead
}

func (a *Arbiter) write(f *flow, to hypervisor.BytesPerSecond, g Grant) Write {
	var serial int64
	if f.progress != nil {
		serial = f.progress.Serial
	}
	next := f.share.Next(to, serial, a.Now)
	next.Limit, next.Why, next.Alone = a.limit(f, g), "", a.alone(f.Stream)
	switch {
	case f.Near:
		next.Why = whyNear
	case f.Need >= next.Alone+unit:
		next.Why = "what it needs is more than its links give"
	case g.Short:
		next.Why = "what it needs is not free: it has what others leave"
	}
	return Write{Old: f.share, New: next}
}

// FirstShare is the share that is made with an order.
func FirstShare(m precopy.Migration, v Verdict, now time.Time) precopy.Share {
	return precopy.Share{
		ID: m.ID, Domain: m.UUID, Source: m.Source, Bandwidth: v.Share, Alone: v.Alone, Serial: 1, At: now, Limit: v.Limit,
	}
}
