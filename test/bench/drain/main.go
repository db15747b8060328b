// Command drain empties hosts of simulated fleets under drover's rule and under those of other managers, carried
// out by the same code, and compares how long that takes and the worst pause of a guest.
//
//	go run ./test/bench/drain -seeds 5
//
// The fleets and links are in fleets.go, the rules in rules.go. What is driven is the real scheduler with its
// drains, and the real convergence controller or, for the other managers' own way of driving a migration, their
// fixed policies (precopy/tune); hosts, guests and links are those of test/sim, in virtual time. The same seeds
// give the same figures on every machine.
//
// Of each drain by drover the end that was told after a tenth of it is held against the one that came. The
// command ends with status 1 if another rule's median is shorter than drover's on any fleet, or its median worst
// pause lower, or if fewer than nine of ten ends were told within a fifth.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

func main() {
	out := flag.String("json", "", "also write all figures to this file")
	seeds := flag.Int("seeds", 5, "how many fleets of each kind")
	flag.Parse()
	if err := run(os.Stdout, *out, *seeds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// figures is everything that is measured.
type figures struct {
	Fleets []compared `json:"fleets"`
	// Told and Of count drover's drains whose end was told within a fifth after a tenth, and all of them.
	Told int `json:"told_within_a_fifth"`
	Of   int `json:"told"`
	// Beaten says by whom drover is beaten, where, and in what.
	Beaten []string `json:"drover_is_beaten_by"`
}

// compared is one kind of fleet under all rules.
type compared struct {
	Fleet   string   `json:"fleet"`
	Results []result `json:"results"`
}

// result is one rule on one kind of fleet: each seed's figures, and their medians.
type result struct {
	Rule    string    `json:"rule"`
	Seconds []float64 `json:"seconds"`
	// PauseMS is the worst pause of each drain; Stay how many VMs were left on the hosts.
	PauseMS []float64 `json:"worst_pause_ms"`
	Stay    []int     `json:"stay"`
	Median  float64   `json:"median_seconds"`
	Worst   float64   `json:"median_worst_pause_ms"`
}

func run(w io.Writer, out string, seeds int) error {
	if seeds < 1 {
		return errors.New("-seeds: want 1 or more")
	}
	var f figures
	for _, k := range kinds {
		c := compared{Fleet: k.name}
		for _, r := range rules {
			res := result{Rule: r.name}
			for seed := range seeds {
				d, err := play(k, r, uint64(seed+1))
				if err != nil {
					return fmt.Errorf("%s, %s, seed %d: %w", k.name, r.name, seed+1, err)
				}
				res.Seconds, res.PauseMS, res.Stay = append(res.Seconds, d.seconds), append(res.PauseMS, d.pauseMS), append(res.Stay, d.stay)
				for _, off := range d.off {
					f.Of++
					if off >= -0.2 && off <= 0.2 {
						f.Told++
					}
				}
			}
			res.Median, res.Worst = median(res.Seconds), median(res.PauseMS)
			c.Results = append(c.Results, res)
		}
		c.print(w)
		f.Beaten = append(f.Beaten, c.beaten()...)
		f.Fleets = append(f.Fleets, c)
	}
	fmt.Fprintf(w, "ends told after a tenth of drover's drains, within a fifth: %d of %d\n", f.Told, f.Of)
	if out != "" {
		raw, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(raw, '\n'), 0o644); err != nil {
			return err
		}
	}
	var errs []error
	for _, b := range f.Beaten {
		errs = append(errs, errors.New("drover is beaten: "+b))
	}
	if 10*f.Told < 9*f.Of {
		errs = append(errs, fmt.Errorf("%d of %d ends were told within a fifth, want nine of ten", f.Told, f.Of))
	}
	return errors.Join(errs...)
}

// median is the middle one, the lower of two.
func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[(len(v)-1)/2] }

// beaten names the rules that are shorter than drover's, the first one, or have a lower worst pause.
func (c compared) beaten() []string {
	var out []string
	own := c.Results[0]
	for _, r := range c.Results[1:] {
		left := 0
		for _, n := range r.Stay {
			left += n
		}
		if left > 0 {
			continue // it did not empty the hosts
		}
		if r.Median < own.Median {
			out = append(out, fmt.Sprintf("%s on %s: %.0f s, drover %.0f s", r.Rule, c.Fleet, r.Median, own.Median))
		}
		if r.Worst < own.Worst {
			out = append(out, fmt.Sprintf("%s on %s: worst pause %.0f ms, drover %.0f ms", r.Rule, c.Fleet, r.Worst, own.Worst))
		}
	}
	return out
}

func (c compared) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\tmedian s\tworst pause ms\tVMs left\t\n", c.Fleet)
	for _, r := range c.Results {
		fmt.Fprintf(t, "%s\t%.1f\t%.0f\t%v\t\n", r.Rule, r.Median, r.Worst, r.Stay)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
}
