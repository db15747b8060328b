package budget

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// UnknownLink is assumed of what a single stream can use where a migration network's speed is not known.
const UnknownLink hypervisor.BytesPerSecond = 1e9 / 8

// linkShare of a link is what memory may use: headers of TLS and TCP come to it, and a link that is
// full has a queue in front, which the last pages before a switchover would have to wait in.
const linkShare = 0.90

// Link is one direction of something that streams share.
type Link struct {
	Name     string
	Capacity hypervisor.BytesPerSecond // 0 is not known
	// Reserved is kept for tenants, Tenants what they are to be left at present; the larger counts.
	Reserved, Tenants hypervisor.BytesPerSecond
	// Limit is the most that the policy allows, 0 for no limit.
	Limit hypervisor.BytesPerSecond
	// Usable is what migrations may take now; Unlimited when nobody knows.
	Usable hypervisor.BytesPerSecond
}

// Input is what a division of the fleet depends on.
type Input struct {
	Fleet   *fleet.Snapshot
	Network policy.Network // what counts at Now
	Traffic *Traffic       // nil knows of no tenants
	Memory  *Memory        // nil remembers nothing
	// Outgoing and Incoming are how many streams may leave and come to a host at once.
	Outgoing, Incoming int
	Now                time.Time
}

// flow is one migration as the arbiter knows it.
type flow struct {
	Stream
	m        precopy.Stored
	share    fleet.StoredShare // zero when there is none
	inForce  hypervisor.BytesPerSecond
	pinned   bool // nobody can change it now
	progress *fleet.SeenProgress
	ordered  bool // in this very pass
}

// model is the links and streams of a moment.
type model struct {
	Input
	links []Link
	index map[string]int
	flows []*flow
}

func newModel(in Input) *model {
	m := &model{Input: in, index: map[string]int{}}
	for _, rec := range in.Fleet.Migrations {
		if rec.Phase.Holds() && rec.Order != nil {
			m.flows = append(m.flows, m.flow(rec))
		}
	}
	slices.SortFunc(m.flows, func(a, b *flow) int {
		return cmp.Or(a.m.Order.IssuedAt.Compare(b.m.Order.IssuedAt), strings.Compare(a.m.ID, b.m.ID))
	})
	out, arriving := map[string]int{}, map[string]int{}
	for _, f := range m.flows {
		out[f.m.Source]++
		arriving[f.m.Target]++
		f.Behind = m.outOf(f.m.Migration) < out[f.m.Source] || m.into() < arriving[f.m.Target] || f.prepared()
		if f.Behind {
			out[f.m.Source]--
			arriving[f.m.Target]--
		}
	}
	return m
}

// prepared reports whether the stream has had no more by now than what it was prepared with.
func (f *flow) prepared() bool {
	return !f.pinned && f.share.Serial == 1 && f.share.Limit == whilePrepared
}

const whilePrepared = "prepared: another is being sent"

// outOf and into are how many streams may leave the migration's source, and come to a host.
func (m *model) outOf(rec precopy.Migration) int {
	if r, ok := m.Fleet.Runs[rec.Run]; ok && r.MaxParallel > 0 {
		return r.MaxParallel
	}
	return max(m.Outgoing, 1)
}

func (m *model) into() int { return max(m.Incoming, 1) }

func (m *model) flow(rec precopy.Stored) *flow {
	f := &flow{m: rec, share: m.Fleet.Shares[rec.ID]}
	rank, weight := standing(m.Fleet, rec.Migration)
	need := rec.Order.Need
	var serial int64
	if p, ok := m.Fleet.Progress[rec.ID]; ok {
		f.progress, serial = &p, p.Serial
		if p.Need > 0 {
			need = p.Need
		}
	}
	f.inForce = rec.Order.Bandwidth
	if f.share.Revision > 0 {
		f.inForce = f.share.InForce(serial)
	}
	f.Stream = Stream{
		ID: rec.ID, Links: m.path(rec.Source, rec.Target), Cap: m.capOf(rec.Order.Bandwidth),
		Need: need, Rank: rank, Weight: weight,
	}
	if src := m.Fleet.Hosts[rec.Source]; src == nil || src.Session == nil || rec.Phase == precopy.Unknown || rec.Split() ||
		f.share.Revision == 0 { // ordered by a leader that gave none
		f.pinned = true
		hold := f.inForce
		if rec.Split() && f.progress != nil {
			hold = max(hold, f.progress.Achieved)
		}
		f.Cap, f.Need, f.Rank = hold, hold, pinnedRank
		return f
	}
	f.Near, f.Slowed = m.Memory.near(f, m.Now), f.progress != nil && f.progress.Throttle > 0
	return f
}

// capOf is the most that one stream may have, given what was ordered.
func (m *model) capOf(ordered hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	if limit := hypervisor.BytesPerSecond(m.Network.Limits.Migration); limit > 0 {
		return min(ordered, limit)
	}
	return ordered
}

// pinnedRank is above all others: what can't be changed has to be left alone.
const pinnedRank = 100

// standing is a migration's rank and weight: evacuation before drain before rebalance, a person's order
// before automation.
func standing(s *fleet.Snapshot, m precopy.Migration) (int, float64) {
	rank, weight := 4, 4.0 // a person's order for one VM stands beside a drain
	by := m.RequestedBy
	if r, ok := s.Runs[m.Run]; ok {
		by = r.RequestedBy
		switch r.Kind {
		case fleet.RunDrain:
		case fleet.RunRestore:
			rank, weight = 2, 2
		case fleet.RunRebalance:
			rank, weight = 0, 2
		default:
			rank, weight = 6, 8
		}
	}
	if by != "" && !Automation(by) {
		return rank + 1, weight * 1.5
	}
	return rank, weight
}

