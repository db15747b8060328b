package lab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// hosts is the lab that all tests of one run share.
var hosts *Lab

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// hostCount is three, unless a benchmark needs more.
func hostCount() int {
	if n, err := strconv.Atoi(os.Getenv("DROVER_HOSTS")); err == nil && n > 0 {
		return n
	}
	return 3
}

func runTests(m *testing.M) int {
	var err error
	if hosts, err = Up(labName(), Options{Hosts: hostCount(), Shape: "1gbit", CPUs: labCPUs()}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := hosts.Down(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// labCPUs is the size of the hosts; no limit unless it is given.
func labCPUs() float64 {
	cpus, _ := strconv.ParseFloat(os.Getenv("DROVER_LAB_CPUS"), 64)
	return cpus
}

// begin prepares a test: links at the rate, and logs if it fails.
func begin(t *testing.T, rate string) *Lab {
	t.Helper()
	hosts.Do(t, "shape", "all", rate)
	hosts.open(t)
	t.Cleanup(func() {
		if t.Failed() {
			hosts.Logs(t)
		}
	})
	return hosts
}

// open opens the hosts that a drain has left closed, brings nothing back, and waits until all may take part.
func (l *Lab) open(t *testing.T) {
	t.Helper()
	if out := l.MustDrover(t, "host", "list", "-o", "json").Stdout; strings.Contains(out, fleet.RunHolder) {
		l.MustDrover(t, append([]string{"host", "restore", "--none", "--wait"}, l.Hosts...)...)
	}
	l.Ready(t)
}

// busy are the flags of a guest that takes some seconds to move over a slow link.
var busy = []string{"--memory", "256MiB", "--wss", "96MiB", "--rate", "800", "--pattern", "page"}

// idle are those of a guest that moves in a moment.
var idle = []string{"--memory", "128MiB", "--wss", "16MiB", "--pattern", "idle"}

func TestMigrateByOneCommand(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "one", "kvm1", "--memory", "256MiB", "--wss", "64MiB", "--rate", "1000", "--pattern", "word", "--disk", "shared")
	for _, leg := range [][2]string{{"kvm1", "kvm2"}, {"kvm2", "kvm3"}, {"kvm3", "kvm1"}} {
		r := l.Drover(t.Context(), "migrate", "one", "--to", leg[1], "--wait")
		if r.Code != 0 {
			t.Fatalf("migrate: %s", r)
		}
		m := l.Last(t, "one")
		if m.Phase != precopy.Done || m.Source != leg[0] || m.Target != leg[1] {
			t.Errorf("record: %s from %s to %s, want done from %s to %s", m.Phase, m.Source, m.Target, leg[0], leg[1])
		}
		if o := m.Outcome; o == nil || !o.PauseKnown || o.Bytes < 32<<20 || o.Seconds <= 0 || o.Rounds < 1 {
			t.Errorf("outcome %+v: want pause, bytes, seconds and rounds", m.Outcome)
		}
		l.OnOnly(t, "one", leg[1])
	}
}

func TestTargetIsChosenWhenNotNamed(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "any", "kvm1", idle...)
	if r := l.Drover(t.Context(), "migrate", "--wait", "any"); r.Code != 0 {
		t.Fatalf("migrate: %s", r)
	}
	if m := l.Last(t, "any"); m.Target != "kvm2" && m.Target != "kvm3" {
		t.Errorf("target %q, want another host", m.Target)
	}
}

func TestCancelInTheMiddle(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "stay", "kvm1", busy...)
	l.MustDrover(t, "migrate", "stay", "--to", "kvm2")
	m := l.WaitPhase(t, "stay", time.Minute, precopy.Copying)
	time.Sleep(time.Second)
	l.MustDrover(t, "migration", "cancel", m.ID, "--as", "eve@desk", "--reason", "changed my mind")
	m = l.WaitPhase(t, "stay", time.Minute, precopy.Aborted, precopy.Done, precopy.Failed)
	if m.Phase != precopy.Aborted || m.Cancel == nil || m.Cancel.By != "eve@desk" || !strings.Contains(m.Reason, "eve@desk") {
		t.Errorf("record: %s, cancel %+v, reason %q; want aborted by eve@desk", m.Phase, m.Cancel, m.Reason)
	}
	l.OnOnly(t, "stay", "kvm1")
}

