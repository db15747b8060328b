package drain

import (
	"fmt"
	"maps"
	"slices"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// whereabouts is where domains are, each once: one that is being migrated is on its source.
type whereabouts struct {
	at     map[hypervisor.DomainID]string
	on     map[string][]hypervisor.DomainID
	domain map[hypervisor.DomainID]fleet.Domain
	// moving is where domains with an unfinished migration go; "?" while nobody has said.
	moving map[hypervisor.DomainID]string
}

// locate looks at the hosts named, and at those that domains are leaving; at all hosts if none are named.
func locate(s *fleet.Snapshot, hosts []string) whereabouts {
	w := whereabouts{
		at: map[hypervisor.DomainID]string{}, on: map[string][]hypervisor.DomainID{},
		domain: map[hypervisor.DomainID]fleet.Domain{}, moving: map[hypervisor.DomainID]string{},
	}
	source := map[hypervisor.DomainID]string{}
	for _, m := range s.Migrations {
		if !m.Phase.Final() {
			w.moving[m.UUID], source[m.UUID] = "?", m.Source
			if m.Target != "" {
				w.moving[m.UUID] = m.Target
			}
		}
	}
	if len(hosts) == 0 {
		hosts = s.HostNames()
	} else {
		hosts = slices.AppendSeq(slices.Clone(hosts), maps.Values(source))
		slices.Sort(hosts)
		hosts = slices.Compact(hosts)
	}
	for _, name := range hosts {
		h := s.Hosts[name]
		if h == nil || feasible.Up(s, h) != nil {
			continue
		}
		loads := make(map[hypervisor.DomainID]hypervisor.DomainLoad, len(h.Load.Domains))
		for _, l := range h.Load.Domains {
			loads[l.ID] = l
		}
		for _, d := range h.Domains() {
			id := d.Facts.ID
			load, sampled := loads[id]
			if !sampled && h.FactsRevision <= h.LoadRevision || off(load.State) || source[id] != "" && source[id] != name {
				continue
			}
			if before, twice := w.at[id]; twice && (before == source[id] || load.State != hypervisor.StateRunning) {
				continue // what a migration left for a moment
			}
			w.at[id], w.domain[id] = name, d
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.at)) {
		w.on[w.at[id]] = append(w.on[w.at[id]], id)
	}
	return w
}

func off(state hypervisor.DomainState) bool {
	return state == hypervisor.StateShutoff || state == hypervisor.StateCrashed || state == hypervisor.StateAbsent
}

// follow takes in what became of the migrations that were asked for, and asks for those that are noted only.
func (s *step) follow() {
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if m.State != fleet.MoveAsked {
			continue
		}
		mg, made := s.Fleet.Migrations[m.Migration]
		switch {
		case !made && s.r.Cancel != nil:
			m.State, m.Reason = fleet.MoveStays, "the run was cancelled"
		case !made:
			s.create(i)
		case mg.Phase == precopy.Done:
			m.State, m.Ended, m.Reason, m.To = fleet.MoveMoved, &s.Now, "", mg.Target
			if o := mg.Outcome; o != nil && o.PauseKnown {
				m.PauseMS = o.PauseMS
			}
			s.unblock(m.UUID)
		case !mg.Phase.Final():
			s.note(m, mg)
		case s.r.Cancel != nil:
			m.State, m.Ended, m.Reason = fleet.MoveStays, &s.Now, "the run was cancelled"
		case mg.Cancel != nil:
			m.Ended = &s.Now
			s.giveUp(i, hypervisor.Blocker{
				Code: Cancelled, Detail: fmt.Sprintf("%s cancelled migration %s", mg.Cancel.By, mg.ID),
				Remedy: "drover migrate " + m.VM + " moves it by hand",
			})
		default:
			m.Ended = &s.Now
			s.fault(i, fleet.RunTry{
				To: mg.Target, Code: mg.ReasonCode, Reason: mg.Reason,
				Unfit: mg.Phase == precopy.Refused && !slices.Contains(passing, mg.ReasonCode),
			})
		}
	}
}

// note keeps in the run why its migration waits, and what is expected of it since it was ordered: that rests
// on the VM's earlier migrations, too.
func (s *step) note(m *fleet.RunMove, mg precopy.Stored) {
	m.Reason = ""
	if f := mg.Forecast; f != nil {
		m.Seconds, m.Bytes = f.Seconds, f.Bytes
	}
	if mg.Phase == precopy.Requested || mg.Phase == precopy.Unknown {
		m.Reason = mg.Reason
	}
}

