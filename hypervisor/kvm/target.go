package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"drover/hypervisor"
)

// CheckTarget is the target's part of preflight: whether the inspected domain would run here. The
// answer holds for this moment; an error means that the host could not find out.
func (h *Host) CheckTarget(ctx context.Context, q hypervisor.TargetQuestion) ([]hypervisor.Blocker, error) {
	host, err := h.hostFacts(ctx)
	if err != nil {
		return nil, err
	}
	facts := q.Inspection.Facts
	found := machineBlockers(host, q.Inspection)
	if len(found) == 0 {
		cpu, err := h.cpuBlockers(ctx, q.Inspection)
		if err != nil {
			return nil, err
		}
		found = append(found, cpu...)
	}
	present, err := h.presenceBlockers(ctx, facts)
	if err != nil {
		return nil, err
	}
	found = append(found, present...)
	if facts.Memory > 0 {
		free, err := h.freeMemory(ctx, facts.ID)
		if err != nil {
			return nil, err
		}
		if free < facts.Memory {
			found = append(found, hypervisor.Blocker{
				Code: hypervisor.BlockMemory, Detail: fmt.Sprintf("it needs %s, %s are free", facts.Memory, free),
				Remedy: "move another VM away first",
			})
		}
	}
	disks, err := h.diskBlockers(ctx, q)
	return append(found, disks...), err
}

