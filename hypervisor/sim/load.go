package sim

import (
	"cmp"
	"context"
	"slices"
	"time"

	"drover/hypervisor"
)

// sampleWindow is the window of the dirty-rate samples that Load gives.
const sampleWindow = time.Second

// Facts is what seldom changes about the host.
func (h *Host) Facts(ctx context.Context) (hypervisor.HostFacts, error) {
	if err := h.ask(ctx, "facts"); err != nil {
		return hypervisor.HostFacts{}, err
	}
	defer h.f.mu.Unlock()
	f := hypervisor.HostFacts{
		Name: h.cfg.Name, LibvirtUUID: "sim-" + h.cfg.Name, AgentVersion: "sim", ProtocolMin: 1, ProtocolMax: 1,
		LibvirtVersion: 11_003_000, QEMUVersion: 10_000_002, Arch: "x86_64", CPUModel: "sim",
		MachineTypes: []string{"q35"}, VirtTypes: []string{"kvm", "qemu"},
		Capabilities: []string{"multifd-zstd", "tls", "xbzrle"},
		Capacity: hypervisor.Capacity{
			Cores: h.cfg.Cores, Memory: h.cfg.Memory, Reserved: h.cfg.Reserved, Bandwidth: h.cfg.Link,
		},
		PeerURI: h.PeerURI(),
	}
	for _, in := range h.inOrder() {
		f.Domains = append(f.Domains, in.facts())
	}
	return f, nil
}

// Load is one sample of the host and of what runs on it.
func (h *Host) Load(ctx context.Context) (hypervisor.HostLoad, error) {
	if err := h.ask(ctx, "load"); err != nil {
		return hypervisor.HostLoad{}, err
	}
	defer h.f.mu.Unlock()
	l := hypervisor.HostLoad{At: time.Now(), Memory: h.cfg.Reserved}
	for _, in := range h.inOrder() {
		if !in.active() {
			continue
		}
		d := in.load()
		l.CPU += d.CPU
		l.Memory += d.Memory
		l.Domains = append(l.Domains, d)
	}
	for _, g := range h.f.guests {
		if j := g.job; j != nil && (j.stage == copying || j.stage == following) {
			if j.src == h {
				l.Tx += j.copy.bandwidth
			}
			if j.dst == h {
				l.Rx += j.copy.bandwidth
			}
		}
	}
	// More is wanted than the host has: what runs gets what there is.
	l.CPU = min(l.CPU, h.cfg.Cores)
	return l, nil
}

// ask waits as long as a call about the host takes; with f.mu held when it returns nil.
func (h *Host) ask(ctx context.Context, op string) error {
	select {
	case <-time.After(h.f.cfg.CallTime):
	case <-ctx.Done():
		return gaveUp(op, "", ctx.Err())
	}
	h.f.mu.Lock()
	if h.down || h.broken {
		h.f.mu.Unlock()
		return fault(op, "", hypervisor.ClassUnavailable, "no connection to libvirt on %s", h.cfg.Name)
	}
	return nil
}

func (h *Host) inOrder() []*instance {
	all := make([]*instance, 0, len(h.copies))
	for _, in := range h.copies {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b *instance) int { return cmp.Compare(a.guest.ID, b.guest.ID) })
	return all
}

func (in *instance) facts() hypervisor.DomainFacts {
	g := in.guest
	return hypervisor.DomainFacts{
		ID: g.ID, Name: g.Name, VCPUs: g.VCPUs, Memory: g.Memory, VirtType: "kvm", Arch: "x86_64",
		Machine: "q35", Persistent: in.persistent, Autostart: in.autostart,
	}
}

func (in *instance) load() hypervisor.DomainLoad {
	g := in.guest
	d := hypervisor.DomainLoad{
		ID: g.ID, State: in.state, Memory: used(g.DomainConfig), Migrating: in.job != hypervisor.JobNone,
	}
	if in.state != hypervisor.StateRunning {
		return d
	}
	d.CPU = g.CPU
	if in.job == hypervisor.JobOutgoing && g.job != nil {
		d.CPU = g.CPU * hypervisor.Cores(100-g.job.copy.throttle) / 100
	}
	d.Dirty = &hypervisor.DirtySample{
		Rate:   hypervisor.BytesPerSecond(g.Pattern.distinct(g.DomainConfig, sampleWindow) * float64(pageSize)),
		Window: sampleWindow, At: time.Now(),
	}
	return d
}
