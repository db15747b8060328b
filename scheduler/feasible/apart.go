package feasible

import (
	"fmt"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// AntiAffinity: a VM that the domain must be kept apart from is there.
const AntiAffinity hypervisor.BlockerCode = "anti-affinity"

// apart returns the first VM from which a required group keeps the domain apart and that is on the host, on its
// way there, or on its way off it: two of a group never meet, not even while one of them leaves.
//
// There is no such filter for VMs that must be together. They move one after the other, so that each but the last
// goes where the others are not; whoever plans their moves sees to it that all of them go.
func apart(s *fleet.Snapshot, r Request, h *fleet.Host) *hypervisor.Blocker {
	var near []neighbour
	for _, g := range s.Policy.Groups {
		if g.Kind != policy.Apart || g.Strength != policy.Required || !has(s, g, r.Domain) {
			continue
		}
		if near == nil {
			near = neighbours(s, h, r.Migration)
		}
		for _, n := range near {
			if n.Facts.ID != r.Domain.Facts.ID && has(s, g, n.Domain) {
				return &hypervisor.Blocker{
					Code:   AntiAffinity,
					Detail: fmt.Sprintf("group %s keeps it apart from %s, which is on %s%s", g.Name, n.Facts.Name, n.how, h.Name),
					Remedy: "choose another host, or change the group: drover policy edit",
				}
			}
		}
	}
	return nil
}

func has(s *fleet.Snapshot, g policy.Group, d fleet.Domain) bool {
	return g.Has(d.Facts.Name, s.VMs[d.Facts.ID].Labels)
}

// neighbour is a domain on a host, or on its way there.
type neighbour struct {
	fleet.Domain
	how string // "its way to ", or nothing
}

// neighbours are the host's domains that run, and those that come by a migration other than the one excepted.
func neighbours(s *fleet.Snapshot, h *fleet.Host, except string) []neighbour {
	var out []neighbour
	for _, d := range h.Domains() {
		if d.Load.State != "" && d.Load.State != hypervisor.StateShutoff {
			out = append(out, neighbour{Domain: d})
		}
	}
	for _, m := range s.Unfinished() {
		src := s.Hosts[m.Source]
		if m.Target != h.Name || m.ID == except || !m.Phase.Holds() || src == nil {
			continue
		}
		for _, d := range src.Domains() {
			if d.Facts.ID == m.UUID {
				out = append(out, neighbour{d, "its way to "})
			}
		}
	}
	return out
}
