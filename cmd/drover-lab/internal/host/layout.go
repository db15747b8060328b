package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"drover/cmd/drover-lab/internal/cgroup"
	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
	"drover/cmd/internal/pki"
)

// Paths are where a lab's bulky files are. All of them are visible in every host under the same path.
type Paths struct {
	PKI    string // see package pki
	Shared string // named in shared_filesystems: shared disks and the guests' serial files
	Logs   string // HOST/DAEMON.log
	Hosts  string // each host's private directories
}

// PathsOf returns the lab's paths.
func PathsOf(l state.Lab) Paths {
	return Paths{
		PKI: filepath.Join(l.Dir, "pki"), Shared: filepath.Join(l.Dir, "shared"),
		Logs: filepath.Join(l.Dir, "logs"), Hosts: filepath.Join(l.Dir, "hosts"),
	}
}

// Identity is the directory with the certificates that a host's programs use; the control host's are its
// scheduler's.
func (p Paths) Identity(host string) string {
	if host == state.Control {
		return pki.IdentityDir(p.PKI, pki.RoleScheduler, host)
	}
	return pki.IdentityDir(p.PKI, pki.RoleAgent, host)
}

// Admin is the directory with the certificate of a person who may do everything.
func (p Paths) Admin() string { return pki.IdentityDir(p.PKI, pki.RoleAdmin, "lab") }

// Viewer is the directory with the certificate of a person who may only look.
func (p Paths) Viewer() string { return pki.IdentityDir(p.PKI, pki.RoleViewer, "lab") }

// PrivateImages is the directory of disks that only this host sees, as the machine sees it; in the host
// it is [ImagesDir].
func (p Paths) PrivateImages(host string) string {
	return filepath.Join(p.Hosts, host, "libvirt-lib", "images")
}

// ImagesDir is where a host keeps its private disks, as the host sees it.
const ImagesDir = "/var/lib/libvirt/images"

// libvirtDirs are private to each host and survive its reboot, as on a real one.
var libvirtDirs = map[string]string{
	"libvirt-etc": "/etc/libvirt", "libvirt-lib": "/var/lib/libvirt",
	"libvirt-log": "/var/log/libvirt", "libvirt-cache": "/var/cache/libvirt",
}

// overlayDirs are private to each host by copy on write.
var overlayDirs = []string{"/etc", "/var/lib", "/var/log", "/var/cache"}

// daemonLibvirtd is the name of a host's libvirtd among its daemons.
const daemonLibvirtd = "libvirtd"

// config writes what host number num (0 is the control host) needs into its private directories, and says how to set
// it up.
func config(l state.Lab, groups cgroup.Layout, num int, name string) (hostinit.Config, error) {
	p := PathsOf(l)
	c := hostinit.Config{
		Hostname: name, Tmpfs: []string{"/run", "/dev/shm"},
		Cgroups: groups.Mounts(), V2Leaf: groups.V2, LogDir: filepath.Join(p.Logs, name),
		Files: []hostinit.File{
			{Path: "/etc/hosts", Content: netns.HostsFile(l.Hosts), Mode: 0o644},
			{Path: "/etc/hostname", Content: name + "\n", Mode: 0o644},
		},
	}
	for _, dir := range overlayDirs {
		base := filepath.Join(p.Hosts, name, "overlay", strings.ReplaceAll(dir[1:], "/", "-"))
		o := hostinit.Overlay{Dir: dir, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work")}
		for _, d := range []string{o.Upper, o.Work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return c, fmt.Errorf("host %s: %w", name, err)
			}
		}
		c.Overlays = append(c.Overlays, o)
	}
	identity := p.Identity(name)
	if num == 0 {
		// On the control host virsh is run by people.
		identity = p.Admin()
	}
	for path, target := range pki.LibvirtPaths(identity) {
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			continue // a person has no server certificate
		}
		c.Links = append(c.Links, hostinit.Link{Path: path, Target: target})
	}
	for private, target := range libvirtDirs {
		c.Binds = append(c.Binds, hostinit.Bind{Source: filepath.Join(p.Hosts, name, private), Target: target})
	}
	if err := writeLibvirt(l, num, name); err != nil {
		return c, fmt.Errorf("host %s: %w", name, err)
	}
	if num > 0 {
		c.Daemons = []hostinit.Daemon{{Name: daemonLibvirtd, Argv: []string{"/usr/sbin/libvirtd", "--listen"}, Restart: true}}
	}
	return c, nil
}

// writeLibvirt writes the configuration of the host's libvirtd.
func writeLibvirt(l state.Lab, num int, name string) error {
	p := PathsOf(l)
	for private := range libvirtDirs {
		if err := os.MkdirAll(filepath.Join(p.Hosts, name, private), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(p.PrivateImages(name), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(p.Logs, name), 0o755); err != nil {
		return err
	}
	if num == 0 {
		return nil
	}
	etc := filepath.Join(p.Hosts, name, "libvirt-etc")
	for file, text := range map[string]string{
		"libvirtd.conf": libvirtdConf(l.Name, name), "qemu.conf": qemuConf(p, num, name),
	} {
		if err := os.WriteFile(filepath.Join(etc, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// HostUUID is a host's identity for libvirt, which refuses to migrate between equal ones; it survives reboots.
func HostUUID(lab, host string) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceDNS, []byte(host+"."+lab+".drover-lab"))
}

func libvirtdConf(lab, host string) string {
	return strings.Join([]string{
		`listen_tls = 1`,
		`listen_tcp = 0`,
		`auth_tls = "none"`, // the client's certificate is the authentication
		`auth_unix_ro = "none"`,
		`auth_unix_rw = "none"`,
		`unix_sock_rw_perms = "0700"`,
		// Who may write to a libvirtd owns its host: people who may only look, and schedulers, are kept out.
		fmt.Sprintf(`tls_allowed_dn_list = ["*O=%s*", "*O=%s*"]`, pki.RoleAgent, pki.RoleAdmin),
		fmt.Sprintf(`host_uuid = %q`, HostUUID(lab, host)),
		"",
	}, "\n")
}

func qemuConf(p Paths, num int, host string) string {
	addr := netns.Migration.Addr(num)
	return strings.Join([]string{
		`user = "root"`,
		`group = "root"`,
		`security_driver = "none"`,
		`namespaces = []`,
		`remember_owner = 0`,
		`stdio_handler = "file"`,
		`cgroup_controllers = ["cpu", "cpuacct"]`,
		fmt.Sprintf(`migration_address = "%s"`, addr),
		fmt.Sprintf(`migration_host = "%s"`, addr),
		fmt.Sprintf(`migrate_tls_x509_cert_dir = %q`, p.Identity(host)),
		`migrate_tls_x509_verify = 1`,
		fmt.Sprintf(`shared_filesystems = [%q]`, p.Shared),
		"",
	}, "\n")
}
