package balance

import "math"

// totals are what a placement comes to.
type totals struct {
	f1, f2, l1, l2 float64 // the Score's terms: sums and sums of squares over hosts
	contention     float64 // core-seconds per second, over hosts
	broken         [2]int  // breaches of preferred and of required rules
	stranded       int     // domains on draining hosts
	price, gib     float64 // of the moves
	moves          int
}

// state is a placement, with everything that judging a change of it needs.
type state struct {
	*compiled
	totals
	at    []int32   // by item: its host
	on    [][]int32 // by host: its items
	pos   []int32   // by item: where in on[at]
	moved []int32   // items that are not at home
	mpos  []int32   // by item: where in moved, or -1

	loads   []loads   // by host
	glances []glance  // by host
	full    []float64 // by host: how loaded it is
	count   []int32   // by group and host: members there
}

// loads are what a host's items come to, and its part in the Contention.
type loads struct {
	mem, cpu, vcpus, vari, net float64
	cost                       float64
}

// glance is what a scan for the Score sees of a host: its part in it, and what a MiB and a core are there. It is
// half a cache line; all that is needed of some hundred hosts stays in the first-level cache.
type glance struct{ free, load, perMem, perCPU float64 }

func newState(c *compiled) *state {
	n, m := len(c.hosts), len(c.items)
	s := &state{
		compiled: c, at: make([]int32, m), on: make([][]int32, n), pos: make([]int32, m), mpos: make([]int32, m),
		loads: make([]loads, n), glances: make([]glance, n), full: make([]float64, n), count: make([]int32, len(c.groups)*n),
	}
	for h := range c.hosts {
		s.loads[h].mem, s.loads[h].vcpus = c.hosts[h].heldMem, c.hosts[h].heldVCPUs
		if c.hosts[h].counts {
			s.glances[h].perMem, s.glances[h].perCPU = c.hosts[h].perMem, c.hosts[h].perCPU
		}
	}
	for i := range c.items {
		x := &c.items[i]
		s.mpos[i] = -1
		s.arrive(int32(i), x.home)
		if !c.hosts[x.home].counts {
			s.stranded += int(x.moves)
		}
	}
	// A rule about several hosts costs from the second on; joining has counted the first.
	for _, g := range c.groups {
		if !g.apart {
			s.broken[g.rank]--
		}
	}
	s.resum()
	return s
}

// arrive and leave change lists and loads, but not what is derived of them.
func (s *state) arrive(i, h int32) {
	x := &s.items[i]
	s.at[i] = h
	s.pos[i] = int32(len(s.on[h]))
	s.on[h] = append(s.on[h], i)
	l := &s.loads[h]
	l.mem, l.cpu, l.vcpus, l.vari, l.net = l.mem+x.mem, l.cpu+x.cpu, l.vcpus+x.vcpus, l.vari+x.vari, l.net+x.net
	for _, g := range x.groups() {
		s.broken[s.groups[g.group].rank] += s.joining(g, h)
		s.count[s.cell(g, h)] += g.n
	}
}

func (s *state) leave(i int32) {
	x, h := &s.items[i], s.at[i]
	list := s.on[h]
	last := list[len(list)-1]
	list[s.pos[i]], s.pos[last] = last, s.pos[i]
	s.on[h] = list[:len(list)-1]
	l := &s.loads[h]
	l.mem, l.cpu, l.vcpus, l.vari, l.net = l.mem-x.mem, l.cpu-x.cpu, l.vcpus-x.vcpus, l.vari-x.vari, l.net-x.net
	for _, g := range x.groups() {
		s.count[s.cell(g, h)] -= g.n
		s.broken[s.groups[g.group].rank] -= s.joining(g, h)
	}
}

func (s *state) cell(g membership, h int32) int { return int(g.group)*len(s.hosts) + int(h) }

// joining is how many breaches of the rule it adds when the members come to the host.
func (s *state) joining(g membership, h int32) int {
	there := s.count[s.cell(g, h)]
	switch apart := s.groups[g.group].apart; {
	case apart && there > 0:
		return int(g.n)
	case apart:
		return int(g.n) - 1
	case there == 0:
		return 1
	}
	return 0
}

// move puts an item on another host and brings the totals up to date.
func (s *state) move(i, t int32) {
	from := s.at[i]
	s.leave(i)
	s.arrive(i, t)
	x := &s.items[i]
	if !s.hosts[from].counts {
		s.stranded -= int(x.moves)
	}
	if !s.hosts[t].counts {
		s.stranded += int(x.moves)
	}
	s.refresh(from)
	s.refresh(t)
	switch x.home {
	case from:
		s.price, s.gib, s.moves = s.price+x.price, s.gib+x.gib(), s.moves+int(x.moves)
		s.mpos[i] = int32(len(s.moved))
		s.moved = append(s.moved, i)
	case t:
		s.price, s.gib, s.moves = s.price-x.price, s.gib-x.gib(), s.moves-int(x.moves)
		last := s.moved[len(s.moved)-1]
		s.moved[s.mpos[i]], s.mpos[last] = last, s.mpos[i]
		s.moved = s.moved[:len(s.moved)-1]
		s.mpos[i] = -1
	}
}

