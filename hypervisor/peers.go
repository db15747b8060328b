package hypervisor

import "time"

// Peer is another host as this one must be able to reach it before guests can move there.
type Peer struct {
	Host string `json:"host"`
	// URI is how this host's libvirt reaches the peer's: see HostFacts.PeerURI.
	URI string `json:"uri"`
	// StreamAddress is where the peer takes memory streams, a name or an address without port.
	StreamAddress string `json:"stream_address"`
	// Ports are the first and the last port on which it takes them.
	Ports [2]int `json:"ports"`
}

// CheckLevel says how bad a finding is.
type CheckLevel string

// The levels.
const (
	CheckOK   CheckLevel = "ok"
	CheckWarn CheckLevel = "warn" // works now
	CheckStop CheckLevel = "stop" // would stop a migration
)

// CheckKind names what was looked at. Kinds are stable: tools branch on them.
type CheckKind string

// What is looked at.
const (
	CheckAgent       CheckKind = "agent"       // whether there is one to ask
	CheckLibvirt     CheckKind = "libvirt"     // the peer's libvirt, reached as this host's would
	CheckStream      CheckKind = "stream-port" // the ports of the migration stream
	CheckCertificate CheckKind = "certificate" // files that are missing, of another name, or end soon
	CheckLocks       CheckKind = "image-locks" // what keeps two guests from writing to one disk
	CheckPostCopy    CheckKind = "post-copy"   // whether page faults may be handled
	CheckClock       CheckKind = "clock"       // differences between hosts
	CheckStore       CheckKind = "store-space" // room in the store
)

// Finding is the result of one check.
type Finding struct {
	Host   string     `json:"host,omitempty"` // where it was looked from
	Peer   string     `json:"peer,omitempty"` // at whom, when at another host
	Check  CheckKind  `json:"check"`
	Level  CheckLevel `json:"level"`
	Detail string     `json:"detail"`
	Remedy string     `json:"remedy,omitempty"`
}

// PeerReport is what a host finds out about itself and its ways to its peers.
type PeerReport struct {
	// Clock is this host's clock when the question came.
	Clock time.Time `json:"clock"`
	// Ports are the first and the last port on which this host takes memory streams.
	Ports    [2]int    `json:"ports"`
	Findings []Finding `json:"findings"`
}
