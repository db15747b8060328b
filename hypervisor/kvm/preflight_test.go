package kvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// disk is the XML of a file disk.
func disk(path, format string) string {
	return `<disk type='file' device='disk'><driver name='qemu' type='` + format + `'/><source file='` + path +
		`'/><target dev='vda' bus='virtio'/></disk>`
}

// sharedConf writes a configuration that declares a directory as shared.
func sharedConf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu.conf")
	text := qemuConfText + "shared_filesystems = [ \"" + dir + "\" ]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func image(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeImage(path, "qcow2", 8*hypervisor.MiB); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, func(c *Config) { c.QEMUConf = sharedConf(t, dir) })
	g := guest{name: "inspect", uuid: "6c1f0000-0000-4000-8000-000000000010", devices: disk(image(t, dir), "qcow2")}
	g.start(t, true)
	ctx := soon(t)

	seen, err := h.Inspect(ctx, g.id())
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	if len(seen.Facts.Blockers) != 0 || !seen.Facts.Persistent || seen.Sighting.State != hypervisor.StateRunning {
		t.Errorf("a running guest on a shared disk: %+v, want no blockers", seen)
	}
	want := []hypervisor.Disk{{
		Target: "vda", Source: filepath.Join(dir, "disk.qcow2"), Size: 8 * hypervisor.MiB, Shared: true, Format: "qcow2",
	}}
	if diff := cmp.Diff(want, seen.Facts.Disks); diff != "" {
		t.Errorf("disks (-want +got):\n%s", diff)
	}
	if seen.Emulator != "/usr/bin/qemu-system-x86_64" || !strings.Contains(seen.CPU, "qemu64") {
		t.Errorf("emulator %q, CPU %q: want what the target needs for comparing", seen.Emulator, seen.CPU)
	}

	g.with(t, func(d *libvirt.Domain) {
		s, err := d.CreateSnapshotXML("<domainsnapshot><name>s1</name></domainsnapshot>", 0)
		if err != nil {
			t.Fatalf("snapshot: %v", err)
		}
		_ = s.Free()
		_ = d.Destroy()
	})
	seen, err = h.Inspect(ctx, g.id())
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	if got := codes(seen.Facts.Blockers); got != "snapshot not-running" {
		t.Errorf("blockers of a stopped guest with a snapshot: %q", got)
	}
}

func TestInspectLocalDisk(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, nil)
	g := guest{name: "inspect-local", uuid: "6c1f0000-0000-4000-8000-000000000011", devices: disk(image(t, dir), "qcow2")}
	g.start(t, false)
	seen, err := h.Inspect(soon(t), g.id())
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	if got := codes(seen.Facts.Blockers); got != "non-shared-disk" {
		t.Errorf("blockers: %q, want non-shared-disk", got)
	}
	if d := seen.Facts.Disks[0]; d.Shared || d.Size != 8*hypervisor.MiB {
		t.Errorf("disk %+v: want it local, with its size", d)
	}
}

func TestInspectAsksQEMU(t *testing.T) {
	h := openHost(t, func(c *Config) { c.QueryQEMU = true })
	g := guest{
		name: "inspect-qmp", uuid: "6c1f0000-0000-4000-8000-000000000012",
		// A device that libvirt knows nothing of and QEMU can't migrate.
		extra: `<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>` +
			`<qemu:arg value='-object'/><qemu:arg value='memory-backend-ram,id=shm,size=1M,share=on'/>` +
			`<qemu:arg value='-device'/><qemu:arg value='ivshmem-plain,memdev=shm,master=off,addr=1e.0'/></qemu:commandline>`,
	}
	g.start(t, false)
	seen, err := h.Inspect(soon(t), g.id())
	if err != nil || codes(seen.Facts.Blockers) != "qemu-refuses" {
		t.Errorf("Inspect: %+v, %v, want QEMU's own reason", seen.Facts.Blockers, err)
	}
}

// question inspects a running guest, for asking the same host whether it could have come here.
func question(t *testing.T, h *Host, g guest) hypervisor.TargetQuestion {
	t.Helper()
	seen, err := h.Inspect(soon(t), g.id())
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	return hypervisor.TargetQuestion{Inspection: seen}
}

