package kvm

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// LoadSource says where a host's own load is read.
type LoadSource string

// The sources of a host's load.
const (
	// LoadHost reads the kernel's own figures: what the whole machine does.
	LoadHost LoadSource = "host"
	// LoadDomains adds up the host's domains, for hosts that share a kernel with others.
	LoadDomains LoadSource = "domains"
)

// Config is what Open needs to know. The zero value of an optional field asks for the default.
type Config struct {
	// URI is the local libvirt, qemu:///system when empty.
	URI string
	// Name is the host's name in the fleet; the machine's host name when empty.
	Name string
	// PeerURI is how the other hosts' libvirtd reach this one.
	PeerURI string
	// MigrationAddress is where this host listens for migration streams (an address or a name).
	MigrationAddress string
	// MigrationInterface is the network interface whose traffic is reported; found from
	// MigrationAddress when empty.
	MigrationInterface string
	// Capacity overrides what the host reports of itself, field by field where not zero.
	Capacity   hypervisor.Capacity
	LoadSource LoadSource
	// QEMUConf is libvirt's QEMU driver configuration, read for shared file systems and the
	// migration certificates; /etc/libvirt/qemu.conf when empty.
	QEMUConf string
	// StateDir is where it is remembered which disk files were made for which migration; empty keeps
	// that in memory, and files made before a restart are then never removed.
	StateDir string
	// QueryQEMU allows read-only monitor queries through libvirt in preflight. Each taints the
	// domain once in libvirt's log, so it is off unless asked for.
	QueryQEMU bool
	// DirtyPeriod is how often each idle domain's dirtying is sampled; 0 is a minute, negative never.
	DirtyPeriod time.Duration
	// MaxOutgoing bounds the migrations that may leave at a time; 0 is 8.
	MaxOutgoing int
	// AgentVersion, ProtocolMin and ProtocolMax are passed on in the host's facts.
	AgentVersion string
	ProtocolMin  int
	ProtocolMax  int
	// ProcRoot and SysRoot stand in for /proc and /sys in tests.
	ProcRoot string
	SysRoot  string
	// connect opens a connection; tests share one, since the in-process driver allows only a few.
	connect func(uri string) (*libvirt.Connect, error)
	// Logger takes what no caller waits for; slog.Default when nil.
	Logger *slog.Logger
}

// withDefaults returns c with the empty fields filled in.
func (c Config) withDefaults() Config {
	if c.URI == "" {
		c.URI = "qemu:///system"
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if c.LoadSource == "" {
		c.LoadSource = LoadHost
	}
	if c.QEMUConf == "" {
		c.QEMUConf = "/etc/libvirt/qemu.conf"
	}
	if c.DirtyPeriod == 0 {
		c.DirtyPeriod = time.Minute
	}
	if c.MaxOutgoing == 0 {
		c.MaxOutgoing = 8
	}
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.SysRoot == "" {
		c.SysRoot = "/sys"
	}
	if c.connect == nil {
		c.connect = libvirt.NewConnect
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate reports every fault of c at once.
func (c Config) Validate() error {
	var faults []error
	if c.LoadSource != "" && c.LoadSource != LoadHost && c.LoadSource != LoadDomains {
		faults = append(faults, fmt.Errorf("load source %q: want host or domains", c.LoadSource))
	}
	if c.MaxOutgoing < 0 || c.MaxOutgoing > 8 {
		// Each migration holds one of libvirtd's 20 workers for its whole life; when all are
		// held, not even an abort gets through.
		faults = append(faults, fmt.Errorf("outgoing migrations %d: want 1 to 8", c.MaxOutgoing))
	}
	for _, amount := range []struct {
		name string
		bad  bool
	}{
		{"cores", c.Capacity.Cores < 0},
		{"memory", c.Capacity.Memory < 0},
		{"reserved memory", c.Capacity.Reserved < 0},
		{"limit on vCPUs", c.Capacity.VCPUs < 0},
		{"bandwidth", c.Capacity.Bandwidth < 0},
	} {
		if amount.bad {
			faults = append(faults, fmt.Errorf("capacity: %s must not be negative", amount.name))
		}
	}
	if c.MigrationInterface != "" {
		if _, err := net.InterfaceByName(c.MigrationInterface); err != nil {
			faults = append(faults, fmt.Errorf("migration interface %q: %w", c.MigrationInterface, err))
		}
	}
	return errors.Join(faults...)
}
