package drain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// mayOpen says why a restore can't begin; "" if it can.
func (s *step) mayOpen() string {
	for _, name := range s.r.Hosts {
		if s.Fleet.Hosts[name] == nil {
			return "no host is called " + name
		}
		if other := s.Fleet.DrainOf(name); other != nil {
			return fmt.Sprintf("%s is being drained, by run %s (drover run cancel %s)", name, other.ID, other.ID)
		}
		if other := s.Fleet.RollOf(name); other != nil && other.ID != s.r.Parent {
			return fmt.Sprintf("%s is out of service for maintenance %s (drover run cancel %s)", name, other.ID, other.ID)
		}
	}
	return ""
}

// stale are the cordons on a restore's hosts that belong to runs that were over when it began: a later drain's is not its to
// take. Both times are leaders'.
func (s *step) stale() []Cordon {
	var out []Cordon
	for _, name := range s.r.Hosts {
		h := s.Fleet.Hosts[name]
		if h == nil {
			continue
		}
		for _, c := range h.Record.Cordons {
			id, isRun := strings.CutPrefix(c.Holder, fleet.RunHolder)
			if r, there := s.Fleet.Runs[id]; isRun && (!there || r.Phase.Final() && (r.Finished == nil || s.r.Started == nil || !r.Finished.After(*s.r.Started))) {
				out = append(out, Cordon{Host: name, Cordon: c, Off: true})
			}
		}
	}
	return out
}

// Origin is a VM that a drain moved away and that is still where it put it.
type Origin struct {
	Domain fleet.Domain
	Home   string
	Run    string // the drain
	// Group is a group that has to stay together and comes back as a whole, if it has one.
	Group string
}

// crowded is the share of a host's cores above which VMs contend.
const crowded = 0.8

// Origins are the VMs that the hosts' drains moved away and that belong there, in order of name: those still
// where the last of these drains put them, and not moved by anybody else since.
func Origins(s *fleet.Snapshot, hosts []string) []Origin {
	return origins(s, locate(s, nil), hosts)
}

func origins(s *fleet.Snapshot, where whereabouts, hosts []string) []Origin {
	found := map[hypervisor.DomainID]Origin{}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.Runs))) {
		r := s.Runs[id]
		if r.Kind != fleet.RunDrain || !r.Phase.Final() {
			continue
		}
		for i := range r.Moves {
			m := &r.Moves[i]
			_, later := found[m.UUID]
			if later || m.State != fleet.MoveMoved || !slices.Contains(hosts, m.From) {
				continue
			}
			put := last(r.Moves, m.UUID)
			if where.at[m.UUID] == put.To && put.To != m.From && !movedSince(s, put) {
				found[m.UUID] = Origin{Domain: where.domain[m.UUID], Home: m.From, Run: r.ID}
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Origin) int {
		return cmp.Or(strings.Compare(a.Domain.Facts.Name, b.Domain.Facts.Name), strings.Compare(string(a.Domain.Facts.ID), string(b.Domain.Facts.ID)))
	})
}

// last is the VM's last move that was done.
func last(moves []fleet.RunMove, id hypervisor.DomainID) fleet.RunMove {
	for _, m := range slices.Backward(moves) {
		if m.UUID == id && m.State == fleet.MoveMoved {
			return m
		}
	}
	return fleet.RunMove{}
}

// movedSince reports whether another migration has moved the VM after the run did: a person's, or one that was worth it.
func movedSince(s *fleet.Snapshot, put fleet.RunMove) bool {
	for _, m := range s.Migrations {
		if m.UUID == put.UUID && m.Phase == precopy.Done && m.ID != put.Migration && m.Finished != nil && put.Ended != nil && m.Finished.After(*put.Ended) {
			return true
		}
	}
	return false
}

// recall plans what a restore brings back.
func (s *step) recall() {
	if s.r.None {
		return
	}
	back := slices.DeleteFunc(origins(s.Fleet, s.where, s.r.Hosts), func(o Origin) bool {
		id := o.Domain.Facts.ID
		return len(s.r.Only) > 0 && !slices.Contains(s.r.Only, id) || slices.Contains(s.r.Skip, id)
	})
	for _, o := range inGroups(s.Fleet, back) {
		m := fleet.RunMove{
			VM: o.Domain.Facts.Name, UUID: o.Domain.Facts.ID, From: o.Domain.Host.Name, To: o.Home, Cause: string(s.r.Kind),
			State: fleet.MovePlanned, Memory: o.Domain.Facts.Memory, Group: o.Group,
		}
		f, _ := s.Foresee(o.Domain, o.Home, 0)
		m.Seconds, m.Bytes = f.Duration.Seconds(), f.Bytes
		s.r.Moves = append(s.r.Moves, m)
	}
	for i := range s.r.Moves {
		if b := s.overload(i); b != nil {
			s.block(s.r.Moves[i], *b) // it is looked at again when its turn comes
		}
	}
}