// create asks for the migration that a move has noted. A VM that is not there any more, or is being moved by
// others, is planned anew.
func (s *step) create(i int) {
	m := &s.r.Moves[i]
	d, there := s.where.domain[m.UUID]
	if !there || d.Host.Name != m.From || s.where.moving[m.UUID] != "" {
		if h := s.Fleet.Hosts[m.From]; h != nil && feasible.Up(s.Fleet, h) == nil {
			m.State, m.Began = fleet.MovePlanned, nil
		}
		return
	}
	if h := s.Fleet.Hosts[m.To]; s.r.Kind == fleet.RunDrain && (h == nil || shut(s.Fleet, h)) {
		s.anew(m)
		return
	}
	decided, err := s.Fleet.PolicyOf(d)
	if err != nil {
		s.fault(i, fleet.RunTry{To: m.To, Code: string(feasible.Policy), Reason: err.Error()})
		return
	}
	promise := decided.Policy
	promise.Priority += priority
	s.request(Request{Create: &precopy.Migration{
		Schema: precopy.Schema, ID: m.Migration, Domain: m.VM, UUID: m.UUID, Source: m.From, Target: m.To,
		Phase: precopy.Requested, Reason: fmt.Sprintf("%s, %s", s.r.Kind, m.Cause),
		RequestedBy: fmt.Sprintf("%s (%s)", s.r.RequestedBy, s.r.Holder()), Created: s.Now, Policy: promise, Run: s.r.ID,
	}})
}

// Reasons that a run adds to those of others.
const (
	Cancelled hypervisor.BlockerCode = "cancelled" // a person cancelled the migration
	Overload  hypervisor.BlockerCode = "overload"  // its host has not enough CPU for it
	Apart     hypervisor.BlockerCode = "apart"     // it would be parted from those it stays with
	NoTarget  hypervisor.BlockerCode = "no-target" // no host can take it
	GaveUp    hypervisor.BlockerCode = "gave-up"   // every try failed
)

// passing are the codes of refusals that say nothing about the VM: its host, or the one it was to go to, was away.
var passing = []string{"not-claimed", "no-answer", string(feasible.HostAway), string(feasible.HostStale), string(feasible.HostDegraded), string(feasible.HostCordoned), string(feasible.UnderWay)}

// fault notes a try that moved nothing: the move is planned anew after a pause, or given up.
func (s *step) fault(i int, t fleet.RunTry) {
	m := &s.r.Moves[i]
	m.Tries = append(slices.Clone(m.Tries), t)
	n := len(m.Tries)
	if s.helps(m) {
		s.anew(m)
		return
	}
	if n > keptTries {
		m.Tries = m.Tries[n-keptTries:]
	}
	// Those for which there was no target say nothing of the VM.
	real := slices.DeleteFunc(slices.Clone(m.Tries), func(t fleet.RunTry) bool { return t.To == "" })
	if s.r.OnBlocked != fleet.BlockedWait && len(real) >= maxTries || s.r.Kind == fleet.RunRebalance {
		if s.r.ShutDown && !slices.ContainsFunc(real, func(t fleet.RunTry) bool { return !t.Unfit }) {
			s.giveUp(i, hypervisor.Blocker{Code: hypervisor.BlockerCode(t.Code), Detail: t.Reason, Remedy: "drover vm check " + m.VM + " shows what each host says"})
			return
		}
		s.giveUp(i, hypervisor.Blocker{
			Code:   GaveUp,
			Detail: fmt.Sprintf("tried %d times; last to %s: %s [%s]", len(real), t.To, t.Reason, t.Code),
			Remedy: "drover vm check " + m.VM + " shows what each host says",
		})
		return
	}
	s.retry(m, n)
	m.Reason = fmt.Sprintf("%s: %s", t.To, t.Reason)
}

func (s *step) retry(m *fleet.RunMove, n int) {
	next := s.Now.Add(min(firstPause<<min(n-1, 10), lastPause))
	m.State, m.NotBefore = fleet.MovePlanned, &next
	s.anew(m)
}

// anew has a drain's move planned anew. One that only helps others is over: they are planned anew too.
func (s *step) anew(m *fleet.RunMove) {
	switch {
	case s.helps(m):
		m.State, m.Reason, m.NotBefore = fleet.MoveLeft, "the plan has changed", nil
	case s.r.Kind == fleet.RunDrain:
		m.State, m.To, m.After = fleet.MovePlanned, "", nil
	}
}

// helps reports whether a drain's move takes nothing off its hosts: it makes room, or takes a VM on from where
// it was put for a while.
func (s *step) helps(m *fleet.RunMove) bool {
	return s.r.Kind == fleet.RunDrain && !slices.Contains(s.r.Hosts, m.From)
}

