package rolling

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/scheduler/calendar"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
	"drover/scheduler/headroom"
)

// Ask puts questions about moves to both hosts of each; nil asks nobody.
type Ask func([]drain.Question) [][]hypervisor.Blocker

// NoWindow is the reason why a host has no time in which it could be done.
const NoWindow hypervisor.BlockerCode = "no-window"

// Plan returns the run with the whole roll planned: the order of its hosts, when each begins and ends, the
// moves, and what is in the way, in Blocked. A run that can't begin is refused.
func Plan(in Input, ask Ask) fleet.Run {
	s := newStep(in)
	s.r.Moves, s.r.Blocked, s.roll.Rolled = []fleet.RunMove{}, nil, nil
	if why := s.faults(); why != "" {
		s.end(fleet.RunRefused, why)
		return s.r
	}
	p := planner{step: s, fleet: in.Fleet, ask: ask}
	if s.roll.Headroom > 0 {
		for _, l := range headroom.Losses(headroom.Picture{Fleet: in.Fleet}) {
			p.block("", l.Host, hypervisor.Blocker{
				Code: headroom.Code, Detail: "the fleet could not lose a host as it is: " + l.String(),
				Remedy: "make room, or do without it: headroom 0",
			})
		}
	}
	order := p.order()
	for i, name := range order {
		p.host(i, name, order[i+1:])
	}
	p.latest()
	s.r.Phase = fleet.RunRunning
	s.look()
	return s.r
}

// planner is a plan being made.
type planner struct {
	*step
	fleet *fleet.Snapshot // as the next host finds it
	ask   Ask
	lanes []lane
	after []int // the host that follows in each one's lane, -1 for none
	until []time.Time
}

// lane is a place for one host at a time.
type lane struct {
	host int // its last one, -1 for none
	end  time.Time
	// home is where VMs of its host come from, until it is done.
	home map[hypervisor.DomainID]string
	open bool
}

// order is the one in which hosts are done: as listed, else those with the least to move first. Where VMs have
// to land on hosts that are rolled later, they are those of the first.
func (p *planner) order() []string {
	order := slices.Clone(p.r.Hosts)
	if p.roll.Listed {
		return order
	}
	memory := map[string]hypervisor.Bytes{}
	for _, name := range order {
		memory[name] = running(p.fleet.Hosts[name])
	}
	slices.SortStableFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(memory[a], memory[b]), strings.Compare(a, b))
	})
	return order
}

// running is the memory of the VMs that run on a host.
func running(h *fleet.Host) hypervisor.Bytes {
	var sum hypervisor.Bytes
	for _, d := range h.Domains() {
		if d.Running() {
			sum += d.Facts.Memory
		}
	}
	return sum
}

// host plans the next host.
func (p *planner) host(i int, name string, later []string) {
	if p.lanes == nil {
		for range p.parallel() {
			p.lanes = append(p.lanes, lane{host: -1, end: p.Now, open: true})
		}
	}
	k := p.free()
	start := p.lanes[k].end
	p.finish(start)
	d := p.drain(name, later)
	needs := p.needs(d)
	at, until, fits := fit(p.cal, start, needs)
	if fits && at.After(start) && p.finish(at) {
		d = p.drain(name, later) // others are done by then
		needs = p.needs(d)
		at, until, fits = fit(p.cal, at, needs)
	}
	if !fits {
		p.block("", name, hypervisor.Blocker{
			Code: NoWindow, Detail: fmt.Sprintf("%s takes %s, for which there is no window", name, needs.Round(time.Second)),
			Remedy: "a longer window, or fewer or shorter hooks",
		})
		at = start
	}
	end := at.Add(needs)
	if deadline := p.r.Deadline; deadline != nil {
		if end.After(*deadline) {
			p.block("", name, hypervisor.Blocker{
				Code: NoWindow, Detail: fmt.Sprintf("%s would be done by %s, after the deadline", name, stamp(end)),
				Remedy: "a later deadline, or more hosts at once (parallel)",
			})
		}
		if until.IsZero() || deadline.Before(until) {
			until = *deadline
		}
	}
	p.take(d)
	if l := p.lanes[k]; l.host >= 0 {
		p.after[l.host] = i
	}
	h := fleet.RolledHost{Host: name, State: fleet.RollWaiting, Start: at, End: end, Needs: needs.Seconds(), Moves: len(movesOf(d))}
	p.roll.Rolled = append(p.roll.Rolled, h)
	p.after, p.until = append(p.after, -1), append(p.until, until)
	home := map[hypervisor.DomainID]string{}
	to := map[hypervisor.DomainID]string{}
	for _, m := range movesOf(d) {
		if m.From == name {
			home[m.UUID] = name
		}
		to[m.UUID] = m.To
	}
	p.fleet = closed(moved(p.fleet, to), name, p.r)
	p.lanes[k] = lane{host: i, end: end, home: home}
	if i == 0 && p.roll.Canary {
		for j := range p.lanes {
			p.lanes[j].end = laterOf(p.lanes[j].end, end)
		}
	}
}

