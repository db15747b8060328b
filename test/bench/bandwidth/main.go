// Command bandwidth moves many simulated guests over shared links: by drover's live budget, and by the fixed rules of
// managers that have none. It says how long the batch took against what the links allow at best, how many guests were
// moved within their promise, and how much each link was used over its capacity.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// sim is a batch under way.
type sim struct {
	link    float64 // bytes per second of memory that a link carries
	lag     float64 // seconds until an agent has applied a share and said so
	now     float64
	queue   []*guest
	running map[string]*stream
	out, in map[int]int
	kick    bool
}

func (s *sim) clock() time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s.now * float64(time.Second)))
}

func (s *sim) start(g *guest, cap float64, serial int64) {
	s.queue = slices.DeleteFunc(s.queue, func(o *guest) bool { return o == g })
	s.running[g.name] = &stream{guest: g, id: g.name, began: s.now, round: s.now, rest: g.used, cap: cap, serial: serial}
	s.out[g.source]++
	s.in[g.target]++
}

// share gives each stream what it gets of the links: its cap, and less of a link that is full.
func (s *sim) share(flows []*stream) {
	for _, f := range flows {
		f.rate = f.cap
		if s.now < f.began+setup.Seconds() {
			f.rate = 0
		}
	}
	for range 4 {
		out, in := map[int]float64{}, map[int]float64{}
		for _, f := range flows {
			out[f.source] += f.rate
			in[f.target] += f.rate
		}
		for _, f := range flows {
			f.rate *= min(1, s.link/max(out[f.source], 1), s.link/max(in[f.target], 1))
		}
	}
}

// result is one run of one rule.
type result struct {
	Rule    string  `json:"rule"`
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"makespan_seconds"`
	Bound   float64 `json:"bound_seconds"`
	Kept    int     `json:"kept"`
	Moves   int     `json:"moves"`
	// Overhead is what was sent beyond what the same moves send when each has its links to itself.
	Overhead float64       `json:"sent_over_alone"`
	Writes   float64       `json:"share_writes_per_second"`
	Pass     time.Duration `json:"longest_pass_ns"`
}

func run(r rule, guests []*guest, link, lag float64) result {
	s := &sim{link: link, lag: lag, running: map[string]*stream{}, out: map[int]int{}, in: map[int]int{}}
	s.queue = slices.Clone(guests)
	res := result{Rule: r.name(), Moves: len(guests)}
	sent := 0.0
	const dt = 0.05
	for tick := 0; len(s.queue)+len(s.running) > 0; tick++ {
		if tick%20 == 0 || s.kick {
			s.kick = false
			r.pass(s)
		}
		flows := make([]*stream, 0, len(s.running))
		for _, f := range s.running {
			flows = append(flows, f)
		}
		slices.SortFunc(flows, func(a, b *stream) int { return int(math.Copysign(1, a.began-b.began)) })
		s.share(flows)
		for _, f := range flows {
			if f.due > 0 && s.now >= f.due {
				f.cap, f.serial, f.due, s.kick = f.next, f.nextOne, 0, true
			}
			over, kept := f.step(s.now, dt)
			if !over {
				continue
			}
			if kept {
				res.Kept++
			}
			sent += f.sent
			delete(s.running, f.id)
			s.out[f.source]--
			s.in[f.target]--
			s.kick = true
		}
		s.now += dt
		if s.now > 1e5 {
			break
		}
	}
	res.Seconds = s.now
	alone := 0.0
	for _, g := range guests {
		alone += g.alone(link)
	}
	res.Overhead = sent / alone
	if l, ok := r.(*live); ok {
		res.Writes, res.Pass = float64(l.writes)/s.now, l.most
	}
	return res
}

// bound is the least time that the links allow: the bytes of the busiest one, if each move had it to itself.
func bound(guests []*guest, link float64) float64 {
	out, in := map[int]float64{}, map[int]float64{}
	most := 0.0
	for _, g := range guests {
		b := g.alone(link) / link
		out[g.source] += b
		in[g.target] += b
		most = max(most, out[g.source], in[g.target])
	}
	return most
}

func main() {
	hosts := flag.Int("hosts", 100, "hosts")
	moves := flag.Int("moves", 500, "moves")
	seeds := flag.Int("seeds", 5, "fleets")
	gbit := flag.Float64("gbit", 10, "of each link")
	path := flag.String("json", "", "write the results to `FILE`")
	flag.Parse()
	link := *gbit * 1e9 / 8
	carried := 0.955 * link // of memory, beside headers
	var all []result
	for seed := range uint64(*seeds) {
		guests := fleetMoves(rand.New(rand.NewPCG(seed, 7)), *hosts, *moves, carried)
		for i, g := range guests {
			g.name = fmt.Sprintf("vm%04d", i)
		}
		least := bound(guests, carried)
		rules := []rule{
			newLive(*hosts, link),
			fixed{title: "fixed halves, 2 out 2 in", out: 2, in: 2, all: 1 << 30, part: 0.5},
			fixed{title: "one at a time", out: 1, in: 1, all: 1},
			fixed{title: "no limit, 8 out", out: 8, in: 1 << 30, all: 1 << 30},
			fixed{title: "one out of each host, no cap", out: 1, in: 2, all: 1 << 30},
		}
		for _, r := range rules {
			res := run(r, guests, carried, 0.25)
			res.Seed, res.Bound = seed, least
			all = append(all, res)
		}
	}
	report(all)
	if *path != "" {
		text, err := json.MarshalIndent(all, "", " ")
		if err == nil {
			err = os.WriteFile(*path, text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// report prints the medians.
func report(all []result) {
	var names []string
	by := map[string][]result{}
	for _, r := range all {
		if by[r.Rule] == nil {
			names = append(names, r.Rule)
		}
		by[r.Rule] = append(by[r.Rule], r)
	}
	median := func(list []result, of func(result) float64) float64 {
		var v []float64
		for _, r := range list {
			v = append(v, of(r))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "RULE\tMAKESPAN S\tOF BOUND\tKEPT\tSENT OVER ALONE\tSHARE WRITES/S\tLONGEST PASS")
	for _, n := range names {
		g := by[n]
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.0f of %d\t%.2f\t%.1f\t%.2f ms\n", n,
			median(g, func(r result) float64 { return r.Seconds }), median(g, func(r result) float64 { return r.Seconds / r.Bound }),
			median(g, func(r result) float64 { return float64(r.Kept) }), g[0].Moves,
			median(g, func(r result) float64 { return r.Overhead }), median(g, func(r result) float64 { return r.Writes }),
			median(g, func(r result) float64 { return r.Pass.Seconds() * 1e3 }))
	}
	_ = w.Flush()
}