// Automation reports whether a name in a record is none of a person.
func Automation(by string) bool {
	return by == "scheduler" || by == "leader" || by == "automation" || strings.HasPrefix(by, "automation:") || strings.HasPrefix(by, "schedule:")
}

// Rank is in which order needs are met, the higher first.
func Rank(s *fleet.Snapshot, m precopy.Migration) int {
	rank, _ := standing(s, m)
	return rank
}

// path is the links that a stream crosses.
func (m *model) path(source, target string) []int {
	src, dst := m.Fleet.Hosts[source], m.Fleet.Hosts[target]
	out := []int{m.hostLink(source, src, "out"), m.hostLink(target, dst, "in")}
	for _, l := range m.Network.Links {
		from, to := l.Holds(labelsOf(src)), l.Holds(labelsOf(dst))
		switch {
		case from && !to:
			out = append(out, m.sharedLink(l, "out"))
		case to && !from:
			out = append(out, m.sharedLink(l, "in"))
		}
	}
	if limit := hypervisor.BytesPerSecond(m.Network.Limits.Fleet); limit > 0 {
		out = append(out, m.link(Link{Name: "fleet", Limit: limit}))
	}
	return out
}

func labelsOf(h *fleet.Host) map[string]string {
	if h == nil {
		return nil
	}
	return h.Record.Labels
}

func (m *model) hostLink(name string, h *fleet.Host, direction string) int {
	full := name + " " + direction
	if i, ok := m.index[full]; ok {
		return i
	}
	l := Link{Name: full}
	if h != nil {
		l.Capacity = h.Capacity().Bandwidth
	}
	out, in, reserve := m.Network.Host(name, labelsOf(h))
	l.Reserved = reserve.Of(l.Capacity)
	l.Limit = hypervisor.BytesPerSecond(out)
	if direction == "in" {
		l.Limit = hypervisor.BytesPerSecond(in)
	}
	if m.Traffic != nil {
		into, from := m.Traffic.Host(name)
		l.Tenants = from
		if direction == "in" {
			l.Tenants = into
		}
	}
	return m.link(l)
}

func (m *model) sharedLink(l policy.SharedLink, direction string) int {
	c := hypervisor.BytesPerSecond(l.Capacity)
	return m.link(Link{Name: l.Name + " " + direction, Capacity: c, Reserved: l.Reserve.Of(c)})
}

// link adds a link, once.
func (m *model) link(l Link) int {
	if i, ok := m.index[l.Name]; ok {
		return i
	}
	l.Usable = Unlimited
	if l.Capacity > 0 {
		whole := hypervisor.BytesPerSecond(linkShare * float64(l.Capacity))
		least := hypervisor.BytesPerSecond(leastPart * float64(whole))
		l.Usable = max(whole-max(l.Reserved, l.Tenants), min(least, whole-l.Reserved), 0)
	}
	if l.Limit > 0 {
		l.Usable = min(l.Usable, l.Limit)
	}
	m.index[l.Name] = len(m.links)
	m.links = append(m.links, l)
	return len(m.links) - 1
}

// alone is the most that a stream could have if nobody else used its links.
func (m *model) alone(s Stream) hypervisor.BytesPerSecond {
	return max(m.least(s.Cap, s.Links)/unit*unit, unit)
}

// least is what the links leave of a rate while they are empty of all else.
func (m *model) least(rate hypervisor.BytesPerSecond, links []int) hypervisor.BytesPerSecond {
	for _, i := range links {
		rate = min(rate, m.links[i].empty())
	}
	return rate
}

// empty is what migrations may take of the link while it is empty of all else.
func (l Link) empty() hypervisor.BytesPerSecond {
	most := Unlimited
	if l.Capacity > 0 {
		most = max(hypervisor.BytesPerSecond(linkShare*float64(l.Capacity))-l.Reserved, 0)
	}
	if l.Limit > 0 {
		most = min(most, l.Limit)
	}
	return most
}

// between is the cap for a stream: the slower end of the migration network.
func (m *model) between(source, target string) hypervisor.BytesPerSecond {
	return m.capOf(Between(m.Fleet.Hosts[source], m.Fleet.Hosts[target]))
}

// Between is the most that one stream can use between two hosts.
func Between(a, b *fleet.Host) hypervisor.BytesPerSecond {
	speed := func(h *fleet.Host) hypervisor.BytesPerSecond {
		if h != nil {
			if bw := h.Capacity().Bandwidth; bw > 0 {
				return bw
			}
		}
		return UnknownLink
	}
	return hypervisor.BytesPerSecond(linkShare * float64(min(speed(a), speed(b))))
}

// usable is what every link has for migrations.
func (m *model) usable() []hypervisor.BytesPerSecond {
	out := make([]hypervisor.BytesPerSecond, len(m.links))
	for i, l := range m.links {
		out[i] = l.Usable
	}
	return out
}

func streamsOf(flows []*flow) []Stream {
	out := make([]Stream, len(flows))
	for i, f := range flows {
		out[i] = f.Stream
	}
	return out
}
