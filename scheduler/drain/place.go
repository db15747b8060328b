package drain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/scheduler/balance"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/headroom"
	"drover/scheduler/policy"
)

// The planner's search is bounded, by VM and altogether: a leader's pass waits for it.
const (
	evaluationsEach = 500
	evaluationsMost = 200_000
)

// unknownLink is assumed where a migration network's speed is not known.
const unknownLink hypervisor.BytesPerSecond = 1e9 / 8

// plan gives targets to the moves that have none and whose time has come; those that get none are blocked.
func (s *step) plan() {
	wanted := map[hypervisor.DomainID]int{} // index of the move
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if m.State != fleet.MovePlanned || m.To != "" || m.NotBefore != nil && s.Now.Before(*m.NotBefore) || s.where.at[m.UUID] != m.From ||
			s.where.moving[m.UUID] != "" { // somebody else moves it: where it lands is seen then
			continue
		}
		if b := feasible.Source(s.Fleet, feasible.Request{Domain: s.where.domain[m.UUID]}); len(b) > 0 {
			s.bar(i, b[0])
			continue
		}
		wanted[m.UUID] = i
	}
	if len(wanted) == 0 {
		return
	}
	s.where = locate(s.Fleet, nil)
	t, found, b := s.search(wanted)
	if b != nil {
		for _, i := range slices.Sorted(maps.Values(wanted)) {
			s.bar(i, *b)
		}
		return
	}
	s.take(t, found, wanted)
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		if i := wanted[id]; s.r.Moves[i].To == "" {
			s.bar(i, s.noTarget(t, found, id))
		}
	}
}

// search looks for a plan in which all that are wanted have a place: first without the hosts that are to be
// avoided, then with more and more of them, then with room that others make. The blocker is why there is none
// at all.
func (s *step) search(wanted map[hypervisor.DomainID]int) (t table, found *balance.Plan, b *hypervisor.Blocker) {
	for _, try := range s.attempts() {
		t = s.table(wanted, try.avoid, try.room)
		var err error
		if found, err = t.make(); err != nil {
			return t, nil, &hypervisor.Blocker{Code: NoTarget, Detail: err.Error()}
		}
		if b = s.tight(t, found); b == nil && !slices.ContainsFunc(found.Blocked, func(b balance.Blocked) bool { return b.Asked }) {
			break
		}
	}
	return t, found, b
}

// attempt is how a plan is looked for.
type attempt struct {
	avoid []string // hosts that take nothing
	room  bool     // others may be moved to make room
}

func (s *step) attempts() []attempt {
	out := []attempt{}
	for n := 0; n < len(s.r.Avoid); n = max(2*n, n+1) {
		out = append(out, attempt{avoid: s.r.Avoid[:len(s.r.Avoid)-n]})
	}
	return append(out, attempt{}, attempt{room: true})
}

// tight says which host the fleet could not lose with the plan carried out; nil if there is none, or nobody
// asked.
func (s *step) tight(t table, p *balance.Plan) *hypervisor.Blocker {
	if s.r.Headroom <= 0 {
		return nil
	}
	to := s.going()
	for _, m := range p.Moves {
		to[t.domains[m.VM].Facts.ID] = t.problem.Hosts[m.To].Name
	}
	losses := headroom.Losses(headroom.Picture{Fleet: s.Fleet, Closed: s.r.Hosts, To: to})
	if len(losses) == 0 {
		return nil
	}
	return &hypervisor.Blocker{
		Code: headroom.Code, Detail: "the fleet could not lose another host: " + losses[0].String(),
		Remedy: "make room, or do without it: headroom 0",
	}
}

// awayTries is how often a move is planned anew that has no target while a host is away: for half a minute, as long as
// migrations wait for one.
const awayTries = 5

// away reports whether a host that would take VMs is not up.
func (s *step) away() bool {
	for _, h := range s.Fleet.Hosts {
		if !slices.Contains(s.r.Hosts, h.Name) && !shut(s.Fleet, h) && feasible.Up(s.Fleet, h) != nil {
			return true
		}
	}
	return false
}

// bar blocks a move that can't be planned.
func (s *step) bar(i int, b hypervisor.Blocker) {
	m := &s.r.Moves[i]
	s.block(*m, b)
	m.Reason = b.Detail
	// A host whose agent starts anew has room again in a moment.
	soon := s.r.Phase != fleet.RunRequested && b.Code == NoTarget && len(m.Tries) < awayTries && s.away()
	switch {
	case soon:
	case s.r.ShutDown && s.r.OnBlocked != fleet.BlockedWait:
		s.giveUp(i, b)
		return
	case s.r.OnBlocked == fleet.BlockedSkip:
		m.State = fleet.MoveStays
		return
	}
	if s.r.Phase == fleet.RunRequested {
		return // nothing was tried yet
	}
	m.Tries = append(slices.Clone(m.Tries), fleet.RunTry{Code: string(b.Code), Reason: b.Detail})
	n := len(m.Tries)
	m.Tries = m.Tries[max(n-keptTries, 0):]
	if !soon && s.r.OnBlocked != fleet.BlockedWait && n >= maxTries {
		s.giveUp(i, b)
		return
	}
	s.retry(m, n)
}

