package conf

import (
	"errors"
	"fmt"
	"os"
)

// Scheduler is the configuration of drover scheduler run.
type Scheduler struct {
	Etcd
	Logging
	// EmbeddedDir, when set, runs the store inside the scheduler with its data there; EtcdListen is
	// the URL at which it then serves clients.
	EmbeddedDir string
	EtcdListen  string
	// MetricsAddress is host:port, or a URL; see package serve. Empty serves nothing.
	MetricsAddress string
	// Identity is the name under which this scheduler stands for election.
	Identity string
	// HooksDir is where the commands are that maintenance may run on this control host, each under its file's
	// name.
	HooksDir string
}

// DefaultScheduler returns a scheduler's configuration before anything was read.
func DefaultScheduler() *Scheduler {
	name, _ := os.Hostname()
	return &Scheduler{
		Logging:        Logging{Format: "text", Level: "info"},
		EtcdListen:     "https://127.0.0.1:2379",
		MetricsAddress: "127.0.0.1:9178",
		Identity:       name,
		HooksDir:       "/etc/drover/hooks",
	}
}

// Fields implements Settings.
func (s *Scheduler) Fields() []Field {
	fields := []Field{
		{"embedded-etcd", "run the store inside this process, with its data in this directory; no failover", String(&s.EmbeddedDir)},
		{"etcd-listen", "URL at which the embedded store serves agents and commands", String(&s.EtcdListen)},
		{"metrics-address", "host:port of health, metrics and status; empty turns them off", String(&s.MetricsAddress)},
		{"identity", "name of this scheduler in the election", String(&s.Identity)},
		{"hooks-dir", "directory of the commands that maintenance may run here, by their names; empty allows none", String(&s.HooksDir)},
	}
	fields = append(fields, s.Etcd.Fields()...)
	return append(fields, s.Logging.Fields()...)
}

// Validate implements Settings.
func (s *Scheduler) Validate() []error {
	faults := s.ValidateTLS()
	if s.EmbeddedDir == "" {
		if len(s.Endpoints) == 0 {
			faults = append(faults, errors.New("where is the store? give --embedded-etcd DIR or --etcd-endpoints URLS"))
		} else {
			faults = append(faults, s.ValidateEndpoints()...)
		}
	} else {
		faults = append(faults, s.validateEmbedded()...)
	}
	if s.Identity == "" {
		faults = append(faults, fmt.Errorf("identity %w", errRequired))
	}
	if err := checkDir(s.HooksDir); err != nil {
		faults = append(faults, fmt.Errorf("hooks-dir: %w", err))
	}
	if err := checkListen(s.MetricsAddress); err != nil {
		faults = append(faults, fmt.Errorf("metrics-address: %w", err))
	}
	return faults
}

func (s *Scheduler) validateEmbedded() []error {
	var faults []error
	if err := s.checkURL(s.EtcdListen); err != nil {
		return []error{fmt.Errorf("etcd-listen: %w", err)}
	}
	if s.EtcdListen[:5] == "https" && (s.CA == "" || s.Cert == "" || s.Key == "") {
		faults = append(faults, fmt.Errorf("tls-ca, tls-cert and tls-key are required to serve https (make them with drover pki)"))
	}
	return faults
}
