//go:build bench

package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// machine watches what else the machine does while something is measured on it. Work that has itself
// scheduled only when a CPU is idle (SCHED_IDLE) is no harm, and counts as idle.
type machine struct {
	stop   chan struct{}
	done   sync.WaitGroup
	before [10]int64 // of /proc/stat
	others int64     // ticks of work of normal priority outside of the lab
}

// share is what a machine did, in percent of all its CPUs.
type share struct{ idle, others, stolen float64 }

func watchMachine(t *testing.T) *machine {
	m := &machine{stop: make(chan struct{}), before: cpuTicks(t)}
	m.done.Go(func() {
		seen := map[string]int64{}
		for first := true; ; first = false {
			m.sample(seen, first)
			select {
			case <-m.stop:
				m.sample(seen, false)
				return
			case <-time.After(time.Second):
			}
		}
	})
	return m
}

// end returns what was seen since the beginning.
func (m *machine) end(t *testing.T) share {
	close(m.stop)
	m.done.Wait()
	after, total := cpuTicks(t), int64(0)
	for i := range after {
		after[i] -= m.before[i]
		if i < 8 { // the last two are part of the first two
			total += after[i]
		}
	}
	percent := func(ticks int64) float64 { return 100 * float64(ticks) / float64(max(total, 1)) }
	const nice, idle, iowait, stolen = 1, 3, 4, 7
	return share{idle: percent(after[nice] + after[idle] + after[iowait]), others: percent(m.others), stolen: percent(after[stolen])}
}

// sample adds what processes used since the sample before. What lived for less than the time between
// two is missed.
func (m *machine) sample(seen map[string]int64, first bool) {
	own, _ := os.Readlink("/proc/self/ns/pid")
	self, _ := os.ReadFile("/proc/self/stat")
	me := parseStat(string(self))
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		text, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // gone
		}
		p := parseStat(string(text))
		ns, err := os.Readlink(dir + "/ns/pid")
		// Hosts of the lab have PID namespaces of their own; this benchmark's helpers share its session.
		if err != nil || ns != own || p.session == me.session || p.kernel || p.idle {
			continue
		}
		if was, ok := seen[dir]; ok || !first {
			m.others += max(p.ticks-was, 0)
		}
		seen[dir] = p.ticks
	}
}

// process is what /proc/PID/stat says.
type process struct {
	session      string
	ticks        int64
	kernel, idle bool
}

func parseStat(text string) process {
	_, rest, _ := strings.Cut(text[max(0, strings.LastIndex(text, ")")):], " ")
	f := strings.Fields(rest) // from the third field on, see proc(5)
	if len(f) < 39 {
		return process{kernel: true}
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i-3], 10, 64); return n }
	const idlePolicy, politeNice = 5, 10
	return process{
		session: f[6-3], ticks: number(14) + number(15),
		kernel: number(4) == 2 || number(4) == 0, idle: number(41) == idlePolicy || number(19) >= politeNice,
	}
}

func cpuTicks(t *testing.T) [10]int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var out [10]int64
	for i, f := range strings.Fields(line)[1:] {
		out[i], _ = strconv.ParseInt(f, 10, 64)
	}
	return out
}