// take puts the plan into the run. A VM that goes through a staging host, or one that makes room, gets moves
// of its own.
func (s *step) take(t table, p *balance.Plan, wanted map[hypervisor.DomainID]int) {
	index := make([]int, len(p.Moves)) // into the run's moves
	used := map[int]bool{}
	for k, m := range p.Moves {
		d := t.domains[m.VM]
		i, ok := wanted[d.Facts.ID]
		if !ok || used[i] {
			i = len(s.r.Moves)
			s.r.Moves = append(s.r.Moves, fleet.RunMove{
				VM: d.Facts.Name, UUID: d.Facts.ID, From: t.problem.Hosts[m.From].Name, State: fleet.MovePlanned, Memory: d.Facts.Memory,
			})
		}
		used[i], index[k] = true, i
		to := t.problem.Hosts[m.To].Name
		f, b := s.Foresee(d, to, 0)
		if b != nil && ok && s.r.Moves[i].From == d.Host.Name {
			s.block(s.r.Moves[i], *b) // it is tried all the same: where it goes by it may be another matter
		} else if ok {
			s.unblock(d.Facts.ID)
		}
		r := &s.r.Moves[i]
		r.To, r.Cause, r.Reason, r.NotBefore = to, string(m.Cause), "", nil
		r.Seconds, r.Bytes = f.Duration.Round(time.Second/10).Seconds(), f.Bytes
		r.After = nil
		for _, a := range m.After {
			r.After = append(r.After, index[a])
		}
	}
}

// table is the fleet as the planner sees it, and the domains of its VMs by index.
type table struct {
	problem *balance.Problem
	domains []fleet.Domain
	index   map[hypervisor.DomainID]int
	hosts   map[string]int
	wanted  map[hypervisor.DomainID]int
	room    bool
	named   map[string][]int // hosts that have a VM of that name
	unfit   map[kind][]int   // hosts that can't run VMs of that kind
}

// kind is what of a domain decides on which hosts it can run.
type kind struct{ arch, virtType, machine string }

// table closes the run's hosts, those to be avoided, and all others that are closed. Of the VMs the wanted ones
// must move; with room, those that may be moved when nobody asked for it can, too. What is planned and not done
// counts where it goes.
func (s *step) table(wanted map[hypervisor.DomainID]int, avoid []string, room bool) table {
	t := table{
		problem: &balance.Problem{}, index: map[hypervisor.DomainID]int{}, hosts: map[string]int{}, wanted: wanted, room: room,
		named: map[string][]int{}, unfit: map[kind][]int{},
	}
	for _, name := range s.Fleet.HostNames() {
		h := s.Fleet.Hosts[name]
		c := h.Capacity()
		if feasible.Up(s.Fleet, h) != nil || c.Cores <= 0 || c.Memory <= 0 || c.Reserved > c.Memory {
			continue
		}
		link := c.Bandwidth
		if link <= 0 {
			link = unknownLink
		}
		t.hosts[name] = len(t.problem.Hosts)
		t.problem.Hosts = append(t.problem.Hosts, balance.Host{
			Name: name, Cores: c.Cores, Memory: c.Memory, Reserved: max(c.Reserved, 0), VCPUs: max(c.VCPUs, 0), Link: link,
			Cordoned: shut(s.Fleet, h) || slices.Contains(avoid, name), Draining: slices.Contains(s.r.Hosts, name),
		})
		for _, d := range h.Facts.Domains {
			t.named[d.Name] = append(t.named[d.Name], t.hosts[name])
		}
	}
	going := s.going()
	for _, name := range s.Fleet.HostNames() {
		for _, id := range s.where.on[name] {
			at, known := t.hosts[name]
			if d := s.where.domain[id]; known && d.Facts.Memory > 0 {
				t.index[id] = len(t.domains)
				t.domains = append(t.domains, d)
				t.problem.VMs = append(t.problem.VMs, s.vm(t, d, at, going[id]))
			}
		}
	}
	t.groups(s.Fleet)
	return t
}

func (t table) make() (*balance.Plan, error) {
	return balance.Make(t.problem, balance.Options{
		Mode: balance.Drain, Evaluations: min(evaluationsEach*len(t.domains)+1, evaluationsMost),
	})
}

