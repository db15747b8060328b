package kvm

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"drover/hypervisor"
)

// definition is a domain's XML, read once and reduced to what a migration cares about.
type definition struct {
	facts    hypervisor.DomainFacts
	emulator string
	cpu      *libvirtxml.DomainCPU
}

// parseDomain reads a domain's XML. shared tells whether a path lies where other hosts reach it.
// Disk sizes, snapshots and what else only libvirt's calls know are not in it.
func parseDomain(text string, shared func(path string) bool) (definition, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return definition{}, fmt.Errorf("domain XML: %w", err)
	}
	d := definition{cpu: x.CPU}
	d.facts = hypervisor.DomainFacts{
		ID:       hypervisor.DomainID(strings.ToLower(x.UUID)),
		Name:     x.Name,
		VirtType: x.Type,
		Memory:   memoryOf(&x),
		VCPUs:    vcpusOf(&x),
	}
	if x.OS != nil && x.OS.Type != nil {
		d.facts.Arch, d.facts.Machine = x.OS.Type.Arch, x.OS.Type.Machine
	}
	var blockers []hypervisor.Blocker
	if x.Devices != nil {
		d.emulator = x.Devices.Emulator
		for i := range x.Devices.Disks {
			disk, found := diskOf(&x.Devices.Disks[i], shared)
			d.facts.Disks = append(d.facts.Disks, disk)
			blockers = append(blockers, found...)
		}
		blockers = append(blockers, deviceBlockers(x.Devices)...)
	}
	d.facts.Blockers = append(blockers, clockBlockers(&x)...)
	return d, nil
}

// memoryOf is the current allotment, the maximum where the XML names no other.
func memoryOf(x *libvirtxml.Domain) hypervisor.Bytes {
	if m := x.CurrentMemory; m != nil && m.Value > 0 {
		return scaled(uint64(m.Value), m.Unit)
	}
	if m := x.Memory; m != nil {
		return scaled(uint64(m.Value), m.Unit)
	}
	return 0
}

func vcpusOf(x *libvirtxml.Domain) int {
	if x.VCPU == nil {
		return 1
	}
	if x.VCPU.Current > 0 {
		return int(x.VCPU.Current)
	}
	return int(x.VCPU.Value)
}

// units are libvirt's scales for sizes in XML; KiB is what it writes itself.
var units = map[string]hypervisor.Bytes{
	"b": 1, "bytes": 1, "": hypervisor.KiB,
	"KB": 1e3, "k": hypervisor.KiB, "KiB": hypervisor.KiB,
	"MB": 1e6, "M": hypervisor.MiB, "MiB": hypervisor.MiB,
	"GB": 1e9, "G": hypervisor.GiB, "GiB": hypervisor.GiB,
	"TB": 1e12, "T": hypervisor.GiB << 10, "TiB": hypervisor.GiB << 10,
}

func scaled(n uint64, unit string) hypervisor.Bytes {
	scale, ok := units[unit]
	if !ok || n > uint64(1<<62/scale) {
		return 0
	}
	return hypervisor.Bytes(n) * scale
}

// diskOf describes one disk and finds what of it is in a migration's way.
func diskOf(x *libvirtxml.DomainDisk, shared func(string) bool) (hypervisor.Disk, []hypervisor.Blocker) {
	d := hypervisor.Disk{ReadOnly: x.ReadOnly != nil || x.Device == "cdrom"}
	if x.Target != nil {
		d.Target = x.Target.Dev
	}
	if x.Driver != nil {
		d.Format = x.Driver.Type
	}
	var blockers []hypervisor.Blocker
	add := func(code hypervisor.BlockerCode, detail, remedy string) {
		blockers = append(blockers, hypervisor.Blocker{Code: code, Detail: "disk " + d.Target + ": " + detail, Remedy: remedy})
	}
	d.Source, d.Shared = sourceOf(x.Source, shared)
	if d.Source == "" {
		d.Shared = true // an empty drive is the same everywhere
	}
	if !d.Shared && !d.ReadOnly {
		add(hypervisor.BlockLocalDisk, d.Source+" is not on storage that libvirt knows as shared",
			"copy the storage with the domain, or name the directory in shared_filesystems of qemu.conf if it is shared")
	}
	if x.Transient != nil {
		add(hypervisor.BlockTransientDisk, "it is transient", "make it permanent, or stop the guest to move it")
	}
	if x.Mirror != nil {
		add(hypervisor.BlockBlockJob, "a "+orElse(x.Mirror.Job, "copy")+" job runs on it", "wait for the block job or cancel it")
	}
	return d, blockers
}

