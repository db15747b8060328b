package drain

import (
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

const (
	// shutAgain is when a guest that still runs is asked again to shut down: some ignore the first wish.
	shutAgain = 15 * time.Second
	// shutLimit is how long a guest has to shut down before its VM stays and is named.
	shutLimit = 5 * time.Minute
)

// StillRuns is the blocker of a VM whose guest was asked to shut down and did not.
const StillRuns hypervisor.BlockerCode = "still-runs"

// shutDown has the guests shut down whose VMs can't move, if that was asked for: once nothing else is left to
// do, so that they are off for no longer than need be, and a run that is cancelled before shuts down none.
func (s *step) shutDown() {
	for _, m := range s.r.Moves {
		if !m.State.Final() && m.State != fleet.MoveShutting {
			return
		}
	}
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		h := s.Fleet.Hosts[m.From]
		if m.State != fleet.MoveShutting || h == nil || feasible.Up(s.Fleet, h) != nil {
			continue // nobody knows whether it still runs
		}
		if s.where.moving[m.UUID] != "" {
			continue // somebody moves it after all
		}
		switch at := s.where.at[m.UUID]; {
		case at != m.From:
			s.unblock(m.UUID)
			if m.Began == nil || at != "" {
				m.State, m.Ended, m.NotBefore, m.Reason = fleet.MoveLeft, &s.Now, nil, "it no longer runs on "+m.From
				continue
			}
			m.State, m.Ended, m.NotBefore = fleet.MoveOff, &s.Now, nil
			m.Reason = "its guest was asked to shut down and did"
		case m.Began == nil:
			m.Began, m.NotBefore = &s.Now, &s.Now // asked for when this is written
		case s.Now.Sub(*m.Began) > shutLimit:
			m.State, m.Ended, m.NotBefore = fleet.MoveStays, &s.Now, nil
			m.Reason = fmt.Sprintf("its guest was asked to shut down and still runs after %s", shutLimit)
			s.block(*m, hypervisor.Blocker{Code: StillRuns, Detail: m.Reason, Remedy: "shut it down from inside, then drain again"})
		case !s.Now.Before(*m.NotBefore):
			next := s.Now.Add(shutAgain)
			m.NotBefore = &next
			s.request(Request{ShutDown: &ShutDown{Run: s.r.ID, VM: m.VM, UUID: m.UUID, Host: m.From}})
		}
	}
}