// vm is one domain as the planner sees it.
func (s *step) vm(t table, d fleet.Domain, at int, going string) balance.VM {
	v := balance.VM{
		Name: d.Facts.Name, UUID: string(d.Facts.ID), Host: at, Memory: d.Facts.Memory, VCPUs: d.Facts.VCPUs,
		Mean: balance.Load{CPU: d.Load.CPU, Net: d.Load.Rx + d.Load.Tx},
	}
	if d.Load.Dirty != nil {
		v.Dirty = d.Load.Dirty.Rate
	}
	i, must := t.wanted[d.Facts.ID]
	// What another run only plans to move, this one may have to.
	if to, known := t.hosts[going]; known && to != at && (!must || s.where.moving[d.Facts.ID] != "") {
		v.Moving, v.Target = true, to
		return v
	}
	v.Pinned = !must && (!t.room || !s.mayBeMoved(t, d, at))
	if !v.Pinned {
		v.Avoid = s.unfit(t, d, at)
	}
	if must {
		v.Avoid = append(v.Avoid, s.failed(t, s.r.Moves[i], v.Avoid)...)
	}
	return v
}

// mayBeMoved reports whether a domain that nobody asked to move may be moved to make room.
func (s *step) mayBeMoved(t table, d fleet.Domain, at int) bool {
	decided, err := s.Fleet.PolicyOf(d)
	h := t.problem.Hosts[at]
	return err == nil && decided.Automatic && !decided.Pinned && len(d.Facts.Blockers) == 0 &&
		s.where.moving[d.Facts.ID] == "" && !h.Draining && !h.Cordoned
}

// unfit are the hosts that a domain can't run on.
func (s *step) unfit(t table, d fleet.Domain, at int) []int {
	k := kind{d.Facts.Arch, d.Facts.VirtType, d.Facts.Machine}
	hosts, known := t.unfit[k]
	if !known {
		for i, h := range t.problem.Hosts {
			facts := hypervisor.DomainFacts{Arch: k.arch, VirtType: k.virtType, Machine: k.machine}
			if len(feasible.Suits(s.Fleet.Hosts[h.Name], facts)) > 0 {
				hosts = append(hosts, i)
			}
		}
		t.unfit[k] = hosts
	}
	out := slices.Clone(hosts)
	for _, h := range t.named[d.Facts.Name] {
		if h != at && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// failed are the hosts that a VM was tried on in vain, unless no others are left.
func (s *step) failed(t table, m fleet.RunMove, avoid []int) []int {
	var out []int
	for _, try := range m.Tries {
		if h, known := t.hosts[try.To]; known && !slices.Contains(avoid, h) && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	for h, host := range t.problem.Hosts {
		if !host.Cordoned && !host.Draining && !slices.Contains(avoid, h) && !slices.Contains(out, h) {
			return out
		}
	}
	return nil
}

// going is where VMs are on their way to, or planned to go by this run or another one.
func (s *step) going() map[hypervisor.DomainID]string {
	out := map[hypervisor.DomainID]string{}
	for _, r := range s.Fleet.UnfinishedRuns() {
		moves := r.Moves
		if r.ID == s.r.ID {
			moves = s.r.Moves
		}
		for _, m := range moves {
			if !m.State.Final() && m.To != "" && r.Phase == fleet.RunRunning {
				out[m.UUID] = m.To
			}
		}
	}
	for id, to := range s.where.moving {
		if to != "?" {
			out[id] = to
		}
	}
	return out
}

// groups adds the policy's groups with their members among the VMs.
func (t table) groups(s *fleet.Snapshot) {
	for _, g := range s.Policy.Groups {
		out := balance.Group{Name: g.Name, Apart: g.Kind == policy.Apart, Required: g.Strength == policy.Required}
		for i, d := range t.domains {
			if g.Has(d.Facts.Name, s.VMs[d.Facts.ID].Labels) {
				out.VMs = append(out.VMs, i)
			}
		}
		if len(out.VMs) > 1 {
			t.problem.Groups = append(t.problem.Groups, out)
		}
	}
}

// noTarget says why the planner found no host for the VM.
func (s *step) noTarget(t table, p *balance.Plan, id hypervisor.DomainID) hypervisor.Blocker {
	d := s.where.domain[id]
	out := hypervisor.Blocker{
		Code: NoTarget, Detail: "no host can take it",
		Remedy: "drover vm check " + d.Facts.Name + " shows what each host says",
	}
	k, known := t.index[id]
	for _, b := range p.Blocked {
		if !known || b.VM != k {
			continue
		}
		out.Detail += ": " + strings.Trim(string(b.Why)+": "+b.Detail, ": ")
		if b.Why == balance.AntiAffinity || b.Why == balance.Together {
			out.Remedy = "drover policy edit changes the rule; " + out.Remedy
		}
	}
	var why []string
	for _, name := range s.Fleet.HostNames() {
		if slices.Contains(s.r.Hosts, name) {
			continue
		}
		if b := feasible.Target(s.Fleet, feasible.Request{Domain: d}, name); len(b) > 0 {
			why = append(why, fmt.Sprintf("%s: %s", name, b[0].Detail))
		}
	}
	if len(why) > maxReasons {
		why = append(why[:maxReasons], fmt.Sprintf("and %d more", len(why)-maxReasons))
	}
	if len(why) > 0 {
		out.Detail += " (" + strings.Join(why, "; ") + ")"
	}
	return out
}

// maxReasons is how many hosts a blocker's text names.
const maxReasons = 5
