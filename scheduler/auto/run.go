package auto

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/balance"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// Automatic runs are those of kind rebalance that the scheduler asked for. Package drain carries out the
// others: it looks for another host when a move fails, where an automatic one is given up.

// Owns reports whether the run is an automatic one.
func Owns(r fleet.Run) bool { return r.Kind == fleet.RunRebalance && r.RequestedBy == Scheduler }

// RunOf is the run of an approved plan.
func RunOf(p fleet.Plan, now time.Time) fleet.Run {
	r := fleet.Run{
		Schema: 1, ID: p.ID, Kind: fleet.RunRebalance, Phase: fleet.RunRequested, RequestedBy: p.By, Purpose: p.Reason,
		Created: now, Deadline: &p.Expires,
	}
	if p.By == Scheduler {
		r.Phase, r.Started = fleet.RunRunning, &now
	}
	for _, m := range p.Moves {
		r.Moves = append(r.Moves, fleet.RunMove{
			VM: m.Domain, UUID: m.UUID, From: m.From, To: m.To, After: m.After, Cause: cmp.Or(m.Cause, string(balance.ToEven)),
			State: fleet.MovePlanned, Reason: m.Reason, Memory: m.Memory, Seconds: m.Seconds, Bytes: m.Bytes,
		})
	}
	return r
}

// advance takes an automatic run one step on: it notes what has ended, gives up what has lost its sense, picks
// at most one move to be asked for, and ends the run when nothing is left. A migration's ID stands in the run
// before the migration is asked for, so that it is asked for once, whoever leads.
func (p *pass) advance(old fleet.StoredRun) {
	r := old
	r.Moves = slices.Clone(old.Moves)
	asked, made := 0, true
	for i := range r.Moves {
		if m := &r.Moves[i]; m.State == fleet.MoveAsked {
			p.follow(old.Run, m)
			if m.State == fleet.MoveAsked {
				_, there := p.Fleet.Migrations[m.Migration]
				asked, made = asked+1, made && there
			}
		}
	}
	giveUp := func(why string) {
		for i := range r.Moves {
			if m := &r.Moves[i]; m.State == fleet.MovePlanned {
				m.State, m.Reason = fleet.MoveStays, why
			}
		}
	}
	switch {
	case r.Cancel != nil:
		giveUp("the run was cancelled by " + r.Cancel.By)
		if r.Cancel.Abort {
			p.abort(r)
		}
	case r.Deadline != nil && !p.Now.Before(*r.Deadline):
		giveUp("the plan has expired")
	}
	log := ""
	if made { // else the fleet does not show yet what was asked for
		r.Reason = p.next(&r, asked)
	}
	if !slices.ContainsFunc(r.Moves, func(m fleet.RunMove) bool { return !m.State.Final() }) {
		r.Finished = &p.Now
		r.Phase, r.Reason = phaseOf(r.Run), summary(r.Run)
		log = "run over: " + r.Reason
	}
	if changed(old.Run, r.Run) {
		p.add(Decision{Run: &r, Log: log})
	}
}

func changed(a, b fleet.Run) bool {
	return a.Phase != b.Phase || a.Reason != b.Reason || !slices.EqualFunc(a.Moves, b.Moves, func(x, y fleet.RunMove) bool {
		return x.State == y.State && x.Reason == y.Reason && x.Migration == y.Migration
	})
}

func phaseOf(r fleet.Run) fleet.RunPhase {
	switch {
	case r.Cancel != nil:
		return fleet.RunCancelled
	case slices.ContainsFunc(r.Moves, func(m fleet.RunMove) bool { return m.State != fleet.MoveMoved }):
		return fleet.RunPartial
	}
	return fleet.RunDone
}

