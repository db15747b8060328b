package sim

import (
	"cmp"
	"slices"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// Rule decides what is done about the fleet, at each pass of the leader. It may keep a memory of its own.
type Rule interface {
	Decide(in scheduler.Inputs) []scheduler.Decision
}

// Drover is drover's own.
type Drover struct{}

// Decide implements Rule.
func (Drover) Decide(in scheduler.Inputs) []scheduler.Decision { return scheduler.Decide(in) }

// Peer is another manager's rule of how many migrations may run at once, carried out by drover's code: its
// filters, its runs, its agents.
type Peer struct {
	// Name is for tables.
	Name string
	// Outgoing, Incoming and Fleet are how many may run at once, of a host and in all; 0 is no limit.
	Outgoing, Incoming, Fleet int
	// Both bounds the sum of what leaves a host and comes to it; 0 is no limit.
	Both int
	// Tuning is how migrations are driven (tune.FixedNames); "" is drover's controller.
	Tuning string
	// Place chooses targets where a migration names none; nil is drover's.
	Place scheduler.Placer
	// Retarget has Place choose the targets of runs' migrations too, whatever drover's plan says.
	Retarget bool
}

// noLimit is more than any fleet has.
const noLimit = 1 << 20

// Decide implements Rule.
func (p Peer) Decide(in scheduler.Inputs) []scheduler.Decision {
	unlimited := func(n int) int {
		if n == 0 {
			return noLimit
		}
		return n
	}
	in.Limits = scheduler.Limits{Outgoing: unlimited(p.Outgoing), Incoming: unlimited(p.Incoming)}
	if p.Place != nil {
		in.Placer = p.Place
	}
	all, at := 0, map[string]int{}
	for _, m := range in.Fleet.Unfinished() {
		if m.Phase.Holds() {
			all++
			at[m.Source]++
			at[m.Target]++
		}
	}
	shared := *in.Fleet
	shared.Policy.Network.Sharing = policy.SharingNone // nobody divides links
	in.Fleet = &shared
	if p.Retarget {
		in.Fleet = untargeted(in.Fleet)
	}
	var out []scheduler.Decision
	for _, d := range scheduler.Decide(in) {
		if d.Create != nil {
			d.Create.Policy = p.policy(d.Create.Policy)
		}
		if d.Write != nil && d.Write.New.Phase == precopy.Queued && d.Write.Old.Phase == precopy.Requested {
			m := &d.Write.New
			if p.Fleet > 0 && all >= p.Fleet || p.Both > 0 && (at[m.Source] >= p.Both || at[m.Target] >= p.Both) {
				continue
			}
			all++
			at[m.Source]++
			at[m.Target]++
			if p.Tuning != "" {
				m.Policy.Tuning = p.Tuning
				m.Order.Strategy, m.Order.Prior, m.Forecast = hypervisor.Strategy{}, nil, nil
			}
		}
		out = append(out, d)
	}
	return out
}

func (p Peer) policy(have precopy.Policy) precopy.Policy {
	if p.Tuning == "" {
		return have
	}
	if have == (precopy.Policy{}) {
		have = precopy.DefaultPolicy()
	}
	have.Tuning = p.Tuning
	return have
}

// untargeted takes the targets off the migrations that are only asked for.
func untargeted(s *fleet.Snapshot) *fleet.Snapshot {
	out := *s
	out.Migrations = make(map[string]precopy.Stored, len(s.Migrations))
	for id, m := range s.Migrations {
		if m.Phase == precopy.Requested {
			m.Target = ""
		}
		out.Migrations[id] = m
	}
	return &out
}

// FewestVMs places a guest on the host with the fewest, as managers do that look at nothing else.
type FewestVMs struct{}

// Place implements scheduler.Placer.
func (FewestVMs) Place(s *fleet.Snapshot, r feasible.Request) ([]string, map[string][]hypervisor.Blocker) {
	return placeBy(s, r, func(h *fleet.Host) float64 { return float64(len(h.Facts.Domains)) })
}

// MostFree places a guest on the host with the most memory to give.
type MostFree struct{}

// Place implements scheduler.Placer.
func (MostFree) Place(s *fleet.Snapshot, r feasible.Request) ([]string, map[string][]hypervisor.Blocker) {
	return placeBy(s, r, func(h *fleet.Host) float64 { return -float64(feasible.FreeMemory(s, h, r.Migration)) })
}

func placeBy(s *fleet.Snapshot, r feasible.Request, score func(*fleet.Host) float64) ([]string, map[string][]hypervisor.Blocker) {
	refused := map[string][]hypervisor.Blocker{}
	scores := map[string]float64{}
	var hosts []string
	for _, name := range s.HostNames() {
		if b := feasible.Target(s, r, name); len(b) > 0 {
			refused[name] = b
			continue
		}
		hosts = append(hosts, name)
		scores[name] = score(s.Hosts[name])
	}
	slices.SortStableFunc(hosts, func(a, b string) int { return cmp.Compare(scores[a], scores[b]) })
	return hosts, refused
}
