package balance

import (
	"maps"
	"math"
	"slices"

	"drover/hypervisor"
)

const (
	mib = float64(hypervisor.MiB)
	gib = float64(hypervisor.GiB)
	// peakSigmas: the 95th percentile of a normal lies so many standard deviations above its mean.
	peakSigmas = 1.645
	// preferredMoves is how many moves it is worth to mend a preferred rule.
	preferredMoves = 3
	// wireShare of a move's price in GiB is what it sends, the rest its memory.
	wireShare = 0.1
	// unknownSpread is the standard deviation over the mean of a load whose peak is not known.
	unknownSpread = 0.3
)

// item is what moves as one: a domain, or a required affinity group that is together. It fills one cache line:
// the search reads items at random, and waits for little else.
type item struct {
	mem       float64 // MiB
	cpu, vari float64 // cores, cores squared
	vcpus     float64
	net       float64 // bytes/s
	price     float64 // in units of the objective's price
	rules     *rules  // nil: none
	home      int32
	moves     int32 // domains
}

// rules are the groups that an item is in, and the hosts that it avoids.
type rules struct {
	groups []membership
	avoid  []int32
}

// groups are the item's.
func (x *item) groups() []membership {
	if x.rules == nil {
		return nil
	}
	return x.rules.groups
}

// avoids: the item may not go to the host.
func (x *item) avoids(h int32) bool { return x.rules != nil && slices.Contains(x.rules.avoid, h) }

// ruled are the item's rules, to be added to.
func (x *item) ruled() *rules {
	if x.rules == nil {
		x.rules = &rules{}
	}
	return x.rules
}

// gib is its memory.
func (x *item) gib() float64 { return x.mem * (mib / gib) }

// membership is an item's part in a rule: so many of its domains.
type membership struct{ group, n int32 }

// host is one host's constants, those first that the search needs most.
type host struct {
	memMax    float64 // MiB up to which domains may come
	cpuMax    float64 // cores up to which domains may come
	vcpuMax   float64 // vCPUs up to which domains may come
	perMem    float64 // 1 / all memory, MiB
	perCPU    float64 // 1 / cores
	perCap    float64 // 1 / memCap
	cores     float64
	takes     bool    // domains may come
	counts    bool    // its evenness is of interest: not draining
	perNet    float64 // 1 / link, bytes/s
	vcpuNow   float64 // vCPUs at the start, up to which its own may come back
	memCap    float64 // MiB that domains may have
	heldMem   float64 // by domains that are leaving, MiB
	heldVCPUs float64 // by them
}

// group is a rule, with how many members are where.
type group struct {
	name    string
	apart   bool
	rank    int // preferred or required
	members int32
}

const (
	preferred = iota
	required
)

// compiled is a problem as index arrays, which the search only reads.
type compiled struct {
	p        *Problem
	o        Options
	scored   bool // by the Score
	items    []item
	vms      [][]int32 // by item
	mobile   []bool    // by item: it may move at all
	hosts    []host
	groups   []group
	prices   []Price // by VM, to a link as fast as its host's
	itemOf   []int32
	torn     []bool // by VM: it must be with one that it must not be with
	hostOf   map[string]int32
	scale    float64    // price units per unit of badness
	breach   [2]float64 // price units per breach of a preferred and a required rule; a domain left on a draining host is as bad
	meanCPU  float64    // the fleet's utilisation
	meanMem  float64
	onHosts  float64
	meanItem float64 // mean price, which sets the temperatures
}

func compile(p *Problem, o Options) *compiled {
	c := &compiled{p: p, o: o, scored: o.Objective == Score, prices: make([]Price, len(p.VMs)), itemOf: make([]int32, len(p.VMs))}
	for i := range p.VMs {
		v := &p.VMs[i]
		if v.Price != nil {
			c.prices[i] = *v.Price
		} else {
			c.prices[i] = PriceOf(v, hypervisor.BytesPerSecond(float64(p.Hosts[v.Host].Link)*linkShare))
		}
	}
	c.compileHosts()
	c.torn = make([]bool, len(p.VMs))
	for _, x := range p.contradictions() {
		c.torn[x.a], c.torn[x.b] = true, true
	}
	c.compileItems()
	c.compileGroups()
	c.setScale()
	return c
}

