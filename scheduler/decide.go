package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/rolling"
)

const (
	// orderLife is how long the source's agent has to claim an order.
	orderLife = 30 * time.Second
	// lapseGrace is how long after its lease ended an agent may be away before its migrations are
	// called unknown: a restart takes less.
	lapseGrace = 10 * time.Second
	// downGrace is how long a request waits for a host that is down: a restart takes less.
	downGrace = 30 * time.Second
	// answerLife is how long a preflight's result holds, askAgain the pause after one that a host has not answered.
	answerLife = 30 * time.Second
	askAgain   = time.Second
)

// Limits bounds what runs at once on one host.
type Limits struct {
	Outgoing int // streams leaving a host
	Incoming int // streams arriving at a host
}

// DefaultLimits is one out and two in: two streams leaving one host starve each other.
func DefaultLimits() Limits { return Limits{Outgoing: 1, Incoming: 2} }

// Key names one preflight: a migration and the target it was asked for.
type Key struct{ Migration, Target string }

// Result is what a preflight found. Pending ones have a zero At.
type Result struct {
	At       time.Time
	Blockers []hypervisor.Blocker
	// Silent is the host that has not answered, and Since when the first of the preflights in a row began that
	// ended so; zero when both answer.
	Silent string
	Since  time.Time
	// Profile is what earlier migrations have shown of the domain.
	Profile forecast.Profile
}

// Memory is what a leader keeps between passes; a new leader starts with none and loses nothing but
// time.
type Memory struct {
	Preflights map[Key]Result
	// AwaySince is since when a host has no living agent.
	AwaySince map[string]time.Time
	// DownSince is since when a host is not [feasible.Up]; it covers AwaySince.
	DownSince map[string]time.Time
	// Clocks is each host's clock minus the leader's, too small by the time that a report takes.
	Clocks map[string]time.Duration
	// Traffic and Streams are what is remembered of tenants' traffic and of streams; they are not written to
	// by a pass.
	Traffic *budget.Traffic
	Streams *budget.Memory
	// Profiles are what earlier migrations have shown of the VMs of runs under way, as far as they were read;
	// nil where none are.
	Profiles map[hypervisor.DomainID]forecast.Profile
	// Hooks are the attempts of hooks that this leader has begun: what became of each, or nil.
	Hooks map[string]*precopy.HookResult
	// Learned are the IDs of the finished migrations that were learned from.
	Learned map[string]bool
}

// Inputs is everything that a pass depends on.
type Inputs struct {
	Fleet  *fleet.Snapshot
	Memory Memory
	Limits Limits
	Placer Placer
	Leader string
	Fence  int64
	Now    time.Time
}

// Decision is one thing to do: write a record, ask two hosts, bind a host's name, learn from finished
// migrations, divide links anew, carry a run on, or run a hook. Exactly one of its fields is set.
type Decision struct {
	Write  *Write
	Ask    *Ask
	Bind   *fleet.Session
	Learn  *Lesson
	Run    *RunWrite
	Cordon *drain.Cordon
	Create *precopy.Migration
	Shares []budget.Write
	// Fetch reads what earlier migrations have shown of domains.
	Fetch []hypervisor.DomainID
	// ShutDown asks a guest to shut down.
	ShutDown *drain.ShutDown
	Start    *fleet.Run
	Hook     *rolling.HookOrder
}

// Write changes a migration's record.
type Write struct {
	Old precopy.Stored
	New precopy.Migration
	// Host names the target of an order, whose record must still have the revision when the order is
	// written: a cordon that came in between wins. Empty for other changes.
	Host         string
	HostRevision int64
	// Share is made along with an order; nil for other changes.
	Share *precopy.Share
}

// Ask starts a preflight.
type Ask struct {
	Key     Key
	Request feasible.Request
}

