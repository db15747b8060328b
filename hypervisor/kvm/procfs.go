package kvm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"drover/hypervisor"
)

// procfs reads the kernel's own figures. Its root is /proc outside tests.
type procfs struct{ root string }

// jiffies are a CPU's clock ticks since boot.
type jiffies struct{ busy, total uint64 }

// cpu reads the sum over all CPUs. Time stolen by a hypervisor below and waiting for I/O are not
// busy; guest time is already inside user time.
func (p procfs) cpu() (jiffies, error) {
	text, err := os.ReadFile(filepath.Join(p.root, "stat"))
	if err != nil {
		return jiffies{}, err
	}
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	fields := strings.Fields(string(line))
	if len(fields) < 8 || fields[0] != "cpu" {
		return jiffies{}, errors.New("stat: no line for all CPUs")
	}
	var j jiffies
	for i, f := range fields[1:min(len(fields), 9)] { // the rest is guest time, counted already
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return jiffies{}, fmt.Errorf("stat: %w", err)
		}
		j.total += n
		const idle, iowait, steal = 3, 4, 7
		if i != idle && i != iowait && i != steal {
			j.busy += n
		}
	}
	return j, nil
}

// cpus counts the CPUs that are online.
func (p procfs) cpus() (int, error) {
	text, err := os.ReadFile(filepath.Join(p.root, "stat"))
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "cpu"); ok && rest != "" && rest[0] != ' ' {
			n++
		}
	}
	return n, nil
}

// memory reads the machine's memory and what of it is free for new use.
func (p procfs) memory() (total, available hypervisor.Bytes, err error) {
	f, err := os.Open(filepath.Join(p.root, "meminfo"))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = hypervisor.Bytes(n) * hypervisor.KiB
		case "MemAvailable:":
			available = hypervisor.Bytes(n) * hypervisor.KiB
		}
	}
	if total == 0 {
		return 0, 0, errors.New("meminfo: no MemTotal")
	}
	return total, available, scan.Err()
}

// pressure reads the stall shares; zero where the kernel has none.
func (p procfs) pressure() hypervisor.Pressure {
	return hypervisor.Pressure{CPU: p.stall("cpu"), Memory: p.stall("memory"), IO: p.stall("io")}
}

func (p procfs) stall(resource string) float64 {
	text, err := os.ReadFile(filepath.Join(p.root, "pressure", resource))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for _, field := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(field, "avg10="); ok {
			share, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return 0
			}
			return share
		}
	}
	return 0
}

// traffic reads an interface's byte counters since it came up. They are read from /proc, which
// follows the process's network namespace, where /sys may show another's.
func (p procfs) traffic(name string) (rx, tx uint64, err error) {
	text, err := os.ReadFile(filepath.Join(p.root, "self", "net", "dev"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		dev, counters, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(dev) != name {
			continue
		}
		fields := strings.Fields(counters)
		if len(fields) < 9 {
			break
		}
		rx, err1 := strconv.ParseUint(fields[0], 10, 64)
		tx, err2 := strconv.ParseUint(fields[8], 10, 64)
		return rx, tx, errors.Join(err1, err2)
	}
	return 0, 0, fmt.Errorf("no interface %q", name)
}

type mount struct{ dir, kind string }

func (p procfs) mounts() ([]mount, error) {
	text, err := os.ReadFile(filepath.Join(p.root, "self", "mounts"))
	if err != nil {
		return nil, err
	}
	var list []mount
	for line := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) >= 3 {
			list = append(list, mount{dir: strings.ReplaceAll(fields[1], `\040`, " "), kind: fields[2]})
		}
	}
	return list, nil
}
