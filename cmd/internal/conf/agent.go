package conf

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"drover/hypervisor"
)

// Agent is the configuration of drover-agent.
type Agent struct {
	Etcd
	Logging
	// Name is the host's name in the fleet, bound to this machine's libvirt UUID at first contact.
	Name string
	// LibvirtURI is the local libvirt; PeerURI how the other hosts' libvirt daemons reach it.
	LibvirtURI string
	PeerURI    string
	// MigrationAddress is where memory streams arrive; empty lets libvirt choose.
	MigrationAddress string
	// MigrationTLS encrypts the memory stream.
	MigrationTLS bool
	// MetricsAddress is host:port, or a URL; see package serve. Empty serves nothing.
	MetricsAddress string
	// Capacity overrides what the agent measures, field by field; zero does not override.
	Capacity hypervisor.Capacity
	// LoadSource is "host", or "domains" where several hosts share one kernel.
	LoadSource string
	// QueryQEMU lets preflight ask a guest's QEMU what keeps it from moving; libvirt then marks the guest tainted.
	QueryQEMU bool
	// SpoolDir is where outcomes are kept until the store has them.
	SpoolDir string
	// HooksDir is where the commands are that maintenance and migrations may run on this host, each under its
	// file's name.
	HooksDir string
}

// DefaultAgent returns an agent's configuration before anything was read. The name is the short
// host name of the machine.
func DefaultAgent() *Agent {
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return &Agent{
		Logging:        Logging{Format: "text", Level: "info"},
		Name:           name,
		LibvirtURI:     "qemu:///system",
		MigrationTLS:   true,
		MetricsAddress: "127.0.0.1:9177",
		LoadSource:     "host",
		SpoolDir:       "/var/lib/drover",
		HooksDir:       "/etc/drover/hooks",
	}
}

// Fields implements Settings.
func (a *Agent) Fields() []Field {
	fields := []Field{
		{"name", "this host's name in the fleet; bound to the machine at first contact", String(&a.Name)},
		{"libvirt-uri", "the local libvirt", String(&a.LibvirtURI)},
		{"peer-uri", "how other hosts' libvirt daemons reach this one (default: qemu+tls://NAME/system)", String(&a.PeerURI)},
		{"migration-address", "address for incoming memory streams (default: libvirt's choice)", String(&a.MigrationAddress)},
		{"migration-tls", "encrypt memory streams; false needs --insecure", Bool(&a.MigrationTLS)},
		{"metrics-address", "host:port of health, metrics and status; empty turns them off", String(&a.MetricsAddress)},
		{"capacity-cores", "cores to reckon with (default: what libvirt reports)", Cores(&a.Capacity.Cores)},
		{"capacity-memory", "memory to reckon with, such as 64GiB (default: what libvirt reports)", Size(&a.Capacity.Memory)},
		{"capacity-reserved", "memory that VMs never get, such as 4GiB (default: a twentieth, 512MiB to 8GiB)", Size(&a.Capacity.Reserved)},
		{"capacity-vcpus", "vCPUs that the VMs here may have together; 0 is no limit", Count(&a.Capacity.VCPUs)},
		{"capacity-bandwidth", "rate of the migration network, such as 10gbit (default: the interface's)", Rate(&a.Capacity.Bandwidth)},
		{"load-source", "host, or domains where several hosts share one kernel", OneOf(&a.LoadSource, "host", "domains")},
		{"query-qemu", "ask QEMU itself what keeps a guest from moving; libvirt marks the guest tainted for it", Bool(&a.QueryQEMU)},
		{"spool-dir", "directory for outcomes that the store has not taken yet", String(&a.SpoolDir)},
		{"hooks-dir", "directory of the commands that maintenance and migrations may run here, by their names; empty allows none", String(&a.HooksDir)},
	}
	fields = append(fields, a.Etcd.Fields()...)
	return append(fields, a.Logging.Fields()...)
}

// Validate implements Settings. It fills PeerURI from Name when it was not given.
func (a *Agent) Validate() []error {
	faults := append(a.ValidateEndpoints(), a.ValidateTLS()...)
	if err := checkName(a.Name); err != nil {
		faults = append(faults, fmt.Errorf("name: %w", err))
	}
	if a.LibvirtURI == "" {
		faults = append(faults, fmt.Errorf("libvirt-uri %w", errRequired))
	}
	if a.PeerURI == "" {
		a.PeerURI = "qemu+tls://" + a.Name + "/system"
	}
	if err := a.checkPeerURI(); err != nil {
		faults = append(faults, fmt.Errorf("peer-uri: %w", err))
	}
	if !a.MigrationTLS && !a.Insecure {
		faults = append(faults, errors.New("migration-tls: guests' memory would cross the network in plain text: allow it with --insecure"))
	}
	if a.MigrationAddress != "" && strings.ContainsAny(a.MigrationAddress, "/ ") {
		faults = append(faults, fmt.Errorf("migration-address: %q: want an address or a name, without port", a.MigrationAddress))
	}
	if c := a.Capacity; c.Memory > 0 && c.Reserved >= c.Memory {
		faults = append(faults, fmt.Errorf("capacity-reserved: %s leaves VMs nothing of %s", c.Reserved, c.Memory))
	}
	if a.SpoolDir == "" {
		faults = append(faults, fmt.Errorf("spool-dir %w", errRequired))
	}
	if err := checkDir(a.HooksDir); err != nil {
		faults = append(faults, fmt.Errorf("hooks-dir: %w", err))
	}
	if err := checkListen(a.MetricsAddress); err != nil {
		faults = append(faults, fmt.Errorf("metrics-address: %w", err))
	}
	return faults
}

// checkPeerURI wants a remote libvirt URI, encrypted unless plain text was allowed.
func (a *Agent) checkPeerURI() error {
	u, err := url.Parse(a.PeerURI)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%q: want how other hosts reach this libvirt, such as qemu+tls://%s/system", a.PeerURI, a.Name)
	}
	if strings.HasSuffix(u.Scheme, "+tcp") && !a.Insecure {
		return fmt.Errorf("%q is plain text: use qemu+tls, or allow it with --insecure", a.PeerURI)
	}
	return nil
}

// checkName wants a word that can stand in a key and in HOST/NAME.
func checkName(name string) error {
	if name == "" {
		return errRequired
	}
	for _, r := range name {
		if r <= ' ' || r == '/' || r == 0x7f {
			return fmt.Errorf("%q: no blanks or slashes, please", name)
		}
	}
	return nil
}

// checkDir accepts "" and whole paths.
func checkDir(path string) error {
	if path != "" && !filepath.IsAbs(path) {
		return fmt.Errorf("%q: want a path from /", path)
	}
	return nil
}

// checkListen accepts "", host:port, and the same behind http:// or https://.
func checkListen(address string) error {
	if address == "" {
		return nil
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	if _, _, err := net.SplitHostPort(rest); err != nil {
		return fmt.Errorf("%q: want host:port", address)
	}
	return nil
}
