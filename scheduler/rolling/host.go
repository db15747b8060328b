package rolling

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// unasked finds nothing against any move: a leader's step asks nobody, its migrations are asked about when
// their turn comes.
func unasked(q []drain.Question) [][]hypervisor.Blocker { return make([][]hypervisor.Blocker, len(q)) }

// to takes a host into another state.
func (s *step) to(h *fleet.RolledHost, state fleet.RollState) {
	h.State, h.Since, h.Reason = state, &s.Now, ""
	s.changed = true
}

// fail notes that a host can't go on, and in which state that was.
func (s *step) fail(h *fleet.RolledHost, why string) {
	at := h.State
	if at == fleet.RollWaiting {
		at = fleet.RollDraining
	}
	s.to(h, fleet.RollFailed)
	h.At, h.Reason = at, why
}

// advance takes a host on that is out of service.
func (s *step) advance(h *fleet.RolledHost) {
	if h.Since == nil {
		h.Since = &s.Now
	}
	switch h.State {
	case fleet.RollDraining:
		s.draining(h)
	case fleet.RollHooks:
		s.hooks(h)
	case fleet.RollHealth:
		s.health(h)
	case fleet.RollRestoring:
		s.restoring(h)
	}
}

// draining waits for the host's drain, and makes it first.
func (s *step) draining(h *fleet.RolledHost) {
	d, there := s.Fleet.Runs[h.Drain]
	switch {
	case !there && s.r.Cancel != nil:
	case !there:
		child := s.drainOf(h.Host, s.waiting(h.Host))
		child.ID = h.Drain
		s.request(Request{Start: &child})
	case !d.Phase.Final():
	case d.Phase == fleet.RunDone:
		s.emptied(h)
	default:
		s.fail(h, fmt.Sprintf("its drain is %s: %s (drover run show %s)", d.Phase, d.Reason, d.ID))
	}
}

// emptied begins what is to be done with the empty host.
func (s *step) emptied(h *fleet.RolledHost) {
	if host := s.Fleet.Hosts[h.Host]; host != nil && host.Session != nil {
		h.Instance = host.Session.Instance
	}
	switch {
	case len(s.roll.Hooks) > 0:
		s.to(h, fleet.RollHooks)
	case s.waits():
		s.worked(h)
	default:
		s.to(h, fleet.RollRestoring)
	}
}

// worked begins to wait for the host's health: reports from before count no more.
func (s *step) worked(h *fleet.RolledHost) {
	s.to(h, fleet.RollHealth)
	h.Emptied = s.Fleet.Revision
}

// health waits until the host is as it must be.
func (s *step) health(h *fleet.RolledHost) {
	why := s.unwell(h)
	if why == "" && s.roll.Healthy.Probe != nil {
		why = s.probe(h)
	}
	if why == "" {
		s.to(h, fleet.RollRestoring)
		return
	}
	within := time.Duration(s.roll.Healthy.Within)
	if within > 0 && h.Since != nil && s.Now.Sub(*h.Since) > within {
		s.fail(h, fmt.Sprintf("not healthy within %s: %s", within, why))
		return
	}
	h.Reason = why
}

// unwell says what of the host is not yet as it must be; "" when all is.
func (s *step) unwell(h *fleet.RolledHost) string {
	host := s.Fleet.Hosts[h.Host]
	switch {
	case host == nil:
		return "its record is gone"
	case s.restarts() && host.Session != nil && host.Session.Instance == h.Instance:
		return "waiting for its agent to start anew"
	case feasible.Up(s.Fleet, host) != nil:
		return "waiting for its agent and its libvirt (" + string(feasible.Up(s.Fleet, host).Code) + ")"
	case host.LoadRevision <= h.Emptied:
		return "waiting for a report of its agent"
	}
	if want := s.roll.Healthy.Libvirt; want != "" {
		least, err := Version(want)
		if err != nil {
			return err.Error()
		}
		if have := host.Facts.LibvirtVersion; have < least {
			return fmt.Sprintf("its libvirt is %s, wanted is %s", versionText(have), want)
		}
	}
	return ""
}

// Version reads "11.3.0" as libvirt counts: 11003000.
func Version(s string) (uint32, error) {
	var major, minor, release uint32
	var rest string
	n, _ := fmt.Sscanf(s+" .", "%d.%d.%d %s", &major, &minor, &release, &rest)
	if n < 4 || rest != "." || minor > 999 || release > 999 || major > 4000 {
		return 0, fmt.Errorf("version %q: want one such as 11.3.0", s)
	}
	return major*1_000_000 + minor*1000 + release, nil
}

