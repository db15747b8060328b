package out

import (
	"fmt"
	"io"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// plainEvery is how often a progress that is no terminal gets a line while the phase stays.
const plainEvery = 5 * time.Second

// Progress shows one migration as it goes: a bar that is redrawn on a terminal, lines elsewhere. The
// share shown never falls and reaches 100 % only with the phase done. It is for one goroutine.
type Progress struct {
	w      io.Writer
	width  int
	redraw bool
	share  float64
	drawn  int // lines on the terminal to go over
	phase  precopy.Phase
	why    string
	last   time.Time
}

// NewProgress returns a progress that writes to w.
func NewProgress(w io.Writer) *Progress {
	width, redraw := Terminal(w)
	return &Progress{w: w, width: width, redraw: redraw}
}

// Show draws the state as of now. p is nil while there is none.
func (g *Progress) Show(now time.Time, m precopy.Migration, p *precopy.Progress) {
	g.advance(m, p)
	line := g.line(now, m, p)
	why := reason(m, p)
	if g.redraw {
		g.draw(line, why)
		return
	}
	if m.Phase == g.phase && why == g.why && now.Sub(g.last) < plainEvery {
		return
	}
	// A reason that changes with every sample (it holds numbers) would make a line each time.
	if m.Phase == g.phase && now.Sub(g.last) < time.Second {
		return
	}
	g.phase, g.why, g.last = m.Phase, why, now
	if why != "" {
		line += ": " + why
	}
	fmt.Fprintln(g.w, line)
}

// Close clears the bar from a terminal.
func (g *Progress) Close() {
	if g.redraw && g.drawn > 0 {
		fmt.Fprintf(g.w, "\x1b[%dA\r\x1b[J", g.drawn)
		g.drawn = 0
	}
}

// advance moves the share forward, never back: what is still to send grows whenever the guest
// dirties memory faster than it is sent.
func (g *Progress) advance(m precopy.Migration, p *precopy.Progress) {
	if m.Phase == precopy.Done {
		g.share = 1
		return
	}
	if p == nil || p.Processed <= 0 {
		return
	}
	rest := p.Remaining
	if p.ETA > 0 && p.Rate > 0 {
		rest = max(rest, hypervisor.Bytes(p.ETA.Seconds()*float64(p.Rate)))
	}
	rest = max(rest, 0)
	share := float64(p.Processed) / (float64(p.Processed) + float64(rest))
	g.share = max(g.share, min(share, 0.99))
}

func (g *Progress) line(now time.Time, m precopy.Migration, p *precopy.Progress) string {
	if p == nil || m.Phase.Final() {
		return fmt.Sprintf("%-9s %3d %%  %s", m.Phase, int(g.share*100), Span(now.Sub(m.Created)))
	}
	parts := []string{
		fmt.Sprintf("%-9s %3d %%", m.Phase, int(g.share*100)),
		Span(p.Elapsed), p.Processed.String(), p.Rate.String(),
	}
	if p.Round > 0 {
		parts = append(parts, fmt.Sprintf("round %d", p.Round))
	}
	if p.DirtyRate > 0 {
		parts = append(parts, "dirty "+p.DirtyRate.String())
	}
	if p.Throttle > 0 {
		parts = append(parts, fmt.Sprintf("throttled %d %%", p.Throttle))
	}
	switch {
	case p.ETA < 0:
		parts = append(parts, "no end in sight yet")
	case p.ETA > 0:
		parts = append(parts, "ETA "+Span(p.ETA))
	}
	return strings.Join(parts, "  ")
}

func reason(m precopy.Migration, p *precopy.Progress) string {
	switch {
	case m.Cancel != nil && !m.Phase.Final():
		return Clean("cancel requested by " + m.Cancel.By)
	case p != nil && p.Why != "" && !m.Phase.Final():
		return Clean(p.Why)
	}
	return Clean(m.Reason)
}

func (g *Progress) draw(line, why string) {
	const bar = 24
	filled := int(g.share * bar)
	text := "[" + strings.Repeat("#", filled) + strings.Repeat("-", bar-filled) + "] " + line
	g.Close()
	// One column less than there is: a full last column wraps on some terminals.
	fmt.Fprintln(g.w, Shorten(text, g.width-1))
	g.drawn = 1
	if why != "" {
		fmt.Fprintln(g.w, "  "+Shorten(why, g.width-3))
		g.drawn = 2
	}
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
