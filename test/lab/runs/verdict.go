package runs

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"drover/precopy"
)

// What drover is held to against the best fixed policy of a cell: times, for a guest never seen, for one
// with two receipts, and in the geometric mean.
const (
	mostUnseen = 1.25
	mostKnown  = 1.10
	mostMean   = 0.95
)

// cell is what was measured of one workload on one link.
type cell struct {
	name   string
	fixed  map[string][]Run
	unseen []Run
	known  []Run // after two receipts
	own    []Run // all of drover's, with the default class
	half   []Run // with the class that allows half of the work to be lost
	best   string
	least  float64 // pause in any completed run of any policy
}

func cells(all []Run) []*cell {
	found := map[string]*cell{}
	for _, r := range all {
		c := found[r.Cell()]
		if c == nil {
			c = &cell{name: r.Cell(), fixed: map[string][]Run{}, least: math.Inf(1)}
			found[r.Cell()] = c
		}
		if r.Phase == precopy.Done {
			c.least = min(c.least, r.PauseMS)
		}
		switch {
		case r.Policy == OwnHalf:
			c.half = append(c.half, r)
		case r.Policy == Own:
			c.own = append(c.own, r)
			if r.Receipts == 0 {
				c.unseen = append(c.unseen, r)
			}
			if r.Receipts == Moves-1 {
				c.known = append(c.known, r)
			}
		default:
			c.fixed[r.Policy] = append(c.fixed[r.Policy], r)
		}
	}
	out := slices.SortedFunc(maps.Values(found), func(a, b *cell) int { return strings.Compare(a.name, b.name) })
	for _, c := range out {
		c.best = c.bestFixed()
	}
	return out
}

// bestFixed is the fixed policy that took the least time of those that kept the promise in every run,
// chosen with hindsight; empty when none did.
func (c *cell) bestFixed() string {
	best := ""
	for _, name := range slices.Sorted(maps.Keys(c.fixed)) {
		g := c.fixed[name]
		if count(g, Run.Kept) == len(g) && (best == "" || median(g, Run.seconds) < median(c.fixed[best], Run.seconds)) {
			best = name
		}
	}
	return best
}

func (c *cell) ratio(g []Run) float64 {
	if c.best == "" {
		return math.NaN()
	}
	return median(g, Run.seconds) / median(c.fixed[c.best], Run.seconds)
}

// Line is one thing that drover is held to, and what the runs say of it.
type Line struct {
	What   string
	Of     int      // cells or runs that it was looked for in
	Failed []string // where it does not hold
	Note   string
}

// Holds says what became of it.
func (l Line) Holds() string {
	switch {
	case len(l.Failed) > 0:
		return "NO"
	case l.Of == 0:
		return "not measured"
	}
	return "yes"
}

// Verdict compares drover with the best fixed policy of each cell, and says which of what it is held to
// the runs show to hold: against all of them, without those that may lose guests, which drover may not, and
// without those that do what the class of the runs does not allow.
func Verdict(all []Run) string {
	text := verdict(all)
	for _, leave := range []struct {
		out func(Run) bool
		why string
	}{
		{Run.Risky, "Without multifd-zstd, which may lose the guest with this QEMU when it fails or is cancelled"},
		{Run.Forbidden, "Without post-copy, which the class does not allow: the guest waits for each page, and is lost with the link"},
	} {
		rest := Select(all, func(r Run) bool { return !leave.out(r) })
		if len(rest) < len(all) {
			text += "\n" + leave.why + ":\n" + verdict(rest)
		}
		all = rest
	}
	return text
}

func verdict(all []Run) string {
	cs := cells(all)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CELL\tBEST FIXED\tSECONDS\tLOST\tLEAST PAUSE\tUNSEEN\tRATIO\tPAUSE\tLOST\tKNOWN\tRATIO\tPAUSE\tLOST\tKEPT")
	for _, c := range cs {
		if len(c.own) == 0 {
			continue
		}
		best, secs, lost := "none", "-", "-"
		if c.best != "" {
			g := c.fixed[c.best]
			best, secs, lost = c.best, fmt.Sprintf("%.1f", median(g, Run.seconds)), fmt.Sprintf("%.1f", median(g, Run.lost))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%.1f\t%.2f\t%.0f\t%.1f\t%.1f\t%.2f\t%.0f\t%.1f\t%d of %d\n", c.name, best, secs, lost, c.least,
			median(c.unseen, Run.seconds), c.ratio(c.unseen), median(c.unseen, Run.pause), median(c.unseen, Run.lost),
			median(c.known, Run.seconds), c.ratio(c.known), median(c.known, Run.pause), median(c.known, Run.lost),
			count(c.own, Run.Kept), len(c.own))
	}
	_ = w.Flush()
	b.WriteString("\n")
	w = tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, l := range Judge(all) {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", l.Holds(), l.What, l.Of, l.Note, strings.Join(l.Failed, "; "))
	}
	_ = w.Flush()
	return b.String()
}

