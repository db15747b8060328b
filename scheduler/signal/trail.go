package signal

import (
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// NoReturn is for how long a VM does not go back, by itself, to a host that it left.
const NoReturn = 24 * time.Hour

// Trail is where VMs have been in the last [NoReturn].
//
// Invariant: an automatic move never brings a VM to a host that it left less than NoReturn ago, whoever made
// it leave. So in any 24 hours a VM returns by itself to no host at all, and moves by itself at most once to
// each of the other hosts, with the cooldown between two moves. People and drains are not bound by it; a move
// of theirs counts as any other for what comes after.
//
// It holds for whoever leads: the trail is made anew, for every decision, from the finished migrations in the
// store, which keeps them for longer than NoReturn.
type Trail struct {
	departures map[hypervisor.DomainID][]departure
}

type departure struct {
	host string
	at   time.Time
}

// NewTrail reads the trail from migrations. One that is done and does not say when ended just now.
func NewTrail(migrations map[string]precopy.Stored, now time.Time) Trail {
	t := Trail{map[hypervisor.DomainID][]departure{}}
	for _, m := range migrations {
		if m.Phase != precopy.Done || m.Source == m.Target {
			continue
		}
		at := now
		if m.Finished != nil && m.Finished.Before(now) {
			at = *m.Finished
		}
		if now.Sub(at) < NoReturn {
			t.departures[m.UUID] = append(t.departures[m.UUID], departure{m.Source, at})
		}
	}
	return t
}

// May says whether the VM may move to the host by itself at the time that the trail was made for, and if not,
// why.
func (t Trail) May(id hypervisor.DomainID, host string, now time.Time, cooldown time.Duration) (bool, string) {
	if left := t.Rests(id, now, cooldown); left > 0 {
		return false, fmt.Sprintf("it moved less than %s ago: rests for another %s", cooldown, left.Round(time.Second))
	}
	for _, d := range t.departures[id] {
		if d.host == host && now.Sub(d.at) < NoReturn {
			return false, fmt.Sprintf("it left %s less than %s ago", host, NoReturn)
		}
	}
	return true, ""
}

// Rests is for how long the VM still rests after its last move; 0 when it does not.
func (t Trail) Rests(id hypervisor.DomainID, now time.Time, cooldown time.Duration) time.Duration {
	var left time.Duration
	for _, d := range t.departures[id] {
		left = max(left, cooldown-now.Sub(d.at))
	}
	return left
}

// Left are the hosts that the VM left in the last [NoReturn], in order, for a planner to leave out.
func (t Trail) Left(id hypervisor.DomainID) []string {
	var out []string
	for _, d := range t.departures[id] {
		out = append(out, d.host)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