func TestCheckTarget(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, func(c *Config) { c.QEMUConf = sharedConf(t, dir) })
	g := guest{name: "check", uuid: "6c1f0000-0000-4000-8000-000000000013", devices: disk(image(t, dir), "qcow2")}
	g.start(t, true)
	base := question(t, h, g)
	gone := "6c1f0000-0000-4000-8000-0000000000aa"
	tests := []struct {
		name   string
		change func(*hypervisor.TargetQuestion)
		want   string
		detail string
	}{
		{name: "fits", change: func(*hypervisor.TargetQuestion) {}},
		{
			name: "same VM", want: "present-on-target",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.ID = g.id() },
		},
		{
			name: "name taken", want: "name-taken", detail: "check",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.Name = g.name },
		},
		{
			name: "CPU", want: "cpu-incompatible", detail: "avx512f",
			change: func(q *hypervisor.TargetQuestion) {
				q.Inspection.CPU = "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model>" +
					"<feature policy='require' name='avx512f'/></cpu>"
			},
		},
		{
			name: "newer machine", want: "machine-unknown", detail: "pc-q35-99.0",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.Machine = "pc-q35-99.0" },
		},
		{
			name: "emulator", want: "machine-unknown", detail: "/opt/qemu",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Emulator = "/opt/qemu" },
		},
		{
			name: "accelerator", want: "accelerator", detail: "hvf",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.VirtType = "hvf" },
		},
		{
			name: "architecture", want: "architecture", detail: "sparc64",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.Arch = "sparc64" },
		},
		{
			name: "memory", want: "memory", detail: "1.0 PiB",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.Memory = 1 << 50 },
		},
		{
			name: "disk missing", want: "disk-unreachable", detail: "disk vda: /nowhere/disk: no such file",
			change: func(q *hypervisor.TargetQuestion) { q.Inspection.Facts.Disks[0].Source = "/nowhere/disk" },
		},
		{
			name: "copy over a file", want: "disk-exists",
			change: func(q *hypervisor.TargetQuestion) { q.CopyDisks = []string{"vda"} },
		},
		{
			name: "copy too big", want: "disk-space",
			change: func(q *hypervisor.TargetQuestion) {
				q.CopyDisks = []string{"vda"}
				q.Inspection.Facts.Disks[0].Source = filepath.Join(dir, "new")
				q.Inspection.Facts.Disks[0].Size = 1 << 50
			},
		},
		{
			name: "copy to a new file",
			change: func(q *hypervisor.TargetQuestion) {
				q.CopyDisks = []string{"vda"}
				q.Inspection.Facts.Disks[0].Source = filepath.Join(dir, "new")
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := base
			q.Inspection.Facts.Disks = append([]hypervisor.Disk(nil), q.Inspection.Facts.Disks...)
			q.Inspection.Facts.ID, q.Inspection.Facts.Name = hypervisor.DomainID(gone), "elsewhere"
			tt.change(&q)
			found, err := h.CheckTarget(soon(t), q)
			if err != nil {
				t.Fatalf("CheckTarget: %v", err)
			}
			if got := codes(found); got != tt.want {
				t.Fatalf("blockers %v, want %q", found, tt.want)
			}
			if len(found) > 0 && !strings.Contains(found[0].Detail, tt.detail) {
				t.Errorf("detail %q: want it to name %q", found[0].Detail, tt.detail)
			}
		})
	}
}

func TestCheckTargetLocalFileOfSameName(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, nil)
	found, err := h.CheckTarget(soon(t), hypervisor.TargetQuestion{Inspection: hypervisor.Inspection{
		Facts: hypervisor.DomainFacts{
			ID: "6c1f0000-0000-4000-8000-0000000000ab", Name: "elsewhere", Arch: "x86_64",
			Disks: []hypervisor.Disk{{Target: "vda", Source: image(t, dir), Shared: true}},
		},
	}})
	if err != nil || codes(found) != "disk-unreachable" {
		t.Errorf("a file of that name that isn't shared: %v, %v, want disk-unreachable", found, err)
	}
}