// Judge says line by line what holds.
func Judge(all []Run) []Line {
	cs := cells(all)
	return slices.Concat(
		[]Line{promises(cs), refusals(cs), pauses(cs), idlePause(cs), ceilings(all)},
		times(cs),
		[]Line{lostWork(cs), halfClass(cs), forecastTimes(cs), forecastPauses(cs), modelError(all), integrity(all)},
	)
}

func (r Run) String() string {
	return fmt.Sprintf("%s run %d/%d %s %.1f s, pause %.0f ms", r.Cell(), r.Number, r.Receipts, strings.TrimSpace(string(r.Phase)+" "+r.Code), r.Seconds, r.PauseMS)
}

// each looks at runs one by one.
func each(what string, g []Run, holds func(Run) bool) Line {
	l := Line{What: what, Of: len(g)}
	for _, r := range g {
		if !holds(r) {
			l.Failed = append(l.Failed, r.String())
		}
	}
	return l
}

func promises(cs []*cell) Line {
	var g []Run
	for _, c := range cs {
		if c.best != "" {
			g = append(g, c.own...)
		}
	}
	return each("keeps the promise where a fixed policy does (runs)", g, Run.Kept)
}

func refusals(cs []*cell) Line {
	var g []Run
	for _, c := range cs {
		if c.best == "" && len(c.fixed) > 0 {
			g = append(g, Select(c.own, func(r Run) bool { return r.Phase != precopy.Done })...)
		}
	}
	return each("refuses or gives up within a quarter of the budget where nobody can (runs)", g, func(r Run) bool {
		return r.Seconds <= Budget.Seconds()/4 && (r.Code == "not-converging" || r.Phase == Refused)
	})
}

func pauses(cs []*cell) Line {
	var g []Run
	for _, c := range cs {
		if c.least <= MaxPause {
			g = append(g, Select(c.own, func(r Run) bool { return r.Phase == precopy.Done })...)
		}
	}
	l := each("pause of at most 150 ms where any run of any policy has it (runs)", g, func(r Run) bool { return r.PauseMS <= MaxPause })
	l.Note = fmt.Sprintf("median %.0f ms", median(g, Run.pause))
	return l
}

func idlePause(cs []*cell) Line {
	var own, bare []Run
	for _, c := range cs {
		if strings.HasPrefix(c.name, "idle@") {
			own, bare = append(own, c.own...), append(bare, c.fixed["least-pause"]...)
		}
	}
	l := Line{What: "idle guests pause at most 30 ms longer than with a limit of 1 ms (runs)"}
	if len(own) == 0 || len(bare) == 0 {
		return l
	}
	l.Of = len(own)
	l.Note = fmt.Sprintf("median %.0f ms, with 1 ms %.0f ms", median(own, Run.pause), median(bare, Run.pause))
	if median(own, Run.pause) > median(bare, Run.pause)+30 {
		l.Failed = []string{l.Note}
	}
	return l
}

func ceilings(all []Run) Line {
	g := Select(all, func(r Run) bool { return r.Own() && r.Phase == precopy.Done })
	return each("never a pause beyond the ceiling (runs)", g, func(r Run) bool { return r.PauseMS <= Ceiling })
}

func times(cs []*cell) []Line {
	unseen := Line{What: fmt.Sprintf("time of guests never seen at most %.2f of the best fixed policy's (cells)", mostUnseen)}
	known := Line{What: fmt.Sprintf("time after two receipts at most %.2f of it (cells)", mostKnown)}
	mean := Line{What: fmt.Sprintf("geometric mean of these at most %.2f (cells)", mostMean)}
	logs := map[*Line]float64{}
	for _, c := range cs {
		for _, x := range []struct {
			l    *Line
			g    []Run
			most float64
		}{{&unseen, c.unseen, mostUnseen}, {&known, c.known, mostKnown}} {
			ratio := c.ratio(x.g)
			if math.IsNaN(ratio) {
				continue
			}
			x.l.Of++
			logs[x.l] += math.Log(ratio)
			if ratio > x.most {
				x.l.Failed = append(x.l.Failed, fmt.Sprintf("%s %.2f", c.name, ratio))
			}
		}
	}
	geometric := func(l *Line) float64 { return math.Exp(logs[l] / float64(max(l.Of, 1))) }
	if mean.Of = known.Of; mean.Of > 0 {
		mean.Note = fmt.Sprintf("after two receipts %.2f, never seen %.2f", geometric(&known), geometric(&unseen))
		if geometric(&known) > mostMean {
			mean.Failed = []string{mean.Note}
		}
	}
	return []Line{unseen, known, mean}
}