// machineBlockers checks what the host's capabilities tell: architecture, accelerator, machine type,
// emulator.
func machineBlockers(host *hostFacts, seen hypervisor.Inspection) []hypervisor.Blocker {
	var found []hypervisor.Blocker
	add := func(code hypervisor.BlockerCode, format string, args ...any) {
		found = append(found, hypervisor.Blocker{Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	f := seen.Facts
	arch := f.Arch
	if arch == "" {
		arch = host.facts.Arch
	}
	types, machines := virtTypes(host.guests, arch), machineTypes(host.guests, arch)
	switch {
	case len(types) == 0:
		add(hypervisor.BlockArch, "%s guests can't run here", arch)
		return found
	case f.VirtType != "" && !slices.Contains(types, f.VirtType):
		add(hypervisor.BlockVirtType, "this host has no %s, only %s", f.VirtType, strings.Join(types, ", "))
	}
	if f.Machine != "" && !slices.Contains(machines, f.Machine) {
		add(hypervisor.BlockMachine, "QEMU here has no machine type %s", f.Machine)
	}
	if seen.Emulator != "" && !exists(seen.Emulator) {
		add(hypervisor.BlockMachine, "there is no emulator %s here", seen.Emulator)
	}
	return found
}

// cpuBlockers has libvirt compare the guest's CPU with what this host's QEMU can give.
func (h *Host) cpuBlockers(ctx context.Context, seen hypervisor.Inspection) ([]hypervisor.Blocker, error) {
	if seen.CPU == "" {
		return nil, nil
	}
	cpu, exact, err := expected(seen.CPU)
	if err != nil {
		return nil, refuse("compare CPU", seen.Facts.ID, hypervisor.ClassArgument, "%v", err)
	}
	if cpu == "" {
		return nil, nil
	}
	f := seen.Facts
	result, err := onHost(ctx, h, "compare CPU", func(lv *libvirt.Connect) (libvirt.CPUCompareResult, error) {
		return lv.CompareHypervisorCPU(seen.Emulator, f.Arch, f.Machine, f.VirtType, cpu, libvirt.CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE)
	})
	var e *hypervisor.Error
	switch {
	case errors.As(err, &e) && e.Class == hypervisor.ClassIncompatible:
		return []hypervisor.Blocker{{Code: hypervisor.BlockCPU, Detail: e.Message}}, nil
	case hypervisor.IsClass(err, hypervisor.ClassUnsupported):
		// Libvirt can't compare for this kind of guest; it still checks the CPU when the guest arrives.
		h.log.Info("CPU not compared", "domain", f.ID, "err", err)
		return nil, nil
	case err != nil:
		return nil, err
	case result == libvirt.CPU_COMPARE_INCOMPATIBLE:
		return []hypervisor.Blocker{{Code: hypervisor.BlockCPU, Detail: "libvirt calls the CPU incompatible"}}, nil
	case exact && result != libvirt.CPU_COMPARE_IDENTICAL:
		return []hypervisor.Blocker{{
			Code: hypervisor.BlockCPU, Detail: "the guest has its host's CPU passed through, and this host's differs",
			Remedy: "give the guest a named CPU model",
		}}, nil
	}
	return nil, nil
}

// expected is the CPU to compare, and whether nothing less than the same will do; empty when there
// is nothing to compare.
func expected(text string) (cpu string, exact bool, err error) {
	var x libvirtxml.DomainCPU
	if err := x.Unmarshal(text); err != nil {
		return "", false, fmt.Errorf("CPU of the domain: %w", err)
	}
	if x.Mode != passthrough {
		return text, false, nil
	}
	if x.Model == nil {
		return "", true, nil
	}
	// Comparing wants a model by name; topology and the like are the guest's own affair.
	plain := libvirtxml.DomainCPU{Mode: "custom", Match: "exact", Model: x.Model, Features: x.Features}
	cpu, err = plain.Marshal()
	return cpu, true, err
}

// presenceBlockers looks for the domain, or another of its name, among this host's.
func (h *Host) presenceBlockers(ctx context.Context, f hypervisor.DomainFacts) ([]hypervisor.Blocker, error) {
	return onHost(ctx, h, "find domain", func(lv *libvirt.Connect) ([]hypervisor.Blocker, error) {
		var found []hypervisor.Blocker
		active, err := withDomain(lv, f.ID, (*libvirt.Domain).IsActive)
		if err != nil && !isCode(err, libvirt.ERR_NO_DOMAIN) {
			return nil, err
		}
		if err == nil && active {
			found = append(found, hypervisor.Blocker{Code: hypervisor.BlockPresent, Detail: "the same VM is active here"})
		}
		other, err := lv.LookupDomainByName(f.Name)
		if isCode(err, libvirt.ERR_NO_DOMAIN) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		defer other.Free()
		uuid, err := other.GetUUIDString()
		if err != nil {
			return nil, err
		}
		if hypervisor.DomainID(uuid) != f.ID {
			found = append(found, hypervisor.Blocker{
				Code: hypervisor.BlockNameTaken, Detail: "another VM here is called " + f.Name, Remedy: "rename one of them",
			})
		}
		return found, nil
	})
}

// freeMemory is what a domain could have here now. Hosts that share a kernel have their capacity
// less what their active domains were allotted.
func (h *Host) freeMemory(ctx context.Context, but hypervisor.DomainID) (hypervisor.Bytes, error) {
	if h.cfg.LoadSource == LoadHost {
		_, available, err := h.load.proc.memory()
		return available, wrap("free memory", "", err)
	}
	host, err := h.hostFacts(ctx)
	if err != nil {
		return 0, err
	}
	free := host.facts.Capacity.Memory - host.facts.Capacity.Reserved
	used, err := onHost(ctx, h, "free memory", func(lv *libvirt.Connect) (hypervisor.Bytes, error) {
		doms, err := lv.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
		var used hypervisor.Bytes
		for i := range doms {
			if info, ierr := doms[i].GetInfo(); ierr == nil {
				if uuid, uerr := doms[i].GetUUIDString(); uerr == nil && hypervisor.DomainID(uuid) != but {
					used += bytesIf(true, info.Memory) * hypervisor.KiB
				}
			}
			_ = doms[i].Free()
		}
		return used, err
	})
	return max(0, free-used), err
}

// diskBlockers checks each disk where it would be on this host. File systems that hang are the
// reason why this has a time limit.
func (h *Host) diskBlockers(ctx context.Context, q hypervisor.TargetQuestion) ([]hypervisor.Blocker, error) {
	r := request{op: "check disks", limit: quickLimit, slots: h.fileSlots}
	shared := h.sharedDir()
	return ask(ctx, h.t, r, func() ([]hypervisor.Blocker, error) {
		var found []hypervisor.Blocker
		for _, disk := range q.Inspection.Facts.Disks {
			var b *hypervisor.Blocker
			if slices.Contains(q.CopyDisks, disk.Target) {
				b = h.copyBlocker(disk)
			} else {
				b = reachBlocker(disk, shared)
			}
			if b != nil {
				b.Detail = "disk " + disk.Target + ": " + b.Detail
				found = append(found, *b)
			}
		}
		return found, nil
	})
}

// reachBlocker checks a disk that stays where it is and must be the same file here.
func reachBlocker(disk hypervisor.Disk, shared func(string) bool) *hypervisor.Blocker {
	if !strings.HasPrefix(disk.Source, "/") {
		return nil // a network disk, or none
	}
	info, err := os.Stat(disk.Source)
	if err != nil {
		return &hypervisor.Blocker{Code: hypervisor.BlockDiskUnreachable, Detail: reasonOf(err, disk.Source)}
	}
	if info.Mode().IsRegular() && !disk.ReadOnly && !shared(disk.Source) {
		// Some file has this name here, but it isn't the guest's.
		return &hypervisor.Blocker{
			Code: hypervisor.BlockDiskUnreachable, Detail: disk.Source + " exists here, but not on shared storage",
		}
	}
	f, err := os.OpenFile(disk.Source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return &hypervisor.Blocker{Code: hypervisor.BlockDiskUnreachable, Detail: reasonOf(err, disk.Source)}
	}
	_ = f.Close()
	return nil
}

// copyBlocker checks a disk that is to be copied here: nothing may be in its place, and there must
// be room for all of it.
func (h *Host) copyBlocker(disk hypervisor.Disk) *hypervisor.Blocker {
	if ours, err := h.copies.owns("", disk.Source); err == nil && !ours {
		return &hypervisor.Blocker{
			Code: hypervisor.BlockDiskExists, Detail: disk.Source + " exists here and would be overwritten",
			Remedy: "move or remove it if it is a leftover",
		}
	}
	var fsys unix.Statfs_t
	dir := filepath.Dir(disk.Source)
	if err := unix.Statfs(dir, &fsys); err != nil {
		return &hypervisor.Blocker{Code: hypervisor.BlockDiskUnreachable, Detail: reasonOf(err, dir), Remedy: "make the directory"}
	}
	if room := hypervisor.Bytes(fsys.Bavail) * hypervisor.Bytes(fsys.Bsize); room < disk.Size {
		return &hypervisor.Blocker{
			Code: hypervisor.BlockDiskSpace, Detail: fmt.Sprintf("%s has %s free, the disk may need %s", dir, room, disk.Size),
		}
	}
	return nil
}

// reasonOf says in one way what is wrong with a path, whichever call found it.
func reasonOf(err error, path string) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return path + ": " + err.Error()
}