func TestCheckTargetPassthrough(t *testing.T) {
	h := openHost(t, nil)
	f, err := h.Facts(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(model string, features ...string) string {
		text := "<cpu mode='host-passthrough' migratable='on'><model>" + model + "</model>"
		for _, name := range features {
			text += "<feature policy='require' name='" + name + "'/>"
		}
		found, err := h.CheckTarget(soon(t), hypervisor.TargetQuestion{Inspection: hypervisor.Inspection{
			CPU: text + "</cpu>", Emulator: "/usr/bin/qemu-system-x86_64",
			Facts: hypervisor.DomainFacts{
				ID: "6c1f0000-0000-4000-8000-0000000000ac", Name: "elsewhere", Arch: "x86_64",
				Machine: "pc-q35-10.0", VirtType: "qemu",
			},
		}})
		if err != nil {
			t.Fatalf("CheckTarget: %v", err)
		}
		return codes(found)
	}
	if got := ask("qemu64"); got != "cpu-incompatible" {
		t.Errorf("a host with more than the passed-through CPU: %q, want cpu-incompatible", got)
	}
	t.Logf("host model %s with %d features", f.CPUModel, len(f.CPUFeatures))
}

func TestCreateAndRemoveDisks(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	h := openHost(t, func(c *Config) { c.StateDir = state })
	ctx := soon(t)
	a := hypervisor.Disk{Target: "vda", Source: filepath.Join(dir, "a"), Format: "qcow2", Size: 16 * hypervisor.MiB}
	b := hypervisor.Disk{Target: "vdb", Source: filepath.Join(dir, "b"), Size: 4 * hypervisor.MiB}
	for range 2 { // it may be repeated
		if err := h.CreateDisks(ctx, "m1", []hypervisor.Disk{a, b}); err != nil {
			t.Fatalf("CreateDisks: %v", err)
		}
	}
	if info, err := os.Stat(b.Source); err != nil || info.Size() != int64(b.Size) {
		t.Errorf("raw disk: %v, %v, want its full size", info, err)
	}
	wantClass(t, h.CreateDisks(ctx, "m2", []hypervisor.Disk{a}), hypervisor.ClassInvalid)
	// An agent that was killed after it had made a file has not given it its size.
	if err := os.Truncate(b.Source, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateDisks(ctx, "m1", []hypervisor.Disk{a, b}); err != nil {
		t.Fatalf("CreateDisks: %v", err)
	}
	if info, err := os.Stat(b.Source); err != nil || info.Size() != int64(b.Size) {
		t.Errorf("raw disk that was cut off: %v, %v, want its full size", info, err)
	}

	// One that was put there by somebody else after ours was removed stays, also for a Host that
	// was started later.
	if err := os.Remove(b.Source); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Source, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Close()
	later := openHost(t, func(c *Config) { c.StateDir = state })
	if err := later.RemoveDisks(ctx, "m1"); err != nil {
		t.Errorf("RemoveDisks: %v", err)
	}
	if _, err := os.Stat(a.Source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our file after RemoveDisks: %v, want it gone", err)
	}
	if text, err := os.ReadFile(b.Source); err != nil || string(text) != "not ours" {
		t.Errorf("the other's file: %q, %v, want it untouched", text, err)
	}
	if err := later.RemoveDisks(ctx, "m1"); err != nil {
		t.Errorf("RemoveDisks again: %v", err)
	}
}

func TestCreateDisksTakesBackOnFailure(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, nil)
	good := hypervisor.Disk{Target: "vda", Source: filepath.Join(dir, "a"), Size: hypervisor.MiB}
	tests := []struct {
		name string
		disk hypervisor.Disk
		want hypervisor.Class
	}{
		{"no directory", hypervisor.Disk{Source: filepath.Join(dir, "no", "b"), Size: hypervisor.MiB}, hypervisor.ClassFailed},
		{"no size", hypervisor.Disk{Source: filepath.Join(dir, "b")}, hypervisor.ClassArgument},
		{"a device", hypervisor.Disk{Source: "/dev/vdz", Size: hypervisor.MiB}, hypervisor.ClassUnsupported},
		{"a network disk", hypervisor.Disk{Source: "rbd:pool/image", Size: hypervisor.MiB}, hypervisor.ClassUnsupported},
		{"an odd format", hypervisor.Disk{Source: filepath.Join(dir, "b"), Size: hypervisor.MiB, Format: "vmdk"}, hypervisor.ClassUnsupported},
		{"beyond the format", hypervisor.Disk{Source: filepath.Join(dir, "b"), Size: 1 << 62, Format: "qcow2"}, hypervisor.ClassFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantClass(t, h.CreateDisks(soon(t), "m", []hypervisor.Disk{good, tt.disk}), tt.want)
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestRemoveDisksSparesDiskInUse(t *testing.T) {
	dir := t.TempDir()
	h := openHost(t, nil)
	ctx := soon(t)
	path := filepath.Join(dir, "a.qcow2")
	if err := h.CreateDisks(ctx, "m", []hypervisor.Disk{{Target: "vda", Source: path, Format: "qcow2", Size: hypervisor.MiB}}); err != nil {
		t.Fatal(err)
	}
	g := guest{name: "uses-disk", uuid: "6c1f0000-0000-4000-8000-000000000014", devices: disk(path, "qcow2")}
	g.define(t)
	wantClass(t, h.RemoveDisks(ctx, "m"), hypervisor.ClassInvalid)
	if !exists(path) {
		t.Error("a disk in use was removed")
	}
}
