package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"drover/precopy"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
)

// person is who asks for what a scenario asks for.
const person = "ada"

// id is a UUID of version 7, made of the time and what was asked for before.
func (w *World) id() string {
	ms := uint64(w.Time().UnixMilli())
	w.seq++
	return fmt.Sprintf("%08x-%04x-7%03x-8000-%012x", ms>>16, ms&0xffff, w.seq>>48&0xfff, w.seq&0xffffffffffff)
}

// Migrate asks for a migration of a guest; an empty target leaves the choice to the scheduler. It returns the ID.
func (w *World) Migrate(vm, target string) (string, error) {
	g := w.Guest(vm)
	if g == nil || g.Host == nil {
		return "", fmt.Errorf("migrate %s: it does not run", vm)
	}
	m := precopy.Migration{
		Schema: precopy.Schema, ID: w.id(), Domain: vm, UUID: g.ID, Source: g.Host.Name, Target: target,
		Phase: precopy.Requested, RequestedBy: person, Created: w.Time(),
	}
	return m.ID, w.Request(m)
}

// Request makes a migration's record as it is given.
func (w *World) Request(m precopy.Migration) error {
	if !w.store.create("request", m) {
		return fmt.Errorf("migrate %s: %w", m.Domain, precopy.ErrConflict)
	}
	w.wake()
	return nil
}

// Drain asks for hosts to be emptied, and returns the run's ID.
func (w *World) Drain(hosts ...string) string {
	return w.Ask(fleet.Run{Kind: fleet.RunDrain, Hosts: hosts, OnBlocked: fleet.BlockedSkip})
}

// Restore asks for hosts to be opened and filled again, and returns the run's ID.
func (w *World) Restore(hosts ...string) string {
	return w.Ask(fleet.Run{Kind: fleet.RunRestore, Hosts: hosts})
}

// Ask asks for a run, and returns its ID.
func (w *World) Ask(r fleet.Run) string {
	r.Schema, r.ID, r.Phase, r.RequestedBy, r.Created = 1, w.id(), fleet.RunRequested, person, w.Time()
	if r.Moves == nil {
		r.Moves = []fleet.RunMove{}
	}
	w.store.putRun(0, r)
	w.wake()
	return r.ID
}

// CancelRun asks for the end of a run.
func (w *World) CancelRun(id string, c fleet.RunCancel) error {
	r, there := w.store.runs[id]
	if !there || r.Phase.Final() {
		return fmt.Errorf("cancel run %s: it is not under way", id)
	}
	c.By, c.At = person, w.Time()
	r.Cancel = &c
	w.store.putRun(r.Revision, r.Run)
	w.kick()
	return nil
}

// CancelMigration asks for the end of a migration.
func (w *World) CancelMigration(id string) error {
	m, there := w.store.migrations[id]
	if !there || m.Phase.Final() {
		return fmt.Errorf("cancel migration %s: it is not under way", id)
	}
	next := m.Migration
	next.Cancel = &precopy.Cancel{By: person, At: w.Time()}
	w.store.put("request", precopy.ActorCLI, m.Revision, next)
	w.kick()
	return nil
}

// Cordon closes a host, and opens it again when off.
func (w *World) Cordon(host string, off bool) {
	w.cordon(host, drain.Cordon{Host: host, Off: off, Cordon: fleet.Cordon{Holder: "admin", By: person, At: w.Time()}})
}

// Open takes every cordon off a host, and leaves guests where they are.
func (w *World) Open(host string) {
	if h := w.hosts[host]; h != nil {
		for _, c := range slices.Clone(h.record.Cordons) {
			w.cordon(host, drain.Cordon{Host: host, Off: true, Cordon: c})
		}
	}
}

// Pause stops automatic moves until the reason is empty.
func (w *World) Pause(reason string) {
	w.store.wrote("pause")
	w.store.pause = nil
	if reason != "" {
		w.store.pause = &fleet.Pause{Schema: 1, Act: fleet.Act{By: person, At: w.Time(), Reason: reason}}
	}
}

// KillLeader ends the leader; another one begins when its lease has run out.
func (w *World) KillLeader() {
	w.leader = nil
	w.After(w.Timing.Lease, w.elect)
}

// KillAgent ends a host's agent, which is started again after a while. Migrations go on by themselves.
func (w *World) KillAgent(host string, after time.Duration) error {
	h := w.hosts[host]
	if h == nil || !h.on {
		return errors.New("no host with power is called " + host)
	}
	h.agent = false
	for _, id := range sortedKeys(h.drives) {
		r := h.drives[id]
		r.anew = true
		if !r.called {
			r.step.Stop()
			r.drop()
		} else if r.job != nil {
			// What it slowed, its end gives back.
			r.share, r.asked = 1, 1
			r.job.SetShare(w.now, 1)
		}
	}
	h.waiting = nil
	h.vanish()
	w.After(after, h.startAgent)
	return nil
}

// CutAgent cuts a host's network to the store for a while. Its agent goes on with what runs.
func (w *World) CutAgent(host string, d time.Duration) error {
	h := w.hosts[host]
	if h == nil || !h.on {
		return errors.New("no host with power is called " + host)
	}
	h.cut = true
	h.vanish()
	w.After(d, func() {
		h.cut = false
		if h.agent {
			h.startAgent()
		}
	})
	return nil
}

// vanish lets the lease run out, unless the agent is back before.
func (h *Host) vanish() {
	h.lapse.Stop()
	h.lapse = h.w.After(h.w.Timing.Lease, func() {
		if !h.connected() {
			h.w.store.wrote("session")
			h.session, h.load, h.facts = nil, nil, nil
			h.w.kick()
		}
	})
}

// KillHost takes a host's power, and the guests that run there with it.
func (w *World) KillHost(host string) error {
	h := w.hosts[host]
	if h == nil || !h.on {
		return errors.New("no host with power is called " + host)
	}
	h.on, h.agent = false, false
	for _, id := range sortedKeys(h.drives) {
		r := h.drives[id]
		r.ended = true
		r.step.Stop()
		r.next.Stop()
		r.unstream()
		r.guest.move = nil
		switch {
		case r.guest.Host == h && r.called:
			r.target.gone(r.guest)
		case r.followed: // half of its memory was here
			w.kill(r.guest)
		}
	}
	h.drives, h.waiting, h.spool = map[string]*Running{}, nil, nil
	for _, other := range w.Hosts() {
		for _, id := range sortedKeys(other.drives) {
			if r := other.drives[id]; r.target == h && r.stream != nil {
				r.unstream()
				r.step.Stop()
				w.After(w.Timing.Notice, func() { r.fail("rolled-back", "libvirt took the migration back: the target is gone") })
			}
		}
	}
	for _, g := range slices.Clone(h.Guests()) {
		w.kill(g)
	}
	h.vanish()
	w.judge.changed(w)
	return nil
}

// kill ends a guest for good.
func (w *World) kill(g *Guest) {
	delete(g.Host.guests, g.ID)
	g.Host.ordered = nil
	g.Host.gone(g)
	g.Host = nil
	w.judge.killed++
}

// StartHost gives a host its power back; it comes up without guests.
func (w *World) StartHost(host string) error {
	h := w.hosts[host]
	if h == nil || h.on {
		return errors.New("no host without power is called " + host)
	}
	h.on = true
	w.After(time.Minute, h.startAgent)
	return nil
}
