package calendar

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on hosts without a zone database too

	"github.com/netresearch/go-cron"
)

// Spec is a calendar as people write it. The zero value allows every time.
type Spec struct {
	Windows   []Window `json:"windows,omitempty"`
	Blackouts []Window `json:"blackouts,omitempty"`
}

// Window is a span of time that comes again, by Cron, or once, by At. One of the two is set.
type Window struct {
	Name string `json:"name"`
	// Cron says when it begins: minute, hour, day of month, month, day of week.
	Cron string `json:"cron,omitempty"`
	// At is when it begins, on the wall: 2026-11-28T22:00.
	At string `json:"at,omitempty"`
	// Duration is how long it lasts, by a stopwatch: "4h", at least a minute.
	Duration string `json:"duration"`
	// Zone is where the wall is: "Europe/Berlin"; empty is UTC.
	Zone string `json:"zone,omitempty"`
}

// Fault is one thing that is wrong with a Spec.
type Fault struct {
	Path string // "windows[2].cron", counted from 1
	Text string
}

// Faults is everything that is wrong with a Spec, as an error of one line for each.
type Faults []Fault

// Error implements error.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.Path + ": " + one.Text
	}
	return strings.Join(lines, "\n")
}

func (f *Faults) add(path, format string, args ...any) {
	*f = append(*f, Fault{path, fmt.Sprintf(format, args...)})
}

const (
	// wallForm is how a time on the wall is written.
	wallForm = "2006-01-02T15:04"
	// maxDuration bounds a window; what is open for longer needs none.
	maxDuration = 366 * 24 * time.Hour
	// maxCron bounds an expression, in bytes: the longest that makes sense names every minute.
	maxCron = 400
	// searchYears is how far ahead and back a cron expression is looked for: 29 February may be away for
	// eight years.
	searchYears = 9
	// maxWindows bounds each list.
	maxWindows = 100
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

var parser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Extended).
	WithMaxSearchYears(searchYears)

// New checks the spec and makes a calendar of it. The error is of type [Faults] and names all fields that
// are wrong.
func New(s Spec) (*Calendar, error) {
	var f Faults
	c := &Calendar{}
	names := map[string]bool{}
	read := func(list string, from []Window, to *[]window) {
		if len(from) > maxWindows {
			f.add(list, "%d of them: want at most %d", len(from), maxWindows)
			return
		}
		for i, w := range from {
			at := fmt.Sprintf("%s[%d]", list, i+1)
			if names[w.Name] {
				f.add(at+".name", "there is another one called %q", w.Name)
			}
			names[w.Name] = true
			*to = append(*to, f.window(at, w))
		}
	}
	read("windows", s.Windows, &c.windows)
	read("blackouts", s.Blackouts, &c.blackouts)
	if len(f) > 0 {
		return nil, f
	}
	return c, nil
}

func (f *Faults) window(at string, w Window) window {
	out := window{name: w.Name, zone: time.UTC}
	if !nameForm.MatchString(w.Name) {
		f.add(at+".name", "%q: want a name of lower-case letters, digits, dots and dashes, at most 63", w.Name)
	}
	d, err := time.ParseDuration(w.Duration)
	if err != nil || d < time.Minute || d > maxDuration {
		f.add(at+".duration", "%q: want a time from 1m to %.0fh, such as 4h", w.Duration, maxDuration.Hours())
	}
	out.length = d
	if w.Zone != "" {
		if out.zone, err = time.LoadLocation(w.Zone); err != nil || w.Zone == "Local" {
			f.add(at+".zone", "%q is not known: want a name such as Europe/Berlin, or UTC", w.Zone)
			out.zone = time.UTC
		}
	}
	switch {
	case (w.Cron == "") == (w.At == ""):
		f.add(at, "want either cron or at")
	case w.Cron != "":
		if out.begins, err = parseCron(w.Cron); err != nil {
			f.add(at+".cron", "%q: %v", w.Cron, err)
		}
	default:
		wall, err := time.Parse(wallForm, w.At)
		if err != nil {
			f.add(at+".at", "%q: want a date and a time such as 2026-11-28T22:00", w.At)
		}
		out.begins = once(wall)
	}
	return out
}

// parseCron reads an expression of five fields that comes to pass at some time.
func parseCron(s string) (series, error) {
	fields := strings.Fields(s)
	switch {
	case len(s) > maxCron:
		return nil, fmt.Errorf("longer than %d characters", maxCron)
	case len(fields) != 5:
		return nil, fmt.Errorf("want five fields (minute, hour, day of month, month, day of week), these are %d", len(fields))
	case strings.Contains(s, "="):
		return nil, fmt.Errorf("the zone stands under zone")
	case restricts(fields[2]) && restricts(fields[4]):
		return nil, fmt.Errorf("it says both a day of month and a day of week: say SUN#1 for the first Sunday, or make two windows")
	}
	fields[4] = thursday.ReplaceAllString(fields[4], "4") // the parser takes its H for something else
	parsed, err := parser.Parse(strings.Join(fields, " "))
	if err != nil {
		return nil, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("want five fields")
	}
	spec.Location = time.UTC
	if spec.Next(epoch).IsZero() {
		return nil, fmt.Errorf("there is no such day")
	}
	return spec, nil
}

// epoch is a time from which every day that exists is less than searchYears away.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

var thursday = regexp.MustCompile(`(?i)\bthu`)

func restricts(field string) bool { return field != "*" && field != "?" }

// once is a series of one.
type once time.Time

func (o once) Next(t time.Time) time.Time {
	if at := time.Time(o); at.After(t) {
		return at
	}
	return time.Time{}
}

func (o once) Prev(t time.Time) time.Time {
	if at := time.Time(o); at.Before(t) {
		return at
	}
	return time.Time{}
}
