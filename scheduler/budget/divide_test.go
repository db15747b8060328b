package budget

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"drover/hypervisor"
)

const mib = hypervisor.BytesPerSecond(hypervisor.MiB)

func TestDivide(t *testing.T) {
	all := func(n hypervisor.BytesPerSecond) []hypervisor.BytesPerSecond {
		return []hypervisor.BytesPerSecond{n * mib}
	}
	plain := func(need hypervisor.BytesPerSecond) Stream {
		return Stream{Links: []int{0}, Cap: 100 * mib, Need: need * mib, Weight: 1}
	}
	with := func(s Stream, change func(*Stream)) Stream { change(&s); return s }
	for _, tc := range []struct {
		name    string
		usable  []hypervisor.BytesPerSecond
		streams []Stream
		want    []hypervisor.BytesPerSecond
	}{
		{"alone", all(42), []Stream{plain(0)}, []hypervisor.BytesPerSecond{42}},
		{"equal halves", all(42), []Stream{plain(0), plain(0)}, []hypervisor.BytesPerSecond{21, 21}},
		{"needs that fit", all(42), []Stream{plain(30), plain(0)}, []hypervisor.BytesPerSecond{30, 12}},
		{"both need more than half: one after the other", all(42), []Stream{plain(30), plain(30)}, []hypervisor.BytesPerSecond{41, 1}},
		{
			"the higher rank first", all(42),
			[]Stream{plain(30), with(plain(30), func(s *Stream) { s.Rank = 1 })},
			[]hypervisor.BytesPerSecond{1, 41},
		},
		{
			"weights", all(42),
			[]Stream{plain(0), with(plain(0), func(s *Stream) { s.Weight = 2 })},
			[]hypervisor.BytesPerSecond{14, 28},
		},
		{
			"near the end: all of it", all(42),
			[]Stream{plain(30), with(plain(0), func(s *Stream) { s.Near = true })},
			[]hypervisor.BytesPerSecond{1, 41},
		},
		{
			"near the end, beside one whose guest is slowed meanwhile", all(42),
			[]Stream{with(plain(30), func(s *Stream) { s.Slowed = true }), with(plain(0), func(s *Stream) { s.Near, s.Rank = true, 2 })},
			[]hypervisor.BytesPerSecond{30, 12},
		},
		{
			"what is prepared has what others leave",
			[]hypervisor.BytesPerSecond{42 * mib, 20 * mib},
			[]Stream{
				with(plain(0), func(s *Stream) { s.Links = []int{0, 1} }),
				with(plain(0), func(s *Stream) { s.Behind = true }),
			},
			[]hypervisor.BytesPerSecond{20, 22},
		},
		{
			"caps give the rest to others", all(42),
			[]Stream{with(plain(0), func(s *Stream) { s.Cap = 5 * mib }), plain(0)},
			[]hypervisor.BytesPerSecond{5, 37},
		},
		{"never less than 1 MiB/s", all(0), []Stream{plain(0), plain(9)}, []hypervisor.BytesPerSecond{1, 1}},
		{
			"no link known",
			[]hypervisor.BytesPerSecond{Unlimited},
			[]Stream{plain(0), plain(0)},
			[]hypervisor.BytesPerSecond{100, 100},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, g := range Divide(tc.usable, tc.streams) {
				if g.Bandwidth != tc.want[i]*mib {
					t.Errorf("stream %d has %s, want %s", i, g.Bandwidth, tc.want[i]*mib)
				}
			}
		})
	}
}

func drawStreams(t *rapid.T, links, most int) []Stream {
	n := rapid.IntRange(0, most).Draw(t, "streams")
	out := make([]Stream, n)
	for i := range out {
		out[i] = Stream{
			ID:     fmt.Sprint(i),
			Links:  rapid.SliceOfNDistinct(rapid.IntRange(0, links-1), 1, min(4, links), rapid.ID).Draw(t, "path"),
			Cap:    hypervisor.BytesPerSecond(rapid.IntRange(0, 120).Draw(t, "cap")) * mib,
			Need:   hypervisor.BytesPerSecond(rapid.IntRange(0, 80).Draw(t, "need")) * mib,
			Rank:   rapid.IntRange(0, 3).Draw(t, "rank"),
			Weight: rapid.SampledFrom([]float64{1, 2, 3, 6}).Draw(t, "weight"),
			Behind: rapid.IntRange(0, 5).Draw(t, "behind") == 0,
			Near:   rapid.IntRange(0, 9).Draw(t, "near") == 0,
			Slowed: rapid.IntRange(0, 9).Draw(t, "slowed") == 0,
		}
	}
	return out
}

// For all links and streams: feasible, work-conserving, needs whole and in order, and max-min fair as the
// package defines it.
func TestDivideIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		links := rapid.IntRange(1, 6).Draw(t, "links")
		usable := make([]hypervisor.BytesPerSecond, links)
		for l := range usable {
			usable[l] = hypervisor.BytesPerSecond(rapid.IntRange(0, 200).Draw(t, "usable"))*mib + 12345
		}
		streams := drawStreams(t, links, 12)
		grants := Divide(usable, streams)
		checkFair(t, usable, streams, grants)
	})
}

