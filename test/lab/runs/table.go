package runs

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table is one row per cell and policy: medians, and the most and least of time and pause.
func Table(all []Run) string {
	groups := map[string][]Run{}
	for _, r := range all {
		k := r.Cell() + "\t" + r.Name()
		groups[k] = append(groups[k], r)
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CELL\tPOLICY\tRUNS\tKEPT\tSECONDS\tSPREAD\tPAUSE MS\tSPREAD\tLOST S\tSLOWED %\tMIB\tOTHERS %\tENDED")
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		g := groups[k]
		ended := map[string]int{}
		for _, r := range g {
			ended[strings.TrimSpace(string(r.Phase)+" "+r.Code)]++
		}
		low, high := spread(g, Run.seconds)
		least, most := spread(g, Run.pause)
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.1f-%.1f\t%.0f\t%.0f-%.0f\t%.1f\t%.0f\t%.0f\t%.0f\t%s\n", k, len(g), count(g, Run.Kept),
			median(g, Run.seconds), low, high, median(g, Run.pause), least, most, median(g, Run.lost),
			median(g, func(r Run) float64 { return float64(r.Throttle) }), median(g, func(r Run) float64 { return float64(r.MiB) }),
			median(g, func(r Run) float64 { return r.Others }), endings(ended))
	}
	_ = w.Flush()
	return b.String()
}

func endings(n map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[k], k))
	}
	return strings.Join(out, ", ")
}

func (r Run) seconds() float64 { return r.Seconds }
func (r Run) pause() float64   { return r.PauseMS }
func (r Run) lost() float64    { return r.LostWork }

func count(g []Run, holds func(Run) bool) int { return len(Select(g, holds)) }

// median is NaN of none.
func median(g []Run, of func(Run) float64) float64 {
	if len(g) == 0 {
		return math.NaN()
	}
	v := make([]float64, 0, len(g))
	for _, r := range g {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func spread(g []Run, of func(Run) float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, r := range g {
		low, high = min(low, of(r)), max(high, of(r))
	}
	return low, high
}