func versionText(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

// restoring opens the host, and waits for the VMs that come back to it if they are to.
func (s *step) restoring(h *fleet.RolledHost) {
	moved := s.movedOff(h)
	host := s.Fleet.Hosts[h.Host]
	if s.r.Cancel != nil && h.Restore == "" {
		return // whether its host is opened is the cancel's to say
	}
	if h.Restore == "" && (!s.roll.Return || len(moved) == 0 || host == nil || s.othersHold(host, h.Drain)) {
		if s.uncordon(*h) {
			return
		}
		s.done(h, "")
		return
	}
	if h.Restore == "" && !s.seen(moved) && h.Since != nil && s.Now.Sub(*h.Since) < unseen {
		return // its new host has not reported it yet: the restore would leave it out
	}
	if h.Restore == "" {
		h.Restore = childID(s.r.ID, h.Host, "restore", s.Now)
		return
	}
	r, there := s.Fleet.Runs[h.Restore]
	switch {
	case !there && s.r.Cancel != nil:
	case !there:
		s.request(Request{Start: &fleet.Run{
			Schema: 1, ID: h.Restore, Kind: fleet.RunRestore, Phase: fleet.RunRequested, Hosts: []string{h.Host}, RequestedBy: s.r.RequestedBy,
			Purpose: s.r.Purpose, Created: s.Now, MaxParallel: s.r.MaxParallel, OnBlocked: fleet.BlockedSkip, Parent: s.r.ID,
			Only: moved, Moves: []fleet.RunMove{},
		}})
	case !r.Phase.Final():
	case r.Phase == fleet.RunDone:
		s.done(h, "")
	case r.Phase == fleet.RunPartial:
		s.done(h, "not all VMs came back: "+r.Reason)
	default:
		s.fail(h, fmt.Sprintf("its restore is %s: %s (drover run show %s)", r.Phase, r.Reason, r.ID))
	}
}

// unseen is how long VMs that have moved are waited for in the hosts' reports, before they come back.
const unseen = 30 * time.Second

// seen reports whether all of the VMs run on some host, as far as hosts report.
func (s *step) seen(vms []hypervisor.DomainID) bool {
	left := map[hypervisor.DomainID]bool{}
	for _, id := range vms {
		left[id] = true
	}
	for _, h := range s.Fleet.Hosts {
		for _, d := range h.Domains() {
			if d.Running() {
				delete(left, d.Facts.ID)
			}
		}
	}
	return len(left) == 0
}

func (s *step) done(h *fleet.RolledHost, note string) {
	s.to(h, fleet.RollRolled)
	h.Ended, h.Reason = &s.Now, note
}

// movedOff are the VMs that the host's drains have moved away: the present one, and those before it that failed.
func (s *step) movedOff(h *fleet.RolledHost) []hypervisor.DomainID {
	var out []hypervisor.DomainID
	for _, id := range slices.Sorted(maps.Keys(s.Fleet.Runs)) {
		r := s.Fleet.Runs[id]
		if id != h.Drain && (r.Parent != s.r.ID || r.Kind != fleet.RunDrain) {
			continue
		}
		for _, m := range r.Moves {
			if m.State == fleet.MoveMoved && m.From == h.Host && !slices.Contains(out, m.UUID) {
				out = append(out, m.UUID)
			}
		}
	}
	return out
}

// othersHold reports whether somebody else keeps the host closed.
func (s *step) othersHold(h *fleet.Host, drain string) bool {
	return slices.ContainsFunc(h.Record.Cordons, func(c fleet.Cordon) bool { return !s.own(c, drain) })
}

// busy reports whether anything is under way for a host.
func (s *step) busy(h *fleet.RolledHost) bool {
	for _, id := range []string{h.Drain, h.Restore} {
		if r, there := s.Fleet.Runs[id]; there && !r.Phase.Final() {
			return true
		}
	}
	if n := len(h.Hooks); n > 0 && h.Hooks[n-1].Result == nil {
		run := h.Hooks[n-1]
		result, begun := s.Hooks[run.Attempt]
		switch {
		case begun && result == nil:
			return true
		case begun && !result.Lost || run.Probe:
			return false
		}
		// It may have been begun by a leader before, and nobody asks again: until its time is over.
		i := slices.IndexFunc(s.roll.Hooks, func(hook fleet.Hook) bool { return hook.Name == run.Name })
		return i >= 0 && s.Now.Before(run.Began.Add(time.Duration(s.roll.Hooks[i].Timeout+s.roll.Hooks[i].Grace)+lostGrace))
	}
	return false
}