func TestTwoOrdersAtOnce(t *testing.T) {
	l := begin(t, "200mbit")
	l.Guest(t, "twice", "kvm1", busy...)
	results := make([]Result, 2)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = l.Drover(t.Context(), "migrate", "twice", "--to", "kvm2", "--wait") })
	}
	wg.Wait()
	if results[0].Code > results[1].Code {
		results[0], results[1] = results[1], results[0]
	}
	all := l.Records(t, "twice")
	if results[0].Code != 0 || results[1].Code != 1 || len(all) != 1 {
		t.Fatalf("want one done, one refused, one record; have %d records\n%s\n%s", len(all), results[0], results[1])
	}
	if !strings.Contains(results[1].Stderr, all[0].ID) {
		t.Errorf("the refused one does not learn which migration is running: %s", results[1])
	}
	l.OnOnly(t, "twice", "kvm2")
}

func TestNoLeaderWithdraws(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "wait", "kvm1", idle...)
	l.Do(t, "signal", "control", "scheduler", "STOP")
	t.Cleanup(func() { l.Do(t, "signal", "control", "scheduler", "CONT") })
	// The store is embedded in the scheduler, so it is away as well: the command must say so.
	r := l.Drover(t.Context(), "migrate", "wait", "--to", "kvm2", "--wait", "--timeout", "20s")
	if r.Code != 1 || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 || r.Stderr == "" {
		t.Errorf("store away: want exit 1 and one line: %s", r)
	}
}

func TestAgentKilledInMidCopyIsAdopted(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "adopt", "kvm1", busy...)
	l.MustDrover(t, "migrate", "adopt", "--to", "kvm2")
	l.WaitPhase(t, "adopt", time.Minute, precopy.Copying)
	time.Sleep(2 * time.Second)
	l.Do(t, "signal", "kvm1", "agent", "KILL")
	m := l.WaitPhase(t, "adopt", 2*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	if m.Phase != precopy.Done || len(m.Attempts) != 1 || !m.Attempts[0].Adopted || !m.Outcome.PauseKnown {
		t.Errorf("record: %s, attempts %+v, outcome %+v; want done, adopted, pause known", m.Phase, m.Attempts, m.Outcome)
	}
	l.OnOnly(t, "adopt", "kvm2")
}

func TestSchedulerAndStoreKilledInMidCopy(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "goon", "kvm1", busy...)
	l.MustDrover(t, "migrate", "goon", "--to", "kvm2")
	l.WaitPhase(t, "goon", time.Minute, precopy.Copying)
	l.Do(t, "signal", "control", "scheduler", "KILL") // the embedded etcd dies with it
	time.Sleep(3 * time.Second)
	l.Eventually(t, time.Minute, "the store is back", func() bool {
		return l.Drover(t.Context(), "host", "list", "--timeout", "2s").Code == 0
	})
	m := l.WaitPhase(t, "goon", 2*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	if m.Phase != precopy.Done {
		t.Errorf("record: %s (%s), want done", m.Phase, m.Reason)
	}
	l.OnOnly(t, "goon", "kvm2")
}

func TestTargetLibvirtdRestartedInMidCopy(t *testing.T) {
	endsSomewhere(t, "back", func(l *Lab) { l.Do(t, "restart", "kvm2") })
}

func TestSourceLibvirtdRestartedInMidCopy(t *testing.T) {
	endsSomewhere(t, "src", func(l *Lab) { l.Do(t, "restart", "kvm1") })
}

func TestMigrationNetworkCutAndHealed(t *testing.T) {
	endsSomewhere(t, "cut", func(l *Lab) {
		l.Do(t, "cut", "kvm2")
		time.Sleep(5 * time.Second)
		l.Do(t, "heal", "kvm2")
	})
}

