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

// Retired returns the finished migrations that belong in the history, oldest first, so that the
// leader's picture grows with the domains and not with what has happened to them. Of each domain the last
// that finished and the last that moved it stay for a week: the planner's cooldown, the reports of its hosts
// ([fleet.Settle]) and people go by them. One that a person closed stays until its source's agent has tidied
// up after it, and one of a run that is not over until it is.
func Retired(s *fleet.Snapshot, now time.Time) []precopy.Stored {
	all, moves := lasts{}, lasts{}
	for _, m := range s.Migrations {
		if m.Phase.Final() {
			all.add(m)
		}
		if m.Phase == precopy.Done {
			moves.add(m)
		}
	}
	var out []precopy.Stored
	for _, m := range s.Migrations {
		if !m.Phase.Final() {
			continue
		}
		stays := supersededFor
		if all.has(m) || moves.has(m) || m.Untidied() {
			stays = finishedFor
		}
		if r, there := s.Runs[m.Run]; there && !r.Phase.Final() {
			continue
		}
		if now.Sub(ended(m)) > stays {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Stored) int { return cmp.Compare(a.Revision, b.Revision) })
	return out
}

// ended is when a finished migration did, by the clock of who said so.
func ended(m precopy.Stored) time.Time {
	if m.Finished != nil {
		return *m.Finished
	}
	return m.Created
}

// lasts are each domain's last migrations: the one that was begun last, which [fleet.Snapshot.LastMoves] goes
// by, and the one that ended last, which people do. Clocks may differ, so that these can be two.
type lasts map[hypervisor.DomainID]struct {
	born  int64
	ended time.Time
}

func (l lasts) add(m precopy.Stored) {
	last := l[m.UUID]
	last.born = max(last.born, m.Born)
	if at := ended(m); at.After(last.ended) {
		last.ended = at
	}
	l[m.UUID] = last
}

func (l lasts) has(m precopy.Stored) bool {
	last := l[m.UUID]
	return m.Born == last.born || ended(m).Equal(last.ended)
}
