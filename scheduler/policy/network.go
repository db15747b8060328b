package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/scheduler/calendar"
)

// Network is what migrations may take of the links. Zero values leave it to the links themselves.
type Network struct {
	// Reserve is kept for tenants on each host's link, in each direction.
	Reserve Amount        `json:"reserve,omitzero"`
	Limits  NetworkLimits `json:"limits,omitzero"`
	// Hosts have limits of their own; the first that matches counts.
	Hosts []HostLimits `json:"hosts,omitempty"`
	// Links are what several hosts share beyond their own.
	Links []SharedLink `json:"links,omitempty"`
	// Windows are times in which other values count; the first that is open does.
	Windows []NetworkWindow `json:"windows,omitempty"`
	// Sharing is how links are divided; empty is live.
	Sharing Sharing `json:"sharing,omitempty"`
}

// Sharing is how links are divided among migrations.
type Sharing string

// The values of Sharing. The last two are what other managers do, to compare with.
const (
	SharingLive  Sharing = "live"  // by need, and again each second
	SharingEqual Sharing = "equal" // fixed parts, for as many as may run at once
	SharingNone  Sharing = "none"  // nobody is limited
)

// NetworkLimits are bounds on bandwidth and numbers; zero fields do not bound, and streams default to 1 and 2.
type NetworkLimits struct {
	Migration  Rate `json:"migration,omitempty"` // one migration at most
	HostOut    Rate `json:"host_out,omitempty"`  // all that leave a host
	HostIn     Rate `json:"host_in,omitempty"`
	Fleet      Rate `json:"fleet,omitempty"` // all together
	StreamsOut int  `json:"streams_out,omitempty"`
	StreamsIn  int  `json:"streams_in,omitempty"`
}

// HostLimits are limits of the hosts that match.
type HostLimits struct {
	Name    string            `json:"name,omitempty"` // a pattern
	Labels  map[string]string `json:"labels,omitempty"`
	Out     Rate              `json:"out,omitempty"`
	In      Rate              `json:"in,omitempty"`
	Reserve Amount            `json:"reserve,omitzero"`
}

// SharedLink joins the hosts with the labels to the rest: a stream that crosses between takes of it.
type SharedLink struct {
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels"`
	Capacity Rate              `json:"capacity"` // in each direction
	Reserve  Amount            `json:"reserve,omitzero"`
}

// NetworkWindow is a time in which other limits count; what it does not say stays.
type NetworkWindow struct {
	calendar.Window
	Reserve *Amount       `json:"reserve,omitempty"`
	Limits  NetworkLimits `json:"limits,omitzero"`
}

// Rate is a bandwidth, written with its unit: "400mbit", "50MiB/s".
type Rate hypervisor.BytesPerSecond

// String is in bits, as networks are.
func (r Rate) String() string {
	bits := float64(r) * 8
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "gbit"}, {1e6, "mbit"}, {1e3, "kbit"}} {
		if bits >= u.size {
			return strings.TrimSuffix(fmt.Sprintf("%.6g", bits/u.size), ".") + u.name
		}
	}
	return fmt.Sprintf("%dB/s", int64(r))
}

// MarshalJSON implements json.Marshaler.
func (r Rate) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (r *Rate) UnmarshalJSON(raw []byte) error {
	s, err := word(raw)
	if err != nil {
		return err
	}
	n, err := hypervisor.ParseRate(s)
	if err != nil {
		return err
	}
	*r = Rate(n)
	return nil
}

// Amount is a share of a link, "10%", or a rate.
type Amount struct {
	Share Percent
	Rate  Rate
}

// Of is the amount of a link's capacity.
func (a Amount) Of(capacity hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	return min(max(hypervisor.BytesPerSecond(a.Rate), hypervisor.BytesPerSecond(a.Share.Fraction()*float64(capacity))), capacity)
}

// String is the form that it was written in.
func (a Amount) String() string {
	if a.Rate > 0 {
		return a.Rate.String()
	}
	return a.Share.String()
}

// MarshalJSON implements json.Marshaler.
func (a Amount) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (a *Amount) UnmarshalJSON(raw []byte) error {
	s, err := word(raw)
	if err != nil {
		return err
	}
	if strings.HasSuffix(s, "%") {
		*a = Amount{}
		a.Share, err = ParsePercent(s)
		return err
	}
	n, err := hypervisor.ParseRate(s)
	if err != nil {
		return fmt.Errorf("%q: want a share such as 10%%, or a rate such as 400mbit", s)
	}
	*a = Amount{Rate: Rate(n)}
	return nil
}

// At is what counts at a moment: the values of the first window that is open, over the rest. Its name is
// empty while none is.
func (n Network) At(t time.Time) (now Network, window string) {
	for _, w := range n.Windows {
		c, err := calendar.New(calendar.Spec{Windows: []calendar.Window{w.Window}})
		if err != nil || !c.At(t).Allowed {
			continue
		}
		if w.Reserve != nil {
			n.Reserve = *w.Reserve
		}
		n.Limits = w.Limits.over(n.Limits)
		return n, w.Name
	}
	return n, ""
}

// over puts limits on top of others.
func (l NetworkLimits) over(under NetworkLimits) NetworkLimits {
	pick := func(a, b Rate) Rate {
		if a > 0 {
			return a
		}
		return b
	}
	out := NetworkLimits{
		Migration: pick(l.Migration, under.Migration), HostOut: pick(l.HostOut, under.HostOut),
		HostIn: pick(l.HostIn, under.HostIn), Fleet: pick(l.Fleet, under.Fleet),
		StreamsOut: under.StreamsOut, StreamsIn: under.StreamsIn,
	}
	if l.StreamsOut > 0 {
		out.StreamsOut = l.StreamsOut
	}
	if l.StreamsIn > 0 {
		out.StreamsIn = l.StreamsIn
	}
	return out
}

// Host is what the policy says of one host: the most that may leave and come, and what is reserved.
func (n Network) Host(name string, labels map[string]string) (out, in Rate, reserve Amount) {
	out, in, reserve = n.Limits.HostOut, n.Limits.HostIn, n.Reserve
	for _, h := range n.Hosts {
		ok, err := Match{Name: h.Name, Labels: h.Labels}.holds(name, "", labels)
		if err != nil || !ok {
			continue
		}
		if h.Out > 0 {
			out = h.Out
		}
		if h.In > 0 {
			in = h.In
		}
		if h.Reserve != (Amount{}) {
			reserve = h.Reserve
		}
		break
	}
	return out, in, reserve
}

// Holds reports whether a host with the labels is on the near side of the link.
func (l SharedLink) Holds(labels map[string]string) bool { return hasAll(labels, l.Labels) }
