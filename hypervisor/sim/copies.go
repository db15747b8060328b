package sim

import (
	"time"

	"drover/hypervisor"
)

// instance is what one host's libvirt holds of a guest: a definition, a process, or both.
type instance struct {
	guest      *guest
	state      hypervisor.DomainState
	reason     hypervisor.StateReason
	job        hypervisor.JobKind
	persistent bool
	autostart  bool
	slowed     float64 // share of vCPU time taken away
	// completed are the statistics of the last migration that succeeded here.
	completed *hypervisor.JobStats
}

func (in *instance) active() bool {
	return in.state != hypervisor.StateShutoff
}

// to moves the instance into a state.
func (in *instance) to(s hypervisor.DomainState, r hypervisor.StateReason) {
	in.state, in.reason = s, r
}

// kill ends the process, if there is one; a transient domain is gone with it. f.mu is held, here and
// in all that follows.
func (h *Host) kill(id hypervisor.DomainID, why hypervisor.StateReason) {
	in := h.copies[id]
	if in == nil || !in.active() {
		return
	}
	in.job = hypervisor.JobNone
	in.to(hypervisor.StateShutoff, why)
	h.emit(hypervisor.Event{Domain: id, Kind: hypervisor.EventStopped, Migration: why == hypervisor.ReasonMigrated})
	if !in.persistent {
		delete(h.copies, id)
	}
}

// receive makes the paused copy that waits for the memory to come.
func (h *Host) receive(g *guest) *hypervisor.Error {
	in := h.copies[g.ID]
	switch {
	case h.down:
		return fault("migrate", g.ID, hypervisor.ClassFailed, "unable to connect to the target %s", h.cfg.Name)
	case in != nil && in.active():
		return fault("migrate", g.ID, hypervisor.ClassFailed, "domain is already active on %s", h.cfg.Name)
	case h.free() < g.Memory:
		return fault("migrate", g.ID, hypervisor.ClassFailed, "cannot allocate memory on %s", h.cfg.Name)
	}
	if in == nil {
		in = &instance{guest: g}
		h.copies[g.ID] = in
	}
	in.job, in.completed = hypervisor.JobIncoming, nil
	in.to(hypervisor.StatePaused, hypervisor.ReasonMigration)
	h.emit(hypervisor.Event{Domain: g.ID, Kind: hypervisor.EventStarted, Migration: true})
	return nil
}

// free is the memory that no process holds.
func (h *Host) free() hypervisor.Bytes {
	n := h.cfg.Memory - h.cfg.Reserved
	for _, in := range h.copies {
		if in.active() {
			n -= in.guest.Memory
		}
	}
	return n
}

// emit tells the subscribers, unless the connection is broken. One that does not keep up loses
// events, as over a real connection.
func (h *Host) emit(e hypervisor.Event) {
	if h.broken {
		return
	}
	e.At = time.Now()
	for _, s := range h.subscribers {
		select {
		case s <- e:
		default:
		}
	}
}