// Decide takes one pass over the fleet. It is pure: the same inputs give the same decisions, migrations
// of higher priority first, of equal ones the oldest.
func Decide(in Inputs) []Decision {
	p := &pass{Inputs: in, out: map[string]int{}, in: map[string]int{}}
	p.divide()
	for _, name := range in.Fleet.HostNames() {
		if h := in.Fleet.Hosts[name]; h.Session != nil && h.Record.LibvirtUUID == "" {
			p.decisions = append(p.decisions, Decision{Bind: h.Session})
		}
	}
	for _, l := range lessons(in.Fleet, in.Memory.Learned) {
		p.decisions = append(p.decisions, Decision{Learn: &l})
	}
	p.runs()
	unfinished := p.byPriority(in.Fleet.Unfinished())
	for _, m := range unfinished {
		if m.Phase.Holds() {
			p.out[m.Source]++
			p.in[m.Target]++
		}
	}
	for _, m := range unfinished {
		switch {
		case m.Phase == precopy.Requested:
			p.admit(m)
		case m.Phase == precopy.Queued:
			p.expire(m)
		default:
			p.lapse(m)
		}
	}
	p.sharing()
	return p.decisions
}

type pass struct {
	Inputs
	out, in   map[string]int // streams held per host
	budget    *budget.Arbiter
	applied   bool // Fleet is this pass's own copy
	decisions []Decision
}

func (p *pass) write(old precopy.Stored, change func(*precopy.Migration)) {
	m := old.Migration
	change(&m)
	p.decisions = append(p.decisions, Decision{Write: &Write{Old: old, New: m}})
}

func (p *pass) end(m precopy.Stored, phase precopy.Phase, code, reason string) {
	p.write(m, func(m *precopy.Migration) {
		m.Phase, m.ReasonCode, m.Reason, m.Finished = phase, code, reason, &p.Now
	})
}

func (p *pass) refuse(m precopy.Stored, b hypervisor.Blocker) {
	reason := b.Detail
	if b.Remedy != "" {
		reason += " (" + b.Remedy + ")"
	}
	p.end(m, precopy.Refused, string(b.Code), reason)
}

// wait says in the record why a migration is not ordered yet, once.
func (p *pass) wait(m precopy.Stored, reason string) {
	if m.Reason == reason {
		return
	}
	p.write(m, func(m *precopy.Migration) { m.ReasonCode, m.Reason = "waiting", reason })
}

// admit decides about one request: refuse, wait, ask, or order.
func (p *pass) admit(m precopy.Stored) {
	if m.Cancel != nil {
		p.end(m, precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By+" before it began")
		return
	}
	if drain.Over(p.Fleet, m.Migration) {
		p.end(m, precopy.Aborted, "cancelled", "its run is over, or was cancelled, before it began")
		return
	}
	src := p.Fleet.Hosts[m.Source]
	if src == nil {
		p.refuse(m, hypervisor.Blocker{Code: feasible.UnknownHost, Detail: "no host is called " + m.Source})
		return
	}
	if down := feasible.Up(p.Fleet, src); down != nil {
		// Its VMs are not known now: "unknown-vm" would be a lie.
		if p.brief(m.Source) {
			p.waitFor(m, m.Source, *down)
		} else {
			p.refuse(m, *down)
		}
		return
	}
	dom, ok := domain(src, m.UUID)
	if !ok {
		p.refuse(m, hypervisor.Blocker{Code: hypervisor.BlockUnknownDomain, Detail: fmt.Sprintf("%s is not on %s", m.Domain, m.Source)})
		return
	}
	r := feasible.Request{Domain: dom, CopyStorage: m.CopyStorage, Migration: m.ID}
	if b := feasible.Source(p.Fleet, r); len(b) > 0 {
		p.refuse(m, b[0])
		return
	}
	behind := false
	if n := p.outgoing(m.Migration); p.out[m.Source] >= n {
		if m.Target == "" || !p.budget.Prepare(m.Source, m.Target, m.Source) {
			p.waitFull(m, m.Source, fmt.Sprintf("waiting: %s already sends %d VM, the limit", m.Source, n))
			return
		}
		behind = true
	}
	if p.letsPass(m) {
		return
	}
	targets, refused := p.targets(m, r)
	p.choose(m, r, targets, refused, behind)
}

