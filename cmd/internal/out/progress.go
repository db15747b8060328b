package out

import (
	"fmt"
	"io"
	"strings"
	"time"

	"drover/precopy"
)

// A progress that is no terminal gets lines while the phase stays: often at first, then more and more
// seldom, so that an hour's migration does not fill a log.
const (
	plainFirst = time.Second
	plainLast  = 15 * time.Second
)

// firstPass is the share of the bar for the first pass over memory, the only part whose length is
// known beforehand.
const firstPass = 0.8

// Progress shows one migration as it goes: a bar that is redrawn on a terminal, lines elsewhere. The
// share shown never falls and reaches 100 % only with the phase done. It is for one goroutine.
type Progress struct {
	w      io.Writer
	width  int
	redraw bool
	share  float64
	round  int
	drawn  int // lines on the terminal to go over
	phase  precopy.Phase
	text   string
	last   time.Time
	began  time.Time // the phase, as seen here
}

// NewProgress returns a progress that writes to w.
func NewProgress(w io.Writer) *Progress {
	width, redraw := Terminal(w)
	return &Progress{w: w, width: width, redraw: redraw}
}

// Show draws the state as of now. p is nil while there is none.
func (g *Progress) Show(now time.Time, m precopy.Migration, p *precopy.Progress) {
	if m.Phase.Final() {
		p = nil // of a moment before
	}
	g.advance(m, p)
	if g.redraw {
		g.draw(now, m, p)
		return
	}
	if m.Phase != g.phase {
		g.began = now
	} else if now.Sub(g.last) < min(max(now.Sub(g.began)/10, plainFirst), plainLast) {
		return
	}
	text := fmt.Sprintf("%-9s %3d %%", m.Phase, g.percent())
	for _, part := range append([]string{elapsed(now, m, p), eta(m, p)}, numbers(p)...) {
		if part != "" {
			text += "  " + part
		}
	}
	why := reason(m, p)
	if g.phase != "" && m.Phase != g.phase && m.Reason != "" {
		why = reason(m, nil) // what the progress says may be of the phase before
	}
	if why != "" {
		text += ": " + why
	}
	if m.Phase == g.phase && text == g.text {
		return // no newer numbers yet
	}
	g.phase, g.text, g.last = m.Phase, text, now
	fmt.Fprintln(g.w, text)
}

// Close clears the bar from a terminal.
func (g *Progress) Close() {
	if g.redraw && g.drawn > 0 {
		fmt.Fprintf(g.w, "\x1b[%dA\r\x1b[J", g.drawn)
		g.drawn = 0
	}
}

func (g *Progress) percent() int { return int(g.share * 100) }

// advance moves the share forward, never back. The first pass counts by what it has gone over. After
// it nobody knows how many passes follow: what counts is how near the rest of each new pass comes to
// what fits into the pause, so that a migration that does not converge stands still instead of
// creeping up to 99 %. In post-copy what is left only falls.
func (g *Progress) advance(m precopy.Migration, p *precopy.Progress) {
	switch {
	case m.Phase == precopy.Done:
		g.share = 1
	case p == nil || p.Total <= 0:
	case m.Phase == precopy.Postcopy:
		g.raise(1 - float64(p.Remaining)/float64(p.Total))
	case p.Round <= 1:
		g.raise(firstPass * (1 - float64(p.Remaining)/float64(p.Total)))
	case p.Round > g.round:
		// Within a pass the rest falls by itself; only its start says anything.
		g.round = p.Round
		fits := p.Downtime.Seconds() * float64(p.Rate)
		g.raise(firstPass + (0.99-firstPass)*fits/max(float64(p.Remaining), 1))
	}
}

func (g *Progress) raise(share float64) { g.share = max(g.share, min(share, 0.99)) }

func elapsed(now time.Time, m precopy.Migration, p *precopy.Progress) string {
	if p == nil {
		return Span(now.Sub(m.Created))
	}
	return Span(p.Elapsed)
}

// eta is the time still needed. In the first pass that is what the forecast leaves: the job itself knows
// nothing then of the passes that follow.
func eta(m precopy.Migration, p *precopy.Progress) string {
	if f := m.Forecast; f != nil && f.Unlikely == "" && p != nil && p.Round <= 1 {
		if left := time.Duration(f.Seconds*float64(time.Second)) - p.Elapsed; left > p.ETA {
			return "ETA " + Span(left)
		}
	}
	switch {
	case p == nil || p.ETA == 0:
		return ""
	case p.ETA < 0:
		return "no end in sight yet"
	}
	return "ETA " + Span(p.ETA)
}

func numbers(p *precopy.Progress) []string {
	if p == nil {
		return nil
	}
	parts := []string{p.Processed.String(), p.Rate.String()}
	if p.Round > 0 {
		parts = append(parts, fmt.Sprintf("round %d", p.Round))
	}
	if p.DirtyRate > 0 {
		parts = append(parts, "dirty "+p.DirtyRate.String())
	}
	if p.Throttle > 0 {
		parts = append(parts, fmt.Sprintf("throttled %d %%", p.Throttle))
	}
	return parts
}

// reason is why the migration stands where it stands, and what makes it slow.
func reason(m precopy.Migration, p *precopy.Progress) string {
	switch {
	case m.Cancel != nil && !m.Phase.Final():
		return Clean("cancel requested by " + m.Cancel.By)
	case p != nil && p.Why != "":
		return Clean(p.Why)
	}
	return Clean(m.Reason)
}

func (g *Progress) draw(now time.Time, m precopy.Migration, p *precopy.Progress) {
	const bar = 24
	filled := int(g.share * bar)
	lines := []string{fmt.Sprintf("[%s%s] %3d %%  %s  %s  %s", strings.Repeat("#", filled), strings.Repeat("-", bar-filled),
		g.percent(), m.Phase, elapsed(now, m, p), eta(m, p))}
	if p != nil {
		lines = append(lines, "  "+strings.Join(numbers(p), "  "))
	}
	if why := reason(m, p); why != "" {
		lines = append(lines, "  "+why)
	}
	g.Close()
	for _, line := range lines {
		// One column less than there is: a full last column wraps on some terminals.
		fmt.Fprintln(g.w, Shorten(strings.TrimRight(line, " "), g.width-1))
	}
	g.drawn = len(lines)
}

// Span renders a time span in at most two units: "850 ms", "12 s", "3 min 5 s", "2 h 10 min", "4 d".
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Span(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}
