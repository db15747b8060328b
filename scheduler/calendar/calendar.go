package calendar

import (
	"fmt"
	"time"
)

// Calendar answers when automatic moves are allowed. It never changes.
type Calendar struct {
	windows, blackouts []window
}

// Occurrence is one span of a window, from Start to before End.
type Occurrence struct {
	// ID is "nightly@2026-03-08T01:30": the window, and what the clock shows in its zone.
	ID     string    `json:"id"`
	Window string    `json:"window"`
	Start  time.Time `json:"start"`
	End    time.Time `json:"end"`
}

// Verdict is whether automatic moves are allowed at a time, and why.
type Verdict struct {
	Allowed bool
	// Occurrence is the window that is open, or the blackout that forbids; the zero value when there are
	// no windows, or none is open.
	Occurrence Occurrence
	Reason     string
	// Until is when the verdict ends, as far as it is known: at the end of the window or blackout, or when
	// another one begins. Zero when it holds for ever.
	Until time.Time
}

// At says whether automatic moves are allowed at t.
func (c *Calendar) At(t time.Time) Verdict {
	if o, ok := open(c.blackouts, t); ok {
		return Verdict{Occurrence: o, Until: o.End, Reason: "blackout " + o.Window + " until " + stamp(o.End)}
	}
	var until time.Time
	if next, ok := first(c.blackouts, t); ok {
		until = next.Start
	}
	if len(c.windows) == 0 {
		return Verdict{Allowed: true, Until: until, Reason: "there are no windows: every time is allowed"}
	}
	if o, ok := open(c.windows, t); ok {
		return Verdict{
			Allowed: true, Occurrence: o, Until: earlier(until, o.End),
			Reason: "window " + o.Window + " until " + stamp(o.End),
		}
	}
	next, ok := first(c.windows, t)
	if !ok {
		return Verdict{Reason: "no window is open, and none comes"}
	}
	return Verdict{Until: next.Start, Reason: fmt.Sprintf("no window is open: %s is the next, at %s", next.Window, stamp(next.Start))}
}

// Next is the first occurrence of a window that begins after t; false when there is none. It may be
// blacked out in part or in whole.
func (c *Calendar) Next(t time.Time) (Occurrence, bool) { return first(c.windows, t) }

// maxSteps bounds how many windows and blackouts [Calendar.Opens] looks through.
const maxSteps = 10000

// Opens is the first time from t on at which automatic moves are allowed; false when there is none, or
// none among the next few thousand windows and blackouts.
func (c *Calendar) Opens(t time.Time) (time.Time, bool) {
	for range maxSteps {
		v := c.At(t)
		if v.Allowed {
			return t, true
		}
		if v.Until.IsZero() {
			break
		}
		t = v.Until
	}
	return time.Time{}, false
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// open is the occurrence that is open at t, of several the one that ends last.
func open(windows []window, t time.Time) (out Occurrence, ok bool) {
	for _, w := range windows {
		if o, in := w.last(t); in && t.Before(o.End) && (!ok || o.End.After(out.End)) {
			out, ok = o, true
		}
	}
	return out, ok
}

// first is the occurrence that begins first after t.
func first(windows []window, t time.Time) (out Occurrence, ok bool) {
	for _, w := range windows {
		if o, in := w.next(t); in && (!ok || o.Start.Before(out.Start)) {
			out, ok = o, true
		}
	}
	return out, ok
}

// series is a rising sequence of times on the wall, in whole minutes. Zero is none.
type series interface {
	Next(time.Time) time.Time // the first after
	Prev(time.Time) time.Time // the last before
}

type window struct {
	name   string
	begins series
	length time.Duration
	zone   *time.Location
}

// next is the first occurrence that begins after t.
//
// A time on the wall that is not after the clock's at t never begins after t (instantOf does not fall), so
// the search begins there. It goes on past times of an hour that comes twice, whose first pass is over.
func (w window) next(t time.Time) (Occurrence, bool) {
	wall := w.begins.Next(wallOf(t, w.zone))
	for !wall.IsZero() && !instantOf(wall, w.zone).After(t) {
		wall = w.begins.Next(wall)
	}
	return w.occurrence(wall)
}

// last is the last occurrence that has begun by t.
func (w window) last(t time.Time) (Occurrence, bool) {
	wall := w.begins.Prev(wallOf(t, w.zone).Add(time.Second))
	later := wallOf(t, w.zone)
	for {
		later = w.begins.Next(later)
		if later.IsZero() || instantOf(later, w.zone).After(t) {
			break
		}
		wall = later
	}
	return w.occurrence(wall)
}

// occurrence is the one that begins at the time on the wall. Of several that begin at one instant, as
// those in a gap do, the first stands for all.
func (w window) occurrence(wall time.Time) (Occurrence, bool) {
	if wall.IsZero() {
		return Occurrence{}, false
	}
	start := instantOf(wall, w.zone)
	for p := w.begins.Prev(wall); !p.IsZero() && instantOf(p, w.zone).Equal(start); p = w.begins.Prev(p) {
		wall = p
	}
	end := start.Add(w.length)
	for n := w.begins.Next(wall); !n.IsZero(); n = w.begins.Next(n) {
		if at := instantOf(n, w.zone); at.After(start) {
			end = earlier(end, at)
			break
		}
	}
	return Occurrence{ID: w.name + "@" + wall.Format(wallForm), Window: w.name, Start: start, End: end}, true
}
