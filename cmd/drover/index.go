package main

import (
	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// index answers questions about every VM of a snapshot without going over all of it each time.
type index struct {
	unfinished []precopy.Stored
	moving     map[hypervisor.DomainID]precopy.Stored // the unfinished migration of a VM
	running    map[hypervisor.DomainID]bool           // VMs that run somewhere
	gone       []trace                                // VMs that no host reports now
}

func indexOf(s *fleet.Snapshot) index {
	x := index{
		unfinished: s.Unfinished(),
		moving:     map[hypervisor.DomainID]precopy.Stored{},
		running:    map[hypervisor.DomainID]bool{},
	}
	for _, m := range x.unfinished {
		x.moving[m.UUID] = m
	}
	for _, h := range s.Hosts {
		if h.Load == nil {
			continue
		}
		for _, d := range h.Load.Domains {
			if d.State == hypervisor.StateRunning {
				x.running[d.ID] = true
			}
		}
	}
	x.gone = traces(s, x)
	return x
}

// half reports whether the domain is on its host only as the unfinished half of a migration, or as what
// an aborted one left there for a moment: the VM itself is elsewhere.
func (x index) half(d fleet.Domain) bool {
	if m, ok := x.moving[d.Facts.ID]; ok {
		return m.Target == d.Host.Name && m.Phase.Started()
	}
	return d.Load.State != hypervisor.StateRunning && x.running[d.Facts.ID]
}
