// Package cgroup gives each lab host a control group of its own: its size in CPU and memory, and the root under
// which its libvirtd makes the guests' groups.
//
// Both layouts are known. With v1 a host has one directory in each mounted hierarchy that libvirt knows. With v2
// it has one directory, and its first process sits in the leaf "init" below, because a v2 group that passes controllers
// on may hold no process itself. Inside the host, [Layout.Mounts] shows that directory as the root of /sys/fs/cgroup.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drover/hypervisor"
)

// wanted are the v1 hierarchies a host gets; libvirt uses these if it may.
var wanted = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"}

// wantedV2 are the controllers a host may pass on to its guests.
var wantedV2 = []string{"cpu", "cpuset", "memory", "io", "pids"}

// Hierarchy is one mounted tree of groups.
type Hierarchy struct {
	Path        string   `json:"path"`
	Controllers []string `json:"controllers,omitempty"` // v1 only
}

// Layout is how this machine's control groups are mounted.
type Layout struct {
	V2   bool        `json:"v2"`
	Tree []Hierarchy `json:"tree"` // one for v2
}

// Limits are a host's size; zero means no limit.
type Limits struct {
	CPUs   hypervisor.Cores
	Memory hypervisor.Bytes
}

// ErrNone says that no usable hierarchy is mounted.
var ErrNone = errors.New("no usable control groups are mounted at /sys/fs/cgroup")

// Detect reads the machine's layout.
func Detect() (Layout, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("control groups: %w", err)
	}
	defer f.Close()
	return detect(f)
}

// detect prefers v1 where the cpu controller is mounted there: a hybrid machine's v2 tree lacks it then.
func detect(mountinfo io.Reader) (Layout, error) {
	var v1, v2 Layout
	v2.V2 = true
	sc := bufio.NewScanner(mountinfo)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 || !strings.HasPrefix(l[4], "/sys/fs/cgroup") {
			continue
		}
		switch r[0] {
		case "cgroup":
			var have []string
			for _, opt := range strings.Split(r[2], ",") {
				if slices.Contains(wanted, opt) {
					have = append(have, opt)
				}
			}
			if len(have) > 0 && !slices.ContainsFunc(v1.Tree, func(h Hierarchy) bool { return h.Controllers[0] == have[0] }) {
				v1.Tree = append(v1.Tree, Hierarchy{Path: l[4], Controllers: have})
			}
		case "cgroup2":
			if len(v2.Tree) == 0 {
				v2.Tree = append(v2.Tree, Hierarchy{Path: l[4]})
			}
		}
	}
	if err := sc.Err(); err != nil {
		return Layout{}, fmt.Errorf("control groups: %w", err)
	}
	if slices.ContainsFunc(v1.Tree, func(h Hierarchy) bool { return slices.Contains(h.Controllers, "cpu") }) {
		return v1, nil
	}
	if len(v2.Tree) > 0 {
		return v2, nil
	}
	return Layout{}, ErrNone
}

// LabGroup is the name of the group that holds a lab's hosts.
func LabGroup(lab string) string { return "drover-lab-" + lab }

func (l Layout) hostDir(h Hierarchy, lab, host string) string {
	return filepath.Join(h.Path, LabGroup(lab), host)
}

// leaf is where the host's processes go.
func (l Layout) leaf(h Hierarchy, lab, host string) string {
	if l.V2 {
		return filepath.Join(l.hostDir(h, lab, host), "init")
	}
	return l.hostDir(h, lab, host)
}

// Create makes the host's groups, empty of what an earlier life of the host may have left, with the given limits.
func (l Layout) Create(lab, host string, lim Limits) error {
	if err := l.RemoveHost(lab, host); err != nil {
		return err
	}
	for _, h := range l.Tree {
		dir := l.hostDir(h, lab, host)
		if l.V2 {
			passOn(h.Path)
		}
		for _, d := range []string{filepath.Dir(dir), dir} {
			if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("create control group: %w", err)
			}
			if slices.Contains(h.Controllers, "cpuset") {
				if err := inheritCPUSet(d); err != nil {
					return err
				}
			}
			if l.V2 && d != dir {
				passOn(d)
			}
		}
		if l.V2 {
			if err := os.Mkdir(filepath.Join(dir, "init"), 0o755); err != nil {
				return fmt.Errorf("create control group: %w", err)
			}
		}
	}
	if err := l.weigh(lab); err != nil {
		return err
	}
	l.allowRealTime(lab, host)
	return l.limit(lab, host, lim)
}

// What a lab and one of its hosts may use of each second in real time, in microseconds.
const (
	realTimeOfLab  = 400_000
	realTimeOfHost = 90_000
	realTimeFile   = "cpu.rt_runtime_us"
)

