package sim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/test/sim/flow"
	"drover/test/sim/guest"
	"drover/test/sim/load"
)

// HostConfig is one host.
type HostConfig struct {
	Name     string
	Cores    hypervisor.Cores
	Memory   hypervisor.Bytes
	Reserved hypervisor.Bytes
	// VCPUs is how many its guests may have together; 0 is no limit.
	VCPUs int
	// Link is what the migration network carries, each way.
	Link hypervisor.BytesPerSecond
	Rack string
}

// GuestConfig is one guest.
type GuestConfig struct {
	Name   string
	VCPUs  int
	Memory guest.Memory
	Load   load.Series // nil is none
	// Facts changes what is told of the guest; nil changes nothing.
	Facts func(*hypervisor.DomainFacts)
}

// Host is a host and its agent. Its fields are for reading.
type Host struct {
	HostConfig
	w *World

	on      bool // it has power
	agent   bool // its agent runs
	cut     bool // the network to the store is gone
	guests  map[hypervisor.DomainID]*Guest
	ordered []*Guest // by name; nil when guests have changed since
	out, in flow.Link
	tenants [2]hypervisor.BytesPerSecond // out and in

	record   fleet.HostRecord
	revision int64
	session  *fleet.Session
	lapse    *Event // the end of the session's lease
	facts    *hypervisor.HostFacts
	load     *hypervisor.HostLoad
	factsRev int64
	loadRev  int64
	loadAsOf int64
	known    string // what of the guests the facts say
	report   *Event
	drives   map[string]*Running // outgoing
	waiting  []string            // orders beyond what an agent does at once
	spool    []func()            // what is to be told to the store when it is there again
	// committed is the memory of the guests that run there and of those on their way there.
	committed hypervisor.Bytes
}

// Guest is a guest. Its fields are for reading.
type Guest struct {
	GuestConfig
	ID hypervisor.DomainID
	// Host is where its vCPUs run, nil when it died with its host.
	Host  *Host
	facts hypervisor.DomainFacts
	move  *Running
	dirty [2]hypervisor.BytesPerSecond // over the windows that are sampled
}

// AddHost adds a host with a living agent.
func (w *World) AddHost(c HostConfig) (*Host, error) {
	if c.Name == "" || w.hosts[c.Name] != nil {
		return nil, fmt.Errorf("add host: name %q is empty or taken", c.Name)
	}
	if c.Cores <= 0 || c.Memory <= c.Reserved || c.Link <= 0 {
		return nil, fmt.Errorf("add host %s: cores, link, and memory above what is reserved must be positive", c.Name)
	}
	h := &Host{
		HostConfig: c, w: w, on: true, guests: map[hypervisor.DomainID]*Guest{}, drives: map[string]*Running{},
		out: w.net.AddLink(float64(c.Link)), in: w.net.AddLink(float64(c.Link)),
		record: fleet.HostRecord{Schema: 1, Name: c.Name, LibvirtUUID: "sim-" + c.Name},
	}
	if c.Rack != "" {
		h.record.Labels = map[string]string{"rack": c.Rack}
	}
	h.revision = w.store.rev
	w.hosts[c.Name] = h
	at, _ := slices.BinarySearch(w.names, c.Name)
	w.names = slices.Insert(w.names, at, c.Name)
	// Agents were started at different times.
	shift := time.Duration(len(w.names)) * w.Timing.Report / 101 % w.Timing.Report
	w.After(0, func() {
		h.startAgent()
		h.report.Stop()
		h.report = w.After(shift, h.publish)
	})
	return h, nil
}

// AddGuest starts a guest on a host. Nothing forbids more memory than the host has: that is for callers.
func (w *World) AddGuest(host string, c GuestConfig) (*Guest, error) {
	h := w.hosts[host]
	if h == nil || c.Name == "" || c.VCPUs <= 0 {
		return nil, fmt.Errorf("add guest %q: on host %q with %d vCPUs", c.Name, host, c.VCPUs)
	}
	if err := c.Memory.Check(); err != nil {
		return nil, fmt.Errorf("add guest %s: %w", c.Name, err)
	}
	g := &Guest{GuestConfig: c, Host: h}
	g.ID = hypervisor.DomainID(fmt.Sprintf("%08x-0000-4000-8000-%012x", w.Seed&0xffffffff, len(w.guests)+1))
	g.facts = hypervisor.DomainFacts{
		ID: g.ID, Name: c.Name, VCPUs: c.VCPUs, Memory: c.Memory.Total, VirtType: "kvm", Arch: "x86_64", Machine: "q35", Persistent: true,
	}
	if c.Facts != nil {
		c.Facts(&g.facts)
	}
	for i, window := range windows {
		g.dirty[i] = hypervisor.Rate(c.Memory.Dirtied(window), window)
	}
	w.guests = append(w.guests, g)
	w.byID[g.ID] = g
	h.guests[g.ID], h.ordered = g, nil
	h.committed += c.Memory.Total
	if h.session != nil {
		w.After(time.Second, h.publish)
	}
	return g, nil
}

