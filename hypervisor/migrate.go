package hypervisor

import "time"

// MigrateSpec is everything that a peer-to-peer live migration of one domain needs. All limits are
// explicit, so that no default of libvirt or QEMU decides.
type MigrateSpec struct {
	Domain DomainID
	// PeerURI is the target's libvirt as the source's libvirtd reaches it.
	PeerURI string
	// MigrateURI is where the memory stream goes, such as tcp://192.0.2.7; empty lets the target's
	// libvirtd advertise its own address.
	MigrateURI string
	// TLS encrypts the stream; TLSDestination is the name to expect in the target's certificate
	// when it is reached by address.
	TLS            bool
	TLSDestination string
	// Bandwidth caps the stream. libvirt takes whole MiB/s: it is rounded down, to at least 1 MiB/s.
	// QEMU lifts the cap at switchover, and libvirt applies it to each disk mirror too.
	Bandwidth BytesPerSecond
	// Downtime is the first downtime limit; QEMU switches over once the rest fits into it.
	Downtime time.Duration
	// Persistent mirrors the domain's definition on the target. The source's definition stays as
	// evidence until the target is proven to run.
	Persistent bool
	// CopyDisks are the disks (targets such as "vda") to copy; the files must exist on the target.
	CopyDisks []string
	Strategy  Strategy
	// TargetLibvirt is the version of the target's libvirt, 0 if it is not known: some crash when a broken
	// post-copy is to go on there.
	TargetLibvirt uint32
	// Proceed, if set, is called once, as the last thing before libvirt is asked to migrate. Its error
	// is in what Migrate returns (errors.Is, ClassUnavailable), and nothing was begun then. It does not
	// block for long, and may be called on another goroutine.
	Proceed func() error
}

// Strategy is how the memory stream is encoded; it can't change once a migration runs.
type Strategy struct {
	// Compression is "", "xbzrle" (needs a single stream) or "zstd" (needs Connections > 0).
	Compression  string `json:"compression,omitempty"`
	XBZRLECache  Bytes  `json:"xbzrle_cache,omitempty"` // a power of two; 0 leaves QEMU's 64 MiB
	ZstdLevel    int    `json:"zstd_level,omitempty"`
	Connections  int    `json:"connections,omitempty"` // multifd channels; 0 is one plain stream
	AutoConverge bool   `json:"auto_converge,omitempty"`
	// PostCopy only allows a later switch to post-copy; it excludes Connections up to QEMU 10.0.
	PostCopy bool `json:"post_copy,omitempty"`
}

// Name is the short name of the strategy in records and tables.
func (s Strategy) Name() string {
	switch {
	case s.Connections > 0 && s.Compression == "zstd":
		return "multifd-zstd"
	case s.Connections > 0:
		return "multifd"
	case s.Compression != "":
		return s.Compression
	case s.AutoConverge:
		return "auto-converge"
	case s.PostCopy:
		return "postcopy"
	}
	return "plain"
}

// JobKind says what job libvirt runs on a domain.
type JobKind string

// The kinds of job that drover tells apart.
const (
	JobNone     JobKind = "none"
	JobOutgoing JobKind = "outgoing"
	JobIncoming JobKind = "incoming"
	JobOther    JobKind = "other"
)

// JobStats is one reading of a migration job. A field that libvirt did not give is zero.
type JobStats struct {
	Kind    JobKind
	At      time.Time     // when it was read
	Elapsed time.Duration // since the job began
	Setup   time.Duration
	// Downtime is QEMU's expected downtime while the job runs (no bound), and the measured one,
	// source stop to target start by two clocks, in the statistics of a completed job.
	Downtime time.Duration
	// DowntimeNet is Downtime less control traffic and clock skew; zero when libvirt has none.
	DowntimeNet time.Duration

	MemTotal      Bytes
	MemProcessed  Bytes // sent so far; grows past MemTotal
	MemRemaining  Bytes // falls as pages are sent, jumps up at each round's bitmap sync
	MemNormal     Bytes // sent as whole pages
	MemZero       Bytes // pages found to be one repeated byte, sent as a mark
	DiskTotal     Bytes
	DiskProcessed Bytes
	DiskRemaining Bytes

	Bandwidth BytesPerSecond // over QEMU's last 100 ms or so: noisy
	// DirtyRate is zero during the whole first round and stale within long ones.
	DirtyRate BytesPerSecond
	// Round is QEMU's dirty-sync count: 1 in the first pass. QEMU from 9.2 on counts ahead of real
	// passes under auto-converge, so no policy may rest on the raw number.
	Round    int
	PageSize Bytes
	Throttle int // auto-converge's, percent; 0 when not throttling
	// Postcopy says that the guest was switched over and runs on the target while the rest of its memory
	// follows; PostcopyBroken that the stream broke then, so that nothing follows until it is recovered.
	Postcopy       bool
	PostcopyBroken bool
}

// Processed is all that was sent, memory and disks.
func (s JobStats) Processed() Bytes { return s.MemProcessed + s.DiskProcessed }

// EventKind names what happened to a domain.
type EventKind string

// The events that a migration's driver uses. Events may be lost while the connection to libvirt is
// down: they hasten what polling would find.
const (
	EventStarted   EventKind = "started"
	EventSuspended EventKind = "suspended"
	EventResumed   EventKind = "resumed"
	EventStopped   EventKind = "stopped"
	EventDefined   EventKind = "defined"
	EventUndefined EventKind = "undefined"
	EventRound     EventKind = "round" // a new pre-copy round began; Round says which
	EventReset     EventKind = "reset" // the connection was made anew: anything may have happened
)

// Event is one thing that libvirt told about a domain; Domain is empty for EventReset.
type Event struct {
	Domain DomainID
	Kind   EventKind
	// Migration is true for lifecycle events whose cause is a migration.
	Migration bool
	Round     int
	At        time.Time
}
