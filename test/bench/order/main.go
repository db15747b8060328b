// Command order measures how good the schedules of drover/scheduler/order are and how long they take to
// make: on moves that it generates, against the bound of the links, and with -data on the published random
// instances of BtrPlace (UCC 2015), against the schedules published with them.
//
// It prints a table, writes JSON with -json, and with -schedules the starts of each published instance's
// moves. It fails when a schedule breaks a rule or misses what drover promises.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"drover/hypervisor"
	"drover/scheduler/order"
	"drover/scheduler/order/ordertest"
)

// row is one line of the table: a set of instances.
type row struct {
	Name      string  `json:"name"`
	Instances int     `json:"instances"`
	Makespan  float64 `json:"makespan_seconds"` // mean
	LinkBound float64 `json:"link_bound_seconds"`
	Mean      float64 `json:"over_link_bound_mean"`
	Worst     float64 `json:"over_link_bound_worst"`
	// Own is the worst over order's own bound, which knows of streams as well.
	Own       float64 `json:"over_own_bound_worst"`
	Staged    int     `json:"staged"`
	Blocked   int     `json:"blocked"`
	Waves     int     `json:"waves_most"`
	Millis    float64 `json:"schedule_ms_median"`
	MillisMax float64 `json:"schedule_ms_worst"`
	Promise   string  `json:"promise,omitempty"`
	Kept      bool    `json:"kept"`
}

// instance is one set of moves, and how to schedule it.
type instance struct {
	in order.Input
	o  order.Options
}

func main() {
	data := flag.String("data", "", "published instances, as JSON packed with gzip; without it only generated ones are run")
	out := flag.String("json", "", "write the figures to this file")
	starts := flag.String("schedules", "", "write the schedules of the published instances to this file")
	seeds := flag.Int("seeds", 20, "generated instances of each kind")
	flag.Parse()
	if err := run(*data, *out, *starts, *seeds); err != nil {
		fmt.Fprintln(os.Stderr, "bench-order:", err)
		os.Exit(1)
	}
}

func run(data, out, starts string, seeds int) error {
	var rows []row
	for _, k := range kinds {
		var all []instance
		for seed := range seeds {
			all = append(all, instance{in: ordertest.Generate(k.shape, uint64(seed))})
		}
		r, _, err := measure(k.name, all)
		if err != nil {
			return err
		}
		if k.limit > 0 {
			r.Promise = fmt.Sprintf("at most %.2f x the link bound", k.limit)
			r.Kept = r.Worst <= k.limit
		}
		rows = append(rows, r)
	}
	if data == "" {
		fmt.Println("No -data: the published instances are left out, only generated ones were run.")
	} else {
		r, err := published(data, starts)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	table(rows)
	if out != "" {
		b, err := json.MarshalIndent(rows, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(rows, func(r row) bool { return r.Promise != "" && !r.Kept }); i >= 0 {
		return fmt.Errorf("%s: not %s", rows[i].Name, rows[i].Promise)
	}
	return nil
}

// gbit is a link's rate.
func gbit(n ...float64) (rates []hypervisor.BytesPerSecond) {
	for _, g := range n {
		rates = append(rates, hypervisor.BytesPerSecond(g*1e9/8))
	}
	return rates
}

// kinds of generated moves. With one stream out per host a fast host that sends to slow ones can't fill
// its link, and where memory is short moves wait for room: no order reaches the link bound then, and
// nothing is promised of it.
var kinds = []struct {
	name  string
	shape ordertest.Shape
	limit float64
}{
	{"equal links", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(10)}, 1.05},
	{"1, 10 and 25 Gbit/s, 8 streams", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(1, 10, 25), Streams: 8}, 1.05},
	{"10 and 25 Gbit/s, 8 streams", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(10, 25), Streams: 8}, 1.05},
	{"10 and 25 Gbit/s, 1 out 2 in", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(10, 25)}, 0},
	{"little memory, up to 64 GiB free", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(10), Slack: 64 * hypervisor.GiB}, 0},
	{"little memory, up to 16 GiB free", ordertest.Shape{Hosts: 100, Moves: 500, Links: gbit(10), Slack: 16 * hypervisor.GiB}, 0},
}

