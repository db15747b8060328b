package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"drover/hypervisor"
)

// large is a fleet that is searched in parts: skewed, with rules, hosts to be emptied and limits on vCPUs.
func large(seed uint64) *Problem {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &Problem{}
	for i := range crewHosts + 10 {
		p.Hosts = append(p.Hosts, Host{
			Name: fmt.Sprint("h", i), Cores: hypervisor.Cores(16 + 16*r.IntN(2)), Memory: hypervisor.Bytes(64+64*r.IntN(2)) * gibB, Link: 1.25e9,
			Draining: i%40 == 7, Cordoned: i%40 == 9, VCPUs: 120 * (i % 2),
		})
	}
	for i := range 900 {
		at := min(r.IntN(len(p.Hosts)), r.IntN(len(p.Hosts)))
		v := VM{
			Name: fmt.Sprint("v", i), Host: at, Memory: hypervisor.Bytes(1+r.IntN(4)) * gibB, VCPUs: 1 + r.IntN(4),
			Mean: Load{CPU: hypervisor.Cores(r.Float64())}, Dirty: 20 << 20, Pinned: i%50 == 3, Avoid: []int{r.IntN(len(p.Hosts))},
		}
		v.Peak.CPU = 2 * v.Mean.CPU
		p.VMs = append(p.VMs, v)
	}
	for i := 0; i+3 < len(p.VMs); i += 12 {
		p.Groups = append(p.Groups, Group{Name: fmt.Sprint("g", i), VMs: []int{i, i + 1, i + 2, i + 3}, Apart: i%24 == 0, Required: i%36 == 0})
	}
	return p
}

// What is searched in parts holds at every prefix, is the same each time, and its sums are those of a fresh count.
func TestCrew(t *testing.T) {
	for k, o := range []Options{{}, {Objective: Score}, {Objective: Score, Until: 0.2, MaxMoves: 150}} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			p := large(uint64(k))
			o.Evaluations = 600_000
			o, _ = o.withDefaults()
			s := newState(compile(p, o))
			x := find(s)
			if x.crew(o.Evaluations/adjustments) == nil || len(x.moved) < 50 {
				t.Fatalf("no crew, or next to nothing to do: %d moves", len(x.moved))
			}
			fresh := newState(s.compiled)
			for i, h := range s.at {
				if fresh.at[i] != h {
					fresh.move(int32(i), h)
				}
			}
			same(t, "fresh", fresh.totals, s.totals)
			for n, i := range x.moved {
				if x.mpos[i] != int32(n) || x.at[i] == x.items[i].home {
					t.Fatalf("item %d, at %d of those that moved: it is noted at %d, is on %d, home is %d", i, n, x.mpos[i], x.at[i], x.items[i].home)
				}
			}
			a, err := Make(p, o)
			if err != nil {
				t.Fatal(err)
			}
			replay(t, p, o, a)
			if b, _ := Make(p, o); !reflect.DeepEqual(a, b) {
				t.Error("two plans of one problem")
			}
		})
	}
}

// A search in parts finds as much as one alone, or nearly.
func TestCrewFindsAsMuch(t *testing.T) {
	o, _ := Options{Evaluations: 600_000}.withDefaults()
	p := large(9)
	p.Groups = nil // each breach costs as much as all the rest
	crew := find(newState(compile(p, o)))
	alone := newSearch(newState(compile(p, o)), nil)
	start := alone.cost(&alone.totals)
	alone.settle(alone.mustMove())
	alone.allow(alone.movable())
	alone.note()
	alone.survey()
	every := o.Evaluations / adjustments
	from := max(hottest, hotShare*alone.scale*alone.badness(&alone.totals)/float64(len(alone.movers))/alone.meanItem)
	for k := range adjustments {
		alone.resum()
		alone.run(every, alone.meanItem*from*math.Pow(coldest/from, float64(k)/adjustments), every)
		alone.note()
	}
	alone.restore()
	alone.prune()
	with, without := crew.cost(&crew.totals), alone.cost(&alone.totals)
	t.Logf("from %.0f: %.0f in parts, %.0f alone", start, with, without)
	if with-without > 0.02*(start-without) {
		t.Errorf("from %.0f: %.0f in parts, %.0f alone", start, with, without)
	}
}
