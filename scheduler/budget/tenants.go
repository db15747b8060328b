package budget

import (
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

const (
	// fresh is how old a sample of the migration network may be to count.
	fresh = 5 * time.Second
	// linger is how many samples a tenant's traffic is remembered: it comes in bursts, and a share that grows
	// a few seconds late costs less than one that grows too early.
	linger = 3
	// settles is how long after the last stream a host's load may still speak of it.
	settles = 15 * time.Second
	// saturated is the part of a link from which its tenants may well want more than they get, and room
	// and more are what they are then left beyond what they have.
	saturated = 0.88
	room      = 1.1
	more      = 1.5
	// leastPart of a link is migrations', whatever tenants send: one that takes all it can get would else
	// keep every VM where it is. What the policy reserves counts above it.
	leastPart = 0.25
	// trifle is traffic that is nobody's business: keys, reports, ARP.
	trifle = unit
)

// Traffic is what a leader remembers of tenants' traffic between passes. Its zero value is that of a new
// leader, who knows it after one sample.
type Traffic struct {
	hosts map[string]*traffic
}

type traffic struct {
	at      time.Time // of the last sample, by the host's clock
	seen    time.Time
	in, out [linger]hypervisor.BytesPerSecond // what to leave to tenants, by the last samples
	next    int
	busy    time.Time // when a stream was last under way
}

// Look takes in what a snapshot tells.
func (t *Traffic) Look(s *fleet.Snapshot, now time.Time) {
	if t.hosts == nil {
		t.hosts = map[string]*traffic{}
	}
	busy := map[string]bool{}
	for _, m := range s.Migrations {
		if m.Phase.Holds() {
			busy[m.Source], busy[m.Target] = true, true
		}
	}
	for name, h := range s.Hosts {
		known := t.hosts[name]
		if known == nil {
			if !busy[name] && h.Link == nil && h.Load == nil {
				continue
			}
			known = &traffic{}
			if !busy[name] && h.Link == nil {
				known.busy = now.Add(-settles / 2) // this leader does not know what ended just before its time
			}
			t.hosts[name] = known
		}
		if busy[name] {
			known.busy = now
		}
		known.look(h, now)
	}
	for name := range t.hosts {
		if s.Hosts[name] == nil {
			delete(t.hosts, name)
		}
	}
}

func (t *traffic) look(h *fleet.Host, now time.Time) {
	capacity := h.Capacity().Bandwidth
	switch {
	case h.Link != nil && now.Sub(h.LinkSeen) < fresh && h.Link.Streams:
		if h.Link.At.Equal(t.at) {
			return
		}
		rx, tx := h.Link.Tenants()
		t.add(h.Link.At, now, leave(rx, h.Link.Rx, capacity), leave(tx, h.Link.Tx, capacity))
	case h.Load != nil && now.Sub(t.busy) > settles && !h.Load.At.Equal(t.at):
		// No stream has come or gone for a while: all of the traffic is tenants'.
		t.at, t.seen = h.Load.At, now
		for i := range linger {
			t.in[i], t.out[i] = leave(h.Load.Rx, h.Load.Rx, capacity), leave(h.Load.Tx, h.Load.Tx, capacity)
		}
	}
}

func (t *traffic) add(at, now time.Time, in, out hypervisor.BytesPerSecond) {
	t.at, t.seen = at, now
	t.in[t.next], t.out[t.next] = in, out
	t.next = (t.next + 1) % linger
}

// leave is what tenants are to be left who are seen to use so much of a link that carries so much.
func leave(tenants, all, capacity hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	switch {
	case tenants < trifle:
		return 0
	case capacity > 0 && float64(all) >= saturated*float64(capacity):
		return hypervisor.BytesPerSecond(more * float64(tenants))
	}
	return hypervisor.BytesPerSecond(room * float64(tenants))
}

// Host is what a host's tenants are to be left, in and out.
func (t *Traffic) Host(name string) (in, out hypervisor.BytesPerSecond) {
	h := t.hosts[name]
	if h == nil {
		return 0, 0
	}
	for i := range linger {
		in, out = max(in, h.in[i]), max(out, h.out[i])
	}
	return in, out
}