// allowRealTime gives a host what it has where no group bounds real-time scheduling, which is nearly everywhere: a v1
// kernel with CONFIG_RT_GROUP_SCHED gives new groups nothing. What can't be had, as beside many other labs, is gone
// without: the agent says so.
func (l Layout) allowRealTime(lab, host string) {
	for _, h := range l.Tree {
		if l.V2 || !slices.Contains(h.Controllers, "cpu") {
			continue
		}
		dir := l.hostDir(h, lab, host)
		_ = os.WriteFile(filepath.Join(filepath.Dir(dir), realTimeFile), []byte(strconv.Itoa(realTimeOfLab)), 0o644)
		_ = os.WriteFile(filepath.Join(dir, realTimeFile), []byte(strconv.Itoa(realTimeOfHost)), 0o644)
	}
}

// weight of a lab's group, in processes outside of it. All groups below it share it: a lab stands for
// several machines, and with the weight of one process it would stand nearly still beside a compiler.
const weight = 16

// weigh gives a lab's group its weight where the kernel has one; what its hosts may use at most stays.
func (l Layout) weigh(lab string) error {
	for _, h := range l.Tree {
		file, value := "cpu.shares", 1024*weight
		if l.V2 {
			file, value = "cpu.weight", 100*weight
		} else if !slices.Contains(h.Controllers, "cpu") {
			continue
		}
		err := os.WriteFile(filepath.Join(h.Path, LabGroup(lab), file), []byte(strconv.Itoa(value)), 0o644)
		// A v2 kernel whose cpu controller v1 holds has no such file, and lets none be made.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("weigh control group: %w", err)
		}
	}
	return nil
}

// passOn makes a v2 group's controllers available below it. Each is tried by itself: one that this kernel lacks, or
// that v1 holds, must not keep the others away. What is missing in the end shows when a limit is written.
func passOn(dir string) {
	for _, c := range wantedV2 {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// inheritCPUSet copies the parent's processors and memory nodes: a new v1 cpuset has none and takes no process.
func inheritCPUSet(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("create control group: %w", err)
		}
	}
	return nil
}

// period is the kernel's default scheduling period.
const period = 100 * time.Millisecond

func (l Layout) limit(lab, host string, lim Limits) error {
	quota := strconv.FormatInt(int64(float64(lim.CPUs)*float64(period.Microseconds())), 10)
	perPeriod := strconv.FormatInt(period.Microseconds(), 10)
	for _, h := range l.Tree {
		var files [][2]string
		if lim.CPUs > 0 {
			switch {
			case l.V2:
				files = append(files, [2]string{"cpu.max", quota + " " + perPeriod})
			case slices.Contains(h.Controllers, "cpu"):
				files = append(files, [2]string{"cpu.cfs_period_us", perPeriod}, [2]string{"cpu.cfs_quota_us", quota})
			}
		}
		if lim.Memory > 0 {
			bytes := strconv.FormatInt(int64(lim.Memory), 10)
			switch {
			case l.V2:
				files = append(files, [2]string{"memory.max", bytes})
			case slices.Contains(h.Controllers, "memory"):
				files = append(files, [2]string{"memory.limit_in_bytes", bytes})
			}
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(l.hostDir(h, lab, host), f[0]), []byte(f[1]), 0o644); err != nil {
				return fmt.Errorf("limit host %s: %w", host, err)
			}
		}
	}
	return nil
}

// Move puts the process pid into the host's groups.
func (l Layout) Move(lab, host string, pid int) error {
	return l.move(lab, host, pid, l.leaf)
}

// MoveToRoot puts the process where a cgroup namespace of the host must be made, which for v2 is one above the leaf.
// Follow with [Layout.Move] once the namespace is there.
func (l Layout) MoveToRoot(lab, host string, pid int) error {
	return l.move(lab, host, pid, l.hostDir)
}

func (l Layout) move(lab, host string, pid int, where func(Hierarchy, string, string) string) error {
	for _, h := range l.Tree {
		file := filepath.Join(where(h, lab, host), "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("move process into the groups of %s: %w", host, err)
		}
	}
	return nil
}

// Mount is one file system that a host mounts to see its own groups as the root.
type Mount struct {
	Type    string `json:"type"`
	Target  string `json:"target"`
	Options string `json:"options,omitempty"`
}

// Mounts lists what a host mounts, in order, below a fresh /sys, after it entered its cgroup namespace.
func (l Layout) Mounts() []Mount {
	if l.V2 {
		return []Mount{{Type: "cgroup2", Target: "/sys/fs/cgroup"}}
	}
	ms := []Mount{{Type: "tmpfs", Target: "/sys/fs/cgroup", Options: "mode=755"}}
	for _, h := range l.Tree {
		ms = append(ms, Mount{Type: "cgroup", Target: h.Path, Options: strings.Join(h.Controllers, ",")})
	}
	return ms
}

// RemoveHost deletes a host's groups and all below. Its processes must be gone, or about to go.
func (l Layout) RemoveHost(lab, host string) error {
	for _, h := range l.Tree {
		if err := removeTree(l.hostDir(h, lab, host)); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

// Remove deletes all groups of a lab.
func (l Layout) Remove(lab string) error {
	for _, h := range l.Tree {
		if err := removeTree(filepath.Join(h.Path, LabGroup(lab))); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

// busyWait is how long a group whose processes were killed may stay busy: the kernel empties it a little later.
const busyWait = 3 * time.Second

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(busyWait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}
