package scheduler

import (
	"cmp"
	"slices"

	"drover/hypervisor"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// Placer chooses targets for a domain when nobody named one.
type Placer interface {
	// Place returns feasible hosts, best first, and for the others why not. It is pure.
	Place(s *fleet.Snapshot, r feasible.Request) (hosts []string, refused map[string][]hypervisor.Blocker)
}

// LeastLoaded prefers the host whose busier resource, CPU or memory, would be least used with the
// domain on it. Ties go by name.
type LeastLoaded struct{}

// Place implements Placer.
func (LeastLoaded) Place(s *fleet.Snapshot, r feasible.Request) ([]string, map[string][]hypervisor.Blocker) {
	var hosts []string
	refused := map[string][]hypervisor.Blocker{}
	score := map[string]float64{}
	for _, name := range s.HostNames() {
		if b := feasible.Target(s, r, name); len(b) > 0 {
			refused[name] = b
			continue
		}
		hosts = append(hosts, name)
		score[name] = loadWith(s, s.Hosts[name], r)
	}
	slices.SortFunc(hosts, func(a, b string) int {
		return cmp.Or(cmp.Compare(score[a], score[b]), cmp.Compare(a, b))
	})
	return hosts, refused
}

// loadWith is the larger of the host's CPU and memory utilisation with the domain on it.
func loadWith(s *fleet.Snapshot, h *fleet.Host, r feasible.Request) float64 {
	c := h.Capacity()
	cpu := float64(h.Load.CPU+r.Domain.Load.CPU) / max(float64(c.Cores), 0.01)
	usable := max(float64(c.Memory-c.Reserved), 1)
	mem := 1 - float64(feasible.FreeMemory(s, h, r.Migration)-r.Domain.Facts.Memory)/usable
	return max(cpu, mem)
}
