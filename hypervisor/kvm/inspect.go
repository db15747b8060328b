package kvm

import (
	"context"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"drover/hypervisor"
	"drover/hypervisor/qmp"
)

// Inspect is the source's part of preflight: what the domain is, whether anything on it is in a
// migration's way, and what the target needs for comparing CPUs. A domain that isn't here is an
// error of ClassNoDomain.
func (h *Host) Inspect(ctx context.Context, id hypervisor.DomainID) (hypervisor.Inspection, error) {
	host, err := h.hostFacts(ctx)
	if err != nil {
		return hypervisor.Inspection{}, err
	}
	shared := h.sharedDir()
	r := request{op: "inspect", domain: id, limit: slowLimit}
	seen, err := onDomain(ctx, h, r, func(d *libvirt.Domain) (hypervisor.Inspection, error) {
		return inspect(d, id, shared, host.facts)
	})
	if err != nil {
		return hypervisor.Inspection{}, err
	}
	seen.Facts.Blockers = append(seen.Facts.Blockers, stateBlockers(seen.Sighting)...)
	if h.cfg.QueryQEMU && seen.Sighting.Active() {
		seen.Facts.Blockers = append(seen.Facts.Blockers, h.qemuBlockers(ctx, id)...)
	}
	return seen, nil
}

func inspect(d *libvirt.Domain, id hypervisor.DomainID, shared func(string) bool, host hypervisor.HostFacts) (hypervisor.Inspection, error) {
	def, err := readDomain(d, shared)
	if err != nil {
		return hypervisor.Inspection{}, err
	}
	seen := hypervisor.Inspection{Facts: def.facts, Emulator: def.emulator}
	v, err := look(d, id)
	if err != nil {
		return seen, err
	}
	seen.Sighting = v.Sighting
	if seen.Sighting.Job == hypervisor.JobNone {
		if err := sizes(d, seen.Facts.Disks); err != nil {
			return seen, err
		}
	}
	text, err := d.GetXMLDesc(libvirt.DOMAIN_XML_MIGRATABLE)
	if err != nil {
		return seen, err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return seen, err
	}
	seen.CPU, err = cpuToCompare(x.CPU, host)
	return seen, err
}

// cpuToCompare renders a domain's CPU for the target to compare. A passed-through host CPU names no
// model, so the source's own model goes with it: the target must have the very same.
func cpuToCompare(cpu *libvirtxml.DomainCPU, host hypervisor.HostFacts) (string, error) {
	if cpu == nil {
		return "", nil
	}
	c := *cpu
	if c.Mode == passthrough && c.Model == nil && host.CPUModel != "" {
		c.Model = &libvirtxml.DomainCPUModel{Value: host.CPUModel}
		for _, name := range host.CPUFeatures {
			c.Features = append(c.Features, libvirtxml.DomainCPUFeature{Policy: "require", Name: name})
		}
	}
	return c.Marshal()
}

const passthrough = "host-passthrough"

// stateBlockers are what the domain is doing now that a migration can't begin with.
func stateBlockers(s hypervisor.Sighting) []hypervisor.Blocker {
	switch {
	case !s.Active():
		return []hypervisor.Blocker{{Code: hypervisor.BlockNotRunning, Detail: "it is " + string(s.State)}}
	case s.Job != hypervisor.JobNone:
		return []hypervisor.Blocker{{
			Code: hypervisor.BlockJob, Detail: "a job (" + string(s.Job) + ") runs on it", Remedy: "wait until it is over",
		}}
	case s.Reason == hypervisor.ReasonIOError:
		return []hypervisor.Blocker{{
			Code: hypervisor.BlockIOError, Detail: "it is paused by a disk error",
			Remedy: "repair the storage and resume the guest",
		}}
	}
	return nil
}

// qemuBlockers asks QEMU itself. That is a bonus: without an answer libvirt's own checks stand.
func (h *Host) qemuBlockers(ctx context.Context, id hypervisor.DomainID) []hypervisor.Blocker {
	reasons, err := qmp.BlockedReasons(ctx, h, id)
	if err != nil {
		h.log.Warn("QEMU not asked for its reasons against a migration", "domain", id, "err", err)
		return nil
	}
	var found []hypervisor.Blocker
	for _, reason := range reasons {
		found = append(found, hypervisor.Blocker{Code: hypervisor.BlockQEMU, Detail: reason})
	}
	return found
}

// MonitorCommand passes one QMP command to a domain's QEMU and returns its reply as QEMU gave it,
// errors included. It taints the domain; use it through package qmp, which only reads.
func (h *Host) MonitorCommand(ctx context.Context, id hypervisor.DomainID, command string) (string, error) {
	return onTuned(ctx, h, request{op: "monitor command", domain: id}, func(d *libvirt.Domain) (string, error) {
		return d.QemuMonitorCommand(command, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
	})
}
