package kvm

import (
	"errors"
	"strconv"

	"drover/hypervisor"
	"drover/hypervisor/sockets"
)

// LinkCounters reads what the migration network's interface has carried, and what of it were migrations'
// streams: the connections from and to libvirt's ports for them, as the kernel counts their bytes.
func (h *Host) LinkCounters() (hypervisor.LinkCounters, error) {
	c := hypervisor.LinkCounters{Interface: h.migrationInterface()}
	if c.Interface == "" {
		return c, errors.New("the migration network's interface is not known")
	}
	var err error
	if c.Rx, c.Tx, err = h.load.proc.traffic(c.Interface); err != nil {
		return c, err
	}
	// Where the kernel does not tell, whose traffic it is stays unknown.
	if all, err := sockets.List(h.MigrationPorts()); err == nil {
		c.Streams = make(map[uint64]hypervisor.StreamCounters, len(all))
		for _, s := range all {
			c.Streams[s.Cookie] = hypervisor.StreamCounters{Tx: s.Acked, Rx: s.Received}
		}
	}
	return c, nil
}

// MigrationPorts are those that streams and copies of disks go to, by this host's configuration: the others'
// is taken to be the same.
func (h *Host) MigrationPorts() sockets.Ports {
	port := func(key string, otherwise uint16) uint16 {
		n, err := strconv.ParseUint(h.qemuConf.first(key, ""), 10, 16)
		if err != nil || n == 0 {
			return otherwise
		}
		return uint16(n)
	}
	return sockets.Ports{Low: port("migration_port_min", 49152), High: port("migration_port_max", 49215)}
}
