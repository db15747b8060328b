//go:build lab

package throttle

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleQEMU is a process that looks like the domain's QEMU: one thread of it, in the group of a vCPU,
// computes for ever, and once a second runs over its quota in the kernel.
const roleQEMU = "test-qemu"

// silenceEvery is how often it says how long it stood still at most.
const silenceEvery = 200 * time.Millisecond

// layOut makes groups as libvirt does, in whichever layout this machine has, and returns the files
// that take the thread of vCPU 0.
func layOut(t *testing.T) (files []string) {
	t.Helper()
	mounts, err := realKernel.mounts()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("machine-throttle-%d", os.Getpid())
	mkdir := func(path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
	for _, c := range []string{"cpu", "cpuacct"} {
		if i := slices.IndexFunc(mounts, func(m cgroupMount) bool { return slices.Contains(m.controllers, c) }); i >= 0 {
			dir := filepath.Join(mounts[i].point, name)
			mkdir(dir)
			mkdir(filepath.Join(dir, "vcpu0"))
			files = append(files, filepath.Join(dir, "vcpu0", "tasks"))
		}
	}
	if len(files) > 0 {
		return files
	}
	i := slices.IndexFunc(mounts, func(m cgroupMount) bool { return slices.Contains(m.controllers, unified) })
	if i < 0 {
		t.Fatal("no control groups are mounted")
	}
	// The process is in "libvirt", its threads in the groups below, which are threaded.
	scope := filepath.Join(mounts[i].point, name+".scope")
	domain := filepath.Join(scope, "libvirt")
	vcpu := filepath.Join(domain, "vcpu0")
	control := func(dir, file, text string) {
		t.Helper()
		if err := writeFile(filepath.Join(dir, file), text); err != nil {
			t.Fatal(err)
		}
	}
	control(mounts[i].point, "cgroup.subtree_control", "+cpu")
	mkdir(scope)
	control(scope, "cgroup.subtree_control", "+cpu")
	mkdir(domain)
	mkdir(vcpu)
	control(vcpu, "cgroup.type", "threaded")
	control(domain, "cgroup.subtree_control", "+cpu")
	return []string{filepath.Join(domain, "cgroup.procs"), filepath.Join(vcpu, "cgroup.threads")}
}

// testQEMU gets the files that layOut returned.
func testQEMU(files []string) error {
	runtime.LockOSThread()
	for _, f := range files {
		id := unix.Gettid()
		if filepath.Base(f) == "cgroup.procs" {
			id = os.Getpid()
		}
		if err := writeFile(f, fmt.Sprint(id)); err != nil {
			return err
		}
	}
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer random.Close()
	fmt.Println("running")
	began := time.Now()
	overdrawn, much := began, make([]byte, 4<<20)
	last, told, longest := began, began, time.Duration(0)
	for last.Sub(began) < 10*time.Minute { // or until it is killed
		now := time.Now()
		longest = max(longest, now.Sub(last))
		if last = now; now.Sub(told) > silenceEvery {
			fmt.Println(longest)
			told, longest = now, 0
		}
		if now.Sub(overdrawn) > time.Second {
			if _, err := random.Read(much); err != nil { // in the kernel for some 10 ms, as a guest's fault on a huge page may be
				return err
			}
			overdrawn = time.Now()
		}
	}
	return nil
}

func init() {
	if len(os.Args) > 4 && os.Args[1] == roleQEMU {
		os.Exit(exitOf(testQEMU(os.Args[4:])))
	}
}

// The kernel itself does with the groups what this package believes, with the layout that is mounted.
func TestKernel(t *testing.T) {
	files := layOut(t)
	qemu := exec.Command("/proc/self/exe", append([]string{roleQEMU, "-uuid", string(guestID)}, files...)...)
	qemu.Stderr = os.Stderr
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = qemu.Process.Kill()
		_ = qemu.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal(lines.Err())
	}
	silences := make(chan time.Duration, 1000)
	go func() {
		for lines.Scan() {
			d, err := time.ParseDuration(lines.Text())
			if err != nil {
				panic(err)
			}
			silences <- d
		}
	}()
	spool := t.TempDir()
	var g group
	var original Bandwidth
	for _, beats := range []func() (metronomes, error){noMetronomes, newMetronomes} {
		th, err := New(Config{Dir: spool, Watchdog: []string{roleWatchdog, "/proc"}, Logger: slog.Default(), metronomes: beats})
		if err != nil {
			t.Fatal(err)
		}
		x, err := th.Begin(context.Background(), guestID, "web")
		if err != nil {
			t.Fatal(err)
		}
		g, original = x.groups[0], x.originals[0]
		t.Logf("version 2: %t, timing %d, original %v", g.v2, x.timing(), original)
		shares(t, x, silences)
	}
	killHolder(t, spool, g, original)
}

// shares tries some shares on what looks like a domain.
func shares(t *testing.T, x *Throttle, silences <-chan time.Duration) {
	original := x.originals[0]
	for _, share := range []float64{1, 0.3, 0.1, 0.6, 0.09, 0.02} {
		if err := set(x, share); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Use(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * silenceEvery) // what it tells then is about this share
		for len(silences) > 0 {
			<-silences
		}
		if _, err := x.Use(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		var longest time.Duration
		for len(silences) > 0 {
			longest = max(longest, <-silences)
		}
		u, err := x.Use()
		if err != nil {
			t.Fatal(err)
		}
		b, err := x.groups[0].read()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("share %.3f by %v: used %.3f, denied %.3f of a core, silent for %s at most", x.share, b, u.Busiest(), u.VCPUs[0].Denied, longest.Round(100*time.Microsecond))
		if float64(u.Busiest()) > x.share+0.05 {
			t.Errorf("share %.3f: used %.3f", x.share, u.Busiest())
		}
		if x.share < 1 && longest >= 150*ms {
			t.Errorf("silent for %s, promised were less than 150 ms", longest)
		}
	}
	if err := x.End(); err != nil {
		t.Fatal(err)
	}
	if b, err := x.groups[0].read(); err != nil || b != original {
		t.Errorf("after the end: %v, %v, want %v", b, err, original)
	}
}

func killHolder(t *testing.T, spool string, g group, original Bandwidth) {
	cmd := exec.Command("/proc/self/exe", roleHolder, "/proc", spool, string(guestID), "0.2")
	cmd.Stderr, cmd.Stdin = os.Stderr, nil
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = stdin.Write([]byte("go\n"))
	line := make([]byte, 64)
	n, err := out.Read(line)
	if b, _ := g.read(); err != nil || !strings.HasPrefix(string(line[:n]), "throttled") || b == original {
		t.Fatalf("holder says %q, %v, the group has %v", line[:n], err, b)
	}
	_ = cmd.Process.Kill()
	began := time.Now()
	within(t, 5*time.Second, "the quota is back", func() bool {
		b, err := g.read()
		return err == nil && b == original
	})
	t.Logf("quota back %s after the kill", time.Since(began).Round(time.Millisecond))
	_ = cmd.Wait()
}
