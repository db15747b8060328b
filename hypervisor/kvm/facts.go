package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"drover/hypervisor"
)

// factsAge is how long facts stand without an event that outdates them.
const factsAge = 5 * time.Minute

// factsLimit bounds the reading of one domain.
const factsLimit = 5 * time.Second

// hostFacts are the parts of a host's facts that come from libvirt, with what CheckTarget needs.
type hostFacts struct {
	facts  hypervisor.HostFacts
	guests []libvirtxml.CapsGuest
	read   time.Time
}

// factsCache keeps the host's and the domains' facts between events.
type factsCache struct {
	mu      sync.Mutex
	host    *hostFacts
	domains map[hypervisor.DomainID]cachedDomain
}

func newFactsCache() *factsCache {
	return &factsCache{domains: map[hypervisor.DomainID]cachedDomain{}}
}

// forgetAll outdates everything; old facts stay as long as no new ones can be read.
func (c *factsCache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host = nil
	for id, d := range c.domains {
		d.stale = true
		c.domains[id] = d
	}
}

func (c *factsCache) forget(id hypervisor.DomainID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.domains[id]; ok {
		d.stale = true
		c.domains[id] = d
	}
}

func (c *factsCache) hostNow(now time.Time) *hostFacts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.host == nil || now.Sub(c.host.read) > factsAge {
		return nil
	}
	return c.host
}

func (c *factsCache) setHost(f *hostFacts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host = f
}

// Facts describes the host and all its domains, active or defined. It is cheap enough for every few
// seconds: one call to libvirt lists the domains, and only those are read that an event has touched,
// that are new, or whose facts are minutes old.
func (h *Host) Facts(ctx context.Context) (hypervisor.HostFacts, error) {
	host, err := h.hostFacts(ctx)
	if err != nil {
		return hypervisor.HostFacts{}, err
	}
	facts := host.facts
	facts.Domains, err = h.domainFacts(ctx)
	return facts, err
}

// hostFacts returns the cached facts about the host itself, or reads them.
func (h *Host) hostFacts(ctx context.Context) (*hostFacts, error) {
	if cached := h.facts.hostNow(time.Now()); cached != nil {
		return cached, nil
	}
	type fromLibvirt struct {
		caps    *libvirtxml.Caps
		domcaps *libvirtxml.DomainCaps
		node    *libvirt.NodeInfo
	}
	got, err := onHost(ctx, h, "host facts", func(lv *libvirt.Connect) (fromLibvirt, error) {
		var f fromLibvirt
		text, err := lv.GetCapabilities()
		if err != nil {
			return f, err
		}
		f.caps = &libvirtxml.Caps{}
		if err := f.caps.Unmarshal(text); err != nil {
			return f, fmt.Errorf("capabilities: %w", err)
		}
		if f.node, err = lv.GetNodeInfo(); err != nil {
			return f, err
		}
		f.domcaps, err = domainCaps(lv, f.caps)
		return f, err
	})
	if err != nil {
		return nil, err
	}
	facts := &hostFacts{guests: got.caps.Guests, read: time.Now()}
	facts.facts = h.describe(got.caps, got.domcaps)
	facts.facts.Capacity = h.capacity(got.node)
	h.facts.setHost(facts)
	return facts, nil
}

// domainCaps asks what a domain can be on this host, with KVM where libvirt reports it.
func domainCaps(lv *libvirt.Connect, caps *libvirtxml.Caps) (*libvirtxml.DomainCaps, error) {
	arch := hostArch(caps)
	virtType := "qemu"
	if slices.Contains(virtTypes(caps.Guests, arch), "kvm") {
		virtType = "kvm"
	}
	text, err := lv.GetDomainCapabilities("", arch, "", virtType, 0)
	if err != nil {
		return nil, err
	}
	d := &libvirtxml.DomainCaps{}
	if err := d.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("domain capabilities: %w", err)
	}
	return d, nil
}

