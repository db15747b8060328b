package kvm

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

const (
	// loadLimit bounds each of two tries of the bulk call, so that a report is late rather than
	// missing.
	loadLimit = 2 * time.Second
	// leastPeriod is the shortest time that rates are computed over; a sample that comes sooner
	// repeats the last rates.
	leastPeriod = 200 * time.Millisecond
	// silentTimes is how many samples in a row a domain may be busy before something is wrong with it.
	silentTimes = 3
)

// sampler turns libvirt's and the kernel's counters into rates. One sample is taken at a time.
type sampler struct {
	proc procfs

	turn sync.Mutex // held for a whole sample

	mu      sync.Mutex
	at      time.Time
	host    hostCounters
	rates   hostRates
	loads   []hypervisor.DomainLoad // of the last sample that libvirt answered
	domains map[hypervisor.DomainID]*domainSample
}

// hostCounters are the host's running totals.
type hostCounters struct {
	cpu    jiffies
	rx, tx uint64
	nic    string
}

// hostRates are the last figures computed from two sets of counters.
type hostRates struct {
	busy   float64 // share of all CPUs, 0 to 1
	rx, tx hypervisor.BytesPerSecond
}

// domainSample is the last that was seen of one domain.
type domainSample struct {
	at       time.Time
	counters counters
	load     hypervisor.DomainLoad
	capacity map[string]hypervisor.Bytes // by disk target
	silent   int                         // samples in a row for which QEMU gave nothing
}

func newSampler(proc procfs) *sampler {
	return &sampler{proc: proc, domains: map[hypervisor.DomainID]*domainSample{}}
}

// sized fills in disk sizes from the last sample, where the facts have none.
func (s *sampler) sized(id hypervisor.DomainID, disks []hypervisor.Disk) []hypervisor.Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[id]
	if d == nil || len(d.capacity) == 0 {
		return disks
	}
	disks = slices.Clone(disks)
	for i := range disks {
		if disks[i].Size == 0 {
			disks[i].Size = d.capacity[disks[i].Target]
		}
	}
	return disks
}

// Load samples the host and all its domains with one bulk call; rates are over the time since the
// last call, zero at the first. A domain whose QEMU hangs keeps its last figures and has a Problem of
// its own; one that migrates is asked in vain too and has none. When libvirt does not answer, the host's own figures and the domains' last ones
// are returned with the error.
func (h *Host) Load(ctx context.Context) (hypervisor.HostLoad, error) {
	s := h.load
	s.turn.Lock()
	defer s.turn.Unlock()
	records, err := h.bulk(ctx)
	if hypervisor.IsClass(err, hypervisor.ClassUnknownOutcome) && ctx.Err() == nil {
		// A QEMU that hangs holds the first call that meets it, and is passed by from then on: its
		// lock is held by that call.
		records, err = h.bulk(ctx)
	}
	load := hypervisor.HostLoad{At: time.Now(), Pressure: s.proc.pressure()}
	if err == nil {
		var silent map[hypervisor.DomainID]bool
		load.Domains, silent = s.sampleDomains(records, load.At, h)
		h.dirty.offer(load.Domains, silent, h.outgoing)
	} else {
		load.Domains, load.Problem = s.lastLoads(), err.Error()
	}
	herr := s.sampleHost(&load, h)
	if err == nil && herr != nil {
		load.Problem = herr.Error()
	}
	return load, err
}

// lastLoads is what was last known of the domains: better than to make them seem gone.
func (s *sampler) lastLoads() []hypervisor.DomainLoad {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.loads)
}

