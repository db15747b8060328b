// Command day plays a recorded day of VMs' load on a fleet, under drover's rule for automatic moves and under
// those of other managers, and compares overloaded host-minutes and moves.
//
//	go run ./test/bench/day -data planetlab_20110303.csv.gz
//
// The trace is a CSV file, gzipped or not: a heading, then a line for each VM with its name and its CPU in per
// cent of its own vCPUs, every five minutes. The fleet, what migrations cost, and the start are in fleet.go;
// the peers' rules in peers.go. The first hour is history that every rule may learn from; the fleet is packed
// by its mean, then the rules act for the rest of the day, minute by minute.
//
// It ends with status 1 if any of the peers' rules, at any setting, has both fewer overloaded host-minutes
// (above 90 % of a host's cores) and fewer moves than drover's default, on any of the fleets, or if drover
// brought a VM back to a host that it had left on that day. The same data give the same figures on every
// machine.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
)

// judged is the index of the mark by which rules are compared.
const judged = 1

// day is what one fleet came to.
type day struct {
	Turn    int      `json:"fleet"`
	Hosts   int      `json:"hosts"`
	VMs     int      `json:"vms"`
	Results []result `json:"results"`
	// Beaten names the rules that have fewer of both than drover.
	Beaten  []string `json:"drover_is_beaten_by"`
	Returns int      `json:"drover_returns_within_24h"`
}

func main() {
	data := flag.String("data", "", "the trace: CSV, gzipped or not")
	out := flag.String("json", "", "also write all figures to this file")
	fleets := flag.Int("fleets", 1, "how many fleets, 1 to 4, that differ in which VM has which size")
	flag.Parse()
	if err := run(os.Stdout, *data, *out, *fleets); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(w io.Writer, data, out string, fleets int) error {
	if data == "" {
		return errors.New("no trace: give -data FILE (make bench-day DATA=FILE)")
	}
	t, err := readTrace(data)
	if err != nil {
		return err
	}
	var days []day
	var bad int
	for turn := range fleets {
		d, err := compare(t, turn)
		if err != nil {
			return err
		}
		d.print(w)
		bad += len(d.Beaten) + d.Returns
		days = append(days, d)
	}
	if out != "" {
		raw, err := json.MarshalIndent(days, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(raw, '\n'), 0o644); err != nil {
			return err
		}
	}
	if bad > 0 {
		return errors.New("drover's default is beaten, or moved a VM back")
	}
	return nil
}

// compare lets every rule play the day on one fleet.
func compare(t trace, turn int) (day, error) {
	f, err := pack(t, turn)
	if err != nil {
		return day{}, err
	}
	all := append(drovers(), peers()...)
	d := day{Turn: turn + 1, Hosts: f.hosts, VMs: len(f.vms), Results: make([]result, len(all)), Beaten: []string{}}
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			d.Results[i] = play(f, c.rule())
			d.Results[i].Rule, d.Results[i].Setting = c.name, c.setting
		})
	}
	wg.Wait()
	d.judge()
	return d, nil
}

// judge compares all with drover's default, the one of its settings at standard.
func (d *day) judge() {
	own := d.Results[standard]
	for i := range d.Results {
		r := &d.Results[i]
		if r.Rule == own.Rule {
			d.Returns += r.Returns
			continue
		}
		r.Beats = own.Moves < r.Moves && own.Over[judged] < r.Over[judged]
		if r.Moves < own.Moves && r.Over[judged] < own.Over[judged] {
			d.Beaten = append(d.Beaten, r.Rule+" "+r.Setting)
		}
	}
}

func (d *day) print(w io.Writer) {
	fmt.Fprintf(w, "fleet %d: %d VMs on %d hosts of %.0f cores\n", d.Turn, d.VMs, d.Hosts, hostCores)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "rule\tsetting\tmoves\tGiB\t>80 %\t>90 %\t>100 %\treturns\tmost\tdrover has\t")
	for _, r := range d.Results {
		has := ""
		if r.Beats {
			has = "fewer of both"
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%.0f\t%d\t%d\t%d\t%d\t%d\t%s\t\n",
			r.Rule, r.Setting, r.Moves, r.GiB, r.Over[0], r.Over[1], r.Over[2], r.Returns, r.Most, has)
	}
	tw.Flush()
	beats, peers := 0, 0
	for _, r := range d.Results {
		if r.Rule != d.Results[standard].Rule {
			peers++
		}
		if r.Beats {
			beats++
		}
	}
	own := d.Results[standard]
	fmt.Fprintf(w, "drover's default (%s): fewer moves and fewer overloaded host-minutes (>90 %%) than %d of %d; %d have fewer of both than it; %d returns\n\n",
		own.Setting, beats, peers, len(d.Beaten), d.Returns)
}