func lostWork(cs []*cell) Line {
	l := Line{What: "guest work lost, summed over the medians of the cells, at most the best fixed policies' (cells)"}
	var unseen, known, fixed float64
	for _, c := range cs {
		if c.best == "" || len(c.unseen) == 0 || len(c.known) == 0 {
			continue
		}
		l.Of++
		unseen, known = unseen+median(c.unseen, Run.lost), known+median(c.known, Run.lost)
		fixed += median(c.fixed[c.best], Run.lost)
	}
	l.Note = fmt.Sprintf("never seen %.1f s, after two receipts %.1f s, best fixed %.1f s", unseen, known, fixed)
	if l.Of > 0 && max(unseen, known) > fixed {
		l.Failed = []string{l.Note}
	}
	return l
}

func halfClass(cs []*cell) Line {
	l := Line{What: "where no fixed policy keeps the promise, at least half complete with a class that allows a slowdown of 50 % (runs)"}
	var g []Run
	for _, c := range cs {
		if c.best == "" && len(c.fixed) > 0 {
			g = append(g, c.half...)
		}
	}
	if l.Of = len(g); l.Of == 0 {
		return l
	}
	kept := count(g, Run.Kept)
	_, most := spread(g, func(r Run) float64 { return float64(r.Throttle) })
	l.Note = fmt.Sprintf("%d of %d, slowed by %.0f %% at most", kept, len(g), most)
	if kept*2 < len(g) {
		l.Failed = []string{l.Note}
	}
	return l
}

func forecastTimes(cs []*cell) Line {
	return nineOfTen("forecast durations after two receipts within 25 % (runs)", cs, func(r Run) bool {
		return math.Abs(r.Forecast.Seconds-r.RecordedSeconds) <= 0.25*r.RecordedSeconds
	})
}

func forecastPauses(cs []*cell) Line {
	return nineOfTen("forecast pauses after two receipts within 60 ms (runs)", cs, func(r Run) bool {
		return math.Abs(float64(r.Forecast.PauseMS-r.RecordedPause)) <= 60
	})
}

func nineOfTen(what string, cs []*cell, comes func(Run) bool) Line {
	var g []Run
	for _, c := range cs {
		g = append(g, Select(c.known, func(r Run) bool { return r.Forecast != nil && r.Phase == precopy.Done })...)
	}
	l := Line{What: what, Of: len(g)}
	came := count(g, comes)
	l.Note = fmt.Sprintf("%d of %d", came, len(g))
	if came*10 < len(g)*9 {
		for _, r := range Select(g, func(r Run) bool { return !comes(r) }) {
			l.Failed = append(l.Failed, fmt.Sprintf("%s: for %.1f s and %d ms it took %.1f s and %d ms", r.Cell(), r.Forecast.Seconds, r.Forecast.PauseMS, r.RecordedSeconds, r.RecordedPause))
		}
	}
	return l
}

// modelError publishes how far off the model is on real guests; nothing is held against it but what comes
// of it, which is in the lines before.
func modelError(all []Run) Line {
	g := Select(all, func(r Run) bool { return r.Own() && r.PassError > 0 })
	l := Line{What: "what a pass leaves, foreseen from the passes before it (runs)", Of: len(g)}
	if len(g) > 0 {
		errors := make([]float64, 0, len(g))
		for _, r := range g {
			errors = append(errors, 100*r.PassError)
		}
		slices.Sort(errors)
		l.Note = fmt.Sprintf("off by %.0f %% in the median, by %.0f %% at most in nine of ten", errors[len(errors)/2], errors[(len(errors)-1)*9/10])
	}
	return l
}

func integrity(all []Run) Line {
	return each("no page of a guest differs (runs)", Select(all, Run.Own), func(r Run) bool { return r.Mismatches == 0 })
}
