package auto

import (
	"fmt"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// Inputs is everything that a pass depends on. Nothing of it is written to.
type Inputs struct {
	Fleet    *fleet.Snapshot
	Memory   *Memory
	Settings Settings
	// Look says that it is time to look for moves, as [Memory.See] told.
	Look bool
	Now  time.Time
}

// Decision is one thing to write, under the leader's fence: exactly one of its fields but Log is set, but for a
// plan and the run that begins with it, which are one transaction.
type Decision struct {
	// Plan and Run are written if the store has the revision that they carry; 0 is that there is none.
	Plan *fleet.StoredPlan
	Run  *fleet.StoredRun
	// Create is a migration to be made unless it is there; its ID stands in its run.
	Create *precopy.Migration
	// Cancel is a migration that asks to be ended.
	Cancel *precopy.Stored
	// Retire is a plan that has ended and need not be seen any more.
	Retire *fleet.StoredPlan
	// Log says in one line what is done and why.
	Log string
}

// Decide takes one pass over plans and over the runs of automatic ones, and looks for moves when it is time and
// no such run is under way. The same inputs give the same decisions. The error is the planner's, and comes with
// the decisions that don't need it.
func Decide(in Inputs) ([]Decision, error) {
	p := &pass{Inputs: in}
	busy := false
	for _, r := range in.Fleet.UnfinishedRuns() {
		if Owns(r.Run) {
			busy = true
			p.advance(r)
		}
	}
	for _, plan := range in.Fleet.PlansInOrder() {
		if plan.Ended != nil {
			// Somebody's no holds as long as the plan would have.
			busy = busy || refused(plan.Plan) && in.Now.Before(plan.Expires)
			p.retire(plan)
			continue
		}
		busy = busy || plan.By == Scheduler
		p.tend(plan)
	}
	if !in.Look || busy || in.Fleet.Pause != nil || in.Settings.Stopped != "" || in.Settings.Level == Full && p.held(Scheduler) != "" {
		return p.decisions, nil
	}
	return p.decisions, p.propose()
}

type pass struct {
	Inputs
	decisions []Decision
}

func (p *pass) add(d Decision) { p.decisions = append(p.decisions, d) }

// held says why nothing new may begin on behalf of whoever made a plan; "" when it may.
func (p *pass) held(by string) string {
	if by != Scheduler {
		return ""
	}
	if p.Settings.Stopped != "" {
		return p.Settings.Stopped
	}
	if pause := p.Fleet.Pause; pause != nil {
		return "the fleet is paused by " + pause.By
	}
	if c := p.Settings.Calendar; c != nil {
		if v := c.At(p.Now); !v.Allowed {
			return v.Reason
		}
	}
	return ""
}

// endedFor is how long a plan that has ended stays in sight.
const endedFor = 10 * time.Minute

// refused reports whether somebody said no to a plan of the scheduler's.
func refused(plan fleet.Plan) bool { return plan.By == Scheduler && plan.Withdrawn != nil }

// retire lets go of a plan that has ended.
func (p *pass) retire(plan fleet.StoredPlan) {
	if p.Now.Sub(*plan.Ended) > endedFor && !(refused(plan.Plan) && p.Now.Before(plan.Expires)) {
		p.add(Decision{Retire: &plan})
	}
}

// tend brings a plan to its end, approves it if that is left to the scheduler, or starts its run.
func (p *pass) tend(plan fleet.StoredPlan) {
	end := func(how fleet.PlanEnding, why string) {
		plan.Ended, plan.Ending, plan.Why = &p.Now, how, why
		p.add(Decision{Plan: &plan, Log: "plan " + string(how)})
	}
	if plan.Run != "" {
		r, there := p.Fleet.Runs[plan.Run]
		switch {
		case !there:
			end(fleet.PlanWithdrawn, "its run never began")
		case r.Phase.Final():
			end(fleet.PlanDone, r.Reason)
		}
		return
	}
	switch {
	case plan.Withdrawn != nil:
		end(fleet.PlanWithdrawn, "")
	case !p.Now.Before(plan.Expires):
		end(fleet.PlanExpired, "")
	case plan.Approved == nil && p.Look && p.outdated(plan.Plan) != "":
		end(fleet.PlanOutdated, p.outdated(plan.Plan))
	case plan.Approved == nil && plan.By == Scheduler && p.Settings.Level == Full:
		plan.Approved = p.byLevel()
		p.add(Decision{Plan: &plan, Log: "plan approved: " + plan.Approved.Reason})
	case plan.Approved != nil && p.held(plan.By) == "":
		run := RunOf(plan.Plan, p.Now)
		plan.Run = run.ID
		p.add(Decision{Plan: &plan, Run: &fleet.StoredRun{Run: run}, Log: "run begins, approved by " + plan.Approved.By + ": " + summary(run)})
	}
}

func (p *pass) byLevel() *fleet.Act {
	return &fleet.Act{By: Scheduler, At: p.Now, Reason: "automation is full"}
}

// outdated says why none of the plan's moves is worth it any more; "" while one is.
func (p *pass) outdated(plan fleet.Plan) string {
	first := ""
	for _, m := range RunOf(plan, p.Now).Moves {
		_, why := p.sense(m)
		if why == "" || unseen(p.Fleet, m) != "" {
			return ""
		}
		if first == "" {
			first = m.VM + ": " + why
		}
	}
	return first
}

// propose makes a plan of the moves that are worth it, if there are any.
func (p *pass) propose() error {
	r := p.Settings.Rule
	problem, who, loads := problem(p.Fleet, p.Memory, r, p.Now)
	hot := make([]bool, len(problem.Hosts))
	for i, h := range problem.Hosts {
		hot[i] = p.Memory.Hot(h.Name)
	}
	list, err := Choose(problem, loads, hot, r)
	if err != nil || len(list) == 0 {
		return err
	}
	plan := fleet.Plan{Schema: Schema, Created: p.Now, Expires: p.Now.Add(p.Settings.PlanLife), By: Scheduler}
	var salt []string
	for _, c := range list {
		x, from, to := who[c.VM], problem.Hosts[c.From].Name, problem.Hosts[c.To].Name
		plan.Moves = append(plan.Moves, fleet.PlanMove{
			Domain: x.Facts.Name, UUID: x.Facts.ID, From: from, To: to, Gain: c.Gain, After: c.After,
			Seconds: c.Price.Duration.Seconds(), Bytes: c.Price.Bytes, Memory: x.Facts.Memory,
			Reason: fmt.Sprintf("%s is asked for %.0f core-minutes above %.0f %% of its CPU in the next %s: this avoids %.0f",
				from, c.Before, 100*r.Mark, hoursOf(r.Horizon), c.Gain),
		})
		salt = append(salt, string(x.Facts.ID), to)
	}
	plan.ID = idAt(p.Now, salt...)
	plan.Reason = fmt.Sprintf("moves off hosts that have been hot for %s: %d", r.Hold, len(list))
	if p.Settings.Level == Full {
		plan.Approved = p.byLevel()
	}
	p.add(Decision{Plan: &fleet.StoredPlan{Plan: plan}, Log: "plan made of " + plan.Reason})
	return nil
}

func hoursOf(d time.Duration) string { return fmt.Sprintf("%g h", d.Hours()) }
