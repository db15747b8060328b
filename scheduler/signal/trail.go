package signal

import (
	"cmp"
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
// It holds whoever leads: a new leader shows its trail the fleet's migrations, then those of the history, which
// were moved there from among them; after that, in every pass, the fleet's.
//
// A Trail is for one goroutine at a time.
type Trail struct {
	departures map[hypervisor.DomainID][]departure
}

type departure struct {
	migration string
	host      string
	at        time.Time
}

// NewTrail knows of no moves.
func NewTrail() *Trail { return &Trail{departures: map[hypervisor.DomainID][]departure{}} }

// See takes in a migration, if it is done and new. One that does not say when it was done is done just now.
func (t *Trail) See(m precopy.Migration, now time.Time) {
	if m.Phase != precopy.Done || m.Source == m.Target {
		return
	}
	at := now
	if m.Finished != nil && m.Finished.Before(now) {
		at = *m.Finished
	}
	if now.Sub(at) < NoReturn {
		t.Add(Departure{m.UUID, m.ID, m.Source, at})
	}
}

// Departure is that a VM left a host, by a migration.
type Departure struct {
	Domain    hypervisor.DomainID `json:"domain"`
	Migration string              `json:"migration"`
	Host      string              `json:"host"`
	At        time.Time           `json:"at"`
}

// Add takes in departures that are new.
func (t *Trail) Add(list ...Departure) {
	for _, n := range list {
		known := slices.ContainsFunc(t.departures[n.Domain], func(d departure) bool { return d.migration == n.Migration })
		if !known {
			t.departures[n.Domain] = append(t.departures[n.Domain], departure{n.Migration, n.Host, n.At})
		}
	}
}

// Departures are all that are known, oldest first.
func (t *Trail) Departures() []Departure {
	var out []Departure
	for id, list := range t.departures {
		for _, d := range list {
			out = append(out, Departure{id, d.migration, d.host, d.at})
		}
	}
	slices.SortFunc(out, func(a, b Departure) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Migration, b.Migration))
	})
	return out
}

// Forget drops what is older than [NoReturn].
func (t *Trail) Forget(now time.Time) {
	for id, list := range t.departures {
		list = slices.DeleteFunc(list, func(d departure) bool { return now.Sub(d.at) >= NoReturn })
		t.departures[id] = list
		if len(list) == 0 {
			delete(t.departures, id)
		}
	}
}

// May says whether the VM may move to the host by itself, and if not, why.
func (t *Trail) May(id hypervisor.DomainID, host string, now time.Time, cooldown time.Duration) (bool, string) {
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
func (t *Trail) Rests(id hypervisor.DomainID, now time.Time, cooldown time.Duration) time.Duration {
	var left time.Duration
	for _, d := range t.departures[id] {
		left = max(left, cooldown-now.Sub(d.at))
	}
	return left
}

// Left are the hosts that the VM left in the last [NoReturn], in order, for a planner to leave out.
func (t *Trail) Left(id hypervisor.DomainID, now time.Time) []string {
	var out []string
	for _, d := range t.departures[id] {
		if now.Sub(d.at) < NoReturn {
			out = append(out, d.host)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