// measure schedules each instance three times, checks it, and takes the quickest time.
func measure(name string, all []instance) (row, []order.Result, error) {
	r := row{Name: name, Instances: len(all), Kept: true}
	var results []order.Result
	var took []time.Duration
	for i, x := range all {
		var res order.Result
		best := time.Duration(1<<63 - 1)
		for range 3 {
			start := time.Now()
			got, err := order.Schedule(x.in, x.o)
			best = min(best, time.Since(start))
			if err != nil {
				return r, nil, fmt.Errorf("%s, instance %d: %w", name, i, err)
			}
			res = got
		}
		if err := ordertest.Check(x.in, res, 1); err != nil {
			return r, nil, fmt.Errorf("%s, instance %d: %w", name, i, err)
		}
		took = append(took, best)
		results = append(results, res)
		bound := linkBound(x.in, res)
		r.Makespan += res.Makespan.Seconds() / float64(len(all))
		r.LinkBound += bound / float64(len(all))
		r.Mean += res.Makespan.Seconds() / bound / float64(len(all))
		r.Worst = max(r.Worst, res.Makespan.Seconds()/bound)
		r.Own = max(r.Own, res.Makespan.Seconds()/res.Bound.Seconds())
		r.Blocked += len(res.Blocked)
		for _, s := range res.Steps {
			r.Waves = max(r.Waves, s.Wave)
			if s.Leg == order.ToStaging {
				r.Staged++
			}
		}
	}
	slices.Sort(took)
	r.Millis = float64(took[len(took)/2].Microseconds()) / 1000
	r.MillisMax = float64(took[len(took)-1].Microseconds()) / 1000
	return r, results, nil
}

// linkBound is the time of the busiest link direction in seconds: the bytes of the moves that cross it,
// each sent as fast as the slower end allows, over its rate.
func linkBound(in order.Input, res order.Result) float64 {
	hosts := map[string]order.Host{}
	for _, h := range in.Hosts {
		hosts[h.Name] = h
	}
	blocked := map[int]bool{}
	for _, b := range res.Blocked {
		blocked[b.Move] = true
	}
	type direction struct {
		host string
		out  bool
	}
	busy := map[direction]float64{}
	most := 0.0
	for i, m := range in.Moves {
		if blocked[i] {
			continue
		}
		out, inward := float64(hosts[m.From].Out), float64(hosts[m.To].In)
		rate := min(out, inward)
		bytes := float64(m.Bytes)
		if bytes == 0 {
			bytes = float64(m.Memory)
		}
		bytes *= rate / max(rate-float64(m.DirtyRate), rate/4)
		busy[direction{m.From, true}] += bytes / out
		busy[direction{m.To, false}] += bytes / inward
		most = max(most, busy[direction{m.From, true}], busy[direction{m.To, false}])
	}
	return most
}

func table(rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCES\tN\tMAKESPAN\tLINK BOUND\tRATIO MEAN\tWORST\tTO OWN BOUND\tSTAGED\tBLOCKED\tWAVES\tMS MEDIAN\tWORST\tPROMISE")
	for _, r := range rows {
		promise := "-"
		if r.Promise != "" {
			promise = r.Promise + ": " + map[bool]string{true: "kept", false: "MISSED"}[r.Kept]
		}
		fmt.Fprintf(w, "%s\t%d\t%.2f s\t%.2f s\t%.3f\t%.3f\t%.3f\t%d\t%d\t%d\t%.2f\t%.2f\t%s\n", r.Name, r.Instances,
			r.Makespan, r.LinkBound, r.Mean, r.Worst, r.Own, r.Staged, r.Blocked, r.Waves, r.Millis, r.MillisMax, promise)
	}
	w.Flush()
}
