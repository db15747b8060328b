package hypervisor

// BlockerCode names one thing that stops a migration. Codes are stable: tools branch on them.
type BlockerCode string

// What a hypervisor itself can say stops a migration. The scheduler adds its own (fleet-level)
// reasons to these.
const (
	BlockNotRunning      BlockerCode = "not-running"
	BlockUnknownDomain   BlockerCode = "unknown-vm"
	BlockJob             BlockerCode = "job-under-way"     // a migration, backup, save or dump runs on it
	BlockHostDevice      BlockerCode = "host-device"       // PCI, mediated or SCSI passthrough
	BlockUSBDevice       BlockerCode = "usb-device"        //
	BlockVirtioFS        BlockerCode = "virtiofs"          //
	BlockSnapshot        BlockerCode = "snapshot"          //
	BlockBlockJob        BlockerCode = "block-job"         //
	BlockLocalDisk       BlockerCode = "non-shared-disk"   // without storage copy
	BlockTransientDisk   BlockerCode = "transient-disk"    //
	BlockShmem           BlockerCode = "shared-memory"     // ivshmem in the peer role
	BlockInvtsc          BlockerCode = "invtsc"            // without a fixed TSC frequency
	BlockIOError         BlockerCode = "paused-io-error"   //
	BlockQEMU            BlockerCode = "qemu-refuses"      // QEMU's own blocked-reasons
	BlockCPU             BlockerCode = "cpu-incompatible"  // Detail names the missing features
	BlockMachine         BlockerCode = "machine-unknown"   // machine type not on the target
	BlockVirtType        BlockerCode = "accelerator"       // kvm domain, target without KVM
	BlockArch            BlockerCode = "architecture"      //
	BlockDiskUnreachable BlockerCode = "disk-unreachable"  // a shared disk that the target can't open
	BlockDiskExists      BlockerCode = "disk-exists"       // storage copy would overwrite a file there
	BlockDiskSpace       BlockerCode = "disk-space"        //
	BlockNameTaken       BlockerCode = "name-taken"        // another domain has the name there
	BlockPresent         BlockerCode = "present-on-target" // the same UUID is active there
	BlockMemory          BlockerCode = "memory"            // the target's free memory right now
)

// Blocker is one reason why a migration would be refused, with what a person can do about it.
type Blocker struct {
	Code   BlockerCode `json:"code"`
	Detail string      `json:"detail"`
	Remedy string      `json:"remedy,omitempty"`
}

// String is "code: detail".
func (b Blocker) String() string { return string(b.Code) + ": " + b.Detail }

// Inspection is what the source's libvirt says about a domain that is about to move.
type Inspection struct {
	Facts    DomainFacts `json:"facts"`
	Sighting Sighting    `json:"sighting"`
	// CPU is the <cpu> element of the migratable XML, Emulator the QEMU binary: what the target
	// needs for comparing.
	CPU      string `json:"cpu,omitempty"`
	Emulator string `json:"emulator,omitempty"`
}

// TargetQuestion is what a target is asked before a domain is sent to it.
type TargetQuestion struct {
	Inspection Inspection `json:"inspection"`
	// CopyDisks are the disks that will be copied instead of shared.
	CopyDisks []string `json:"copy_disks,omitempty"`
}
