package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// timing is what one kind of plan took; the best of several runs, as the machine may have other things to do.
type timing struct {
	Size    string  `json:"size"`
	What    string  `json:"what"`
	WallS   float64 `json:"wall_s"`
	CPUS    float64 `json:"cpu_s"`
	PeakMiB float64 `json:"peak_mib"`
	Plan    result  `json:"plan"`
}

const runs = 3

// speed measures a full plan, and what a drain of one host would take.
func (b *bench) speed(z size) ([]timing, error) {
	cluster, err := b.cluster(z, b.first)
	if err != nil {
		return nil, err
	}
	var out []timing
	for _, kind := range []struct {
		what string
		args []string
	}{
		{"rebalance", nil},
		{"score, to the end", []string{"--objective", "score"}},
		{"drain of one host", []string{"--mode", "drain", "--host", "h0001"}},
	} {
		t := timing{Size: z.String(), What: kind.what}
		path := cluster + ".speed.plan"
		for k := range runs {
			u, err := b.plan(cluster, path, kind.args...)
			if err != nil {
				return nil, err
			}
			if k == 0 || u.Wall.Seconds() < t.WallS {
				t.WallS = u.Wall.Seconds()
			}
			if k == 0 || u.CPU.Seconds() < t.CPUS {
				t.CPUS = u.CPU.Seconds()
			}
			t.PeakMiB = max(t.PeakMiB, u.PeakMiB)
		}
		if t.Plan, err = b.score(cluster, path); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func timings(ts []timing) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "size\tplan\twall s\tCPU s\tpeak MiB\tmoves\tGiB\tscore")
	for _, t := range ts {
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%.0f\t%d\t%.0f\t%.5f\n", t.Size, t.What, t.WallS, t.CPUS, t.PeakMiB, t.Plan.Moves, t.Plan.GiB, t.Plan.Score)
	}
	w.Flush()
	return b.String()
}
