package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/test/sim"
)

func (p *Player) since(a *args) time.Duration {
	var since time.Duration
	get(a, "since", &since, duration)
	return since
}

func (p *Player) evaluate(a *args) (string, error) {
	since := p.since(a)
	return Text(p.w.Report(since)), nil
}

// Text is a report for people.
func Text(r sim.Report) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("time", "%s, %d hosts, %d guests", (r.To - r.From).Round(time.Second), r.Hosts, r.Guests)
	row("moves", "%d (%d of guests that had moved before, %d back to where they came from); failed %d, refused %d", r.Moves, r.Again, r.Returns, r.Failed, r.Refused)
	row("sent", "%s", r.Bytes)
	row("pause", "worst %s, median %s; %d over their ceiling", r.WorstPause.Round(time.Millisecond), r.MedianPause.Round(time.Millisecond), r.Over)
	row("balance", "%.2f in the mean, %.2f in the end; %d overloaded host-minutes", r.Balance, r.FinalBalance, r.Overloaded)
	last := "none"
	if r.Moves > 0 {
		last = fmt.Sprintf("%s before the end", (r.To - r.LastMove).Round(time.Second))
	}
	row("last move", "%s", last)
	row("thrash", "%.2f", r.Thrash)
	kept := fmt.Sprintf("kept at all %d changes", r.Checked)
	if r.Narrow > 0 {
		kept = fmt.Sprintf("not kept at %d of %d changes, first: %s", r.Narrow, r.Checked, r.NarrowFirst)
	}
	row("N+1", "%s", kept)
	row("guests", "%d lost, %d doubled, %d died with their hosts", r.Lost, r.Doubled, r.Killed)
	var writes []string
	for _, k := range slices.Sorted(maps.Keys(r.Writes)) {
		writes = append(writes, fmt.Sprintf("%s %d", k, r.Writes[k]))
	}
	row("writes", "%s", strings.Join(writes, ", "))
	for _, w := range r.Wrongs {
		row("WRONG", "%s", w)
	}
	return b.String()
}

// figures are what conditions may be about; pauses in seconds.
func figures(r sim.Report) map[string]float64 {
	writes := 0
	for k, n := range r.Writes {
		if k != "report" && k != "progress" {
			writes += n
		}
	}
	return map[string]float64{
		"moves": float64(r.Moves), "again": float64(r.Again), "returns": float64(r.Returns), "failed": float64(r.Failed),
		"refused": float64(r.Refused), "gib": float64(r.Bytes) / float64(hypervisor.GiB), "thrash": r.Thrash, "balance": r.Balance,
		"final-balance": r.FinalBalance, "overloaded": float64(r.Overloaded), "worst-pause": r.WorstPause.Seconds(),
		"median-pause": r.MedianPause.Seconds(), "over-ceiling": float64(r.Over), "narrow": float64(r.Narrow), "lost": float64(r.Lost),
		"doubled": float64(r.Doubled), "killed": float64(r.Killed), "writes": float64(writes), "share-writes": float64(r.Writes["share"]),
	}
}

// assert looks at conditions.
func (p *Player) assert(a *args) (string, error) {
	r := p.w.Report(p.since(a))
	if a.Input == "" {
		return "", fmt.Errorf("it needs conditions, one a line")
	}
	var bad []string
	for line := range strings.Lines(a.Input) {
		line = strings.TrimSpace(line)
		why, err := p.breach(r, strings.Fields(line))
		if err != nil {
			return "", fmt.Errorf("%q: %w", line, err)
		}
		if why != "" {
			bad = append(bad, line+": "+why)
		}
	}
	if len(bad) > 0 {
		return strings.Join(bad, "\n"), nil
	}
	return "ok", nil
}

// breach says why a condition does not hold; "" when it does.
func (p *Player) breach(r sim.Report, words []string) (string, error) {
	switch {
	case len(words) == 1 && words[0] == "n+1":
		return r.NarrowFirst, nil
	case len(words) == 1 && words[0] == "sound":
		return strings.Join(p.w.Faults(), "; "), nil
	case len(words) == 2 && words[0] == "runs" && words[1] == "done":
		for _, id := range p.runs {
			if run := p.w.RunRecord(id); run.Phase != fleet.RunDone {
				return fmt.Sprintf("the %s of %s is %s (%s)", run.Kind, strings.Join(run.Hosts, ", "), run.Phase, run.Reason), nil
			}
		}
		return "", nil
	case len(words) == 2 && words[0] == "steady":
		d, err := duration(words[1])
		if err != nil {
			return "", err
		}
		if r.Moves > 0 && r.To-r.LastMove < d {
			return fmt.Sprintf("the last move was %s before", (r.To - r.LastMove).Round(time.Second)), nil
		}
		return "", nil
	case len(words) != 3:
		return "", fmt.Errorf("want a figure, <, <=, =, >= or >, and a number")
	}
	got, known := figures(r)[words[0]]
	if !known {
		return "", fmt.Errorf("no such figure: want one of %s", strings.Join(slices.Sorted(maps.Keys(figures(r))), ", "))
	}
	want, err := number(words[2])
	if strings.HasSuffix(words[0], "-pause") {
		var d time.Duration
		d, err = duration(words[2])
		want = d.Seconds()
	}
	if err != nil {
		return "", err
	}
	holds, known := map[string]bool{"<": got < want, "<=": got <= want, "=": got == want, ">=": got >= want, ">": got > want}[words[1]]
	switch {
	case !known:
		return "", fmt.Errorf("%q is no comparison", words[1])
	case holds:
		return "", nil
	case strings.HasSuffix(words[0], "-pause"):
		return "it is " + time.Duration(got*float64(time.Second)).Round(time.Millisecond).String(), nil
	}
	return fmt.Sprintf("it is %.4g", got), nil
}