// Hosts are all hosts, in order of name; Guests all guests, as they were added.
func (w *World) Hosts() []*Host {
	out := make([]*Host, len(w.names))
	for i, n := range w.names {
		out[i] = w.hosts[n]
	}
	return out
}

// Guests are all guests, as they were added.
func (w *World) Guests() []*Guest { return w.guests }

// Host is the host of that name, nil if there is none.
func (w *World) Host(name string) *Host { return w.hosts[name] }

// Guest is the guest of that name, nil if there is none.
func (w *World) Guest(name string) *Guest {
	i := slices.IndexFunc(w.guests, func(g *Guest) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return w.guests[i]
}

// Guests are those whose vCPUs run on the host, in order of name.
// The list is not to be written to.
func (h *Host) Guests() []*Guest {
	if h.ordered == nil {
		h.ordered = slices.SortedFunc(maps.Values(h.guests), func(a, b *Guest) int { return cmp.Compare(a.Name, b.Name) })
	}
	return h.ordered
}

// Up reports whether the host has power.
func (h *Host) Up() bool { return h.on }

// Cordoned reports whether anybody holds the host closed.
func (h *Host) Cordoned() bool { return len(h.record.Cordons) > 0 }

// Committed is the memory of the guests that run there, and of those on their way there.
func (h *Host) Committed() hypervisor.Bytes { return h.committed }

// incoming keeps memory free for a guest on its way.
func (h *Host) incoming(g *Guest) {
	h.committed += g.Memory.Total
	h.w.judge.changed(h.w)
}

// gone gives back the memory of a guest that has left, or does not come.
func (h *Host) gone(g *Guest) { h.committed -= g.Memory.Total }

// relocate lets a guest run on another host, where its memory is kept free already.
func (w *World) relocate(g *Guest, to *Host) {
	from := g.Host
	delete(from.guests, g.ID)
	from.gone(g)
	g.Host = to
	to.guests[g.ID] = g
	from.ordered, to.ordered = nil, nil
	w.judge.moved(w, g, from)
}

// Asked is the CPU that the guest asks for now.
func (g *Guest) Asked(now time.Duration) hypervisor.Cores {
	if g.Load == nil {
		return 0
	}
	return hypervisor.Cores(g.Load.At(now) * float64(g.VCPUs))
}

// Asked is the CPU that all guests of the host ask for now; it may be more than it has.
func (h *Host) Asked(now time.Duration) hypervisor.Cores {
	// In order, as sums of floating point depend on it.
	sum := hypervisor.Cores(0)
	for _, g := range h.Guests() {
		sum += g.Asked(now)
	}
	return sum
}

// Tenants is what others than migrations take of the host's migration network from now on.
func (w *World) Tenants(host string, out, in hypervisor.BytesPerSecond) error {
	h := w.hosts[host]
	if h == nil {
		return errors.New("no host is called " + host)
	}
	h.tenants = [2]hypervisor.BytesPerSecond{out, in}
	// What is left for migrations; a stream is never starved altogether.
	w.net.SetCapacity(h.out, float64(max(h.Link-out, h.Link/50)))
	w.net.SetCapacity(h.in, float64(max(h.Link-in, h.Link/50)))
	w.reshare()
	return nil
}

// path is the links between two hosts.
func (w *World) path(from, to *Host) []flow.Link {
	path := []flow.Link{from.out}
	if from.Rack != to.Rack {
		if l, ok := w.uplinks[from.Rack]; ok {
			path = append(path, l[0])
		}
		if l, ok := w.uplinks[to.Rack]; ok {
			path = append(path, l[1])
		}
	}
	return append(path, to.in)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
