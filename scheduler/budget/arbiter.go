package budget

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const (
	// soon is how near the end of the stream in front must be for the next to be prepared: its start takes a
	// second or two, in which nothing is sent. What is prepared for longer costs its guest a little, as what it
	// writes is noted.
	soon = 4 * time.Second
	// nearFor is how long a stream may have a link to itself for its switchover, and nearAgain when it may
	// have it the next time.
	nearFor   = 3 * time.Second
	nearAgain = 15 * time.Second
)

// Memory is what a leader remembers of streams between passes. Its zero value is that of a new leader.
type Memory struct {
	since map[string]time.Time // since when a stream says that it is near its end
	over  map[string]deafness
	// Deaf counts the streams that were found not to keep to their share.
	Deaf int
}

// deafness is how often in a row a stream was seen to send more than its share.
type deafness struct {
	at    time.Time
	times int
}

// deafFrom is how many samples in a row make a share one that is not obeyed.
const deafFrom = 4

// Look takes in what a snapshot tells, and returns the migrations that are now known not to keep to their
// shares.
func (r *Memory) Look(s *fleet.Snapshot, now time.Time) []string {
	if r.since == nil {
		r.since, r.over = map[string]time.Time{}, map[string]deafness{}
	}
	var deaf []string
	for id, p := range s.Progress {
		switch since, near := r.since[id]; {
		case !p.Near && now.Sub(since) > nearAgain:
			delete(r.since, id)
		case p.Near && !near:
			r.since[id] = now
		}
		d := r.over[id]
		if p.At.Equal(d.at) {
			continue
		}
		d.at = p.At
		m := s.Migrations[id]
		if p.Cap > 0 && p.Achieved > p.Cap+p.Cap/5+2*unit && m.Phase == precopy.Copying && !m.Split() {
			if d.times++; d.times == deafFrom {
				r.Deaf++
				deaf = append(deaf, id)
			}
		} else {
			d.times = 0
		}
		r.over[id] = d
	}
	for id := range r.over {
		if _, there := s.Progress[id]; !there {
			delete(r.over, id)
			delete(r.since, id)
		}
	}
	slices.Sort(deaf)
	return deaf
}

func (r *Memory) deaf(id string) bool { return r != nil && r.over[id].times >= deafFrom }

// near reports whether a stream is to have its links to itself now.
func (r *Memory) near(f *flow, now time.Time) bool {
	if r == nil || f.progress == nil || !f.progress.Near || now.Sub(f.progress.Seen) > fresh {
		return false
	}
	since, known := r.since[f.ID]
	return known && now.Sub(since) < nearFor
}

// Arbiter decides, for one moment, what may start and what every stream may send.
type Arbiter struct {
	*model
	pending []*flow
	waiting map[int]string // by link, the domain that waits for its bandwidth: nobody passes it by
}

// New returns the arbiter of a moment.
func New(in Input) *Arbiter {
	a := &Arbiter{model: newModel(in), waiting: map[int]string{}}
	for _, f := range a.flows {
		// What takes more than its share takes it from the links.
		if f.progress != nil && in.Memory.deaf(f.ID) {
			f.inForce = max(f.inForce, f.progress.Achieved)
		}
	}
	return a
}

// Candidate is a migration that could be ordered.
type Candidate struct {
	Migration precopy.Stored
	Target    string
	// Need is the least bandwidth by which its promise can be kept; 0 is not known.
	Need hypervisor.BytesPerSecond
	// Behind says that it would only be prepared.
	Behind bool
}

// Verdict is whether a candidate may start.
type Verdict struct {
	OK   bool
	Need hypervisor.BytesPerSecond // of the candidate, capped
	// Share is what it may begin with, Limit what keeps it from more, Alone the most that it could have.
	Share, Alone hypervisor.BytesPerSecond
	Limit        string
	// Fixed says that the share is all that the migration will ever have.
	Fixed bool
	// Behind says that it is prepared while another is being sent.
	Behind bool
	// Reason says why it waits; empty when it is a matter of a moment. Until is when it is expected not
	// to any more, zero when nobody knows.
	Reason string
	Until  time.Time
}

// Bandwidth is the cap of a stream between two hosts, by the links and the policy.
func (a *Arbiter) Bandwidth(source, target string) hypervisor.BytesPerSecond {
	if a.Network.Sharing == policy.SharingNone {
		return a.capOf(hypervisor.BytesPerSecond(float64(Between(a.Fleet.Hosts[source], a.Fleet.Hosts[target])) / linkShare))
	}
	return a.between(source, target)
}

// Alone is what a stream between two hosts could have if nobody else used its links: what its migration is forecast for.
func (a *Arbiter) Alone(source, target string) hypervisor.BytesPerSecond {
	most := a.Bandwidth(source, target)
	if !a.lively() {
		return most
	}
	return max(a.least(most, a.path(source, target)), unit)
}

