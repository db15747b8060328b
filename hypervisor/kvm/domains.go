package kvm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// agedPerCall bounds how many domains are read anew in one call only because their facts are old, so
// that a big host's facts don't all fall due in the same second for ever.
const agedPerCall = 10

// cachedDomain is what was last read of a domain.
type cachedDomain struct {
	facts hypervisor.DomainFacts
	read  time.Time
	stale bool
}

// due returns the listed domains that have to be read, and drops those that are gone.
func (c *factsCache) due(listed []listedDomain, now time.Time) []hypervisor.DomainID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []hypervisor.DomainID
	aged := 0
	present := make(map[hypervisor.DomainID]bool, len(listed))
	for _, l := range listed {
		present[l.id] = true
		d, ok := c.domains[l.id]
		switch {
		case !ok || d.stale || d.facts.Name != l.name:
			due = append(due, l.id)
		case now.Sub(d.read) > factsAge && aged < agedPerCall:
			due = append(due, l.id)
			aged++
		}
	}
	for id := range c.domains {
		if !present[id] {
			delete(c.domains, id)
		}
	}
	return due
}

func (c *factsCache) put(id hypervisor.DomainID, facts hypervisor.DomainFacts, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.domains[id] = cachedDomain{facts: facts, read: now}
}

// all returns the facts of the listed domains by ID; of one that could never be read, its name.
func (c *factsCache) all(listed []listedDomain) []hypervisor.DomainFacts {
	c.mu.Lock()
	defer c.mu.Unlock()
	facts := make([]hypervisor.DomainFacts, 0, len(listed))
	for _, l := range listed {
		d, ok := c.domains[l.id]
		if !ok {
			d.facts = hypervisor.DomainFacts{ID: l.id, Name: l.name}
		}
		facts = append(facts, d.facts)
	}
	slices.SortFunc(facts, func(a, b hypervisor.DomainFacts) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return facts
}

// readDomain reads a domain's facts with calls that wait for no job on it, so that one in the middle
// of a migration can be read as well.
func readDomain(d *libvirt.Domain, shared func(string) bool) (definition, error) {
	text, err := d.GetXMLDesc(0)
	if err != nil {
		return definition{}, err
	}
	def, err := parseDomain(text, shared)
	if err != nil {
		return definition{}, err
	}
	if def.facts.Persistent, err = d.IsPersistent(); err != nil {
		return definition{}, err
	}
	if def.facts.Persistent {
		if def.facts.Autostart, err = d.GetAutostart(); err != nil {
			return definition{}, err
		}
	}
	n, err := d.SnapshotNum(0)
	if err != nil {
		return definition{}, err
	}
	if n > 0 {
		def.facts.Blockers = append(def.facts.Blockers, hypervisor.Blocker{
			Code: hypervisor.BlockSnapshot, Detail: fmt.Sprintf("it has %d snapshot(s), which libvirt can't move", n),
			Remedy: "delete the snapshots, or their metadata",
		})
	}
	return def, nil
}

// sizes fills in the disks' virtual sizes. It asks QEMU, and so waits for the domain's job lock.
func sizes(d *libvirt.Domain, disks []hypervisor.Disk) error {
	for i := range disks {
		if disks[i].Source == "" {
			continue
		}
		info, err := d.GetBlockInfo(disks[i].Target, 0)
		if err != nil {
			return err
		}
		disks[i].Size = bytesIf(true, info.Capacity)
	}
	return nil
}