func (c *compiled) compileHosts() {
	p := c.p
	c.hosts = make([]host, len(p.Hosts))
	c.hostOf = make(map[string]int32, len(p.Hosts))
	for i, h := range p.Hosts {
		c.hostOf[h.Name] = int32(i)
	}
	cpu := make([]float64, len(p.Hosts))
	var sumCPU, sumCores, emptiedCores, sumMem, sumCap float64
	for i := range p.VMs {
		v := &p.VMs[i]
		cpu[v.at()] += float64(v.Mean.CPU)
		c.hosts[v.at()].vcpuNow += float64(v.VCPUs)
		sumCPU += float64(v.Mean.CPU)
		sumMem += float64(v.Memory) / mib
		if v.Moving && v.Target != v.Host {
			c.hosts[v.Host].heldMem += float64(v.Memory) / mib
			c.hosts[v.Host].heldVCPUs += float64(v.VCPUs)
			c.hosts[v.Host].vcpuNow += float64(v.VCPUs)
		}
	}
	for i, h := range p.Hosts {
		x := &c.hosts[i]
		x.memCap = float64(h.Memory-h.Reserved) / mib
		x.perCap = 1 / max(x.memCap, 1)
		x.perMem, x.cores, x.perCPU = mib/float64(h.Memory), float64(h.Cores), 1/float64(h.Cores)
		x.perNet = 1 / float64(h.Link)
		x.vcpuMax = math.Inf(1)
		if h.VCPUs > 0 {
			x.vcpuMax = float64(h.VCPUs)
		}
		x.takes, x.counts = !h.Cordoned && !h.Draining, !h.Draining
		if x.counts {
			sumCores += x.cores
			sumCap += x.memCap
			c.onHosts++
		}
		if h.emptied {
			emptiedCores += x.cores
		}
	}
	if sumCores > 0 {
		c.meanCPU, c.meanMem = sumCPU/sumCores, sumMem/max(sumCap, 1)
	}
	// A fleet that has more to do than it can may fill its hosts evenly; leaving some empty is no reason to.
	overall := 0.0
	if all := sumCores + emptiedCores; all > 0 {
		overall = sumCPU / all
	}
	for i := range c.hosts {
		x := &c.hosts[i]
		x.memMax = x.memCap
		limit := cpuLimit
		if !c.scored {
			limit = max(limit, overall)
		}
		if c.o.Mode == Consolidate {
			limit -= c.o.Reserve
			x.memMax -= c.o.Reserve * x.memCap
		}
		x.cpuMax = max(x.cores*limit, cpu[i])
	}
}

// at is where the VM counts.
func (v *VM) at() int {
	if v.Moving {
		return v.Target
	}
	return v.Host
}

// compileItems makes one item of each domain, and one of each required affinity group that is together.
func (c *compiled) compileItems() {
	p := c.p
	find := p.joined(func(g *Group) bool {
		return !g.Apart && g.Required && !slices.ContainsFunc(g.VMs, func(i int) bool {
			return p.VMs[i].at() != p.VMs[g.VMs[0]].at()
		})
	})
	index := make(map[int]int32, len(p.VMs))
	c.items = make([]item, 0, len(p.VMs))
	for i := range p.VMs {
		v := &p.VMs[i]
		root := find(i)
		k, ok := index[root]
		if !ok {
			k = int32(len(c.items))
			index[root] = k
			c.items = append(c.items, item{home: int32(v.at())})
			c.vms, c.mobile = append(c.vms, nil), append(c.mobile, true)
		}
		c.itemOf[i] = k
		c.add(k, i)
	}
}

// add puts a VM into the item.
func (c *compiled) add(k int32, i int) {
	x, v := &c.items[k], &c.p.VMs[i]
	c.vms[k] = append(c.vms[k], int32(i))
	x.mem += float64(v.Memory) / mib
	x.cpu += float64(v.Mean.CPU)
	x.vcpus += float64(v.VCPUs)
	x.vari += variance(float64(v.Mean.CPU), float64(v.Peak.CPU))
	x.net += float64(max(v.Mean.Net, 0))
	x.moves++
	for _, h := range v.Avoid {
		r := x.ruled()
		r.avoid = append(r.avoid, int32(h))
	}
	if c.scored {
		x.price += (wireShare*float64(c.prices[i].Bytes)+(1-wireShare)*float64(v.Memory))/gib + c.o.Weights.MoveGiB
	} else {
		x.price += c.prices[i].coreSeconds(v.Mean)
	}
	c.mobile[k] = c.mobile[k] && c.stays(i) == ""
}

// variance of a load from its mean and 95th percentile.
func variance(mean, peak float64) float64 {
	sigma := unknownSpread * mean
	if peak >= mean && peak > 0 {
		sigma = (peak - mean) / peakSigmas
	}
	return sigma * sigma
}

// stays says why the VM may not move in this plan; "" when it may.
func (c *compiled) stays(i int) Why {
	v := &c.p.VMs[i]
	leaves := c.p.Hosts[v.Host].Draining
	switch {
	case v.Moving:
		return UnderWay
	case v.Pinned:
		return Pinned
	case c.torn[i]:
		return Contradiction
	case leaves:
		return ""
	case v.Resting:
		return Resting
	case !c.prices[i].Converges:
		return NoConvergence
	}
	return ""
}

func (c *compiled) compileGroups() {
	for _, g := range c.p.Groups {
		k := int32(len(c.groups))
		members := map[int32]int32{}
		for _, i := range g.VMs {
			members[c.itemOf[i]]++
		}
		if len(members) < 2 {
			continue // no placement changes it
		}
		rank := preferred
		if g.Required {
			rank = required
		}
		c.groups = append(c.groups, group{name: g.Name, apart: g.Apart, rank: rank, members: int32(len(g.VMs))})
		for _, i := range slices.Sorted(maps.Keys(members)) {
			r := c.items[i].ruled()
			r.groups = append(r.groups, membership{k, members[i]})
		}
	}
}

// setScale chooses the units: prices are as they are, badness is scaled to them.
func (c *compiled) setScale() {
	sum, n, most := 0.0, 0.0, 0.0
	for i := range c.items {
		if c.mobile[i] {
			sum += c.items[i].price
			n++
			most = max(most, c.items[i].price)
		}
	}
	c.meanItem = max(sum/max(n, 1), 1e-9)
	c.breach = [2]float64{preferredMoves * c.meanItem, 1000 * max(most, 1e-9)}
	c.scale = c.o.Horizon.Seconds()
	if c.scored {
		c.scale = c.o.Weights.ScoreGiB
	}
}