// Blocked says why a migration between two hosts has to wait for one that asked before it; empty when it has
// not.
func (a *Arbiter) Blocked(source, target string) string {
	for _, l := range a.path(source, target) {
		if first, waits := a.waiting[l]; waits {
			return fmt.Sprintf("waiting: %s is before it, and waits for bandwidth of %s", first, a.links[l].Name)
		}
	}
	return ""
}

// Contended reports whether a stream to a host would have to share the way in, so that the way out of its own
// host stood partly idle meanwhile.
func (a *Arbiter) Contended(target string) bool {
	l := a.hostLink(target, a.Fleet.Hosts[target], "in")
	if a.links[l].Usable == Unlimited || !a.lively() {
		return false
	}
	return slices.ContainsFunc(a.flows, func(o *flow) bool { return slices.Contains(o.Links, l) })
}

func (a *Arbiter) lively() bool { return Lively(a.Network) }

// Lively reports whether links are divided live: only then is the next stream prepared while another is sent.
func Lively(n policy.Network) bool {
	return n.Sharing != policy.SharingEqual && n.Sharing != policy.SharingNone
}

// Admit decides about a candidate. What it admits counts from then on; one that has to wait keeps those that
// are asked about later from the link that it waits for.
func (a *Arbiter) Admit(c Candidate) Verdict {
	f := a.candidate(c)
	switch a.Network.Sharing {
	case policy.SharingNone:
		a.flows = append(a.flows, f)
		return Verdict{OK: true, Need: f.Need, Share: f.Cap}
	case policy.SharingEqual:
		f.inForce = a.equalPart(f)
		a.flows = append(a.flows, f)
		return Verdict{OK: true, Need: f.Need, Share: f.inForce, Limit: "fixed part", Fixed: true}
	}
	whole := c.Migration.CopyStorage // copies of disks keep what they begin with
	if whole && f.Behind {
		return Verdict{Reason: "waiting: it copies disks, which can't be given more bandwidth later: it begins when what is sent now is over"}
	}
	if !f.Behind {
		if at := a.short(f); at >= 0 {
			if v := a.wait(f, at, !whole); !v.OK {
				a.waiting[at] = f.m.Domain
				return v
			}
			f.Behind = true
		}
	}
	grants := Divide(a.usable(), streamsOf(append(slices.Clone(a.flows), f)))
	g := grants[len(grants)-1]
	free, tightest := a.free(f)
	share := min(g.Bandwidth, free/unit*unit)
	if share < unit || whole && share < g.Bandwidth/4*3 {
		// The others have to make room first.
		a.pending = append(a.pending, f)
		a.waiting[tightest] = f.m.Domain
		return a.makingRoom(tightest)
	}
	f.inForce = share
	a.flows = append(a.flows, f)
	return Verdict{OK: true, Need: f.Need, Share: share, Alone: a.alone(f.Stream), Limit: a.limit(f, g), Behind: f.Behind}
}

// slowToShrink is how long a stream may take to make room until who waits for that is told.
const slowToShrink = 5 * time.Second

// makingRoom is the verdict for a candidate that begins once others on a link send less: a matter of a moment, but for one
// whose agent or libvirt does not heed its share.
func (a *Arbiter) makingRoom(link int) Verdict {
	for _, o := range a.flows {
		if slices.Contains(o.Links, link) && o.inForce > o.share.Bandwidth && a.Now.Sub(o.share.At) > slowToShrink {
			return Verdict{Reason: fmt.Sprintf("waiting for bandwidth of %s: %s was told to send less, and has not made room yet", a.links[link].Name, o.m.Domain)}
		}
	}
	return Verdict{}
}

func (a *Arbiter) candidate(c Candidate) *flow {
	rank, weight := standing(a.Fleet, c.Migration.Migration)
	bandwidth := a.Bandwidth(c.Migration.Source, c.Target)
	return &flow{m: c.Migration, ordered: true, Stream: Stream{
		ID: c.Migration.ID, Links: a.path(c.Migration.Source, c.Target), Cap: bandwidth,
		Need: min(c.Need, bandwidth), Rank: rank, Weight: weight, Behind: c.Behind,
	}}
}

// equalPart is the fixed part of a stream where links are divided by the number of streams that may run.
func (a *Arbiter) equalPart(f *flow) hypervisor.BytesPerSecond {
	part := f.Cap
	for i, l := range f.Links {
		n := max(a.Outgoing, 1)
		if i > 0 {
			n = max(a.Incoming, 1)
		}
		part = min(part, a.links[l].Usable/hypervisor.BytesPerSecond(n))
	}
	return max(part, unit)
}

// short is the link that has too little left for a candidate's need beside those of the streams that run; -1
// when there is none.
func (a *Arbiter) short(f *flow) int {
	need := max(min(f.Need, f.Cap), unit)
	for _, l := range f.Links {
		left := a.links[l].Usable
		for _, o := range a.flows {
			if !slices.Contains(o.Links, l) {
				continue
			}
			if o.Rank >= f.Rank && !o.Behind {
				left -= max(min(o.Need, o.Cap), unit)
			} else {
				left -= unit
			}
		}
		if left < need {
			return l
		}
	}
	return -1
}

// calmer is how long a migration waits for other traffic to become less, and others behind it with it.
const calmer = 10 * time.Minute