// refresh brings a host's part in the totals up to date.
func (s *state) refresh(h int32) {
	x, l := &s.hosts[h], &s.loads[h]
	s.full[h] = l.cpu*x.perCPU + l.mem*x.perMem
	if !x.counts {
		return
	}
	if s.scored {
		g, free, load := &s.glances[h], (x.memCap-l.mem)*x.perMem, l.cpu*x.perCPU
		s.f1 += free - g.free
		s.f2 += free*free - g.free*g.free
		s.l1 += load - g.load
		s.l2 += load*load - g.load*g.load
		g.free, g.load = free, load
		return
	}
	c := s.hostCost(h, l.cpu, l.vari, l.mem, l.net)
	s.contention += c - l.cost
	l.cost = c
}

// resum takes the sums anew, so that rounding does not add up.
func (s *state) resum() {
	s.f1, s.f2, s.l1, s.l2, s.contention = 0, 0, 0, 0, 0
	for h := range s.hosts {
		g := &s.glances[h]
		g.free, g.load, s.loads[h].cost = 0, 0, 0
		s.refresh(int32(h))
	}
	s.price, s.gib = 0, 0
	for _, i := range s.moved {
		s.price += s.items[i].price
		s.gib += s.items[i].gib()
	}
}

// change is what comes to a host, or leaves it where negative.
type change struct{ mem, cpu, vari, net, vcpus float64 }

// comes and leaves are what an item does to a host's loads.
func (x *item) comes() change  { return change{x.mem, x.cpu, x.vari, x.net, x.vcpus} }
func (x *item) leaves() change { return change{-x.mem, -x.cpu, -x.vari, -x.net, -x.vcpus} }

// shifted takes the change of a host's loads into account.
func (s *state) shifted(n *totals, h int32, d change) {
	if !s.scored {
		if l := &s.loads[h]; s.hosts[h].counts {
			n.contention += s.hostCost(h, l.cpu+d.cpu, l.vari+d.vari, l.mem+d.mem, l.net+d.net) - l.cost
		}
		return
	}
	g := &s.glances[h]
	df, dl := -d.mem*g.perMem, d.cpu*g.perCPU
	n.f1 += df
	n.f2 += df * (2*g.free + df)
	n.l1 += dl
	n.l2 += dl * (2*g.load + dl)
}

// travelled takes into account that an item goes from where it is to t, apart from loads.
func (s *state) travelled(n *totals, i, t int32) {
	x, from := &s.items[i], s.at[i]
	for _, g := range x.groups() {
		c := s.cell(g, from)
		s.count[c] -= g.n
		n.broken[s.groups[g.group].rank] += s.joining(g, t) - s.joining(g, from)
		s.count[c] += g.n
	}
	if !s.hosts[from].counts {
		n.stranded -= int(x.moves)
	}
	if !s.hosts[t].counts {
		n.stranded += int(x.moves)
	}
	switch x.home {
	case from:
		n.price, n.gib, n.moves = n.price+x.price, n.gib+x.gib(), n.moves+int(x.moves)
	case t:
		n.price, n.gib, n.moves = n.price-x.price, n.gib-x.gib(), n.moves-int(x.moves)
	}
}

// after returns the totals if the item moved to the host; nothing is changed.
func (s *state) after(i, t int32) totals {
	n, x, from := s.totals, &s.items[i], s.at[i]
	s.shifted(&n, from, x.leaves())
	s.shifted(&n, t, x.comes())
	s.travelled(&n, i, t)
	return n
}

// traded returns the totals if two items that share no group changed places, and whether they may.
func (s *state) traded(i, j int32) (totals, bool) {
	n, x, y := s.totals, &s.items[i], &s.items[j]
	a, b := s.at[i], s.at[j]
	d := change{y.mem - x.mem, y.cpu - x.cpu, y.vari - x.vari, y.net - x.net, y.vcpus - x.vcpus}
	if !s.bears(a, d) || !s.bears(b, change{mem: -d.mem, cpu: -d.cpu}) || s.crowds(j, a, s.loads[a].vcpus+d.vcpus) || s.crowds(i, b, s.loads[b].vcpus-d.vcpus) ||
		s.bars(j, a) != "" || s.bars(i, b) != "" || s.meets(j, a) || s.meets(i, b) {
		return n, false
	}
	s.shifted(&n, a, d)
	s.shifted(&n, b, change{-d.mem, -d.cpu, -d.vari, -d.net, -d.vcpus})
	s.travelled(&n, i, b)
	s.travelled(&n, j, a)
	return n, true
}

// bears: the host has the room for the change.
func (s *state) bears(h int32, d change) bool {
	x := &s.hosts[h]
	return (d.mem <= 0 || s.loads[h].mem+d.mem <= x.memMax+slack) && (d.cpu <= 0 || s.loads[h].cpu+d.cpu <= x.cpuMax+slack)
}

