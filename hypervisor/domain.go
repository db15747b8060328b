package hypervisor

import "time"

// DomainID is a domain's UUID in canonical form (lower case, with dashes). It is the only key: names
// are not unique across hosts.
type DomainID string

// DomainFacts is what seldom changes about a domain, active or only defined.
type DomainFacts struct {
	ID     DomainID `json:"id"`
	Name   string   `json:"name"`
	VCPUs  int      `json:"vcpus"`
	Memory Bytes    `json:"memory"` // current allotment, which the target must have free
	// VirtType is "kvm" or "qemu"; Machine the canonical machine type.
	VirtType   string `json:"virt_type,omitempty"`
	Arch       string `json:"arch,omitempty"`
	Machine    string `json:"machine,omitempty"`
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart,omitempty"`
	Disks      []Disk `json:"disks,omitempty"`
	// Blockers are what libvirt or QEMU would refuse a live migration for, wherever it goes.
	Blockers []Blocker `json:"blockers,omitempty"`
}

// Disk is one disk of a domain as far as a migration cares.
type Disk struct {
	Target   string `json:"target"`           // "vda"
	Source   string `json:"source,omitempty"` // path or network name; empty for an empty drive
	Size     Bytes  `json:"size,omitempty"`   // as the guest sees it
	ReadOnly bool   `json:"read_only,omitempty"`
	// Shared says that every host is expected to reach it: a network disk, or a file on a file
	// system that libvirt knows as shared.
	Shared bool   `json:"shared"`
	Format string `json:"format,omitempty"`
}

// DomainLoad is one sample of one domain.
type DomainLoad struct {
	ID    DomainID    `json:"id"`
	State DomainState `json:"state"`
	CPU   Cores       `json:"cpu"`
	// Memory is what the domain holds of the host's (resident set), not its allotment.
	Memory Bytes          `json:"memory"`
	Rx     BytesPerSecond `json:"rx"`
	Tx     BytesPerSecond `json:"tx"`
	Read   BytesPerSecond `json:"read"`
	Write  BytesPerSecond `json:"write"`
	// Dirty is the latest estimate of the rate at which memory is dirtied, over a short window;
	// DirtyLong is one over a window several times as long. Page sampling saturates, so together
	// they tell how big the writable working set is. Nil when none was taken.
	Dirty     *DirtySample `json:"dirty,omitempty"`
	DirtyLong *DirtySample `json:"dirty_long,omitempty"`
	// Migrating is true while a migration job, in or out, is seen on it.
	Migrating bool `json:"migrating,omitempty"`
	// Problem says why these figures are old (its QEMU does not answer); empty when they are not.
	Problem string `json:"problem,omitempty"`
}

// DirtySample is an estimate of dirtying by QEMU's page sampling. It counts distinct pages rewritten
// within Window, so Rate saturates at the writable working set over Window: compare it only with
// what a pre-copy round of about that length would find.
type DirtySample struct {
	Rate   BytesPerSecond `json:"rate"`
	Window time.Duration  `json:"window"`
	At     time.Time      `json:"at"` // of the newest
	// Times is how many estimates Rate is the mean of; 0 is one.
	Times int `json:"times,omitempty"`
}

// DomainState is libvirt's state of a domain, in words.
type DomainState string

// The states that drover tells apart. Others read as StateOther.
const (
	StateRunning DomainState = "running"
	StatePaused  DomainState = "paused"
	StateShutoff DomainState = "shutoff" // defined, no process
	StateCrashed DomainState = "crashed"
	StateAbsent  DomainState = "absent" // the hypervisor answered: no such domain
	StateOther   DomainState = "other"
)

// StateReason is the part of libvirt's state reason that says what a migration left behind.
type StateReason string

// The reasons that matter for finding a migration's outcome. Others read as ReasonOther.
const (
	ReasonOther             StateReason = ""
	ReasonMigrated          StateReason = "migrated"           // running: came by migration; shutoff: left by one
	ReasonMigration         StateReason = "migration"          // paused for or by a migration
	ReasonMigrationCanceled StateReason = "migration-canceled" // running again after vCPUs had been stopped
	ReasonPostcopy          StateReason = "postcopy"
	ReasonPostcopyFailed    StateReason = "postcopy-failed"
	ReasonAPIError          StateReason = "api-error" // resume failed at roll-back
	ReasonUser              StateReason = "user"      // paused by a person
	ReasonIOError           StateReason = "io-error"
	// Of a domain that is shut off. ReasonDestroyed proves nothing by itself: libvirt also ends an
	// incoming copy that never ran in this way.
	ReasonShutdown  StateReason = "shutdown"  // from inside, or politely asked: it had run
	ReasonCrashed   StateReason = "crashed"   // its process ended by itself
	ReasonDestroyed StateReason = "destroyed" // killed
	ReasonFailed    StateReason = "failed"    // its start failed, or that of an incoming copy
)

// Sighting is what one hypervisor answered about one domain at one moment. It is the only evidence
// from which an unknown outcome may be resolved.
type Sighting struct {
	Domain DomainID    `json:"domain"`
	State  DomainState `json:"state"`
	Reason StateReason `json:"reason,omitempty"`
	Job    JobKind     `json:"job"`
	At     time.Time   `json:"at"`
}

// Active reports whether the hypervisor holds a process for the domain, running or not.
func (s Sighting) Active() bool {
	return s.State != StateAbsent && s.State != StateShutoff && s.State != ""
}