// wait decides what becomes of a candidate for which a link has too little left: it is admitted when it is
// alone and the link can give no more, prepared when what is in its way soon ends, and else it waits.
func (a *Arbiter) wait(f *flow, at int, prepare bool) Verdict {
	l := a.links[at]
	var names []string
	var until time.Time
	for _, o := range a.flows {
		if slices.Contains(o.Links, at) {
			names = append(names, o.m.Domain)
			if end, ok := a.ends(o); ok && (until.IsZero() || end.Before(until)) {
				until = end
			}
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		if l.Capacity == 0 || l.empty() < max(f.Need, unit) || l.Tenants <= l.Reserved || f.Need >= f.Cap {
			return Verdict{OK: true} // it will never have more than this, or not enough of it
		}
		if a.Now.Sub(f.m.Created) > calmer {
			return Verdict{OK: true} // nor will the traffic become less
		}
		return Verdict{Reason: fmt.Sprintf("waiting for bandwidth: it needs %s of %s, where other traffic leaves less", f.Need, l.Name)}
	}
	if prepare && a.MayPrepare(f.m.Source, at) {
		return Verdict{OK: true}
	}
	return Verdict{Until: until, Reason: fmt.Sprintf("waiting for bandwidth: it needs %s of %s, which %s has now",
		max(f.Need, unit), l.Name, strings.Join(names, " and "))}
}

// MayPrepare reports whether the next stream out of a host may be started while those in front of it on a
// link are being sent: one of them ends soon, and nothing is being prepared there already.
func (a *Arbiter) MayPrepare(source string, link int) bool {
	out, ending := 0, false
	for _, o := range a.flows {
		if o.m.Source == source {
			out++
			if o.Behind {
				return false
			}
		}
		if slices.Contains(o.Links, link) {
			if o.Behind {
				return false
			}
			ending = ending || a.ending(o)
		}
	}
	return ending && out < policy.MaxStreams
}

// ending reports whether a stream may end soon: by its present pass, which may be the last, or by what was forecast,
// whichever comes first. What is left of a pass counts memory that holds nothing, too, and forecasts err.
func (a *Arbiter) ending(f *flow) bool {
	if f.m.Phase == precopy.Unknown {
		return false
	}
	within := func(d time.Duration) bool { return d <= soon }
	p, fc := f.progress, f.m.Forecast
	if p == nil {
		return fc != nil && fc.Seconds > 0 && within(time.Duration(fc.Seconds*float64(time.Second)))
	}
	age := a.Now.Sub(p.Seen)
	if p.ETA > 0 && within(p.ETA-age) {
		return true
	}
	rate := max(f.share.Bandwidth, unit)
	if p.ETA <= 0 || within(rate.Time(p.Remaining)-age) {
		return p.ETA > 0 // not while its passes do not leave less
	}
	return fc != nil && p.Round <= 1 && within(rate.Time(max(fc.Bytes-p.Processed, 0))-age)
}

// Prepare reports whether a stream may be prepared beyond the number that may run between two hosts.
func (a *Arbiter) Prepare(source, target string, full string) bool {
	if !a.lively() {
		return false
	}
	path := a.path(source, target)
	link := path[0]
	if full == target {
		link = path[1]
	}
	return a.MayPrepare(source, link)
}

// ends is when a stream is expected to.
func (a *Arbiter) ends(f *flow) (time.Time, bool) {
	var end time.Time
	p := f.progress
	if p != nil && p.ETA > 0 {
		end = p.Seen.Add(p.ETA) // of its present pass, at least
	}
	if fc := f.m.Forecast; fc != nil && f.m.Started != nil && (p == nil || !p.Near) {
		whole := f.m.Started.Add(time.Duration(fc.Seconds * float64(time.Second)))
		if whole.After(end) && whole.After(a.Now) {
			end = whole
		}
	}
	return end, !end.IsZero()
}

// Ends is when the first of the streams that cross a host is expected to end; false when nobody knows.
func (a *Arbiter) Ends(host string) (first time.Time, ok bool) {
	for _, f := range a.flows {
		if f.m.Source != host && f.m.Target != host {
			continue
		}
		if end, known := a.ends(f); known && (!ok || end.Before(first)) {
			first, ok = end, true
		}
	}
	return first, ok
}

// free is what a stream's links have left beside everything that may be in force, and the link that has least.
func (a *Arbiter) free(f *flow) (left hypervisor.BytesPerSecond, tightest int) {
	left, tightest = f.Cap, f.Links[0]
	for _, l := range f.Links {
		n := a.links[l].Usable
		for _, o := range a.flows {
			if o != f && slices.Contains(o.Links, l) {
				n -= o.inForce
			}
		}
		if n < left {
			left, tightest = n, l
		}
	}
	return left, tightest
}

// limit names what keeps a stream from having more.
func (a *Arbiter) limit(f *flow, g Grant) string {
	switch {
	case f.Behind:
		return whilePrepared
	case g.Link >= 0:
		return a.links[g.Link].Name
	}
	return ""
}
