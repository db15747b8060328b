package throttle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drover/hypervisor"
)

// Errors that callers branch on.
var (
	// ErrNotRunning: no QEMU process on this host runs the domain, or it ended since.
	ErrNotRunning = errors.New("no QEMU process of this domain runs here")
	// ErrNoGroups: libvirt gave the domain's vCPUs no control groups of their own (its setting
	// cgroup_controllers lacks cpu or cpuacct, or this is a session daemon), so it can't be throttled.
	ErrNoGroups = errors.New("libvirt made no CPU control groups for this domain's vCPUs")
	// ErrAmbiguous: several QEMU processes run the domain, as two hosts of one lab seen from outside do.
	ErrAmbiguous = errors.New("several QEMU processes run this domain")
	// ErrBusy: the domain is throttled already, by this process or by another that lives.
	ErrBusy = errors.New("the domain is throttled by somebody else")
	// ErrUnguarded: the watchdog could not be started, so nothing may be throttled.
	ErrUnguarded = errors.New("no watchdog to give the CPU quota back")
)

// process is a process for good: pids come back, start times do not.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks from boot to its start
}

// kernel is where the kernel's files are. Tests have a tree of their own.
type kernel struct {
	proc  string // /proc
	write writer
}

var realKernel = kernel{proc: "/proc", write: writeFile}

func (k kernel) path(pid int, rest ...string) string {
	return filepath.Join(append([]string{k.proc, strconv.Itoa(pid)}, rest...)...)
}

func (k kernel) bootID() (string, error) {
	text, err := os.ReadFile(filepath.Join(k.proc, "sys/kernel/random/boot_id"))
	return strings.TrimSpace(string(text)), err
}

// stat returns the fields of a process's or a thread's stat file from the state on, up to the last one that is needed at
// least.
func stat(file string, last int) ([][]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// The command's name stands in parentheses and may hold anything, parentheses too.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= last {
		return nil, fmt.Errorf("%s: too short", file)
	}
	return fields, nil
}

// identify returns the process that has the pid now, and whether it still does something: a killed
// process stays for its parent to see but has ended.
func (k kernel) identify(pid int) (process, bool, error) {
	const state, start = 0, 19
	fields, err := stat(k.path(pid, "stat"), start)
	if err != nil {
		return process{}, false, err
	}
	ticks, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return process{}, false, fmt.Errorf("%s: %w", k.path(pid, "stat"), err)
	}
	alive := !strings.Contains("ZXx", string(fields[state]))
	return process{PID: pid, Start: ticks}, alive, nil
}

func (k kernel) lives(p process) bool {
	now, alive, err := k.identify(p.PID)
	return err == nil && alive && now == p
}

// find returns the domain's QEMU process and its vCPUs' groups, in order of their numbers. The
// process is found by its arguments: a pid file's name depends on the domain's name and on where
// this libvirt keeps its state, and can be left over. Other processes may carry the same arguments,
// but only QEMU's threads are in groups of that name.
func (k kernel) find(id hypervisor.DomainID) (process, []group, error) {
	mounts, err := k.mounts()
	if err != nil {
		return process{}, nil, err
	}
	procs, err := os.ReadDir(k.proc)
	if err != nil {
		return process{}, nil, err
	}
	var found process
	var groups []group
	seen := false
	args := []byte("\x00-uuid\x00" + string(id) + "\x00")
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(k.path(pid, "cmdline"))
		if err != nil || !bytes.Contains(cmdline, args) {
			continue
		}
		p, alive, err := k.identify(pid)
		if err != nil || !alive {
			continue
		}
		seen = true
		gs, err := k.groups(pid, mounts)
		if err != nil || len(gs) == 0 {
			continue
		}
		if groups != nil {
			return process{}, nil, ErrAmbiguous
		}
		found, groups = p, gs
	}
	switch {
	case !seen:
		return process{}, nil, ErrNotRunning
	case groups == nil:
		return process{}, nil, ErrNoGroups
	}
	return found, groups, nil
}

// groups returns the groups of the process's vCPU threads.
func (k kernel) groups(pid int, mounts []cgroupMount) ([]group, error) {
	tasks, err := os.ReadDir(k.path(pid, "task"))
	if err != nil {
		return nil, err
	}
	byVCPU := map[int]group{}
	for _, t := range tasks {
		text, err := os.ReadFile(k.path(pid, "task", t.Name(), "cgroup"))
		if err != nil {
			continue // a thread that ended meanwhile
		}
		if g, ok := locate(parseCgroup(string(text)), mounts); ok {
			g.thread, _ = strconv.Atoi(t.Name())
			byVCPU[g.vcpu] = g
		}
	}
	out := make([]group, 0, len(byVCPU))
	for _, g := range byVCPU {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b group) int { return a.vcpu - b.vcpu })
	return out, nil
}

// locate finds a thread's group below the mounts, if it is a vCPU's and has a bandwidth. Version 1 is
// tried first: where cpu is mounted there, the v2 tree lacks it.
func locate(member map[string]string, mounts []cgroupMount) (group, bool) {
	number, ok := strings.CutPrefix(path.Base(member["cpu"]), "vcpu")
	v2 := !ok
	if v2 {
		number, ok = strings.CutPrefix(path.Base(member[unified]), "vcpu")
	}
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return group{}, false
	}
	controllers := [2]string{"cpu", "cpuacct"}
	if v2 {
		controllers = [2]string{unified, unified}
	}
	dir, top, ok := under(controllers[0], member, mounts)
	acct, _, okAcct := under(controllers[1], member, mounts)
	g := group{vcpu: n, dir: dir, acct: acct, top: top, v2: v2}
	if !ok || !okAcct {
		return group{}, false
	}
	if _, err := g.read(); err != nil {
		return group{}, false
	}
	return g, true
}

// under returns the directory of the group that the controller's hierarchy has the thread in, and the
// mount point above it.
func under(controller string, member map[string]string, mounts []cgroupMount) (dir, top string, ok bool) {
	for _, m := range mounts {
		if !slices.Contains(m.controllers, controller) {
			continue
		}
		rel, inside := strings.CutPrefix(member[controller], strings.TrimSuffix(m.root, "/"))
		// A group outside our control group namespace reads "/../…".
		if !inside || !strings.HasPrefix(rel, "/") || strings.HasPrefix(rel, "/..") {
			continue
		}
		return filepath.Join(m.point, rel), m.point, true
	}
	return "", "", false
}

// unified stands for a controller's name where the hierarchy is version 2.
const unified = ""

// parseCgroup reads a thread's file: lines of "number:controllers:path".
func parseCgroup(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			out[c] = parts[2]
		}
	}
	return out
}

// cgroupMount is one mounted hierarchy, or a part of one.
type cgroupMount struct {
	root, point string
	controllers []string
}

func (k kernel) mounts() ([]cgroupMount, error) {
	text, err := os.ReadFile(filepath.Join(k.proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text)), nil
}

func parseMounts(text string) []cgroupMount {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []cgroupMount
	for line := range strings.SplitSeq(text, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		m := cgroupMount{root: unescape.Replace(l[3]), point: unescape.Replace(l[4])}
		switch r[0] {
		case "cgroup":
			m.controllers = strings.Split(r[2], ",")
		case "cgroup2":
			m.controllers = []string{unified}
		default:
			continue
		}
		out = append(out, m)
	}
	return out
}
