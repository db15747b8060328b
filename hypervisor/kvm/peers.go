package kvm

import "strconv"

// PeerSettings is what libvirt's configuration on this host says about ways between hosts.
type PeerSettings struct {
	// Ports are the first and the last port for incoming migration streams.
	Ports [2]int
	// MigrationDir is where QEMU finds the certificates of encrypted streams.
	MigrationDir string
	// LockManager is "lockd" or "sanlock"; empty when only QEMU's own image locks guard disks.
	LockManager string
	// PostCopy says whether QEMU may handle its guests' page faults here.
	PostCopy bool
}

// PeerSettings reads the configuration as it is now, which need not be what a libvirtd that has run
// for long goes by.
func (h *Host) PeerSettings() PeerSettings {
	s := PeerSettings{
		Ports:        [2]int{h.port("migration_port_min", 49152), h.port("migration_port_max", 49215)},
		MigrationDir: h.qemuConf.migrationDir(),
		LockManager:  h.qemuConf.first("lock_manager", ""),
		PostCopy:     h.userfaults(),
	}
	if s.LockManager == "nop" {
		s.LockManager = ""
	}
	return s
}

func (h *Host) port(key string, otherwise int) int {
	n, err := strconv.Atoi(h.qemuConf.first(key, ""))
	if err != nil {
		return otherwise
	}
	return n
}
