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
	}
	return ""
}

// stale are the cordons on a restore's hosts that belong to runs that are over.
func (s *step) stale() []Cordon {
	var out []Cordon
	for _, name := range s.r.Hosts {
		h := s.Fleet.Hosts[name]
		if h == nil {
			continue
		}
		for _, c := range h.Record.Cordons {
			id, isRun := strings.CutPrefix(c.Holder, fleet.RunHolder)
			if r, there := s.Fleet.Runs[id]; isRun && (!there || r.Phase.Final()) {
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
}

// Origins are the VMs that the hosts' drains moved away and that belong there, in order of name: those still
// where the last of these drains put them, and not moved by a person since.
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

// movedSince reports whether a migration that belongs to no run has moved the VM after the run did.
func movedSince(s *fleet.Snapshot, put fleet.RunMove) bool {
	for _, m := range s.Migrations {
		if m.UUID == put.UUID && m.Phase == precopy.Done && m.Run == "" && m.Finished != nil && put.Ended != nil && m.Finished.After(*put.Ended) {
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
	for _, o := range origins(s.Fleet, s.where, s.r.Hosts) {
		id := o.Domain.Facts.ID
		if len(s.r.Only) > 0 && !slices.Contains(s.r.Only, id) || slices.Contains(s.r.Skip, id) {
			continue
		}
		m := fleet.RunMove{
			VM: o.Domain.Facts.Name, UUID: id, From: o.Domain.Host.Name, To: o.Home, Cause: string(s.r.Kind),
			State: fleet.MovePlanned, Memory: o.Domain.Facts.Memory,
		}
		f, _ := s.Foresee(o.Domain, o.Home, 0)
		m.Seconds, m.Bytes = f.Duration.Seconds(), f.Bytes
		s.r.Moves = append(s.r.Moves, m)
		if b := s.overload(&m); b != nil {
			s.block(m, *b) // it is looked at again when its turn comes
		}
	}
}

// overload says why a VM's home has no room for it: memory as it is promised, and CPU as it is used, with
// those that are on their way. Nil if it has.
func (s *step) overload(m *fleet.RunMove) *hypervisor.Blocker {
	d, home := s.where.domain[m.UUID], s.Fleet.Hosts[m.To]
	if home == nil || home.Load == nil {
		return nil // the scheduler waits for it, or refuses
	}
	if free := feasible.FreeMemory(s.Fleet, home, ""); d.Facts.Memory > free {
		return &hypervisor.Blocker{
			Code:   hypervisor.BlockMemory,
			Detail: fmt.Sprintf("it needs %s, %s has %s to give", d.Facts.Memory, m.To, max(free, 0)),
			Remedy: "it stays on " + m.From + "; make room and restore again",
		}
	}
	cpu := home.Load.CPU + d.Load.CPU
	for id, to := range s.where.moving {
		if to == m.To && id != m.UUID {
			cpu += s.where.domain[id].Load.CPU
		}
	}
	if cores := home.Capacity().Cores; cores > 0 && cpu > cores && d.Load.CPU > 0 {
		return &hypervisor.Blocker{
			Code:   Overload,
			Detail: fmt.Sprintf("with it %s would need %.1f of %.4g cores", m.To, float64(cpu), float64(cores)),
			Remedy: "it stays on " + m.From + "; restore again when there is less to do",
		}
	}
	return nil
}
