package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// guest is what a simulated guest does: it writes to random pages of a set of its memory. Its arithmetic is this
// benchmark's own, not drover's.
type guest struct {
	name           string
	source, target int
	used           float64 // bytes of memory in use
	set, rate      float64 // bytes written to, bytes per second
}

// dirtied is how much of its memory a guest has written to after a while.
func (g *guest) dirtied(t float64) float64 {
	if g.set <= 0 || g.rate <= 0 {
		return 0
	}
	return g.set * -math.Expm1(-g.rate*t/g.set)
}

// sending is the part of the promised pause in which memory is sent, and forced how often over the memory must
// have been sent before a guest is stopped all the same, at the price of its promise.
const (
	sending = 80 * time.Millisecond
	forced  = 12.0
	setup   = time.Second
)

// alone is how many bytes a migration sends that has a link to itself.
func (g *guest) alone(bandwidth float64) float64 {
	rest, sent := g.used, 0.0
	for sent < forced*g.used {
		sent += rest
		next := g.dirtied(rest / bandwidth)
		if next <= bandwidth*sending.Seconds() {
			return sent + next
		}
		rest = next
	}
	return sent
}

// stream is a guest's migration under way.
type stream struct {
	*guest
	id       string
	began    float64 // when it was started
	round    float64 // when the present pass began
	rest     float64 // to be sent in it
	sent     float64
	cap      float64 // bytes per second
	rate     float64 // what it gets now
	due      float64 // when a share that is on its way is applied; 0 for none
	next     float64 // that share
	serial   int64   // applied
	nextOne  int64
	measured float64 // smoothed rate
	passes   int
}

// step lets it send for a while; true once the guest runs on its target, and whether within the promise.
func (s *stream) step(now, dt float64) (over, kept bool) {
	if now < s.began+setup.Seconds() {
		s.round = now
		return false, true
	}
	s.measured += (s.rate - s.measured) * 0.4
	for s.rate > 0 {
		left := s.rest / s.rate
		if left > dt {
			s.sent += s.rate * dt
			s.rest -= s.rate * dt
			return false, true
		}
		s.sent += s.rest
		now, dt = now+left, dt-left
		took := now - s.round
		s.round, s.passes = now, s.passes+1
		s.rest = s.dirtied(took)
		switch {
		case s.rest <= s.measured*sending.Seconds():
			return true, true
		case s.sent > forced*s.used:
			return true, false
		}
	}
	return false, true
}

// eta is how long it needs on at its present rate.
func (s *stream) eta(now float64) time.Duration {
	if s.measured <= 0 {
		return 0
	}
	rest, t := s.rest, 0.0
	for range 20 {
		step := rest / s.measured
		t += step
		next := s.dirtied(step)
		if next <= s.measured*sending.Seconds() {
			return time.Duration(t * float64(time.Second))
		}
		rest = next
	}
	return -1
}

// need is the least rate by which passes come down to what a pause sends.
func (g *guest) need(whole float64) float64 {
	low, high := 0.0, whole
	ends := func(b float64) bool {
		rest := g.used
		for range 40 {
			next := g.dirtied(rest / b)
			if next <= b*sending.Seconds() {
				return true
			}
			if next > 0.97*rest {
				return false
			}
			rest = next
		}
		return false
	}
	if !ends(whole) {
		return whole
	}
	for high-low > whole/256 {
		mid := (low + high) / 2
		if ends(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// fleetMoves empties a fifth of the hosts onto the others.
func fleetMoves(r *rand.Rand, hosts, moves int, link float64) []*guest {
	var out []*guest
	leaving := hosts / 5
	for i := range moves {
		g := &guest{
			source: i % leaving, target: leaving + r.IntN(hosts-leaving),
			used: float64(int64(4)<<30) * math.Exp2(4*r.Float64()), // 4 to 64 GiB
		}
		g.set = g.used * (0.02 + 0.2*r.Float64())
		// Most write little; one in five needs more than half of the link.
		g.rate = link * 0.2 * r.Float64()
		if i%5 == 0 {
			g.rate = link * (0.55 + 0.25*r.Float64())
		}
		out = append(out, g)
	}
	return out
}
