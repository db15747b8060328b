package scheduler

import (
	"fmt"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
)

// agentAway is the reason code of a migration whose agent's lease has lapsed.
const agentAway = "agent-away"

// expire withdraws an order that nobody claimed: the compare-and-set makes it safe against a claim.
func (p *pass) expire(m precopy.Stored) {
	switch {
	case m.Cancel != nil:
		p.end(m, precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By+" before it began")
	case drain.Over(p.Fleet, m.Migration):
		p.end(m, precopy.Aborted, "cancelled", "its run is over, or was cancelled, before it began")
	case m.Order == nil || p.Now.After(m.Order.NotAfter):
		p.end(m, precopy.Refused, "not-claimed", fmt.Sprintf("the agent of %s did not take the order in time (check drover-agent there)", m.Source))
	}
}

// lapse calls a migration unknown whose agent's lease has lapsed, and keeps its record saying what is
// known and what to do. Only both hosts' evidence can tell how it ended, so the agent resolves it when
// it comes back, or a person who has looked; the leader never does.
func (p *pass) lapse(m precopy.Stored) {
	since, away := p.Memory.AwaySince[m.Source]
	if !away || p.Now.Sub(since) < lapseGrace {
		return
	}
	reason := p.awayReason(m)
	if m.Phase == precopy.Unknown && m.ReasonCode == agentAway && m.Reason == reason {
		return
	}
	p.write(m, func(m *precopy.Migration) {
		m.Phase, m.ReasonCode, m.Reason = precopy.Unknown, agentAway, reason
	})
}

// awayReason says what the target reports, and what a person can do. It changes only when that does.
func (p *pass) awayReason(m precopy.Stored) string {
	state, known := p.reported(m)
	what, host := "", "HOST"
	switch {
	case !known:
		what = m.Target + " does not report either"
	case state == hypervisor.StateRunning:
		what, host = m.Target+" reports the VM running", m.Target
	case state == "" || state == hypervisor.StateAbsent || state == hypervisor.StateShutoff:
		what, host = m.Target+" does not run the VM", m.Source
	default:
		what = fmt.Sprintf("%s has the VM, but %s", m.Target, state)
	}
	if m.Split() {
		return fmt.Sprintf("the agent of %s is away (check drover-agent there), libvirt goes on by itself; %s; post-copy was asked for: "+
			"THE VM IS LOST IF %s OR %s IS SWITCHED OFF, since its memory may be on both; the agent goes on with it when it is back; "+
			"if either is off already, see where the VM still is (virsh domstate --reason), start it if need be, then: "+
			"drover migration resolve %s --runs-on HOST --yes", m.Source, what, m.Source, m.Target, m.ID)
	}
	return fmt.Sprintf("the agent of %s is away (check drover-agent there), libvirt goes on by itself; %s; "+
		"the outcome is known when the agent is back; if %s never returns, make sure that it is off, then: "+
		"drover migration resolve %s --runs-on %s --yes, drover host forget %s --yes",
		m.Source, what, m.Source, m.ID, host, m.Source)
}

// reported is the domain's state as its target reports it, "" when it reports none; false when the
// target has not reported lately.
func (p *pass) reported(m precopy.Stored) (hypervisor.DomainState, bool) {
	h := p.Fleet.Hosts[m.Target]
	if h == nil || feasible.Up(p.Fleet, h) != nil {
		return "", false
	}
	for _, d := range h.Load.Domains {
		if d.ID == m.UUID {
			return d.State, true
		}
	}
	return "", true
}
