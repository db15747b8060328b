package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
)

const (
	v1CPU     = "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
	v1Memory  = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	v1Systemd = "32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	v2Hybrid  = "33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	v2Alone   = "25 24 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	other     = "40 24 0:40 / /mnt/x rw - cgroup2 cgroup2 rw\n22 1 8:1 / / rw - ext4 /dev/vda rw\n"
)

func TestDetect(t *testing.T) {
	cpu := Hierarchy{Path: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}}
	memory := Hierarchy{Path: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}}
	for _, tc := range []struct {
		name, in string
		want     Layout
		err      error
	}{
		{"v1", other + v1CPU + v1Memory + v1Systemd, Layout{Tree: []Hierarchy{cpu, memory}}, nil},
		{"hybrid", v2Hybrid + v1CPU + v1Memory, Layout{Tree: []Hierarchy{cpu, memory}}, nil},
		{"v2", other + v2Alone, Layout{V2: true, Tree: []Hierarchy{{Path: "/sys/fs/cgroup"}}}, nil},
		{"v2 beside a v1 tree without cpu", v2Hybrid + v1Memory, Layout{V2: true, Tree: []Hierarchy{{Path: "/sys/fs/cgroup/unified"}}}, nil},
		{"none", other, Layout{}, ErrNone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := detect(strings.NewReader(tc.in))
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("layout (-want +got):\n%s", diff)
			}
		})
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestV2OnAFakeTree(t *testing.T) {
	root := t.TempDir()
	l := Layout{V2: true, Tree: []Hierarchy{{Path: root}}}
	if err := l.Create("lab", "kvm1", Limits{CPUs: 1.5, Memory: 512 * hypervisor.MiB}); err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(root, "drover-lab-lab", "kvm1")
	if got := read(t, host, "cpu.max"); got != "150000 100000" {
		t.Errorf("cpu.max = %q, want 150000 100000", got)
	}
	if got := read(t, host, "memory.max"); got != "536870912" {
		t.Errorf("memory.max = %q, want 536870912", got)
	}
	if got := read(t, filepath.Dir(host), "cpu.weight"); got != "1600" {
		t.Errorf("the lab's cpu.weight = %q, want 1600", got)
	}
	// Controllers are passed on down to the host's group; what the host passes on is its libvirt's business, and a
	// group that passes on may hold no process, so the first one ends up in a leaf.
	for _, dir := range []string{root, filepath.Dir(host)} {
		if read(t, dir, "cgroup.subtree_control") == "" {
			t.Errorf("%s passes no controller on", dir)
		}
	}
	if _, err := os.Stat(filepath.Join(host, "cgroup.subtree_control")); err == nil {
		t.Error("the host's own group passes controllers on while its first process is in it")
	}
	if err := l.MoveToRoot("lab", "kvm1", 42); err != nil {
		t.Fatal(err)
	}
	if err := l.Move("lab", "kvm1", 43); err != nil {
		t.Fatal(err)
	}
	if got := read(t, host, "cgroup.procs") + " " + read(t, host, "init", "cgroup.procs"); got != "42 43" {
		t.Errorf("processes in the root and in the leaf: %q, want 42 43", got)
	}
	if diff := cmp.Diff([]Mount{{Type: "cgroup2", Target: "/sys/fs/cgroup"}}, l.Mounts()); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestV1OnAFakeTree(t *testing.T) {
	root := t.TempDir()
	l := Layout{Tree: []Hierarchy{
		{Path: filepath.Join(root, "cpu"), Controllers: []string{"cpu", "cpuacct"}},
		{Path: filepath.Join(root, "cpuset"), Controllers: []string{"cpuset"}},
	}}
	for _, h := range l.Tree {
		if err := os.Mkdir(h.Path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		if err := os.WriteFile(filepath.Join(root, "cpuset", f), []byte("0-1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Create("lab", "kvm1", Limits{CPUs: 0.5}); err != nil {
		t.Fatal(err)
	}
	cpu, cpuset := filepath.Join(root, "cpu/drover-lab-lab/kvm1"), filepath.Join(root, "cpuset/drover-lab-lab/kvm1")
	if got := read(t, cpu, "cpu.cfs_quota_us"); got != "50000" {
		t.Errorf("quota %q, want 50000", got)
	}
	if got := read(t, filepath.Dir(cpu), "cpu.shares"); got != "16384" {
		t.Errorf("the lab's shares %q, want 16384", got)
	}
	if got := read(t, filepath.Dir(cpu), realTimeFile) + " " + read(t, cpu, realTimeFile); got != "400000 90000" {
		t.Errorf("real time %q, want 400000 for the lab and 90000 for the host", got)
	}
	if got := read(t, cpuset, "cpuset.cpus"); got != "0-1" {
		t.Errorf("cpuset.cpus %q, want the parent's", got)
	}
	if err := l.Move("lab", "kvm1", 42); err != nil {
		t.Fatal(err)
	}
	if got := read(t, cpu, "cgroup.procs") + read(t, cpuset, "cgroup.procs"); got != "4242" {
		t.Errorf("processes %q, want 42 in both hierarchies", got)
	}
	want := []Mount{
		{Type: "tmpfs", Target: "/sys/fs/cgroup", Options: "mode=755"},
		{Type: "cgroup", Target: filepath.Join(root, "cpu"), Options: "cpu,cpuacct"},
		{Type: "cgroup", Target: filepath.Join(root, "cpuset"), Options: "cpuset"},
	}
	if diff := cmp.Diff(want, l.Mounts()); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestRemoveTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a")
	if err := os.MkdirAll(filepath.Join(root, "b", "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is gone is no error
		if err := removeTree(root); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("tree is still there: %v", err)
	}
}
