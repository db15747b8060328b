package flow

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestMaxMin: shares are within links and caps, and a stream that has less than its cap passes a link that is
// full and on which nobody has more than it.
func TestMaxMin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &Network{}
		for range rapid.IntRange(1, 8).Draw(t, "links") {
			n.AddLink(float64(rapid.IntRange(1, 1000).Draw(t, "capacity")))
		}
		var streams []*Stream
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			switch k := rapid.IntRange(0, 5).Draw(t, "event"); {
			case k == 0 && len(streams) > 0:
				i := rapid.IntRange(0, len(streams)-1).Draw(t, "gone")
				n.Remove(streams[i])
				streams = append(streams[:i:i], streams[i+1:]...)
			case k == 1 && len(streams) > 0:
				n.SetCap(rapid.SampledFrom(streams).Draw(t, "of"), float64(rapid.IntRange(0, 500).Draw(t, "cap")))
			case k == 2:
				l := Link(rapid.IntRange(0, len(n.links)-1).Draw(t, "link"))
				n.SetCapacity(l, float64(rapid.IntRange(0, 1000).Draw(t, "capacity")))
			default:
				perm := rapid.Permutation(indexes(len(n.links))).Draw(t, "path")
				limit := rapid.SampledFrom([]float64{Unlimited, 50, 200}).Draw(t, "cap")
				streams = append(streams, n.Add(limit, perm[:rapid.IntRange(1, len(perm)).Draw(t, "hops")]...))
			}
			if rapid.Bool().Draw(t, "share") {
				n.Share(func(*Stream, float64) {})
				check(t, n, streams)
			}
		}
		n.Share(func(*Stream, float64) {})
		check(t, n, streams)
	})
}

func indexes(n int) (out []Link) {
	for i := range n {
		out = append(out, Link(i))
	}
	return out
}

func check(t *rapid.T, n *Network, streams []*Stream) {
	const slack = 1e-6
	for i := range n.links {
		if u := n.Used(Link(i)); u > n.links[i].capacity+slack {
			t.Fatalf("link %d carries %g of %g", i, u, n.links[i].capacity)
		}
	}
	for _, s := range streams {
		if s.Rate > s.cap+slack {
			t.Fatalf("stream %d has %g, more than its cap of %g", s.id, s.Rate, s.cap)
		}
		if s.Rate >= s.cap-slack {
			continue
		}
		held := false
		for _, l := range s.path {
			most := 0.0
			for _, o := range n.links[l].streams {
				most = math.Max(most, o.Rate)
			}
			held = held || n.Used(l) >= n.links[l].capacity-slack && most <= s.Rate+slack
		}
		if !held {
			t.Fatalf("stream %d has %g, and nothing holds it back from more", s.id, s.Rate)
		}
	}
}

// TestShareTellsChanges: only streams within reach of a change are told of.
func TestShareTellsChanges(t *testing.T) {
	n := &Network{}
	a, b := n.AddLink(100), n.AddLink(100)
	s1, s2 := n.Add(Unlimited, a), n.Add(Unlimited, b)
	n.Share(func(*Stream, float64) {})
	var told []*Stream
	s3 := n.Add(Unlimited, a)
	n.Share(func(s *Stream, _ float64) { told = append(told, s) })
	if len(told) != 2 || told[0] != s1 || told[1] != s3 || s1.Rate != 50 || s2.Rate != 100 {
		t.Errorf("%d streams were told, rates %g and %g", len(told), s1.Rate, s2.Rate)
	}
}
