package kvm

import (
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// record is what one bulk call says about one domain.
type record struct {
	id        hypervisor.DomainID
	name      string
	state     hypervisor.DomainState
	active    bool
	migrating bool // in or out, as far as the state tells
	// answered is false when libvirt had to leave out what only QEMU knows.
	answered bool
	resident hypervisor.Bytes
	counters counters
	capacity map[string]hypervisor.Bytes
}

// counters are a domain's running totals. CPU time comes from the domain's control group, which
// counts QEMU's own threads too, or else from its vCPU threads; readings of one kind don't compare
// with the other's.
type counters struct {
	cpu         uint64 // nanoseconds
	grouped     bool
	rx, tx      uint64 // bytes, as the guest sees it
	read, write uint64
}

// cores is the CPU use since an earlier reading.
func (c counters) cores(before counters, period time.Duration) hypervisor.Cores {
	if c.grouped != before.grouped || c.cpu < before.cpu || period <= 0 {
		return 0
	}
	return hypervisor.Cores(float64(c.cpu-before.cpu) / float64(period))
}

// recordOf copies what drover uses out of libvirt's record; false when the domain has no UUID.
func recordOf(s *libvirt.DomainStats) (record, bool) {
	uuid, err := s.Domain.GetUUIDString()
	if err != nil {
		return record{}, false
	}
	r := record{id: hypervisor.DomainID(uuid), state: hypervisor.StateOther}
	r.name, _ = s.Domain.GetName()
	if s.State != nil && s.State.StateSet {
		var reason hypervisor.StateReason
		r.state, reason = stateOf(s.State.State, s.State.Reason)
		r.migrating = migratingState(r.state, reason)
	}
	r.active = r.state != hypervisor.StateShutoff
	if b := s.Balloon; b != nil && b.RssSet {
		r.answered = true
		r.resident = bytesIf(true, b.Rss) * hypervisor.KiB
	}
	r.counters = countersOf(s)
	for i := range s.Block {
		if b := &s.Block[i]; b.NameSet && b.CapacitySet {
			if r.capacity == nil {
				r.capacity = map[string]hypervisor.Bytes{}
			}
			r.capacity[b.Name] = bytesIf(true, b.Capacity)
		}
	}
	return r, true
}

// migratingState reports whether a state is one that only a migration puts a domain in.
func migratingState(state hypervisor.DomainState, reason hypervisor.StateReason) bool {
	switch reason {
	case hypervisor.ReasonMigration, hypervisor.ReasonPostcopy, hypervisor.ReasonPostcopyFailed:
		return state == hypervisor.StatePaused || state == hypervisor.StateRunning
	}
	return false
}

func countersOf(s *libvirt.DomainStats) counters {
	var c counters
	if s.Cpu != nil && s.Cpu.TimeSet {
		c.cpu, c.grouped = s.Cpu.Time, true
	} else {
		for i := range s.Vcpu {
			if v := &s.Vcpu[i]; v.TimeSet {
				c.cpu += v.Time
			}
		}
	}
	for i := range s.Net {
		// Counted at the tap device: what it sends, the guest receives; libvirt has turned it round.
		n := &s.Net[i]
		if n.RxBytesSet {
			c.rx += n.RxBytes
		}
		if n.TxBytesSet {
			c.tx += n.TxBytes
		}
	}
	for i := range s.Block {
		b := &s.Block[i]
		if b.RdBytesSet {
			c.read += b.RdBytes
		}
		if b.WrBytesSet {
			c.write += b.WrBytes
		}
	}
	return c
}
