package auto

import (
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/signal"
)

// Memory is what a leader keeps of the fleet for automatic moves. A new one begins with [NewMemory], restores
// Load from the store, and shows Trail the history. It is for one goroutine at a time.
type Memory struct {
	Load  *signal.Memory
	Trail *signal.Trail
	heat  map[string]signal.Heat
	seen  map[string]int64 // by host: the revision of the last report that was taken in
	slot  int64            // the last for which the heat was told
}

// NewMemory knows nothing yet. It averages over slots of that length.
func NewMemory(slot time.Duration) *Memory {
	return &Memory{Load: signal.NewMemory(slot), Trail: signal.NewTrail(), heat: map[string]signal.Heat{}, seen: map[string]int64{}}
}

// forgetAfter is for how long a VM's load is kept when nothing is heard of it.
const forgetAfter = 7 * 24 * time.Hour

// See takes in a snapshot, and reports whether it is time to look for moves: once in a slot, when hosts' loads
// are summed up anew.
func (m *Memory) See(s *fleet.Snapshot, r Rule, now time.Time) bool {
	for name, h := range s.Hosts {
		if h.Load == nil || h.LoadRevision == m.seen[name] {
			continue
		}
		m.seen[name] = h.LoadRevision
		for _, d := range h.Domains() {
			if signal.Usable(d.Load) {
				m.Load.Observe(signal.Sample{Domain: d.Facts.ID, At: now, CPU: d.Load.CPU, VCPUs: d.Facts.VCPUs})
			}
		}
	}
	for _, stored := range s.Migrations {
		m.Trail.See(stored.Migration, now)
	}
	slot := now.UnixNano() / int64(m.Load.Slot())
	if slot == m.slot {
		return false
	}
	m.slot = slot
	m.Trail.Forget(now)
	m.Load.Forget(now.Add(-forgetAfter))
	m.feel(s, r, now)
	return true
}

// feel tells each host's heat. A host that is not up begins anew when it is back.
func (m *Memory) feel(s *fleet.Snapshot, r Rule, now time.Time) {
	on := placed(s)
	heat := make(map[string]signal.Heat, len(s.Hosts))
	for name, h := range s.Hosts {
		if feasible.Up(s, h) == nil {
			load := m.sum(on[name], now, r)
			heat[name] = r.Latch().Step(m.heat[name], r.Overload(load, h.Capacity().Cores), now)
		}
	}
	m.heat = heat
}

// Hot reports whether the host is.
func (m *Memory) Hot(host string) bool { return m.heat[host].Hot }

// HotHosts are the hosts that are, in order.
func (m *Memory) HotHosts() []string {
	var out []string
	for name, h := range m.heat {
		if h.Hot {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (m *Memory) sum(domains []hypervisor.DomainID, now time.Time, r Rule) signal.Estimate {
	loads := make([]signal.Estimate, len(domains))
	for i, id := range domains {
		loads[i] = m.Load.Estimate(id, now, r.Horizon)
	}
	return signal.Sum(loads...)
}
