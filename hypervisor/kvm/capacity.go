package kvm

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// capacity is what the host has to give: measured, where the configuration says nothing else.
func (h *Host) capacity(node *libvirt.NodeInfo) hypervisor.Capacity {
	c := h.cfg.Capacity
	if c.Cores == 0 {
		c.Cores = hypervisor.Cores(node.Cpus)
	}
	if c.Memory == 0 {
		c.Memory = hypervisor.Bytes(node.Memory) * hypervisor.KiB
	}
	if c.Reserved == 0 {
		c.Reserved = reserve(c.Memory)
	}
	if c.Bandwidth == 0 {
		c.Bandwidth = linkSpeed(h.cfg.SysRoot, h.migrationInterface())
	}
	return c
}

// reserve is the host's own share when nobody says: a twentieth, at least 512 MiB for the kernel,
// libvirtd and QEMU's own needs, at most 8 GiB, and never more than a quarter of a small host.
func reserve(memory hypervisor.Bytes) hypervisor.Bytes {
	r := min(max(memory/20, 512*hypervisor.MiB), 8*hypervisor.GiB)
	return min(r, memory/4)
}

// nic finds the migration network's interface once it exists, and remembers it.
type nic struct {
	mu   sync.Mutex
	name string
	next time.Time // not before: a name that resolves to nothing is no reason to ask every second
}

// migrationInterface is the interface that carries migration streams, empty while unknown.
func (h *Host) migrationInterface() string {
	if h.cfg.MigrationInterface != "" || h.cfg.MigrationAddress == "" {
		return h.cfg.MigrationInterface
	}
	h.nic.mu.Lock()
	defer h.nic.mu.Unlock()
	if h.nic.name != "" || time.Now().Before(h.nic.next) {
		return h.nic.name
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	h.nic.name = interfaceOf(ctx, h.cfg.MigrationAddress)
	h.nic.next = time.Now().Add(time.Minute)
	return h.nic.name
}

// interfaceOf finds the interface that has the address, given as a number or a name.
func interfaceOf(ctx context.Context, address string) string {
	var want []net.IP
	if ip := net.ParseIP(address); ip != nil {
		want = append(want, ip)
	} else {
		found, err := net.DefaultResolver.LookupIPAddr(ctx, address)
		if err != nil {
			return ""
		}
		for _, a := range found {
			want = append(want, a.IP)
		}
	}
	list, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			prefix, ok := a.(*net.IPNet)
			for _, ip := range want {
				if ok && prefix.IP.Equal(ip) {
					return i.Name
				}
			}
		}
	}
	return ""
}

// linkSpeed reads an interface's speed where it means something: of hardware and of what is built on
// one piece of it. Virtual links claim 10 Gbit/s whatever they can do; they give 0, not known.
func linkSpeed(sysRoot, name string) hypervisor.BytesPerSecond {
	for range 4 { // a VLAN on a bond on hardware is three
		if name == "" {
			return 0
		}
		dir := filepath.Join(sysRoot, "class", "net", name)
		if exists(filepath.Join(dir, "device")) || exists(filepath.Join(dir, "bonding")) {
			return megabits(filepath.Join(dir, "speed"))
		}
		lower, _ := filepath.Glob(filepath.Join(dir, "lower_*"))
		if len(lower) != 1 {
			return 0
		}
		name = strings.TrimPrefix(filepath.Base(lower[0]), "lower_")
	}
	return 0
}

func megabits(path string) hypervisor.BytesPerSecond {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n <= 0 || n > 1e7 {
		return 0
	}
	return hypervisor.BytesPerSecond(n * 1e6 / 8)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// capabilities names what both ends of a migration must share.
func (h *Host) capabilities(libvirtVersion, qemuVersion uint32) []string {
	list := []string{"auto-converge", "multifd", "xbzrle"}
	if libvirtVersion >= libvirtZstd {
		list = append(list, "multifd-zstd")
	}
	if h.userfaults() {
		list = append(list, "postcopy")
		if qemuVersion >= qemuPostMultifd {
			list = append(list, "postcopy-multifd")
		}
	}
	if h.qemuConf.migrationTLS() {
		list = append(list, "tls")
	}
	return list
}

// userfaults reports whether QEMU may handle its guests' page faults here, which the target of a
// post-copy needs: as root, by the device (QEMU 8.1 and later), or because anyone may.
func (h *Host) userfaults() bool {
	if user := h.qemuConf.first("user", ""); user == "root" || user == "+0" || user == "0" {
		return true
	}
	if _, qemu := h.versions(); qemu >= 8_001_000 && exists("/dev/userfaultfd") {
		return true
	}
	text, err := os.ReadFile(filepath.Join(h.cfg.ProcRoot, "sys", "vm", "unprivileged_userfaultfd"))
	return err == nil && strings.TrimSpace(string(text)) == "1"
}
