//go:build bench

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
)

// timing is one timed migration of the overhead benchmark.
type timing struct {
	Workload string  `json:"workload"`
	How      string  `json:"how"` // drover or bare
	Seconds  float64 `json:"seconds"`
	// Of a migration by drover: from its request to the libvirt call, and from there to its end.
	Waited   float64 `json:"waited,omitempty"`
	Migrated float64 `json:"migrated,omitempty"`
}

// TestOverhead times `drover migrate --wait` against a bare libvirt migration with the same
// parameters, in turn, and prints medians, spread and ratio.
func TestOverhead(t *testing.T) {
	l := begin(t, "1gbit")
	runs := 10
	if n, err := strconv.Atoi(os.Getenv("DROVER_RUNS")); err == nil {
		runs = n
	}
	workloads := map[string][]string{
		"idle-128": {"--memory", "128MiB", "--wss", "16MiB", "--pattern", "idle"},
		"page-512": {"--memory", "640MiB", "--wss", "280MiB", "--rate", "500", "--pattern", "page"},
	}
	var all []timing
	for _, name := range []string{"idle-128", "page-512"} {
		if !regexp.MustCompile(env("DROVER_CELLS", ".")).MatchString(name) {
			continue
		}
		l.Guest(t, name, "kvm1", workloads[name]...)
		for i := range 2 * runs {
			from, to := l.Hosts[i%2], l.Hosts[(i+1)%2]
			one := timing{Workload: name, How: "drover"}
			if (i/2)%2 == 0 {
				r := l.Drover(t.Context(), "migrate", name, "--to", to, "--wait")
				if r.Code != 0 {
					t.Fatal(r)
				}
				m := l.Last(t, name)
				one.Seconds, one.Waited, one.Migrated = r.Took.Seconds(), m.Started.Sub(m.Created).Seconds(), m.Finished.Sub(*m.Started).Seconds()
				if one.Seconds > 7 {
					t.Logf("a slow one:\n%s", l.MustDrover(t, "migration", "show", m.ID).Stdout)
				}
			} else {
				one.How = "bare"
				one.Seconds = l.bare(t, name, from, to).Seconds()
			}
			all = append(all, one)
		}
		d, b := of(all, name, "drover"), of(all, name, "bare")
		md, mb := median(d), median(b)
		t.Logf("%-10s drover %.2f s (%.2f to %.2f), bare %.2f s (%.2f to %.2f), overhead %+.2f s, %+.0f %%", name,
			md, slices.Min(d), slices.Max(d), mb, slices.Min(b), slices.Max(b), md-mb, 100*(md/mb-1))
		if md-mb > max(0.3, 0.1*mb) {
			t.Errorf("%s: overhead over 10 %% and 0.3 s", name)
		}
	}
	text, _ := json.MarshalIndent(all, "", "  ")
	if err := os.WriteFile(l.Build+"/overhead.json", text, 0o644); err != nil {
		t.Error(err)
	}
}

// bare migrates by virsh alone, with what drover would have ordered.
func (l *Lab) bare(t *testing.T, guest, from, to string) time.Duration {
	t.Helper()
	var env struct {
		Hosts []struct {
			Name          string `json:"name"`
			MigrationAddr string `json:"migration_address"`
		} `json:"hosts"`
	}
	unmarshal(t, l.Do(t, "env", "-o", "json"), &env)
	addr := ""
	for _, h := range env.Hosts {
		if h.Name == to {
			addr = h.MigrationAddr
		}
	}
	l.Virsh(t, from, "migrate-setmaxdowntime", guest, "20")
	began := time.Now()
	l.Virsh(t, from, "migrate", "--live", "--p2p", "--persistent", "--undefinesource", "--tls", "--tls-destination", to,
		"--bandwidth", fmt.Sprint(int64(0.90*1e9/8)>>20), "--migrateuri", "tcp://"+addr, guest, "qemu+tls://"+to+"/system")
	took := time.Since(began)
	l.Eventually(t, 10*time.Second, "drover sees "+guest+" on "+to+" only", func() bool {
		var vms []struct {
			Name string `json:"name"`
			Host string `json:"host"`
		}
		unmarshal(t, l.MustDrover(t, "vm", "list", "-o", "json").Stdout, &vms)
		there, elsewhere := false, false
		for _, v := range vms {
			there = there || v.Name == guest && v.Host == to
			elsewhere = elsewhere || v.Name == guest && v.Host != to
		}
		return there && !elsewhere
	})
	return took
}

func of(all []timing, workload, how string) []float64 {
	var out []float64
	for _, x := range all {
		if x.Workload == workload && x.How == how {
			out = append(out, x.Seconds)
		}
	}
	return out
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// TestAgentCost measures the agent's anonymous memory and CPU on a host with 20 guests.
func TestAgentCost(t *testing.T) {
	l := begin(t, "1gbit")
	for i := range 20 {
		l.Guest(t, fmt.Sprintf("many%d", i), "kvm1", "--memory", "128MiB", "--wss", "16MiB", "--pattern", "idle", "--beat", "100ms")
	}
	time.Sleep(20 * time.Second)
	pid := l.agentPID(t, "kvm1")
	before := l.cpuTime(t, "kvm1", pid)
	const window = 60 * time.Second
	time.Sleep(window)
	used := l.cpuTime(t, "kvm1", pid) - before
	percent := 100 * used.Seconds() / window.Seconds()
	status := l.Do(t, "exec", "kvm1", "--", "cat", fmt.Sprintf("/proc/%d/status", pid))
	var anon hypervisor.Bytes
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			n, _ := strconv.Atoi(f[1])
			anon = hypervisor.Bytes(n) * hypervisor.KiB
		}
	}
	t.Logf("agent with 20 guests: %s anonymous memory, %.2f %% of a core", anon, percent)
	if anon > 25*hypervisor.MiB || percent > 1 {
		t.Errorf("want below 25 MiB and 1 %%")
	}
}

func (l *Lab) agentPID(t *testing.T, host string) int {
	t.Helper()
	var daemons []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	}
	unmarshal(t, l.Do(t, "ps", host, "-o", "json"), &daemons)
	for _, d := range daemons {
		if d.Name == "agent" {
			return d.PID
		}
	}
	t.Fatalf("no agent on %s", host)
	return 0
}

// cpuTime is the user and system time of a process, from fields 14 and 15 of its stat (100 per second).
func (l *Lab) cpuTime(t *testing.T, host string, pid int) time.Duration {
	t.Helper()
	stat := l.Do(t, "exec", host, "--", "cat", fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