// bulk makes the one call. NOWAIT makes libvirt leave out what a busy domain can't tell at once. (The
// binding adds a call per domain for its number of vCPUs, which libvirt answers from memory.)
func (h *Host) bulk(ctx context.Context) ([]record, error) {
	r := request{op: "load", limit: loadLimit, slots: h.viewSlots}
	return onLink(ctx, h, h.view, r, func(lv *libvirt.Connect) ([]record, error) {
		const what = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_CPU_TOTAL | libvirt.DOMAIN_STATS_BALLOON |
			libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_INTERFACE | libvirt.DOMAIN_STATS_BLOCK
		stats, err := lv.GetAllDomainStats(nil, what, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
		if err != nil {
			return nil, err
		}
		records := make([]record, 0, len(stats))
		for i := range stats {
			if r, ok := recordOf(&stats[i]); ok {
				records = append(records, r)
			}
			_ = stats[i].Domain.Free()
		}
		return records, nil
	})
}

// sampleDomains turns the records into loads and keeps them for the next rates. The domains whose
// QEMU gave nothing this time are silent.
func (s *sampler) sampleDomains(records []record, now time.Time, h *Host) (loads []hypervisor.DomainLoad, silent map[hypervisor.DomainID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	silent = map[hypervisor.DomainID]bool{}
	next := make(map[hypervisor.DomainID]*domainSample, len(records))
	loads = make([]hypervisor.DomainLoad, 0, len(records))
	for _, r := range records {
		r.migrating = r.migrating || h.outgoing.leaving(r.id)
		d := sample(s.domains[r.id], r, now)
		next[r.id] = d
		load := d.load
		load.Migrating = r.migrating
		if d.silent > 0 {
			silent[r.id] = true
		}
		if d.silent >= silentTimes {
			load.Problem = "it does not answer libvirt's questions; its figures are old"
		}
		load.Dirty, load.DirtyLong = h.dirty.latest(r.id)
		loads = append(loads, load)
	}
	s.domains = next
	slices.SortFunc(loads, func(a, b hypervisor.DomainLoad) int { return cmp.Compare(a.ID, b.ID) })
	s.loads = slices.Clone(loads)
	return loads, silent
}

// sample computes one domain's load from its last sample and a new record.
func sample(last *domainSample, r record, now time.Time) *domainSample {
	d := &domainSample{
		at: now, counters: r.counters, capacity: r.capacity,
		load: hypervisor.DomainLoad{ID: r.id, State: r.state},
	}
	if !r.active {
		return d
	}
	if last == nil {
		last = &domainSample{}
	}
	if !r.answered {
		// What QEMU has to be asked is missing: keep it as it was.
		if !r.migrating {
			// Libvirt lets nobody ask one that migrates.
			d.silent = last.silent + 1
		}
		d.load.Memory, d.capacity = last.load.Memory, last.capacity
		d.counters.read, d.counters.write = last.counters.read, last.counters.write
	} else {
		d.load.Memory = r.resident
	}
	period := now.Sub(last.at)
	if last.at.IsZero() {
		return d
	}
	if period < leastPeriod {
		kept := *last
		kept.load.State, kept.load.Memory, kept.silent = d.load.State, d.load.Memory, d.silent
		return &kept
	}
	d.load.CPU = d.counters.cores(last.counters, period)
	d.load.Rx = perSecond(last.counters.rx, d.counters.rx, period)
	d.load.Tx = perSecond(last.counters.tx, d.counters.tx, period)
	d.load.Read = perSecond(last.counters.read, d.counters.read, period)
	d.load.Write = perSecond(last.counters.write, d.counters.write, period)
	return d
}

// perSecond is the rate between two readings of a counter; zero when it went back, as it does when a
// domain starts anew or a device is replaced.
func perSecond(before, after uint64, period time.Duration) hypervisor.BytesPerSecond {
	if after < before {
		return 0
	}
	return hypervisor.Rate(hypervisor.Bytes(after-before), period)
}

// sampleHost fills in the host's own figures from the kernel, or from its domains.
func (s *sampler) sampleHost(load *hypervisor.HostLoad, h *Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := hostCounters{nic: h.migrationInterface()}
	var errs []error
	if now.nic != "" {
		var err error
		now.rx, now.tx, err = s.proc.traffic(now.nic)
		errs = append(errs, err)
	}
	cpu, err := s.proc.cpu()
	now.cpu, errs = cpu, append(errs, err)
	s.advance(now, load.At)
	load.Rx, load.Tx = s.rates.rx, s.rates.tx
	if h.cfg.LoadSource == LoadDomains {
		for _, d := range load.Domains {
			load.CPU += d.CPU
			load.Memory += d.Memory
		}
		// The pressure is that of all hosts that share the kernel.
		load.Pressure = hypervisor.Pressure{}
		return errors.Join(errs...)
	}
	load.CPU = hypervisor.Cores(s.rates.busy * float64(h.cores()))
	total, available, err := s.proc.memory()
	load.Memory = total - available
	return errors.Join(append(errs, err)...)
}

// advance computes the host's rates, unless too little time has passed for them to mean anything.
func (s *sampler) advance(now hostCounters, at time.Time) {
	period := at.Sub(s.at)
	if !s.at.IsZero() && period < leastPeriod {
		return
	}
	s.rates = hostRates{}
	if !s.at.IsZero() {
		if total := now.cpu.total - s.host.cpu.total; now.cpu.total > s.host.cpu.total && now.cpu.busy >= s.host.cpu.busy {
			s.rates.busy = min(1, float64(now.cpu.busy-s.host.cpu.busy)/float64(total))
		}
		if now.nic == s.host.nic {
			s.rates.rx = perSecond(s.host.rx, now.rx, period)
			s.rates.tx = perSecond(s.host.tx, now.tx, period)
		}
	}
	s.at, s.host = at, now
}

// cores is how many CPUs the kernel's share is of: the machine's, whatever the capacity says.
func (h *Host) cores() int {
	if n, err := h.load.proc.cpus(); err == nil && n > 0 {
		return n
	}
	return 1
}