// sourceOf names a disk's source and says whether other hosts are expected to reach it. Like libvirt
// it takes block devices for shared; whether the target has the device is the target's to answer.
func sourceOf(s *libvirtxml.DomainDiskSource, shared func(string) bool) (name string, reachable bool) {
	switch {
	case s == nil:
		return "", true
	case s.File != nil:
		return s.File.File, s.File.File != "" && shared(s.File.File)
	case s.Block != nil:
		return s.Block.Dev, true
	case s.Network != nil:
		return s.Network.Protocol + ":" + s.Network.Name, true
	case s.Volume != nil:
		return s.Volume.Pool + "/" + s.Volume.Volume, false
	case s.Dir != nil:
		return s.Dir.Dir, shared(s.Dir.Dir)
	case s.NVME != nil:
		return "nvme", false
	case s.VHostUser != nil:
		return "vhost-user", false
	case s.VHostVDPA != nil:
		return s.VHostVDPA.Dev, false
	}
	return "", true
}

// deviceBlockers finds the devices that tie a domain to its host.
func deviceBlockers(list *libvirtxml.DomainDeviceList) []hypervisor.Blocker {
	var found []hypervisor.Blocker
	for i := range list.Hostdevs {
		if b, ok := hostdevBlocker(&list.Hostdevs[i]); ok {
			found = append(found, b)
		}
	}
	for i := range list.Interfaces {
		n := &list.Interfaces[i]
		teamed := n.Teaming != nil && n.Teaming.Type == "transient"
		if n.Source != nil && n.Source.Hostdev != nil && !teamed {
			// A teamed interface is unplugged by libvirt for the move, the guest keeps its partner.
			found = append(found, hypervisor.Blocker{
				Code: hypervisor.BlockHostDevice, Detail: "a network interface is a passed-through host device",
				Remedy: "team it with a virtio interface, or detach it",
			})
		}
	}
	for i := range list.Filesystems {
		f := &list.Filesystems[i]
		detail := "a host directory is mounted into the guest"
		if f.Target != nil {
			detail = "host directory mounted into the guest as " + f.Target.Dir
		}
		found = append(found, hypervisor.Blocker{
			Code: hypervisor.BlockVirtioFS, Detail: detail, Remedy: "unmount and detach the file system",
		})
	}
	for i := range list.Shmems {
		if s := &list.Shmems[i]; s.Role != "master" {
			found = append(found, hypervisor.Blocker{
				Code: hypervisor.BlockShmem, Detail: "shared memory " + s.Name + " in the peer role", Remedy: "detach it",
			})
		}
	}
	return found
}

func hostdevBlocker(d *libvirtxml.DomainHostdev) (hypervisor.Blocker, bool) {
	b := hypervisor.Blocker{Code: hypervisor.BlockHostDevice, Remedy: "detach the device"}
	switch {
	case d.SubsysUSB != nil:
		b.Code, b.Detail = hypervisor.BlockUSBDevice, "a USB device of the host is passed through"
	case d.SubsysPCI != nil:
		if t := d.SubsysPCI.Teaming; t != nil && t.Type == "transient" {
			return b, false
		}
		b.Detail = "a PCI device of the host is passed through"
	case d.SubsysMDev != nil:
		b.Detail = "a mediated device of the host is passed through"
	case d.SubsysSCSI != nil, d.SubsysSCSIHost != nil:
		b.Detail = "a SCSI device of the host is passed through"
	default:
		b.Detail = "a device of the host is passed through"
	}
	return b, true
}

// clockBlockers finds an invariant TSC that the target can't be sure to offer at the same rate.
func clockBlockers(x *libvirtxml.Domain) []hypervisor.Blocker {
	if x.CPU == nil {
		return nil
	}
	asked := false
	for _, f := range x.CPU.Features {
		asked = asked || f.Name == "invtsc" && f.Policy != "disable" && f.Policy != "forbid"
	}
	if !asked {
		return nil
	}
	if x.Clock != nil {
		for _, t := range x.Clock.Timer {
			if t.Name == "tsc" && t.Frequency > 0 {
				return nil
			}
		}
	}
	return []hypervisor.Blocker{{
		Code: hypervisor.BlockInvtsc, Detail: "the CPU has invtsc without a fixed TSC frequency",
		Remedy: "set <timer name='tsc' frequency='…'/>, or drop the feature",
	}}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