// laterOf is the later of two times.
func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// free is the lane that is free first.
func (p *planner) free() int {
	best := 0
	for k := range p.lanes {
		if p.lanes[k].end.Before(p.lanes[best].end) {
			best = k
		}
	}
	return best
}

// finish opens the hosts that are done by then, and reports whether there were any.
func (p *planner) finish(by time.Time) bool {
	some := false
	for k := range p.lanes {
		l := &p.lanes[k]
		if l.open || l.end.After(by) {
			continue
		}
		l.open, some = true, true
		p.fleet = opened(p.fleet, p.roll.Rolled[l.host].Host, p.r)
		if p.roll.Return {
			p.fleet = moved(p.fleet, l.home)
		}
	}
	return some
}

// drain previews the host's drain on the fleet as it will be.
func (p *planner) drain(name string, later []string) fleet.Run {
	in := drain.Input{
		Run: fleet.StoredRun{Run: p.drainOf(name, later)}, Fleet: p.fleet, Now: p.Now,
		Outgoing: p.Outgoing, Incoming: p.Incoming, Ahead: p.Ahead, Foresee: p.Foresee,
	}
	return drain.Preview(in, func(q []drain.Question) [][]hypervisor.Blocker {
		if p.ask == nil {
			return make([][]hypervisor.Blocker, len(q))
		}
		// Each VM is where the plan has it, which may not be where it can be asked about.
		var here []drain.Question
		var index []int
		out := make([][]hypervisor.Blocker, len(q))
		for i, one := range q {
			if real := p.Fleet.Hosts[one.Domain.Host.Name]; real != nil && has(real, one.Domain.Facts.ID) {
				one.Domain.Host = real
				here, index = append(here, one), append(index, i)
			}
		}
		for i, b := range p.ask(here) {
			out[index[i]] = b
		}
		return out
	})
}

func has(h *fleet.Host, id hypervisor.DomainID) bool {
	return h.Facts != nil && slices.ContainsFunc(h.Facts.Domains, func(d hypervisor.DomainFacts) bool { return d.ID == id })
}

// take puts a host's drain into the plan.
func (p *planner) take(d fleet.Run) {
	if d.Phase == fleet.RunRefused {
		p.block("", strings.Join(d.Hosts, " "), hypervisor.Blocker{Code: "refused", Detail: d.Reason})
	}
	p.r.Blocked = append(p.r.Blocked, together(d.Blocked)...)
	for _, m := range movesOf(d) {
		m.After = nil // of the drain's own list
		p.r.Moves = append(p.r.Moves, m)
		p.roll.Moves++
	}
	p.roll.VMs += len(d.Moves)
}

// movesOf are the moves of a preview that can be made.
func movesOf(d fleet.Run) []fleet.RunMove {
	return slices.DeleteFunc(slices.Clone(d.Moves), func(m fleet.RunMove) bool { return m.State != fleet.MovePlanned || m.To == "" })
}

