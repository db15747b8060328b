package throttle

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// group is the control group of one vCPU.
type group struct {
	vcpu int
	dir  string // of the cpu controller
	acct string // of the accounting, the same directory with v2
	top  string // the mount point above dir
	v2   bool
	// thread is the vCPU's, where it was found by that.
	thread int
}

// Names of the kernel's files.
const (
	quotaFile  = "cpu.cfs_quota_us"
	periodFile = "cpu.cfs_period_us"
	maxFile    = "cpu.max"
)

// writer replaces a control file's text. Tests put the kernel's rules here.
type writer func(path, text string) error

func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (g group) read() (Bandwidth, error) { return readBandwidth(g.dir, g.v2) }

func readBandwidth(dir string, v2 bool) (Bandwidth, error) {
	var quota, period string
	if v2 {
		text, err := os.ReadFile(filepath.Join(dir, maxFile))
		if err != nil {
			return Bandwidth{}, err
		}
		quota, period, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
	} else {
		q, err := os.ReadFile(filepath.Join(dir, quotaFile))
		if err != nil {
			return Bandwidth{}, err
		}
		p, err := os.ReadFile(filepath.Join(dir, periodFile))
		if err != nil {
			return Bandwidth{}, err
		}
		quota, period = strings.TrimSpace(string(q)), strings.TrimSpace(string(p))
	}
	b := Bandwidth{Quota: noLimit}
	us, err := strconv.ParseInt(period, 10, 64)
	if err != nil || us <= 0 {
		return Bandwidth{}, fmt.Errorf("%s: period %q", dir, period)
	}
	b.Period = time.Duration(us) * time.Microsecond
	if quota == "max" {
		return b, nil
	}
	if us, err = strconv.ParseInt(quota, 10, 64); err != nil {
		return Bandwidth{}, fmt.Errorf("%s: quota %q", dir, quota)
	}
	if us > 0 {
		b.Quota = time.Duration(us) * time.Microsecond
	}
	return b, nil
}

// noLimit is the quota of a group without one, as the v1 file says it.
const noLimit = -time.Microsecond

// write changes the group's bandwidth, if it is another.
func (g group) write(write writer, to Bandwidth) error {
	from, err := g.read()
	if err != nil || from == to {
		return err
	}
	if g.v2 {
		return g.rewrite(write, to)
	}
	files := [][2]string{{quotaFile, micros(to.Quota)}, {periodFile, micros(to.Period)}}
	if periodFirst(from, to) {
		files[0], files[1] = files[1], files[0]
	}
	for _, f := range files {
		if err := write(filepath.Join(g.dir, f[0]), f[1]); err != nil {
			return err
		}
	}
	return nil
}

// rewrite sets the bandwidth that the group has anew.
func (g group) rewrite(write writer, b Bandwidth) error {
	if !g.v2 {
		return write(filepath.Join(g.dir, quotaFile), micros(b.Quota))
	}
	quota := "max"
	if b.Quota > 0 {
		quota = micros(b.Quota)
	}
	return write(filepath.Join(g.dir, maxFile), quota+" "+micros(b.Period))
}

func micros(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// ceiling returns the smallest share that the groups above leave each of their members.
func (g group) ceiling() float64 {
	least := math.Inf(1)
	for dir := g.dir; dir != g.top && dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		// The topmost group may have no such file, and one without a limit says nothing.
		if b, err := readBandwidth(dir, g.v2); err == nil {
			least = min(least, b.Share())
		}
	}
	return least
}

// use reads the counters of the group.
func (g group) use() (VCPUUse, error) {
	u := VCPUUse{VCPU: g.vcpu}
	stat, err := readCounters(filepath.Join(g.dir, "cpu.stat"))
	if err != nil {
		return u, err
	}
	u.Periods, u.ThrottledPeriods = stat["nr_periods"], stat["nr_throttled"]
	if g.v2 {
		u.CPU = time.Duration(stat["usage_usec"]) * time.Microsecond
		u.Throttled = time.Duration(stat["throttled_usec"]) * time.Microsecond
		return u, nil
	}
	u.Throttled = time.Duration(stat["throttled_time"])
	text, err := os.ReadFile(filepath.Join(g.acct, "cpuacct.usage"))
	if err != nil {
		return u, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return u, fmt.Errorf("%s: %w", g.acct, err)
	}
	u.CPU = time.Duration(ns)
	return u, nil
}

func readCounters(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]int64{}
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		name, value, _ := strings.Cut(scan.Text(), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out[name] = n
	}
	return out, scan.Err()
}

// isGone says that a group's file is not there: its domain ended, or the vCPU was unplugged.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}