// byPriority sorts migrations by what their requests say of it, else by what applies to their domains. One
// whose policy is not known comes last: it will be refused.
func (p *pass) byPriority(list []precopy.Stored) []precopy.Stored {
	rank := make(map[string]int, len(list))
	for _, m := range list {
		rank[m.ID] = m.Policy.Priority
		if m.Policy != (precopy.Policy{}) || p.Fleet.Hosts[m.Source] == nil {
			continue
		}
		rank[m.ID] = math.MinInt
		if dom, ok := domain(p.Fleet.Hosts[m.Source], m.UUID); ok {
			if promise, err := p.Fleet.PolicyFor(m.Migration, dom); err == nil {
				rank[m.ID] = promise.Priority
			}
		}
	}
	slices.SortStableFunc(list, func(a, b precopy.Stored) int {
		return cmp.Or(cmp.Compare(rank[b.ID], rank[a.ID]), cmp.Compare(budget.Rank(p.Fleet, b.Migration), budget.Rank(p.Fleet, a.Migration)))
	})
	return list
}

func domain(h *fleet.Host, id hypervisor.DomainID) (fleet.Domain, bool) {
	for _, d := range h.Domains() {
		if d.Facts.ID == id {
			return d, true
		}
	}
	return fleet.Domain{}, false
}

// brief reports whether a host that is down may only be restarting.
func (p *pass) brief(host string) bool {
	since, known := p.Memory.DownSince[host]
	return !known || p.Now.Sub(since) < downGrace
}

// waitFor waits for a host that is down. The text is the same in every pass, so it is written once.
func (p *pass) waitFor(m precopy.Stored, host string, down hypervisor.Blocker) {
	p.wait(m, fmt.Sprintf("waiting %s at most for %s to come back (%s)", downGrace, host, down.Code))
}

// patient reports whether the host that has not answered may only be restarting, or the store have been away.
func (p *pass) patient(r Result) bool { return r.Silent != "" && p.Now.Sub(r.Since) < downGrace }

// none ends a request that no host can take, unless one that could is only down, or does not answer, for the
// moment.
func (p *pass) none(m precopy.Stored, r feasible.Request, refused map[string][]hypervisor.Blocker) {
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		h, why := p.Fleet.Hosts[name], refused[name]
		if h == nil || len(why) != 1 {
			continue
		}
		if key := (Key{m.ID, name}); p.patient(p.Memory.Preflights[key]) {
			if p.Now.Sub(p.Memory.Preflights[key].At) >= askAgain {
				p.decisions = append(p.decisions, Decision{Ask: &Ask{Key: key, Request: r}})
			}
			p.wait(m, fmt.Sprintf("waiting %s at most: %s", downGrace, why[0].Detail))
			return
		}
		if down := feasible.Up(p.Fleet, h); down != nil && down.Code == why[0].Code && p.brief(name) {
			p.waitFor(m, name, *down)
			return
		}
	}
	p.refuse(m, noTarget(m, refused))
}

// targets returns the hosts to try in order, and for the others why not.
func (p *pass) targets(m precopy.Stored, r feasible.Request) ([]string, map[string][]hypervisor.Blocker) {
	if m.Target == "" {
		return p.Placer.Place(p.Fleet, r)
	}
	if b := feasible.Target(p.Fleet, r, m.Target); len(b) > 0 {
		return nil, map[string][]hypervisor.Blocker{m.Target: b}
	}
	return []string{m.Target}, map[string][]hypervisor.Blocker{}
}

func noTarget(m precopy.Stored, refused map[string][]hypervisor.Blocker) hypervisor.Blocker {
	if m.Target != "" && len(refused[m.Target]) > 0 {
		return refused[m.Target][0]
	}
	var why []string
	for _, h := range slices.Sorted(maps.Keys(refused)) {
		if refused[h][0].Code != feasible.SameHost {
			why = append(why, h+": "+refused[h][0].String())
		}
	}
	if len(why) == 0 {
		why = []string{"there is no other host"}
	}
	return hypervisor.Blocker{
		Code: "no-target", Detail: "no host can take it: " + strings.Join(why, "; "),
		Remedy: "drover vm check " + m.Domain + " shows all reasons",
	}
}

