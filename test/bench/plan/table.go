package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// String is one line of progress.
func (o outcome) String() string {
	return fmt.Sprintf("%s seed %d: hbal %d moves %.0f GiB; drover %d moves %.0f GiB; end %.4f, descent %.4f",
		o.Size, o.Seed, o.Hbal.Moves, o.Hbal.GiB, o.AsHbal.Moves, o.AsHbal.GiB, o.End.Score, o.Descent.Score)
}

// summary holds medians over seeds, drover over the other.
type summary struct {
	Size  string `json:"size"`
	Seeds int    `json:"seeds"`
	// At hbal's final score, with at most its moves, over hbal. GiB is hbal's or of a priced greedy plan
	// with no more moves than drover's, whichever is less.
	Moves    float64 `json:"moves"`
	GiB      float64 `json:"gib"`
	HbalGiB  float64 `json:"hbal_gib"`
	Serial   float64 `json:"serial"`
	Makespan float64 `json:"makespan"`
	// The same without a bound on moves: GiB over the best greedy plan with at most so many moves.
	FreeMoves  float64 `json:"free_moves"`
	FreeGiB    float64 `json:"free_gib"`
	FreeSerial float64 `json:"free_serial"`
	// End is drover's last score over that of one-move descent, and EndMoves the moves for it.
	End      float64 `json:"end"`
	EndMoves float64 `json:"end_moves"`
	Reached  int     `json:"reached"` // seeds in which hbal's score was reached with at most its moves
	CPUS     float64 `json:"plan_cpu_s"`
	WallS    float64 `json:"plan_wall_s"`
	PeakMiB  float64 `json:"plan_peak_mib"`
}

func summarise(size string, cases []outcome) summary {
	median := func(f func(outcome) float64) float64 {
		var xs []float64
		for _, o := range cases {
			xs = append(xs, f(o))
		}
		slices.Sort(xs)
		n := len(xs)
		return (xs[n/2] + xs[(n-1)/2]) / 2
	}
	s := summary{
		Size: size, Seeds: len(cases),
		Moves:      median(func(o outcome) float64 { return float64(o.AsHbal.Moves) / float64(o.Hbal.Moves) }),
		GiB:        median(func(o outcome) float64 { return o.AsHbal.GiB / o.atMost(o.Hbal.Moves) }),
		HbalGiB:    median(func(o outcome) float64 { return o.AsHbal.GiB / o.Hbal.GiB }),
		Serial:     median(func(o outcome) float64 { return o.AsHbal.SerialS / o.Hbal.SerialS }),
		Makespan:   median(func(o outcome) float64 { return o.AsHbal.MakespanS / o.Hbal.MakespanS }),
		FreeMoves:  median(func(o outcome) float64 { return float64(o.Cheapest.Moves) / float64(o.Hbal.Moves) }),
		FreeGiB:    median(func(o outcome) float64 { return o.Cheapest.GiB / o.atMost(max(o.Cheapest.Moves, o.Hbal.Moves)) }),
		FreeSerial: median(func(o outcome) float64 { return o.Cheapest.SerialS / o.Hbal.SerialS }),
		End:        median(func(o outcome) float64 { return o.End.Score / o.Descent.Score }),
		EndMoves:   median(func(o outcome) float64 { return float64(o.End.Moves) / float64(o.Descent.Moves) }),
		CPUS:       median(func(o outcome) float64 { return o.CPUS }),
		WallS:      median(func(o outcome) float64 { return o.WallS }),
		PeakMiB:    median(func(o outcome) float64 { return o.PeakMiB }),
	}
	for _, o := range cases {
		if o.AsHbal.Score <= o.Hbal.Score+1e-9 && o.AsHbal.Moves <= o.Hbal.Moves {
			s.Reached++
		}
	}
	return s
}

// String is the table of one size.
func (s summary) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s, medians over %d seeds\tdrover / other\n", s.Size, s.Seeds)
	for _, r := range []struct {
		what  string
		value string
	}{
		{"hbal's score reached with at most its moves", fmt.Sprintf("%d of %d", s.Reached, s.Seeds)},
		{"  moves / hbal's", fmt.Sprintf("%.3f", s.Moves)},
		{"  GiB / best greedy plan's with at most hbal's moves", fmt.Sprintf("%.3f", s.GiB)},
		{"  GiB / hbal's", fmt.Sprintf("%.3f", s.HbalGiB)},
		{"  seconds, side by side / hbal's in jobsets", fmt.Sprintf("%.3f", s.Makespan)},
		{"  seconds, one by one / hbal's", fmt.Sprintf("%.3f", s.Serial)},
		{"hbal's score, as cheap as can be: moves / hbal's", fmt.Sprintf("%.3f", s.FreeMoves)},
		{"  GiB / best greedy plan's with at most as many moves", fmt.Sprintf("%.3f", s.FreeGiB)},
		{"  seconds, one by one / hbal's", fmt.Sprintf("%.3f", s.FreeSerial)},
		{"to the end: score / one-move descent's", fmt.Sprintf("%.3f", s.End)},
		{"  moves / one-move descent's", fmt.Sprintf("%.3f", s.EndMoves)},
		{"planning: CPU seconds, wall seconds, MiB", fmt.Sprintf("%.2f, %.2f, %.0f", s.CPUS, s.WallS, s.PeakMiB)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", r.what, r.value)
	}
	w.Flush()
	return b.String()
}
