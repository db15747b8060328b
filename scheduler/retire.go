package scheduler

import (
	"cmp"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

const (
	// supersededFor is how long a finished migration stays among the others when its domain has a later
	// one: whoever waits for its end sees it, and its agent adds its last notes.
	supersededFor = 30 * time.Second
	// finishedFor is how long a domain's last migrations stay.
	finishedFor = 7 * 24 * time.Hour
	// retireAtOnce bounds the writes of one round.
	retireAtOnce = 64
)

// retired returns the finished migrations that belong in the history, oldest first, at most
// retireAtOnce, so that the leader's picture grows with the domains and not with what has happened to
// them. Of each domain the last that finished and the last that moved it stay for a week: the planner's
// cooldown, the reports of its hosts ([fleet.Settle]) and people go by them. One that a person closed
// stays until its source's agent has tidied up after it.
func retired(s *fleet.Snapshot, now time.Time) []precopy.Stored {
	last, moved := map[hypervisor.DomainID]int64{}, map[hypervisor.DomainID]int64{}
	for _, m := range s.Migrations {
		if !m.Phase.Final() {
			continue
		}
		last[m.UUID] = max(last[m.UUID], m.Revision)
		if m.Phase == precopy.Done {
			moved[m.UUID] = max(moved[m.UUID], m.Revision)
		}
	}
	var out []precopy.Stored
	for _, m := range s.Migrations {
		if !m.Phase.Final() {
			continue
		}
		stays := supersededFor
		if m.Revision == last[m.UUID] || m.Revision == moved[m.UUID] || m.Untidied() {
			stays = finishedFor
		}
		at := m.Created
		if m.Finished != nil {
			at = *m.Finished
		}
		if now.Sub(at) > stays {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Stored) int { return cmp.Compare(a.Revision, b.Revision) })
	return out[:min(len(out), retireAtOnce)]
}