func checkFair(t *rapid.T, usable []hypervisor.BytesPerSecond, streams []Stream, grants []Grant) {
	used := make([]hypervisor.BytesPerSecond, len(usable))
	on := make([]int, len(usable))
	for i, s := range streams {
		if g := grants[i].Bandwidth; g < mib || g%mib != 0 || g > max(s.Cap, mib) {
			t.Fatalf("stream %d of cap %s has %s", i, s.Cap, g)
		}
		for _, l := range s.Links {
			used[l] += grants[i].Bandwidth
			on[l]++
		}
	}
	full := func(l int) bool { return usable[l]-used[l] < mib }
	for l := range usable {
		if used[l] > max(usable[l], hypervisor.BytesPerSecond(on[l])*mib) {
			t.Fatalf("link %d of %s is given out with %s", l, usable[l], used[l])
		}
	}
	served := func(i int) turn {
		switch {
		case streams[i].Near:
			return turnNear
		case streams[i].Behind || grants[i].Short:
			return turnRest
		}
		return turnMet
	}
	floor := func(i int) float64 {
		s := streams[i]
		switch served(i) {
		case turnNear:
			return float64(max(s.Cap, mib) / mib) // takes what it can get: others are not hurt by it
		case turnMet:
			return float64(max(min(s.Need, s.Cap), mib) / mib)
		}
		return 1
	}
	for i, s := range streams {
		got := float64(grants[i].Bandwidth / mib)
		if served(i) == turnMet && got < floor(i) {
			t.Fatalf("stream %d has %g, its need is %g", i, got, floor(i))
		}
		if grants[i].Bandwidth >= max(s.Cap/mib*mib, mib) {
			continue
		}
		// Work-conserving: some link of its has nothing left.
		idle := true
		// Fair: of one such link nobody who is served in the same turn or later has more, for his weight,
		// than it, unless that is his need. Whole units leave a difference of one on each side.
		fair := false
		for _, l := range s.Links {
			if !full(l) {
				continue
			}
			idle = false
			ok := true
			for j, o := range streams {
				if j == i || !crosses(o, l) || served(j) < served(i) {
					continue
				}
				theirs := float64(grants[j].Bandwidth / mib)
				if theirs > floor(j) && (theirs-1)/o.Weight > (got+1)/s.Weight+1e-9 {
					ok = false
				}
			}
			fair = fair || ok
		}
		if idle {
			t.Fatalf("stream %d has %s and no link of its is full: %v of %v", i, grants[i].Bandwidth, used, usable)
		}
		if !fair && served(i) != turnNear {
			t.Fatalf("stream %d (%+v) has %s: not fair\nstreams %+v\ngrants %+v\nusable %v", i, s, grants[i].Bandwidth, streams, grants, usable)
		}
		// A need is left out only when there is no room for it beside those of its rank and above.
		if grants[i].Short && !s.Near && roomFor(usable, streams, grants, i) {
			t.Fatalf("stream %d is short though its need fits", i)
		}
	}
}

func crosses(s Stream, l int) bool {
	for _, x := range s.Links {
		if x == l {
			return true
		}
	}
	return false
}

// roomFor reports whether the need of a stream fits beside the needs that were met of those of its rank and
// above, and 1 MiB/s for the rest.
func roomFor(usable []hypervisor.BytesPerSecond, streams []Stream, grants []Grant, i int) bool {
	s := streams[i]
	need := min(s.Need, max(s.Cap, mib))
	for _, l := range s.Links {
		left := usable[l]
		for j, o := range streams {
			switch {
			case j == i || !crosses(o, l):
			case o.Near:
				left -= max(grants[j].Bandwidth, mib)
			case !grants[j].Short && !o.Behind && (o.Rank >= s.Rank || o.Slowed):
				left -= max(min(o.Need, o.Cap/mib*mib), mib)
			default:
				left -= mib
			}
		}
		if left < need {
			return false
		}
	}
	return true
}

func BenchmarkDivide(b *testing.B) {
	const hosts, n = 200, 500
	usable := make([]hypervisor.BytesPerSecond, 2*hosts+8)
	for i := range usable {
		usable[i] = hypervisor.BytesPerSecond(1000+17*i%400) * mib
	}
	streams := make([]Stream, n)
	for i := range streams {
		streams[i] = Stream{
			Links: []int{i % hosts, hosts + (i*7+3)%hosts, 2*hosts + i%8}, Cap: 1100 * mib,
			Need: hypervisor.BytesPerSecond(i%300) * mib, Rank: i % 4, Weight: float64(1 + i%3),
		}
	}
	for b.Loop() {
		Divide(usable, streams)
	}
}