// describe fills in what needs no further question.
func (h *Host) describe(caps *libvirtxml.Caps, domcaps *libvirtxml.DomainCaps) hypervisor.HostFacts {
	lv, qemu := h.versions()
	arch := hostArch(caps)
	f := hypervisor.HostFacts{
		Name:             h.cfg.Name,
		LibvirtUUID:      caps.Host.UUID,
		AgentVersion:     h.cfg.AgentVersion,
		ProtocolMin:      h.cfg.ProtocolMin,
		ProtocolMax:      h.cfg.ProtocolMax,
		LibvirtVersion:   lv,
		QEMUVersion:      qemu,
		Arch:             arch,
		MachineTypes:     machineTypes(caps.Guests, arch),
		VirtTypes:        virtTypes(caps.Guests, arch),
		PeerURI:          h.cfg.PeerURI,
		MigrationAddress: h.cfg.MigrationAddress,
		Capabilities:     h.capabilities(lv, qemu),
	}
	f.CPUModel, f.CPUFeatures = hostModel(domcaps)
	return f
}

func hostArch(caps *libvirtxml.Caps) string {
	if caps.Host.CPU != nil && caps.Host.CPU.Arch != "" {
		return caps.Host.CPU.Arch
	}
	return "x86_64"
}

// virtTypes are the accelerators for an architecture, sorted.
func virtTypes(guests []libvirtxml.CapsGuest, arch string) []string {
	var types []string
	for i := range guests {
		if guests[i].Arch.Name != arch {
			continue
		}
		for _, d := range guests[i].Arch.Domains {
			types = append(types, d.Type)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// machineTypes are the names, canonical and alias, of all machines for an architecture, sorted.
func machineTypes(guests []libvirtxml.CapsGuest, arch string) []string {
	var names []string
	add := func(list []libvirtxml.CapsGuestMachine) {
		for _, m := range list {
			names = append(names, m.Name)
			if m.Canonical != "" {
				names = append(names, m.Canonical)
			}
		}
	}
	for i := range guests {
		if guests[i].Arch.Name != arch {
			continue
		}
		add(guests[i].Arch.Machines)
		for _, d := range guests[i].Arch.Domains {
			add(d.Machines)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hostModel is the CPU that libvirt would give a domain asking for the host's model.
func hostModel(d *libvirtxml.DomainCaps) (model string, features []string) {
	if d.CPU == nil {
		return "", nil
	}
	for _, mode := range d.CPU.Modes {
		if mode.Name != "host-model" || mode.Supported != "yes" {
			continue
		}
		if len(mode.Models) > 0 {
			model = mode.Models[0].Name
		}
		for _, f := range mode.Features {
			if f.Policy != "disable" && f.Policy != "forbid" {
				features = append(features, f.Name)
			}
		}
	}
	slices.Sort(features)
	return model, features
}

// domainFacts lists the domains and reads those whose facts are outdated.
func (h *Host) domainFacts(ctx context.Context) ([]hypervisor.DomainFacts, error) {
	listed, err := h.listDomains(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	due := h.facts.due(listed, now)
	shared := h.sharedDir()
	for _, id := range due {
		if ctx.Err() != nil {
			break
		}
		r := request{op: "domain facts", domain: id, limit: factsLimit}
		read, err := onDomain(ctx, h, r, func(d *libvirt.Domain) (definition, error) { return readDomain(d, shared) })
		if err != nil {
			// Gone again, or stuck: the list or the old facts will do.
			h.log.Debug("domain facts not read", "domain", id, "err", err)
			continue
		}
		h.facts.put(id, read.facts, now)
	}
	facts := h.facts.all(listed)
	for i := range facts {
		facts[i].Disks = h.load.sized(facts[i].ID, facts[i].Disks)
	}
	return facts, nil
}

type listedDomain struct {
	id   hypervisor.DomainID
	name string
}

// listDomains asks for all domains in one call; their names and UUIDs come with it.
func (h *Host) listDomains(ctx context.Context) ([]listedDomain, error) {
	return onHost(ctx, h, "list domains", func(lv *libvirt.Connect) ([]listedDomain, error) {
		doms, err := lv.ListAllDomains(0)
		if err != nil {
			return nil, err
		}
		list := make([]listedDomain, 0, len(doms))
		for i := range doms {
			uuid, uerr := doms[i].GetUUIDString()
			name, nerr := doms[i].GetName()
			err = errors.Join(err, uerr, nerr)
			_ = doms[i].Free()
			list = append(list, listedDomain{id: hypervisor.DomainID(uuid), name: name})
		}
		return list, err
	})
}
