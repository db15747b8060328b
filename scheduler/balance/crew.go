package balance

import (
	"slices"
	"sync"
)

const (
	// crewSize is how many parts a large fleet is searched in at a time: always as many, whatever the machine
	// has, so that the plan is the same.
	crewSize = 2
	// crewHosts and crewChanges are from how many hosts on, and with how many changes between two meetings, the
	// meetings cost less than what is won.
	crewHosts, crewChanges = 80, 500
)

// crew is a search that several searches do at the same time, each on hosts of its own and with what is on
// them; whose hosts are whose is drawn anew for every turn. Nothing that they change is shared: loads, lists
// and members of groups are by host or by item. What each does not see of the others' changes until the
// turn is over is only what they do to the sums that are judged.
type crew struct {
	lead  *search
	parts []*search
	hosts []int32
}

// crew is nil where one search alone is better.
func (x *search) crew(changes int) *crew {
	if len(x.hosts) < crewHosts || changes < crewChanges || x.few {
		return nil
	}
	c := &crew{lead: x, hosts: slices.Clone(x.mine)}
	for range crewSize {
		c.parts = append(c.parts, &search{state: &state{}})
	}
	return c
}

// run lets each part try its share of the changes at a temperature.
func (c *crew) run(changes int, temperature float64) {
	c.split()
	var wait sync.WaitGroup
	each := changes / len(c.parts)
	for _, p := range c.parts[1:] {
		wait.Go(func() { p.run(each, temperature, each) })
	}
	c.parts[0].run(each, temperature, each)
	wait.Wait()
	c.merge()
}

// split draws who has which hosts.
func (c *crew) split() {
	x := c.lead
	for k := len(c.hosts) - 1; k > 0; k-- {
		j := x.rng.below(k + 1)
		c.hosts[k], c.hosts[j] = c.hosts[j], c.hosts[k]
	}
	for k, p := range c.parts {
		s, moved, movers := p.state, p.moved[:0], p.movers[:0]
		*s = *x.state
		s.moved = moved
		*p = *x
		p.state, p.movers, p.part = s, movers, int32(k)
		p.rng = random(x.rng.next())
		p.mine = c.hosts[k*len(c.hosts)/len(c.parts) : (k+1)*len(c.hosts)/len(c.parts)]
		for _, h := range p.mine {
			x.owner[h] = p.part
		}
	}
	for _, i := range x.movers {
		p := c.parts[x.owner[x.at[i]]]
		p.movers = append(p.movers, i)
	}
	for _, i := range x.moved {
		p := c.parts[x.owner[x.at[i]]]
		x.mpos[i] = int32(len(p.moved))
		p.moved = append(p.moved, i)
	}
}

// merge makes the lead's what the parts have found. Sums of numbers with fractions are not: resum takes them.
func (c *crew) merge() {
	x := c.lead
	before := x.totals
	x.moved = x.moved[:0]
	for _, p := range c.parts {
		x.moves += p.moves - before.moves
		x.stranded += p.stranded - before.stranded
		for k := range x.broken {
			x.broken[k] += p.broken[k] - before.broken[k]
		}
		for _, i := range p.moved {
			x.mpos[i] = int32(len(x.moved))
			x.moved = append(x.moved, i)
		}
	}
	clear(x.owner)
}