func (s *step) giveUp(i int, b hypervisor.Blocker) {
	m := &s.r.Moves[i]
	if s.helps(m) {
		s.anew(m)
		return
	}
	m.State, m.Reason, m.NotBefore = fleet.MoveStays, b.Detail, nil
	if b.Code != GaveUp && b.Code != Cancelled && s.r.ShutDown && s.r.Kind == fleet.RunDrain {
		m.State, m.Began, m.Ended = fleet.MoveShutting, nil, nil
	}
	s.block(*m, b)
	s.dropLegs(m.UUID, "its first move was given up")
}

// dropLegs ends the moves of a VM that were to follow another one of it.
func (s *step) dropLegs(id hypervisor.DomainID, why string) {
	for j := range s.r.Moves {
		if n := &s.r.Moves[j]; n.UUID == id && n.State == fleet.MovePlanned {
			n.State, n.Reason = fleet.MoveLeft, why
		}
	}
}

func (s *step) block(m fleet.RunMove, b hypervisor.Blocker) {
	s.unblock(m.UUID)
	s.r.Blocked = append(s.r.Blocked, fleet.RunBlocked{
		VM: m.VM, UUID: m.UUID, Host: m.From, Code: b.Code, Detail: b.Detail, Remedy: b.Remedy,
	})
}

func (s *step) unblock(id hypervisor.DomainID) {
	s.r.Blocked = slices.DeleteFunc(s.r.Blocked, func(b fleet.RunBlocked) bool { return b.UUID == id })
}

func (s *step) isBlocked(id hypervisor.DomainID) bool {
	return slices.ContainsFunc(s.r.Blocked, func(b fleet.RunBlocked) bool { return b.UUID == id })
}

// gather adds the VMs that are on a drain's hosts and have no move yet.
func (s *step) gather() {
	open, stays := map[hypervisor.DomainID]bool{}, map[hypervisor.DomainID]bool{}
	reported := map[hypervisor.DomainID]int64{} // the revision that reports must be newer than
	for _, m := range s.r.Moves {
		open[m.UUID] = open[m.UUID] || !m.State.Final()
		stays[m.UUID] = stays[m.UUID] || m.State == fleet.MoveStays
		if m.State == fleet.MoveMoved {
			reported[m.UUID] = s.Fleet.Migrations[m.Migration].Revision
		}
	}
	for _, name := range s.r.Hosts {
		for _, id := range s.where.on[name] {
			d := s.where.domain[id]
			if open[id] || stays[id] || s.where.moving[id] != "" || d.Host.LoadRevision < reported[id] {
				continue
			}
			m := fleet.RunMove{
				VM: d.Facts.Name, UUID: id, From: name, Cause: string(s.r.Kind), State: fleet.MovePlanned, Memory: d.Facts.Memory,
			}
			if slices.Contains(s.r.Skip, id) {
				m.State, m.Reason = fleet.MoveStays, "skipped, as asked"
			}
			s.r.Moves = append(s.r.Moves, m)
		}
	}
}

// drop ends the moves of VMs that are to be skipped, or are no longer where they would be moved from.
func (s *step) drop() {
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if m.State != fleet.MovePlanned && (m.State != fleet.MoveShutting || m.Began != nil) {
			continue
		}
		if slices.Contains(s.r.Skip, m.UUID) {
			m.State, m.Reason, m.NotBefore = fleet.MoveStays, "skipped, as asked", nil
			s.unblock(m.UUID)
			continue
		}
		h := s.Fleet.Hosts[m.From]
		if h == nil || feasible.Up(s.Fleet, h) != nil || s.where.at[m.UUID] == m.From || s.where.moving[m.UUID] != "" || s.follows(i) {
			continue
		}
		m.State, m.NotBefore, m.Reason = fleet.MoveLeft, nil, "it no longer runs on "+m.From
		if at := s.where.at[m.UUID]; at != "" {
			m.Reason = "it runs on " + at + " by now"
		}
		s.unblock(m.UUID)
	}
}

// follows reports whether a move of the same VM comes before it.
func (s *step) follows(i int) bool {
	for _, m := range s.r.Moves[:i] {
		if m.UUID == s.r.Moves[i].UUID && !m.State.Final() {
			return true
		}
	}
	return false
}

// reopen plans moves anew whose target has closed or is down.
func (s *step) reopen() {
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if m.State != fleet.MovePlanned || m.To == "" {
			continue
		}
		if h := s.Fleet.Hosts[m.To]; h == nil || shut(s.Fleet, h) || feasible.Up(s.Fleet, h) != nil {
			s.anew(m)
		}
	}
}

// shut reports whether a host takes no VMs, also one whose drain has set no cordon yet, or is only asked for.
func shut(s *fleet.Snapshot, h *fleet.Host) bool {
	return len(h.Record.Cordons) > 0 || s.Closing(h.Name) != nil
}