// endsSomewhere does something to a migration from kvm1 to kvm2 in mid-copy. However it ends, the
// guest runs on exactly one host, and the record says which.
func endsSomewhere(t *testing.T, guest string, fault func(*Lab)) {
	t.Helper()
	l := begin(t, "100mbit")
	l.Guest(t, guest, "kvm1", busy...)
	l.MustDrover(t, "migrate", guest, "--to", "kvm2")
	l.WaitPhase(t, guest, time.Minute, precopy.Copying)
	time.Sleep(time.Second)
	fault(l)
	m := l.WaitPhase(t, guest, 3*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	where := map[precopy.Phase]string{precopy.Done: "kvm2", precopy.Failed: "kvm1", precopy.Aborted: "kvm1"}[m.Phase]
	t.Logf("ended %s: %s", m.Phase, m.Reason)
	l.OnOnly(t, guest, where)
}

func TestTargetHostDies(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "dies", "kvm1", busy...)
	l.MustDrover(t, "migrate", "dies", "--to", "kvm3")
	l.WaitPhase(t, "dies", time.Minute, precopy.Copying)
	time.Sleep(time.Second)
	l.Do(t, "kill", "kvm3")
	m := l.WaitPhase(t, "dies", 2*time.Minute, precopy.Failed, precopy.Done, precopy.Aborted)
	if m.Phase != precopy.Failed {
		t.Errorf("record: %s (%s), want failed", m.Phase, m.Reason)
	}
	l.Do(t, "boot", "kvm3")
	l.Do(t, "drover", "start", "--build", l.Build)
	l.OnOnly(t, "dies", "kvm1")
}

func TestCopyStorage(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "local", "kvm1", append(idle[:len(idle):len(idle)], "--disk", "local")...)
	r := l.Drover(t.Context(), "migrate", "local", "--to", "kvm2", "--wait")
	if r.Code != 1 || !strings.Contains(r.Stderr, "non-shared-disk") {
		t.Errorf("without --copy-storage: want a refusal that names the disk: %s", r)
	}
	if r := l.Drover(t.Context(), "migrate", "local", "--to", "kvm2", "--copy-storage", "--wait"); r.Code != 0 {
		t.Fatalf("with --copy-storage: %s", r)
	}
	l.OnOnly(t, "local", "kvm2")
}

func TestWrongInput(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "input", "kvm1", idle...)
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"unknown VM", []string{"migrate", "nosuch", "--to", "kvm2"}, 1, "nosuch"},
		{"unknown host", []string{"migrate", "input", "--to", "kvm9"}, 1, "kvm9"},
		{"same host", []string{"migrate", "input", "--to", "kvm1", "--wait"}, 1, "kvm1"},
		{"unknown flag", []string{"migrate", "input", "--tp", "kvm2"}, 2, "tp"},
		{"no VM", []string{"migrate"}, 2, ""},
		{"bad duration", []string{"migrate", "input", "--max-pause", "fast"}, 2, "max-pause"},
		{"unknown migration", []string{"migration", "show", "zz"}, 1, "zz"},
		{"wrong endpoint", []string{"host", "list", "--etcd-endpoints", "https://127.0.0.1:1"}, 1, "127.0.0.1:1"},
		{"plain endpoint", []string{"host", "list", "--etcd-endpoints", "http://127.0.0.1:1"}, 2, "insecure"},
		{"no certificate file", []string{"host", "list", "--tls-ca", "/nonexistent"}, 2, "/nonexistent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r := l.Drover(ctx, tc.args...)
			if r.Code != tc.code || !strings.Contains(r.Stderr, tc.says) || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 {
				t.Errorf("want exit %d and one line with %q: %s", tc.code, tc.says, r)
			}
		})
	}
	if n := len(l.Records(t, "input")); n > 2 {
		t.Errorf("%d records, want at most the two refused ones", n)
	}
	l.OnOnly(t, "input", "kvm1")
}

// labName lets two runs stand side by side.
func labName() string {
	if n := os.Getenv("DROVER_LAB"); n != "" {
		return n
	}
	return "e2e"
}
