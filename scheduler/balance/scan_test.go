package balance

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// What a scan feels of a small change is what the change does to the objective, or nearly.
func TestFelt(t *testing.T) {
	for _, o := range []Options{{Objective: Score}, {Objective: Contention}} {
		t.Run(string(o.Objective), func(t *testing.T) {
			o, _ = o.withDefaults()
			x := newSearch(newState(compile(large(3), o)), nil)
			x.incline()
			checked := 0
			for i := range x.items {
				i, to := int32(i), int32((7*i)%len(x.hosts))
				if !x.mobile[i] || to == x.at[i] || !x.fits(i, to) {
					continue
				}
				it := &x.items[i]
				after := x.after(i, to)
				want := x.scale * (x.badness(&after) - x.badness(&x.totals))
				got := x.felt(x.at[i], it.leaves()) + x.felt(to, it.comes())
				if math.Abs(got-want) > 0.02*(math.Abs(want)+x.scale*x.badness(&x.totals)/float64(len(x.hosts))) {
					t.Errorf("item %d to host %d: felt %v, is %v", i, to, got, want)
				}
				checked++
			}
			if checked < 100 {
				t.Errorf("%d changes were compared, want 100 or more", checked)
			}
		})
	}
}

// The host where an item would be welcome most is the best of all that are looked at, whatever was moved before.
func TestSurvey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		o, _ := drawOptions(t, p).withDefaults()
		s := newState(compile(p, o))
		x := newSearch(s, s.movable())
		for range rapid.IntRange(0, 10).Draw(t, "moves") {
			if len(x.movers) == 0 {
				return
			}
			i, h := rapid.SampledFrom(x.movers).Draw(t, "item"), int32(rapid.IntRange(0, len(x.hosts)-1).Draw(t, "to"))
			if h != x.at[i] {
				x.move(i, h)
			}
		}
		x.survey()
		for _, i := range x.movers {
			for h := range x.hosts {
				h := int32(h)
				if h != x.at[i] && h != x.items[i].home && x.felt(h, x.items[i].comes()) < x.welcome[i] {
					t.Fatalf("item %d is more welcome on host %d than %v", i, h, x.welcome[i])
				}
			}
		}
	})
}