// inGroups orders VMs such that those that are to stay together come one after the other, the groups in the
// order of their first, and says which group each comes with.
func inGroups(s *fleet.Snapshot, list []Origin) []Origin {
	place := map[string]int{}
	for i := range list {
		o := &list[i]
		for _, g := range s.Policy.Groups {
			if g.Kind == policy.Together && g.Strength == policy.Required && g.Has(o.Domain.Facts.Name, s.VMs[o.Domain.Facts.ID].Labels) {
				o.Group = g.Name
				break
			}
		}
		if _, known := place[o.Group]; !known {
			place[o.Group] = i
		}
	}
	first := func(o Origin, i int) int {
		if o.Group == "" {
			return i
		}
		return place[o.Group]
	}
	at := make(map[hypervisor.DomainID]int, len(list))
	for i, o := range list {
		at[o.Domain.Facts.ID] = first(o, i)
	}
	slices.SortStableFunc(list, func(a, b Origin) int { return cmp.Compare(at[a.Domain.Facts.ID], at[b.Domain.Facts.ID]) })
	return list
}

// overload says why a VM's home has no room for it and those that have to come with it: memory and vCPUs as they are
// promised, and CPU as it is used, with those that are on their way. A home that would be crowded, and fuller
// than where the VM is now, has none either: that is what the VM's coming home would bring back. Nil if it has.
func (s *step) overload(i int) *hypervisor.Blocker {
	m := s.r.Moves[i]
	home, host := s.Fleet.Hosts[m.To], s.Fleet.Hosts[m.From]
	if home == nil || home.Load == nil {
		return nil // the scheduler waits for it, or refuses
	}
	var memory hypervisor.Bytes
	var cpu hypervisor.Cores
	var vcpus int
	var names []string
	for _, o := range s.r.Moves {
		if d := s.where.domain[o.UUID]; o.UUID == m.UUID || m.Group != "" && o.Group == m.Group && o.To == m.To && o.State == fleet.MovePlanned {
			memory, cpu, names = memory+d.Facts.Memory, cpu+d.Load.CPU, append(names, o.VM)
			vcpus += d.Facts.VCPUs
		}
	}
	what := "it needs"
	if len(names) > 1 {
		what = strings.Join(names, ", ") + " stay together and need"
	}
	if free := feasible.FreeMemory(s.Fleet, home, ""); memory > free {
		return &hypervisor.Blocker{
			Code:   hypervisor.BlockMemory,
			Detail: fmt.Sprintf("%s %s, %s has %s to give", what, memory, m.To, max(free, 0)),
			Remedy: "it stays on " + m.From + "; make room and restore again",
		}
	}
	if free := feasible.FreeVCPUs(s.Fleet, home, ""); vcpus > 0 && vcpus > free {
		return &hypervisor.Blocker{
			Code:   feasible.VCPUs,
			Detail: fmt.Sprintf("%s %d vCPUs, %s has room for %d of the %d that it may have", what, vcpus, m.To, max(free, 0), home.Capacity().VCPUs),
			Remedy: "it stays on " + m.From + "; make room and restore again",
		}
	}
	with := home.Load.CPU + cpu
	for id, to := range s.where.moving {
		if to == m.To && id != m.UUID {
			with += s.where.domain[id].Load.CPU
		}
	}
	cores := home.Capacity().Cores
	if cores <= 0 || cpu <= 0 || with <= crowded*cores {
		return nil
	}
	now := 0.0
	if host != nil && host.Load != nil && host.Capacity().Cores > 0 {
		now = float64(host.Load.CPU / host.Capacity().Cores)
	}
	if with > cores || float64(with/cores) > now {
		return &hypervisor.Blocker{
			Code:   Overload,
			Detail: fmt.Sprintf("with it %s would need %.1f of %.4g cores; %s, where it is, uses %.0f %% of its own", m.To, float64(with), float64(cores), m.From, 100*now),
			Remedy: "it stays on " + m.From + "; restore again when there is less to do",
		}
	}
	return nil
}

// begun reports whether one of a group has gone home, or is on its way: the others had better follow.
func (s *step) begun(group string) bool {
	return slices.ContainsFunc(s.r.Moves, func(m fleet.RunMove) bool {
		return m.Group == group && (m.State == fleet.MoveMoved || m.State == fleet.MoveAsked)
	})
}

// splits says why a VM can't go home: one that it has to stay with can't.
func (s *step) splits(i int) *hypervisor.Blocker {
	m := s.r.Moves[i]
	for _, o := range s.r.Moves {
		if m.Group != "" && o.Group == m.Group && o.To == m.To && o.State == fleet.MoveStays {
			return &hypervisor.Blocker{
				Code: Apart, Detail: fmt.Sprintf("%s stays on %s, and group %q stays together", o.VM, o.From, m.Group),
				Remedy: "drover policy show has the group; drover migrate " + m.VM + " --to " + m.To + " moves it by hand",
			}
		}
	}
	return nil
}
