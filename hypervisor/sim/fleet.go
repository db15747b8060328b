package sim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"drover/hypervisor"
)

// Config is what the hosts of a fleet have in common. Zero fields take the defaults.
type Config struct {
	// CallTime is how long a call to libvirt takes (1 ms).
	CallTime time.Duration
	// Connect is how long the migrate call works before its job is visible (30 ms): until then an
	// abort finds no job.
	Connect time.Duration
	// Setup is how long the job prepares before the first page goes (20 ms).
	Setup time.Duration
	// Overhead is the part of the pause that is not memory: devices, locks, two libvirtds (25 ms).
	Overhead time.Duration
	// Notice is how long the source takes to see that the target is gone (5 s).
	Notice time.Duration
	// Seed makes the guests' writes repeatable.
	Seed uint64
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.CallTime, time.Millisecond},
		{&c.Connect, 30 * time.Millisecond},
		{&c.Setup, 20 * time.Millisecond},
		{&c.Overhead, 25 * time.Millisecond},
		{&c.Notice, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return c
}

// HostConfig is one host.
type HostConfig struct {
	Name     string
	Cores    hypervisor.Cores
	Memory   hypervisor.Bytes
	Reserved hypervisor.Bytes
	// Link is what the migration network carries in each direction; all streams share it fairly.
	Link hypervisor.BytesPerSecond
}

// DomainConfig is one guest.
type DomainConfig struct {
	ID     hypervisor.DomainID
	Name   string
	VCPUs  int
	Memory hypervisor.Bytes
	// Used is how much of Memory was ever written; the rest is zero pages. 0 is all of it.
	Used    hypervisor.Bytes
	CPU     hypervisor.Cores // what it burns
	Pattern Pattern
	// Compression is the factor by which a page shrinks under zstd; 0 is 1, not at all.
	Compression float64
	Transient   bool // no definition on disk: gone once it stops
	Autostart   bool
	// Paused starts the guest in the state that its owner's suspend leaves.
	Paused bool
}

// Fleet is a set of hosts and the guests on them.
type Fleet struct {
	cfg Config

	mu     sync.Mutex
	hosts  map[string]*Host
	guests map[hypervisor.DomainID]*guest
	faults []Fault
	timers []*time.Timer
	wrongs []string
	closed bool

	stop chan struct{}
	wg   sync.WaitGroup
}

// New returns an empty fleet.
func New(cfg Config) *Fleet {
	return &Fleet{
		cfg:   cfg.withDefaults(),
		hosts: map[string]*Host{}, guests: map[hypervisor.DomainID]*guest{},
		stop: make(chan struct{}),
	}
}

// Close stops all migrations where they stand and waits for the fleet's goroutines.
func (f *Fleet) Close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.stop)
	}
	for _, t := range f.timers {
		t.Stop()
	}
	f.timers = nil
	f.mu.Unlock()
	f.wg.Wait()
}

// AddHost adds a host; its name must be new.
func (f *Fleet) AddHost(c HostConfig) (*Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Name == "" || f.hosts[c.Name] != nil {
		return nil, fmt.Errorf("add host: name %q is empty or taken", c.Name)
	}
	if c.Link <= 0 || c.Memory <= 0 {
		return nil, fmt.Errorf("add host %s: link and memory must be positive", c.Name)
	}
	h := &Host{f: f, cfg: c, copies: map[hypervisor.DomainID]*instance{}, hung: map[hypervisor.DomainID]chan struct{}{}, cut: make(chan struct{})}
	f.hosts[c.Name] = h
	return h, nil
}

// AddDomain adds a guest that runs on the host.
func (f *Fleet) AddDomain(host string, c DomainConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[host]
	switch {
	case h == nil:
		return fmt.Errorf("add domain %s: no host %q", c.ID, host)
	case c.ID == "" || f.guests[c.ID] != nil:
		return fmt.Errorf("add domain: ID %q is empty or taken", c.ID)
	case c.Memory < pageSize:
		return fmt.Errorf("add domain %s: memory of %d bytes", c.ID, c.Memory)
	case c.Transient && c.Autostart:
		return fmt.Errorf("add domain %s: a transient domain has no autostart", c.ID)
	}
	if err := c.Pattern.check(c); err != nil {
		return fmt.Errorf("add domain %s: %w", c.ID, err)
	}
	g := &guest{DomainConfig: c}
	f.guests[c.ID] = g
	in := &instance{guest: g, state: hypervisor.StateRunning, job: hypervisor.JobNone, persistent: !c.Transient, autostart: c.Autostart}
	if c.Paused {
		in.state, in.reason = hypervisor.StatePaused, hypervisor.ReasonUser
	}
	h.copies[c.ID] = in
	return nil
}

// Host returns the host of that name, nil if there is none.
func (f *Fleet) Host(name string) *Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts[name]
}

// RunningOn returns the hosts on which the guest's vCPUs run now, in order of name: one, if all is
// well; two when it is doubled.
func (f *Fleet) RunningOn(id hypervisor.DomainID) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running(id)
}

func (f *Fleet) running(id hypervisor.DomainID) []string {
	var on []string
	for name, h := range f.hosts {
		if in := h.copies[id]; in != nil && in.state == hypervisor.StateRunning {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	return on
}

// known reports whether any host has the domain.
func (f *Fleet) known(id hypervisor.DomainID) bool {
	for _, h := range f.hosts {
		if h.copies[id] != nil {
			return true
		}
	}
	return false
}

// Wrongs returns what was done to guests that no caller may do, in order, such as resuming one that
// runs elsewhere.
func (f *Fleet) Wrongs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.wrongs)
}

// Destroy ends a guest's process on a host, as a person would by hand. None is no error.
func (f *Fleet) Destroy(host string, id hypervisor.DomainID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.hosts[host]; h != nil {
		h.kill(id, hypervisor.ReasonDestroyed)
	}
}

// Hang makes every call about the domain on that host block for d, as [MonitorHang] does, migration or
// not.
func (f *Fleet) Hang(host string, id hypervisor.DomainID, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.hosts[host]; h != nil {
		h.hang(id, d)
	}
}

// SetPattern changes what a guest does from now on, in the middle of a migration too.
func (f *Fleet) SetPattern(id hypervisor.DomainID, p Pattern) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.guests[id]
	if g == nil {
		return fmt.Errorf("set pattern: no domain %s", id)
	}
	if err := p.check(g.DomainConfig); err != nil {
		return fmt.Errorf("set pattern of %s: %w", id, err)
	}
	g.Pattern = p
	if g.job != nil && g.job.mem != nil {
		g.job.mem.follow(g.DomainConfig)
	}
	return nil
}

// guest is what is the same on whichever host it runs.
type guest struct {
	DomainConfig
	job *job // its migration, if one is under way
}

// hostByURI finds a host by the URI that its facts give.
func (f *Fleet) hostByURI(uri string) *Host {
	for _, h := range f.hosts {
		if h.PeerURI() == uri {
			return h
		}
	}
	return nil
}

// later calls fn under the fleet's lock after d, unless the fleet was closed before; f.mu is held.
func (f *Fleet) later(d time.Duration, fn func()) {
	f.timers = append(f.timers, time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.closed {
			fn()
		}
	}))
}
