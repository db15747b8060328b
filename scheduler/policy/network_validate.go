package policy

import (
	"encoding/json"
	"reflect"
	"strings"

	"drover/scheduler/calendar"
)

// MaxStreams is how many migrations may leave, or come to, one host at once.
const MaxStreams = 8

func (f *Faults) network(n Network) {
	const at = "network"
	f.networkLimits(at+".limits", n.Limits)
	f.reserve(at+".reserve", n.Reserve)
	switch n.Sharing {
	case "", SharingLive, SharingEqual, SharingNone:
	default:
		f.add(at+".sharing", "%q: want %s, or for comparisons %s or %s", n.Sharing, SharingLive, SharingEqual, SharingNone)
	}
	for i, h := range n.Hosts {
		here := entry(at+".hosts", i)
		if h.Name == "" && len(h.Labels) == 0 {
			f.add(here, "says nothing: give a name or labels; what holds for all are the limits")
		}
		f.pattern(here+".name", h.Name)
		f.labels(here+".labels", h.Labels)
		f.reserve(here+".reserve", h.Reserve)
	}
	names := map[string]bool{}
	for i, l := range n.Links {
		here := entry(at+".links", i)
		switch {
		case !className.MatchString(l.Name):
			f.add(here+".name", "%q: want a name of lower-case letters, digits, dots and dashes, at most 63", l.Name)
		case names[l.Name]:
			f.add(here+".name", "there is another link called %q", l.Name)
		}
		names[l.Name] = true
		if len(l.Labels) == 0 {
			f.add(here+".labels", "is missing: the labels of the hosts that share the link")
		}
		f.labels(here+".labels", l.Labels)
		if l.Capacity <= 0 {
			f.add(here+".capacity", "is missing: such as 40gbit")
		}
		f.reserve(here+".reserve", l.Reserve)
	}
	var spec calendar.Spec
	for i, w := range n.Windows {
		spec.Windows = append(spec.Windows, w.Window)
		here := entry(at+".windows", i)
		f.networkLimits(here+".limits", w.Limits)
		if w.Reserve != nil {
			f.reserve(here+".reserve", *w.Reserve)
		}
	}
	if _, err := calendar.New(spec); err != nil {
		for line := range strings.Lines(err.Error()) {
			where, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
			f.add(at+"."+where, "%s", text)
		}
	}
}

func (f *Faults) networkLimits(at string, l NetworkLimits) {
	for _, n := range []struct {
		field string
		value int
	}{{"streams_out", l.StreamsOut}, {"streams_in", l.StreamsIn}} {
		if n.value < 0 || n.value > MaxStreams {
			f.add(join(at, n.field), "%d: want 1 to %d", n.value, MaxStreams)
		}
	}
}

func (f *Faults) reserve(at string, a Amount) {
	if a.Share > 90 {
		f.add(at, "%s: want at most 90%%", a)
	}
}

// diffNetwork tells how the network's part of two documents differs, part by part.
func diffNetwork(a, b Network) []Change {
	var out []Change
	add := func(field string, old, now any) {
		if o, n := text(old), text(now); o != n {
			out = append(out, Change{What: "network", Field: field, Old: o, New: n})
		}
	}
	add("reserve", a.Reserve, b.Reserve)
	add("limits", a.Limits, b.Limits)
	add("hosts", a.Hosts, b.Hosts)
	add("links", a.Links, b.Links)
	add("windows", a.Windows, b.Windows)
	add("sharing", a.Sharing, b.Sharing)
	return out
}

// text is a value in one line of JSON; "" for one that says nothing.
func text(v any) string {
	if reflect.ValueOf(v).IsZero() {
		return ""
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
