// Command plan compares drover's planner with hbal, the balancer of Ganeti, on hbal's own score, and measures
// its speed. See README.md for what is compared and how to read the table.
//
// It needs Debian's python3, python3-numpy and ganeti-htools, and a built drover.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// python is Debian's, which has Debian's numpy; the first one in the path may be another.
const python = "/usr/bin/python3"

type bench struct {
	scripts, drover, dir string
	first                int
	seeds                int
}

func main() {
	b := bench{}
	flag.StringVar(&b.scripts, "scripts", "test/bench/plan", "`folder` of the scripts")
	flag.StringVar(&b.drover, "drover", "build/drover", "the `program` to measure")
	flag.StringVar(&b.dir, "dir", "build/bench-plan", "`folder` for clusters and plans")
	flag.IntVar(&b.seeds, "seeds", 20, "`number` of clusters per size")
	flag.IntVar(&b.first, "first", 1001, "`seed` of the first cluster")
	sizes := flag.String("sizes", "50x1000,100x3000", "HOSTSxVMS,... to compare on; empty for none")
	speed := flag.String("speed", "100x3000,200x8000,1000x20000,2000x50000", "HOSTSxVMS,... to measure speed on")
	flag.Parse()
	if err := b.run(*sizes, *speed); err != nil {
		fmt.Fprintln(os.Stderr, "plan:", err)
		os.Exit(1)
	}
}

// report is what is written as JSON.
type report struct {
	Machine string    `json:"machine"`
	Cases   []outcome `json:"cases"`
	Medians []summary `json:"medians"`
	Speed   []timing  `json:"speed"`
}

func (b *bench) run(sizes, speed string) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	var r report
	r.Machine = machine()
	if err := b.sameAsHbal(); err != nil {
		return err
	}
	for _, s := range split(sizes) {
		size, err := parseSize(s)
		if err != nil {
			return err
		}
		var cases []outcome
		for k := range b.seeds {
			o, err := b.compare(size, b.first+k)
			if err != nil {
				return fmt.Errorf("%s seed %d: %w", s, b.first+k, err)
			}
			fmt.Println(o)
			cases = append(cases, o)
		}
		r.Cases = append(r.Cases, cases...)
		m := summarise(s, cases)
		fmt.Print(m)
		r.Medians = append(r.Medians, m)
	}
	for _, s := range split(speed) {
		size, err := parseSize(s)
		if err != nil {
			return err
		}
		ts, err := b.speed(size)
		if err != nil {
			return err
		}
		r.Speed = append(r.Speed, ts...)
	}
	if len(r.Speed) > 0 {
		fmt.Print(timings(r.Speed))
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	out := b.dir + ".json"
	fmt.Println("written:", out)
	return os.WriteFile(out, append(text, '\n'), 0o644)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func machine() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	model, cores := "", 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "processor":
			cores++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("%d x %s", cores, model)
}

// size is hosts and VMs.
type size struct{ hosts, vms int }

func parseSize(s string) (z size, err error) {
	if _, err = fmt.Sscanf(s, "%dx%d", &z.hosts, &z.vms); err != nil {
		err = fmt.Errorf("size %q: want HOSTSxVMS", s)
	}
	return z, err
}

func (z size) String() string { return fmt.Sprintf("%dx%d", z.hosts, z.vms) }

// cluster writes one, unless it is there, and returns its path without an ending.
func (b *bench) cluster(z size, seed int, more ...string) (string, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("%s-%d%s", z, seed, strings.Join(more, "")))
	if _, err := os.Stat(path + ".json"); err == nil {
		return path, nil
	}
	args := append([]string{"--hosts", strconv.Itoa(z.hosts), "--vms", strconv.Itoa(z.vms), "--seed", strconv.Itoa(seed), "--out", path}, more...)
	_, err := b.script("cluster.py", args...)
	return path, err
}

// script runs one of the scripts and returns what it printed.
func (b *bench) script(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(python, append([]string{filepath.Join(b.scripts, name)}, args...)...)
	cmd.Env = append(os.Environ(), "OPENBLAS_NUM_THREADS=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}

// used is what a run of drover took.
type used struct {
	Wall, CPU time.Duration
	PeakMiB   float64
}

// plan runs drover plan and writes its answer to a file.
func (b *bench) plan(cluster, out string, args ...string) (used, error) {
	cmd := exec.Command(b.drover, append([]string{"plan", "--from", cluster + ".json", "-o", "json"}, args...)...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	text, err := cmd.Output()
	// 3 is a plan that falls short of what was asked, which the scores tell.
	if err != nil && cmd.ProcessState.ExitCode() != 3 {
		return used{}, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	u := used{Wall: time.Since(start), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.PeakMiB = float64(usage.Maxrss) / 1024
	}
	return u, os.WriteFile(out, text, 0o644)
}
