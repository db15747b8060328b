// Package lab drives drover on real libvirt hosts, by the programs that people use: drover-lab makes
// the hosts and the guests, drover is the command line, and what is asserted is what the records say,
// what each host's libvirt says, and what a probe outside the guests saw.
//
// It needs root and the packages of deploy/lab/install-deps.sh. TestMain makes one lab for all tests;
// each test starts guests of its own and leaves none.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/precopy"
)

// Lab is a lab that is up with drover running in it. Methods fail the test they are given.
type Lab struct {
	Name  string
	Build string // directory with the three programs
	Hosts []string
}

// Result is what a program did.
type Result struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// String shows everything, for failure messages.
func (r Result) String() string {
	return fmt.Sprintf("exit %d after %s\nstdout: %s\nstderr: %s", r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Options are the shape of a lab.
type Options struct {
	Hosts int
	Shape string
	CPUs  float64
}

// Up makes a lab and starts drover in it. The caller calls Down.
func Up(name string, o Options) (*Lab, error) {
	build := os.Getenv("DROVER_BUILD")
	if build == "" {
		build = "../../build"
	}
	build, err := filepath.Abs(build)
	if err != nil {
		return nil, err
	}
	l := &Lab{Name: name, Build: build}
	for i := range o.Hosts {
		l.Hosts = append(l.Hosts, fmt.Sprintf("kvm%d", i+1))
	}
	args := []string{"up", "--hosts", fmt.Sprint(o.Hosts)}
	if o.Shape != "" {
		args = append(args, "--shape", o.Shape)
	}
	if o.CPUs > 0 {
		args = append(args, "--cpus", fmt.Sprint(o.CPUs))
	}
	_ = l.Down() // what an earlier run left
	if r := l.run(context.Background(), "drover-lab", args...); r.Code != 0 {
		return nil, fmt.Errorf("drover-lab up: %s", r)
	}
	start := []string{"drover", "start", "--build", build}
	if etcd := os.Getenv("DROVER_LAB_ETCD"); etcd != "" {
		start = append(start, "--etcd", etcd)
	}
	if r := l.run(context.Background(), "drover-lab", start...); r.Code != 0 {
		err := fmt.Errorf("drover-lab drover start: %s", r)
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

// Down removes the lab and everything in it.
func (l *Lab) Down() error {
	if r := l.run(context.Background(), "drover-lab", "down"); r.Code != 0 {
		return fmt.Errorf("drover-lab down: %s", r)
	}
	return nil
}

func (l *Lab) run(ctx context.Context, program string, args ...string) Result {
	cmd := exec.CommandContext(ctx, filepath.Join(l.Build, program), args...)
	cmd.Env = append(os.Environ(), "DROVER_LAB="+l.Name)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errs.String(), Took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		r.Code, r.Stderr = -1, r.Stderr+err.Error()
	}
	return r
}

// Do runs a drover-lab command that must succeed and returns its output.
func (l *Lab) Do(t testing.TB, args ...string) string {
	t.Helper()
	r := l.run(context.WithoutCancel(t.Context()), "drover-lab", args...)
	if r.Code != 0 {
		t.Fatalf("drover-lab %s: %s", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// Drover runs a drover command on the control host, as an administrator.
func (l *Lab) Drover(ctx context.Context, args ...string) Result {
	return l.run(ctx, "drover-lab", append([]string{"drover", "run", "--build", l.Build, "--"}, args...)...)
}

// MustDrover runs a drover command that must succeed.
func (l *Lab) MustDrover(t testing.TB, args ...string) Result {
	t.Helper()
	r := l.Drover(t.Context(), args...)
	if r.Code != 0 {
		t.Fatalf("drover %s: %s", strings.Join(args, " "), r)
	}
	return r
}

// Virsh runs virsh on a host.
func (l *Lab) Virsh(t testing.TB, host string, args ...string) string {
	t.Helper()
	return l.Do(t, append([]string{"exec", host, "--", "virsh", "-q", "-c", "qemu:///system"}, args...)...)
}

// Guest starts a guest and stops it at the end of the test, unless the test has.
func (l *Lab) Guest(t testing.TB, name, host string, flags ...string) {
	t.Helper()
	l.Guests(t, host, []string{name}, flags...)
}

// Guests starts several equal guests on a host at once.
func (l *Lab) Guests(t testing.TB, host string, names []string, flags ...string) {
	t.Helper()
	t.Cleanup(func() {
		l.Together(t, len(names), func(i int) Result {
			r := l.run(context.Background(), "drover-lab", "guest", "stop", names[i])
			if t.Failed() || strings.Contains(r.Stderr, "not found") {
				r.Code = 0
			}
			return r
		})
	})
	l.Together(t, len(names), func(i int) Result {
		return l.run(context.WithoutCancel(t.Context()), "drover-lab", append([]string{"guest", "start", names[i], "--host", host}, flags...)...)
	})
	l.Eventually(t, time.Minute, fmt.Sprintf("drover lists %v", names), func() bool {
		list := strings.Fields(l.MustDrover(t, "vm", "list").Stdout)
		return !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(list, n) })
	})
}

// Ready waits until every host may take part in migrations.
func (l *Lab) Ready(t testing.TB) {
	t.Helper()
	l.Eventually(t, time.Minute, "all hosts are ready", func() bool {
		var hosts []struct {
			State string `json:"state"`
		}
		r := l.Drover(t.Context(), "host", "list", "-o", "json", "--timeout", "3s")
		if r.Code != 0 || json.Unmarshal([]byte(r.Stdout), &hosts) != nil {
			return false
		}
		ready := 0
		for _, h := range hosts {
			if h.State == "ready" {
				ready++
			}
		}
		return ready == len(l.Hosts)
	})
}

// RunningOn returns the hosts whose libvirt says that the guest runs there.
func (l *Lab) RunningOn(t testing.TB, guest string) []string {
	t.Helper()
	running, _ := l.having(t, guest)
	return running
}

// having returns the hosts on which the guest runs, and those that know it at all, running or not.
func (l *Lab) having(t testing.TB, guest string) (running, known []string) {
	t.Helper()
	lists := make([]string, len(l.Hosts))
	l.Together(t, len(l.Hosts), func(i int) Result {
		r := l.run(context.WithoutCancel(t.Context()), "drover-lab",
			"exec", l.Hosts[i], "--", "virsh", "-q", "-c", "qemu:///system", "list", "--all")
		lists[i] = r.Stdout
		return r
	})
	for i, list := range lists {
		for line := range strings.Lines(list) { // " 3   web   running", the number is - of one that does not run
			if f := strings.Fields(line); len(f) > 2 && f[1] == guest {
				known = append(known, l.Hosts[i])
				if f[2] == "running" {
					running = append(running, l.Hosts[i])
				}
			}
		}
	}
	return running, known
}

// Together runs n commands side by side, all of which must succeed.
func (l *Lab) Together(t testing.TB, n int, do func(i int) Result) {
	t.Helper()
	results := make([]Result, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { results[i] = do(i) })
	}
	wg.Wait()
	for i, r := range results {
		if r.Code != 0 {
			t.Fatalf("command %d of %d: %s", i+1, n, r)
		}
	}
}

// Records returns all migrations of the guest, oldest first.
func (l *Lab) Records(t testing.TB, guest string) []precopy.Migration {
	t.Helper()
	out := l.records(t, guest, "migration", "list") // first: what goes to the history in between is in both
	for _, m := range l.records(t, guest, "history", "--limit", "10000") {
		if !slices.ContainsFunc(out, func(o precopy.Migration) bool { return o.ID == m.ID }) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// records returns the migrations of the guest, oldest first, that a listing has.
func (l *Lab) records(t testing.TB, guest string, listing ...string) []precopy.Migration {
	t.Helper()
	var all, out []precopy.Migration
	unmarshal(t, l.MustDrover(t, append(listing, "-o", "json")...).Stdout, &all)
	for _, m := range all {
		if m.Domain == guest {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Last returns the guest's newest migration.
func (l *Lab) Last(t testing.TB, guest string) precopy.Migration {
	t.Helper()
	all := l.records(t, guest, "migration", "list")
	if len(all) == 0 {
		t.Fatalf("no record of a migration of %s", guest)
	}
	return all[len(all)-1]
}

// WaitPhase waits until the guest's newest migration is in one of the phases, and returns it.
func (l *Lab) WaitPhase(t testing.TB, guest string, limit time.Duration, phases ...precopy.Phase) precopy.Migration {
	t.Helper()
	var m precopy.Migration
	l.Eventually(t, limit, fmt.Sprintf("%s in %v", guest, phases), func() bool {
		all := l.records(t, guest, "migration", "list")
		if len(all) == 0 {
			return false
		}
		m = all[len(all)-1]
		return slices.Contains(phases, m.Phase)
	})
	return m
}

// Eventually polls until the condition holds.
func (l *Lab) Eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// Verify checks from outside that the guests live and their memory is what they wrote.
func (l *Lab) Verify(t testing.TB, guests ...string) {
	t.Helper()
	l.Together(t, len(guests), func(i int) Result {
		return l.run(context.WithoutCancel(t.Context()), "drover-lab", "guest", "verify", guests[i])
	})
}

// OnOnly asserts that the guest runs on the host, and that no other knows it.
func (l *Lab) OnOnly(t testing.TB, guest, host string) {
	t.Helper()
	on, known := l.having(t, guest)
	if !slices.Equal(on, []string{host}) {
		t.Errorf("%s runs on %v, want only %s", guest, on, host)
	}
	if !slices.Equal(known, []string{host}) {
		t.Errorf("%s is known to %v, want only %s", guest, known, host)
	}
	l.Verify(t, guest)
}

// Logs prints the end of every daemon's log, for a failed test.
func (l *Lab) Logs(t testing.TB) {
	var env struct {
		Logs string `json:"logs"`
	}
	// The test's own context has ended by now.
	r := l.run(context.Background(), "drover-lab", "env", "-o", "json")
	if json.Unmarshal([]byte(r.Stdout), &env) != nil {
		t.Logf("no logs: %s", r)
		return
	}
	paths, _ := filepath.Glob(filepath.Join(env.Logs, "*", "*.log"))
	for _, p := range paths {
		text, _ := os.ReadFile(p)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s:\n%s", strings.TrimPrefix(p, env.Logs), strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

func unmarshal(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, text)
	}
}