// choose goes through the targets in order until one is ordered, asked, or being asked.
func (p *pass) choose(m precopy.Stored, r feasible.Request, targets []string, refused map[string][]hypervisor.Blocker, behind bool) {
	promise, err := p.Fleet.PolicyFor(m.Migration, r.Domain)
	if err != nil {
		p.refuse(m, hypervisor.Blocker{Code: feasible.Policy, Detail: err.Error()})
		return
	}
	var busy []string
	var blocked string
	for _, t := range targets {
		behind := behind
		if p.in[t] >= p.Limits.Incoming {
			if behind = m.Target != "" && p.budget.Prepare(m.Source, t, t); !behind {
				busy = append(busy, t)
				continue
			}
		}
		if why := p.budget.Blocked(m.Source, t); why != "" {
			blocked = why
			continue
		}
		key := Key{m.ID, t}
		res, asked := p.Memory.Preflights[key]
		switch {
		case asked && res.At.IsZero():
			return // being asked
		case !asked || p.Now.Sub(res.At) > answerLife:
			p.decisions = append(p.decisions, Decision{Ask: &Ask{Key: key, Request: r}})
			return
		case res.Silent == m.Source:
			// No other target would make it answer.
			p.none(m, r, map[string][]hypervisor.Blocker{t: res.Blockers})
			return
		case len(res.Blockers) > 0:
			refused[t] = res.Blockers
			continue
		}
		in := forecastInput(p.Fleet, r.Domain, t, promise, r.CopyStorage, res.Profile, p.Now)
		in.Bandwidth = p.budget.Alone(m.Source, t)
		f := forecast.Of(in)
		if b := HopelessBlocker(f, promise); b != nil {
			refused[t] = []hypervisor.Blocker{*b}
			continue
		}
		if v, ok := p.admitted(m, request{in, behind}, t, f); ok {
			p.order(m, r, t, promise, f, v)
		}
		return
	}
	if blocked != "" {
		p.wait(m, blocked)
		return
	}
	if len(busy) > 0 {
		p.waitFull(m, busy[0], fmt.Sprintf("waiting: %s already receives %d VMs, the limit", strings.Join(busy, ", "), p.Limits.Incoming))
		return
	}
	p.none(m, r, refused)
}

func (p *pass) order(m precopy.Stored, r feasible.Request, target string, promise precopy.Policy, f forecast.Forecast, v budget.Verdict) {
	dst := p.Fleet.Hosts[target]
	o := precopy.Order{
		PeerURI: dst.Facts.PeerURI, Bandwidth: p.budget.Bandwidth(m.Source, target), Need: v.Need, Share: v.Share,
		Domain: &r.Domain.Facts, Load: &r.Domain.Load,
		IssuedAt: p.Now, NotAfter: p.Now.Add(orderLife + promise.BeforeTime()), ClockOffset: p.Memory.Clocks[m.Source],
		Leader: p.Leader, Fence: p.Fence,
	}
	if a := dst.Facts.MigrationAddress; a != "" {
		o.MigrateURI = "tcp://" + bracketed(a)
		o.TLSName = target
	}
	if v.Fixed {
		o.Bandwidth = v.Share
	}
	p.out[m.Source]++
	p.in[target]++
	next := m.Migration
	next.Phase, next.Target, next.Order, next.Policy = precopy.Queued, target, &o, promise
	next.ReasonCode, next.Reason = "", "ordered"
	if promise.Tuning == "" { // another manager's policy goes its own way
		o.Strategy, o.Prior, next.Forecast = f.Strategy, &f.Prior, precopy.ForecastOf(f)
		if f.Why != "" {
			next.Reason = "ordered, though it may not end within the intent: " + f.Why
		}
	}
	share := budget.FirstShare(next, v, p.Now)
	p.decisions = append(p.decisions, Decision{Write: &Write{
		Old: m, New: next, Host: target, HostRevision: dst.RecordRevision, Share: &share,
	}})
	p.apply(next)
}

// apply makes an order of this pass part of the fleet that the rest of the pass sees, so that all
// orders of one pass fit together.
func (p *pass) apply(m precopy.Migration) {
	if !p.applied {
		s := *p.Fleet
		s.Migrations = maps.Clone(s.Migrations)
		p.Fleet, p.applied = &s, true
	}
	p.Fleet.Migrations[m.ID] = precopy.Stored{Migration: m}
}

func bracketed(addr string) string {
	if strings.Contains(addr, ":") && !strings.HasPrefix(addr, "[") {
		return "[" + addr + "]"
	}
	return addr
}
