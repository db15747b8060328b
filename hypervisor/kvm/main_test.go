package kvm

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// The tests run the real QEMU driver inside the test process, on a root of its own: no libvirtd is
// needed, only root and QEMU.
var (
	embedRoot string
	embedURI  string
	embed     *libvirt.Connect
)

// lendEmbed stands in for opening a connection: the in-process driver can be opened only a few times
// in one process, so all share one.
func lendEmbed(string) (*libvirt.Connect, error) {
	return embed, embed.Ref()
}

const qemuConfText = `user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
`

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start real QEMU processes and must run as root")
		return 1
	}
	// Short, because QEMU's monitor socket lies below it and a socket's path is at most 108 bytes.
	root, err := os.MkdirTemp("", "kvm")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(root)
	embedRoot = root
	embedURI = "qemu:///embed?root=" + url.QueryEscape(root)
	err = os.MkdirAll(filepath.Join(root, "etc"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "etc", "qemu.conf"), []byte(qemuConfText), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := startLoop(slog.New(slog.DiscardHandler)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// One connection for the whole run: the driver and its state live as long as any is open.
	embed, err = libvirt.NewConnect(embedURI)
	if err != nil {
		fmt.Fprintln(os.Stderr, "embedded QEMU driver:", err)
		return 1
	}
	code := m.Run()
	_, _ = embed.Close()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction("drover/hypervisor/kvm.runLoop")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// openHost opens a Host on the embedded driver, closed with the test.
func openHost(t *testing.T, change func(*Config)) *Host {
	t.Helper()
	cfg := Config{
		URI: embedURI, Name: "kvm1", PeerURI: "qemu+tcp://kvm1/system",
		QEMUConf:    filepath.Join(embedRoot, "etc", "qemu.conf"),
		DirtyPeriod: -1,
		connect:     lendEmbed,
		Logger:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	h, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(h.Close)
	return h
}

// guest is a domain for tests: no firmware to speak of, no disk, nothing to boot.
type guest struct {
	name    string
	uuid    string
	devices string
	cpu     string
	extra   string
}

func (g guest) xml() string {
	cpu := g.cpu
	if cpu == "" {
		cpu = "<cpu mode='custom' match='exact'><model>qemu64</model></cpu>"
	}
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <features><acpi/></features>%s%s
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s<memballoon model='virtio'/></devices>
</domain>`, g.name, g.uuid, cpu, g.extra, g.devices)
}

func (g guest) id() hypervisor.DomainID { return hypervisor.DomainID(g.uuid) }

// start creates the guest, defined too when persistent, and destroys it with the test.
func (g guest) start(t *testing.T, persistent bool) {
	t.Helper()
	withEmbed(t, func(lv *libvirt.Connect) {
		var d *libvirt.Domain
		var err error
		if persistent {
			if d, err = lv.DomainDefineXML(g.xml()); err == nil {
				err = d.Create()
			}
		} else {
			d, err = lv.DomainCreateXML(g.xml(), 0)
		}
		if err != nil {
			t.Fatalf("start %s: %v", g.name, err)
		}
		_ = d.Free()
	})
	g.removeWith(t)
}

// define defines the guest without starting it, and undefines it with the test.
func (g guest) define(t *testing.T) {
	t.Helper()
	withEmbed(t, func(lv *libvirt.Connect) {
		d, err := lv.DomainDefineXML(g.xml())
		if err != nil {
			t.Fatalf("define %s: %v", g.name, err)
		}
		_ = d.Free()
	})
	g.removeWith(t)
}

func (g guest) removeWith(t *testing.T) {
	t.Cleanup(func() {
		withEmbed(t, func(lv *libvirt.Connect) {
			d, err := lv.LookupDomainByUUIDString(g.uuid)
			if err != nil {
				return
			}
			defer d.Free()
			_ = d.Destroy()
			_ = d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
		})
	})
}

// withEmbed lends the shared connection.
func withEmbed(t *testing.T, fn func(*libvirt.Connect)) {
	t.Helper()
	fn(embed)
}

// with lends the guest's domain.
func (g guest) with(t *testing.T, fn func(*libvirt.Domain)) {
	t.Helper()
	withEmbed(t, func(lv *libvirt.Connect) {
		d, err := lv.LookupDomainByUUIDString(g.uuid)
		if err != nil {
			t.Fatalf("look up %s: %v", g.name, err)
		}
		defer d.Free()
		fn(d)
	})
}

// soon gives each test's calls to libvirt a bound of their own.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantClass(t *testing.T, err error, want hypervisor.Class) {
	t.Helper()
	if got := hypervisor.ClassOf(err); got != want {
		t.Errorf("class of %v: got %q, want %q", err, got, want)
	}
}

func codes(blockers []hypervisor.Blocker) string {
	var list []string
	for _, b := range blockers {
		list = append(list, string(b.Code))
	}
	return strings.Join(list, " ")
}
