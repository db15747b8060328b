package guest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

// Pattern is how a guest dirties its memory.
type Pattern string

// The patterns: one word of a random page; a whole random page; whole pages in order; random pages for two seconds
// out of four; nothing.
const (
	Word  Pattern = "word"
	Page  Pattern = "page"
	Sweep Pattern = "sweep"
	Burst Pattern = "burst"
	Idle  Pattern = "idle"
)

// Patterns lists all patterns.
func Patterns() []Pattern { return []Pattern{Word, Page, Sweep, Burst, Idle} }

// DiskKind is where a guest's disk is.
type DiskKind string

// The kinds: no disk; a file that all hosts see; a file that only the guest's host sees.
const (
	NoDisk     DiskKind = "none"
	SharedDisk DiskKind = "shared"
	LocalDisk  DiskKind = "local"
)

// DiskKinds lists all kinds.
func DiskKinds() []DiskKind { return []DiskKind{NoDisk, SharedDisk, LocalDisk} }

// ErrSpec says that a guest cannot be made as described.
var ErrSpec = errors.New("impossible guest")

// Spec describes a guest to start.
type Spec struct {
	Name    string           `json:"name"`
	Host    string           `json:"host"` // where it starts
	Memory  hypervisor.Bytes `json:"memory"`
	VCPUs   int              `json:"vcpus"`
	WSS     hypervisor.Bytes `json:"wss"`  // how much memory it writes to
	Rate    int              `json:"rate"` // pages per second, all vCPUs together
	Pattern Pattern          `json:"pattern"`
	Disk    DiskKind         `json:"disk"`
	// DiskSize is what the guest sees; the file is sparse.
	DiskSize hypervisor.Bytes `json:"disk_size,omitempty"`
	// Prepare lists hosts that get an empty image of the same size, as a migration with storage needs.
	Prepare   []string `json:"prepare,omitempty"`
	Transient bool     `json:"transient,omitempty"`
	// Beat is how often the guest says that it runs. Each beat wakes an emulated CPU: at [DefaultBeat] an idle guest
	// takes a tenth of a core, and a dozen of them the machine.
	Beat time.Duration `json:"beat"`
}

// DefaultBeat is short enough to see pauses to a few milliseconds.
const DefaultBeat = 5 * time.Millisecond

// kernelNeeds is the memory that is not for the working set.
const kernelNeeds = 96 * hypervisor.MiB

// Check lists everything that is wrong with s.
func (s Spec) Check() error {
	errs := []error{state.CheckName("guest", s.Name)}
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrSpec))
		}
	}
	bad(s.VCPUs >= 1 && s.VCPUs <= 16, "%d vCPUs: want 1 to 16", s.VCPUs)
	bad(s.Rate >= 0, "rate %d: want pages per second", s.Rate)
	bad(s.Beat >= DefaultBeat && s.Beat <= 100*time.Millisecond, "beat each %v: want 5 ms to 100 ms", s.Beat)
	bad(slices.Contains(Patterns(), s.Pattern), "pattern %q: want one of %v", s.Pattern, Patterns())
	bad(slices.Contains(DiskKinds(), s.Disk), "disk %q: want one of %v", s.Disk, DiskKinds())
	bad(s.WSS >= hypervisor.MiB, "working set %v: want at least 1 MiB", s.WSS)
	// A page of the working set takes sixteen bytes more for its copy.
	need := s.WSS + s.WSS/256 + kernelNeeds
	bad(s.Memory >= need, "memory %v: a working set of %v needs %v", s.Memory, s.WSS, need)
	bad(s.Disk == NoDisk || s.DiskSize >= hypervisor.MiB, "disk of %v: want at least 1 MiB", s.DiskSize)
	bad(len(s.Prepare) == 0 || s.Disk == LocalDisk, "images on other hosts are for local disks only")
	return errors.Join(errs...)
}

// UUID is the guest's identity, the same for one name in one lab at all times.
func UUID(lab, name string) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceDNS, []byte(name+".guest."+lab+".drover-lab"))
}

// Record is a guest as the lab remembers it.
type Record struct {
	Spec
	UUID     string `json:"uuid"`
	Serial   string `json:"serial"`              // file, the same on all hosts
	DiskPath string `json:"disk_path,omitempty"` // as its host sees it
}
