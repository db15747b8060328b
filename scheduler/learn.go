package scheduler

import (
	"context"
	"maps"
	"slices"
	"strings"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/fleet"
)

// Profiles is what earlier migrations have shown of domains. Writes carry the leader's fence, as those of
// [Orders] do.
type Profiles interface {
	Profile(ctx context.Context, id hypervisor.DomainID) (forecast.Profile, error)
	// Learn adds receipts, each once however often it is called.
	Learn(ctx context.Context, l Lesson) error
	// Tend removes the profiles of domains that were not reported for long.
	Tend(ctx context.Context, reported map[hypervisor.DomainID]bool) error
}

// Lesson is receipts of one domain to be learned.
type Lesson struct {
	Domain   hypervisor.DomainID
	Receipts []forecast.Receipt
}

// lessonsAtOnce bounds what one pass learns: a new leader finds all that is finished.
const lessonsAtOnce = 32

// lessons are the receipts of finished migrations that were not learned yet, by domain, at most
// lessonsAtOnce of these.
func lessons(s *fleet.Snapshot, learned map[string]bool) []Lesson {
	byDomain := map[hypervisor.DomainID][]forecast.Receipt{}
	for id, m := range s.Migrations {
		if learned[id] {
			continue
		}
		if r, ok := m.Receipt(); ok {
			byDomain[m.UUID] = append(byDomain[m.UUID], r)
		}
	}
	var out []Lesson
	for _, d := range slices.Sorted(maps.Keys(byDomain)) {
		if len(out) == lessonsAtOnce {
			break
		}
		slices.SortFunc(byDomain[d], func(a, b forecast.Receipt) int { return strings.Compare(a.ID, b.ID) })
		out = append(out, Lesson{Domain: d, Receipts: byDomain[d]})
	}
	return out
}

// learn files a lesson, and remembers that it did.
func (l *Loop) learn(ctx context.Context, lesson Lesson) error {
	if err := l.Profiles.Learn(ctx, lesson); err != nil {
		return l.tolerate(ctx, "receipt not learned, it will be tried again", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range lesson.Receipts {
		l.memory.Learned[r.ID] = true
	}
	return nil
}

// unlearned reports whether a finished migration has yet to be learned from.
func (l *Loop) unlearned(m precopy.Stored) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := m.Receipt()
	return ok && !l.memory.Learned[m.ID]
}

// tend removes profiles that no host has a domain for, and plans of long ago.
func (l *Loop) tend(ctx context.Context) error {
	snap := l.State.Snapshot()
	if snap == nil {
		return nil
	}
	reported := map[hypervisor.DomainID]bool{}
	for _, d := range snap.Domains() {
		reported[d.Facts.ID] = true
	}
	if err := l.tolerate(ctx, "profiles not tended", l.Profiles.Tend(ctx, reported)); err != nil || l.Plans == nil {
		return err
	}
	return l.tolerate(ctx, "past plans not pruned", l.Plans.Prune(ctx))
}