// summary counts the moves, as "3 moved, 1 stays".
func summary(r fleet.Run) string {
	count := map[fleet.MoveState]int{}
	for _, m := range r.Moves {
		count[m.State]++
	}
	var parts []string
	for _, state := range []fleet.MoveState{fleet.MoveMoved, fleet.MoveStays, fleet.MoveLeft, fleet.MoveAsked, fleet.MovePlanned} {
		if n := count[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

// follow notes the end of a move's migration, or asks for it. Those of unfinished runs are not moved to the
// history: one that is not there was not made yet.
func (p *pass) follow(r fleet.Run, m *fleet.RunMove) {
	stored, made := p.Fleet.Migrations[m.Migration]
	switch {
	case !made && (r.Cancel != nil || p.held(r.RequestedBy) != ""):
		m.State, m.Migration, m.Began = fleet.MovePlanned, "", nil
	case !made:
		p.add(Decision{
			Create: &precopy.Migration{
				Schema: precopy.Schema, ID: m.Migration, Domain: m.VM, UUID: m.UUID, Source: m.From, Target: m.To,
				Phase: precopy.Requested, Reason: m.Reason, RequestedBy: r.RequestedBy, Created: p.Now, Run: r.ID,
			},
			Log: fmt.Sprintf("%s asked for, from %s to %s: %s", m.VM, m.From, m.To, m.Reason),
		})
	case stored.Phase == precopy.Done:
		m.State, m.Ended = fleet.MoveMoved, &p.Now
	case stored.Phase.Final():
		m.State, m.Ended, m.Reason = fleet.MoveStays, &p.Now, stored.Reason
	}
}

// abort asks for the end of what is under way.
func (p *pass) abort(r fleet.StoredRun) {
	for _, m := range r.Moves {
		stored, made := p.Fleet.Migrations[m.Migration]
		if m.State != fleet.MoveAsked || !made || stored.Cancel != nil || stored.Phase.Final() {
			continue
		}
		stored.Cancel = &precopy.Cancel{By: r.Cancel.By, At: p.Now, Reason: "its run was cancelled"}
		p.add(Decision{Cancel: &stored, Log: m.VM + ": cancelled with its run"})
	}
}

// next picks the move to be asked for next, if any, and says what is waited for otherwise.
func (p *pass) next(r *fleet.StoredRun, asked int) string {
	if !slices.ContainsFunc(r.Moves, func(m fleet.RunMove) bool { return m.State == fleet.MovePlanned }) {
		return ""
	}
	if why := p.held(r.RequestedBy); why != "" {
		return why
	}
	if asked >= p.Settings.AtOnce {
		return fmt.Sprintf("%d moves are under way, the limit", asked)
	}
	waits := ""
	for i := range r.Moves {
		m := &r.Moves[i]
		if m.State != fleet.MovePlanned {
			continue
		}
		ready, lost := before(r.Moves, m.After)
		if lost != "" {
			m.State, m.Reason = fleet.MoveStays, lost
			continue
		}
		if !ready {
			continue
		}
		if why := unseen(p.Fleet, *m); why != "" {
			waits = cmp.Or(waits, why)
			continue
		}
		if state, why := p.sense(*m); why != "" {
			m.State, m.Reason = state, why
			continue
		}
		if why := p.tooLate(*m); why != "" {
			return why
		}
		m.State, m.Migration, m.Began = fleet.MoveAsked, idAt(p.Now, r.ID, fmt.Sprint(i)), &p.Now
		return ""
	}
	return waits
}

// unseen says which of a move's hosts can't be seen at present, as while its agent is started anew; "" when both
// can. Nothing is known of the move then, neither for nor against it.
func unseen(s *fleet.Snapshot, m fleet.RunMove) string {
	for _, name := range []string{m.From, m.To} {
		if h := s.Hosts[name]; h != nil {
			if b := feasible.Up(s, h); b != nil {
				return fmt.Sprintf("waiting for %s (%s)", name, b.Code)
			}
		}
	}
	return ""
}

// before reports whether all moves that must be done before are, and what became of one that never will be.
func before(moves []fleet.RunMove, after []int) (ready bool, lost string) {
	ready = true
	for _, i := range after {
		switch m := moves[i]; {
		case m.State == fleet.MoveStays:
			return false, m.VM + ", which had to go before, stays"
		case !m.State.Final():
			ready = false
		}
	}
	return ready, ""
}

// sense judges a move again, against the fleet as it is now. It says why the move has lost its sense, and the
// state that it has then; "" when it has not.
func (p *pass) sense(m fleet.RunMove) (fleet.MoveState, string) {
	x, ok := p.find(m.UUID)
	switch {
	case !ok:
		return fleet.MoveLeft, "it runs on no host that reports"
	case x.Host.Name != m.From:
		return fleet.MoveLeft, fmt.Sprintf("it is on %s, no longer on %s", x.Host.Name, m.From)
	case x.asked:
		return fleet.MoveStays, "another migration of it is under way"
	}
	if why := may(p.Fleet, p.Memory, x.Domain, p.Now); why != "" {
		return fleet.MoveStays, why
	}
	// May has seen to the cooldown.
	if ok, why := p.Memory.Trail.May(m.UUID, m.To, p.Now, 0); !ok {
		return fleet.MoveStays, why
	}
	if b := feasible.Target(p.Fleet, feasible.Request{Domain: x.Domain}, m.To); len(b) > 0 {
		return fleet.MoveStays, b[0].String()
	}
	if gain, least := p.gain(m), p.Settings.Rule.Least/2; gain < least {
		return fleet.MoveStays, fmt.Sprintf("it would avoid %.1f core-minutes by now, less than %.1f", gain, least)
	}
	return m.State, ""
}

// gain is what the move avoids as things are now.
func (p *pass) gain(m fleet.RunMove) float64 {
	on, r := placed(p.Fleet), p.Settings.Rule
	end := func(host string) End {
		return End{p.Memory.sum(on[host], p.Now, r), p.Fleet.Hosts[host].Capacity().Cores}
	}
	return r.Gain(p.Memory.Load.Estimate(m.UUID, p.Now, r.Horizon), end(m.From), end(m.To))
}

// tooLate says that the window closes before the move would be done; "" when there is time.
func (p *pass) tooLate(m fleet.RunMove) string {
	if p.Settings.Calendar == nil {
		return ""
	}
	v := p.Settings.Calendar.At(p.Now)
	if v.Until.IsZero() || !p.Now.Add(time.Duration(m.Seconds*float64(time.Second))).After(v.Until) {
		return ""
	}
	return fmt.Sprintf("%s takes %.0f s, and moves are allowed until %s only", m.VM, m.Seconds, v.Until.UTC().Format("15:04 UTC"))
}

func (p *pass) find(id hypervisor.DomainID) (resident, bool) {
	for _, x := range residents(p.Fleet) {
		if x.Facts.ID == id {
			return x, true
		}
	}
	return resident{}, false
}
