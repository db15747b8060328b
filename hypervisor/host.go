package hypervisor

import "time"

// HostFacts is what seldom changes about a host: reported when it changes, and once a minute.
type HostFacts struct {
	Name string `json:"name"`
	// LibvirtUUID identifies the libvirt host; libvirt refuses to migrate to an equal one.
	LibvirtUUID string `json:"libvirt_uuid"`
	// AgentVersion is the version of the drover-agent that reports; ProtocolMin and ProtocolMax
	// bound the record schemas that it can work with.
	AgentVersion string `json:"agent_version"`
	ProtocolMin  int    `json:"protocol_min"`
	ProtocolMax  int    `json:"protocol_max"`
	// LibvirtVersion and QEMUVersion are libvirt's numbers: major*1,000,000 + minor*1,000 + release.
	LibvirtVersion uint32 `json:"libvirt_version"`
	QEMUVersion    uint32 `json:"qemu_version"`
	Arch           string `json:"arch"`
	CPUModel       string `json:"cpu_model"`
	// CPUFeatures are the features of libvirt's host model, sorted.
	CPUFeatures []string `json:"cpu_features,omitempty"`
	// MachineTypes are those that this QEMU can run, canonical names and aliases, sorted.
	MachineTypes []string `json:"machine_types,omitempty"`
	// VirtTypes are the accelerators that can start a domain here: "kvm", "qemu".
	VirtTypes []string `json:"virt_types,omitempty"`
	// Capabilities names what both ends of a migration must share, such as "tls", "multifd-zstd",
	// "postcopy", "xbzrle".
	Capabilities []string `json:"capabilities,omitempty"`
	Capacity     Capacity `json:"capacity"`
	// PeerURI is how another host's libvirtd reaches this one, for example qemu+tls://kvm1/system.
	PeerURI string `json:"peer_uri"`
	// MigrationAddress is where this host listens for migration streams.
	MigrationAddress string        `json:"migration_address,omitempty"`
	Domains          []DomainFacts `json:"domains,omitempty"`
}

// From QEMU 10.0 on, and perhaps in updates of 9.2, the migration thread ends each parallel TLS stream with a
// goodbye. Before 10.2 it does so too when the migration has failed or was cancelled, beside the thread that
// still writes to the stream; both report their error in one place, and the source's QEMU ends in an assertion
// (util/error.c, "*errp == NULL"): the guest is lost. Seen with QEMU 10.0.2, when 4 of 60 migrations that were
// cancelled on a busy host by two streams ended so, 0 of 55 by one, and 0 of 48 without parallel streams. Mended
// by "migration/multifd/tls: Cleanup BYE message processing on sender side".
const (
	goodbyeSince  = 9_002_000
	goodbyeMended = 10_002_000
)

// LosesGuests reports whether a source with that QEMU may lose the guest when a migration by parallel streams
// with TLS fails or is cancelled.
func LosesGuests(qemu uint32) bool { return qemu >= goodbyeSince && qemu < goodbyeMended }

// Capacity is what a host has to give.
type Capacity struct {
	Cores    Cores `json:"cores"`
	Memory   Bytes `json:"memory"`
	Reserved Bytes `json:"reserved"` // the host's own share of Memory, never given to domains
	// VCPUs is how many the domains there may have together; 0 is no limit.
	VCPUs int `json:"vcpus,omitempty"`
	// Bandwidth is the migration network's, in each direction; 0 when not known.
	Bandwidth BytesPerSecond `json:"bandwidth"`
}

// HostLoad is what changes all the time: one sample, reported every few seconds.
type HostLoad struct {
	At       time.Time      `json:"at"`  // the host's own clock
	CPU      Cores          `json:"cpu"` // in use, over the last period
	Memory   Bytes          `json:"memory"`
	Rx       BytesPerSecond `json:"rx"` // of the migration network's interface
	Tx       BytesPerSecond `json:"tx"`
	Pressure Pressure       `json:"pressure"`
	Domains  []DomainLoad   `json:"domains,omitempty"`
	// Problem says why the host's sample is not whole (libvirt away, the kernel's figures unreadable);
	// empty when it is. A domain that hangs is that domain's Problem: its host is well.
	Problem string `json:"problem,omitempty"`
}

// LinkLoad is one sample of the migration network's interface, taken every second while a stream comes or
// goes. Rates are over the time since the sample before.
type LinkLoad struct {
	At time.Time      `json:"at"` // the host's own clock
	Rx BytesPerSecond `json:"rx"`
	Tx BytesPerSecond `json:"tx"`
	// StreamsRx and StreamsTx are the part of it that migrations' streams take; the rest is tenants'.
	StreamsRx BytesPerSecond `json:"streams_rx"`
	StreamsTx BytesPerSecond `json:"streams_tx"`
	// Streams says that the parts are known.
	Streams bool `json:"streams,omitempty"`
}

// Tenants is what is none of the migrations': headers are forgiven.
func (l LinkLoad) Tenants() (rx, tx BytesPerSecond) {
	rest := func(all, streams BytesPerSecond) BytesPerSecond {
		return max(all-streams-streams/20, 0)
	}
	return rest(l.Rx, l.StreamsRx), rest(l.Tx, l.StreamsTx)
}

// Pressure is Linux's pressure stall information: the share of the last 10 s (0 to 100 %) in which
// some task waited for the resource. Zero where the kernel has no PSI.
type Pressure struct {
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
	IO     float64 `json:"io"`
}
