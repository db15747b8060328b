package balance

// metrics describes the placement. Hosts that are draining count only for what is left on them.
func (s *state) metrics() Metrics {
	var m Metrics
	var f1, f2, c1, c2, u1, u2 float64
	for h := range s.hosts {
		x := &s.hosts[h]
		if len(s.on[h]) > 0 {
			m.HostsUsed++
		}
		if !x.counts {
			continue
		}
		free, cpu, mem := (x.memCap-s.loads[h].mem)*x.perMem, s.loads[h].cpu*x.perCPU, s.loads[h].mem/max(x.memCap, 1)
		f1, f2 = f1+free, f2+free*free
		c1, c2 = c1+cpu, c2+cpu*cpu
		u1, u2 = u1+mem, u2+mem*mem
		m.CPUMax, m.MemMax = max(m.CPUMax, cpu), max(m.MemMax, mem)
		m.Contention += s.contend(int32(h), s.loads[h].cpu, s.loads[h].vari, s.loads[h].net)
	}
	m.CPUStd, m.MemStd = deviation(c1, c2, s.onHosts), deviation(u1, u2, s.onHosts)
	m.Score = deviation(f1, f2, s.onHosts) + m.CPUStd
	m.Broken, m.Unpreferred, m.OnDraining = s.broken[required], s.broken[preferred], s.stranded
	return m
}
