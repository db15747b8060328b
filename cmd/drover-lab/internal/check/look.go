package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"drover/cmd/drover-lab/internal/cgroup"
	"drover/cmd/drover-lab/internal/guest"
)

// hostView is one host as seen from the machine.
type hostView struct {
	name   string
	pid    int      // of its first process
	active []string // names of its active domains
}

// guestNameRE finds the domain's name in QEMU's arguments.
var guestNameRE = regexp.MustCompile(`\x00-name\x00guest=([^,\x00]+)`)

// processes are QEMUs in the host's pid namespace that belong to no active domain.
func (h hostView) processes() ([]Leftover, error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.pid))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if its, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || its != ns {
			continue // another host's, or gone
		}
		// The name of the process is cut to 15 characters.
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || !strings.HasPrefix(string(comm), "qemu-system") {
			continue
		}
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		name := "?"
		if m := guestNameRE.FindSubmatch(args); m != nil {
			name = string(m[1])
		} else if !strings.Contains(string(args), "\x00-incoming\x00") && len(args) > 0 {
			continue // libvirt asking a QEMU for its capabilities
		}
		if !slices.Contains(h.active, name) {
			found = append(found, Leftover{Host: h.name, Kind: KindProcess, What: "QEMU " + e.Name() + " of " + name, Why: "its domain is not active"})
		}
	}
	return found, nil
}

// domainGroupRE is libvirt's name for a domain's group: qemu-ID-NAME.libvirt-qemu.
var domainGroupRE = regexp.MustCompile(`^qemu-\d+-(.+)\.libvirt-qemu$`)

// groups are control groups of domains that are not active.
func (h hostView) groups(lab string) ([]Leftover, error) {
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, t := range layout.Tree {
		root := filepath.Join(t.Path, cgroup.LabGroup(lab), h.name, "machine")
		entries, err := os.ReadDir(root)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return found, err
		}
		for _, e := range entries {
			m := domainGroupRE.FindStringSubmatch(e.Name())
			if m != nil && !slices.Contains(h.active, m[1]) {
				found = append(found, Leftover{Host: h.name, Kind: KindCgroup, What: filepath.Join(root, e.Name()), Why: "its domain is not active"})
			}
		}
	}
	return found, nil
}

var domainDirRE = regexp.MustCompile(`^domain-\d+-(.+)$`)

// runtimeFiles are what libvirt keeps for a running domain and should delete with it.
func (h hostView) runtimeFiles() ([]Leftover, error) {
	root := fmt.Sprintf("/proc/%d/root", h.pid)
	var found []Leftover
	look := func(dir string, domain func(string) (string, bool)) error {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, e := range entries {
			if name, ok := domain(e.Name()); ok && !slices.Contains(h.active, name) {
				found = append(found, Leftover{Host: h.name, Kind: KindFile, What: filepath.Join(dir, e.Name()), Why: "its domain is not active"})
			}
		}
		return err
	}
	status := func(file string) (string, bool) {
		if name, ok := strings.CutSuffix(file, ".xml"); ok {
			return name, true
		}
		name, ok := strings.CutSuffix(file, ".pid")
		return name, ok && name != "driver"
	}
	err := errors.Join(
		look("/run/libvirt/qemu", status),
		look("/var/lib/libvirt/qemu", func(file string) (string, bool) {
			m := domainDirRE.FindStringSubmatch(file)
			if m == nil {
				return "", false
			}
			return m[1], true
		}))
	return found, err
}

// guestFileRE takes a guest's name out of the names of its files.
var guestFileRE = regexp.MustCompile(`^(.+)\.(serial|xml|qcow2)$`)

// sharedFiles are files in the shared directory that belong to no guest.
func sharedFiles(dir string, known []guest.Status) ([]Leftover, error) {
	return strayFiles("", dir, func(name string) string {
		if slices.ContainsFunc(known, func(g guest.Status) bool { return g.Name == name }) {
			return ""
		}
		return "the lab has no such guest"
	})
}

// privateImages are disks on a host that belong to no guest there.
func privateImages(host, dir string, known []guest.Status) ([]Leftover, error) {
	return strayFiles(host, dir, func(name string) string {
		i := slices.IndexFunc(known, func(g guest.Status) bool { return g.Name == name })
		if i < 0 {
			return "the lab has no such guest"
		}
		g := known[i]
		here := func(p guest.Place) bool { return p.Host == host }
		if slices.ContainsFunc(g.RunsOn, here) || slices.Contains(g.DefinedOn, host) || slices.Contains(g.Prepare, host) {
			return ""
		}
		return "the guest is on another host"
	})
}

func strayFiles(host, dir string, why func(guest string) string) ([]Leftover, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, e := range entries {
		reason := "not a guest's file"
		if m := guestFileRE.FindStringSubmatch(e.Name()); m != nil {
			reason = why(m[1])
		}
		if reason != "" {
			found = append(found, Leftover{Host: host, Kind: KindFile, What: filepath.Join(dir, e.Name()), Why: reason})
		}
	}
	return found, nil
}