// together says of all of a host's VMs once what holds for all of them.
func together(list []fleet.RunBlocked) []fleet.RunBlocked {
	var out []fleet.RunBlocked
	for _, b := range list {
		if b.Code == headroom.Code {
			b.VM, b.UUID = "", ""
		}
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

func (p *planner) block(vm, host string, b hypervisor.Blocker) {
	p.r.Blocked = append(p.r.Blocked, fleet.RunBlocked{VM: vm, Host: host, Code: b.Code, Detail: b.Detail, Remedy: b.Remedy})
}

// latest is the last moment at which each host may begin so that it, and those that follow it, end in time.
func (p *planner) latest() {
	list := p.roll.Rolled
	for i := len(list) - 1; i >= 0; i-- {
		limit := p.until[i]
		next := func(j int) {
			if l := list[j].Latest; l != nil && (limit.IsZero() || l.Before(limit)) {
				limit = *l
			}
		}
		if p.after[i] >= 0 {
			next(p.after[i])
		}
		if i == 0 && p.roll.Canary {
			for j := range list[1:] {
				next(j + 1)
			}
		}
		if !limit.IsZero() {
			at := limit.Add(-time.Duration(list[i].Needs * float64(time.Second)))
			list[i].Latest = &at
		}
	}
}

// planHolder is whose cordon closes a host in a plan.
func planHolder(r fleet.Run) string { return "plan/" + r.ID }

// closed is the fleet with the host taking no VMs.
func closed(s *fleet.Snapshot, name string, r fleet.Run) *fleet.Snapshot {
	return edited(s, name, func(h *fleet.Host) {
		h.Record.Cordons = append(slices.Clone(h.Record.Cordons), fleet.Cordon{Holder: planHolder(r)})
	})
}

// opened is the fleet without that.
func opened(s *fleet.Snapshot, name string, r fleet.Run) *fleet.Snapshot {
	return edited(s, name, func(h *fleet.Host) {
		h.Record.Cordons = slices.DeleteFunc(slices.Clone(h.Record.Cordons), func(c fleet.Cordon) bool { return c.Holder == planHolder(r) })
	})
}

func edited(s *fleet.Snapshot, name string, change func(*fleet.Host)) *fleet.Snapshot {
	h := s.Hosts[name]
	if h == nil {
		return s
	}
	out, copied := *s, *h
	change(&copied)
	out.Hosts = maps.Clone(s.Hosts)
	out.Hosts[name] = &copied
	return &out
}

// moved is the fleet with VMs where they are to go, and what they use.
func moved(s *fleet.Snapshot, to map[hypervisor.DomainID]string) *fleet.Snapshot {
	out := *s
	out.Hosts = maps.Clone(s.Hosts)
	mine := map[string]bool{}
	edit := func(name string) *fleet.Host {
		h := out.Hosts[name]
		if h == nil || h.Facts == nil || h.Load == nil {
			return nil
		}
		if !mine[name] {
			copied, facts, load := *h, *h.Facts, *h.Load
			facts.Domains, load.Domains = slices.Clone(facts.Domains), slices.Clone(load.Domains)
			copied.Facts, copied.Load = &facts, &load
			out.Hosts[name], mine[name], h = &copied, true, &copied
		}
		return h
	}
	for _, name := range s.HostNames() {
		for _, d := range s.Hosts[name].Domains() {
			target, moves := to[d.Facts.ID]
			if !moves || target == name || !d.Running() {
				continue
			}
			src, dst := edit(name), edit(target)
			if src == nil || dst == nil {
				continue
			}
			src.Facts.Domains = slices.DeleteFunc(src.Facts.Domains, func(f hypervisor.DomainFacts) bool { return f.ID == d.Facts.ID })
			src.Load.Domains = slices.DeleteFunc(src.Load.Domains, func(l hypervisor.DomainLoad) bool { return l.ID == d.Facts.ID })
			src.Load.CPU = max(src.Load.CPU-d.Load.CPU, 0)
			dst.Facts.Domains = append(dst.Facts.Domains, d.Facts)
			dst.Load.Domains = append(dst.Load.Domains, d.Load)
			dst.Load.CPU += d.Load.CPU
		}
	}
	return &out
}

// calendarOf is when the roll's hosts may be out of service.
func calendarOf(r *fleet.Roll) (*calendar.Calendar, error) { return calendar.New(r.Spec) }