// crowds: so many vCPUs with the item's are more than the host may have. A host that has more at the start takes its
// own back, but no others.
func (s *state) crowds(i, t int32, with float64) bool {
	x, h := &s.items[i], &s.hosts[t]
	if x.vcpus == 0 || with <= h.vcpuMax {
		return false
	}
	return t != x.home || with > h.vcpuNow
}

// fits: the host may have the item, as far as that host alone tells.
func (s *state) fits(i, t int32) bool { return s.refuses(i, t) == "" }

// refuses says why the host can't have the item; "" when it can. An item's home takes it back if it has the room.
func (s *state) refuses(i, t int32) Why {
	x, h := &s.items[i], &s.hosts[t]
	if s.loads[t].mem+x.mem > h.memMax+slack {
		return NoMemory
	}
	if s.loads[t].cpu+x.cpu > h.cpuMax+slack && x.cpu > 0 {
		return NoCPU
	}
	if s.crowds(i, t, s.loads[t].vcpus+x.vcpus) {
		return NoVCPUs
	}
	if why := s.bars(i, t); why != "" {
		return why
	}
	if s.meets(i, t) {
		return AntiAffinity
	}
	return ""
}

// meets: the host has a member of one of the item's required anti-affinity groups, and is not its home.
func (s *state) meets(i, t int32) bool {
	x := &s.items[i]
	if t == x.home {
		return false
	}
	for _, g := range x.groups() {
		if r := &s.groups[g.group]; r.apart && r.rank == required && s.count[s.cell(g, t)] > 0 {
			return true
		}
	}
	return false
}

// worsens: the move would break one of the item's required rules more than it is.
func (s *state) worsens(i, t int32) bool {
	from := s.at[i]
	for _, g := range s.items[i].groups() {
		if s.groups[g.group].rank != required {
			continue
		}
		c := s.cell(g, from)
		s.count[c] -= g.n
		more := s.joining(g, t) > s.joining(g, from)
		s.count[c] += g.n
		if more {
			return true
		}
	}
	return false
}

// share: two items are in one group.
func (s *state) share(i, j int32) bool {
	for _, g := range s.items[i].groups() {
		for _, h := range s.items[j].groups() {
			if g.group == h.group {
				return true
			}
		}
	}
	return false
}

// bars says why the host does not take the item, however empty it is.
func (s *state) bars(i, t int32) Why {
	x := &s.items[i]
	switch {
	case t == x.home:
		return ""
	case !s.hosts[t].takes:
		return Closed
	case x.avoids(t):
		return Avoided
	}
	return ""
}

// slack is for rounding, in MiB or cores.
const slack = 1e-9

// badness is what the objective makes small, in its own unit: a Score, or core-seconds per second.
func (s *state) badness(t *totals) float64 {
	if !s.scored {
		return t.contention
	}
	return deviation(t.f1, t.f2, s.onHosts) + deviation(t.l1, t.l2, s.onHosts)
}

// deviation is the standard deviation of n numbers with that sum and sum of squares.
func deviation(sum, squares, n float64) float64 {
	if n == 0 {
		return 0
	}
	mean := sum / n
	return math.Sqrt(max(0, squares/n-mean*mean))
}

// hostCost is a host's contention and unevenness with these loads, in core-seconds per second.
func (c *compiled) hostCost(h int32, cpu, vari, mem, net float64) float64 {
	x := &c.hosts[h]
	du, dm := cpu*x.perCPU-c.meanCPU, mem*x.perCap-c.meanMem
	return c.contend(h, cpu, vari, net) + c.o.Weights.Even*x.cores*(du*du+dm*dm)
}

// contend is what a host's domains ask for above the knee, in core-seconds per second. Of the network, the
// share above counts as so much of its cores.
func (c *compiled) contend(h int32, cpu, vari, net float64) float64 {
	x, knee := &c.hosts[h], c.o.Weights.Knee
	return excess(cpu-knee*x.cores, vari) + max(0, net*x.perNet-knee)*x.cores
}

// excess is the expectation of the part above 0 of a normal with that mean and variance.
func excess(mean, vari float64) float64 {
	if vari <= 0 {
		return max(mean, 0)
	}
	sigma := math.Sqrt(vari)
	z := mean / sigma
	switch {
	case z >= 4:
		return mean
	case z <= -4:
		return 0
	}
	x := (z + 4) * (excessSteps / 8)
	k := int(x)
	return sigma * (excessTable[k] + (x-float64(k))*(excessTable[k+1]-excessTable[k]))
}

const excessSteps = 512

// excessTable is phi(z) + z Phi(z), the excess of a standard normal about z, for z from -4 to 4.
var excessTable = func() (t [excessSteps + 2]float64) {
	for i := range t {
		z := float64(i)*8/excessSteps - 4
		t[i] = math.Exp(-z*z/2)/math.Sqrt(2*math.Pi) + z*0.5*math.Erfc(-z/math.Sqrt2)
	}
	return t
}()
