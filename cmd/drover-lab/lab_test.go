package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// These tests run real hosts, so they need root and the lab's packages; they fail without, they are never skipped.

var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "drover-lab's tests make namespaces: run them as root")
			return 1
		}
		dir, err := os.MkdirTemp("", "drover-lab-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "drover-lab")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// lab runs drover-lab on one lab, which is removed at the end of the test.
type lab struct {
	*testing.T
	name string
}

func newLab(t *testing.T, name string) lab {
	l := lab{t, fmt.Sprintf("%s-%d", name, os.Getpid())}
	t.Cleanup(func() { _ = l.command("down").Run() })
	return l
}

func (l lab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "DROVER_LAB="+l.name)
	return cmd
}

// try returns standard output, standard error and the exit code.
func (l lab) try(args ...string) (string, string, int) {
	l.Helper()
	var stdout, stderr bytes.Buffer
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func (l lab) run(args ...string) string {
	l.Helper()
	out, msg, code := l.try(args...)
	if code != 0 {
		l.Fatalf("%s: exit %d: %s%s", strings.Join(args, " "), code, out, msg)
	}
	return out
}

func (l lab) json(v any, args ...string) {
	l.Helper()
	if err := json.Unmarshal([]byte(l.run(append(args, "-o", "json")...)), v); err != nil {
		l.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// traces is everything a lab could leave on the machine.
func (l lab) traces() map[string][]string {
	l.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		l.Fatal(err)
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		l.Fatal(err)
	}
	all := map[string][]string{"mounts": strings.Split(string(mounts), "\n")}
	for _, i := range ifaces {
		all["interfaces"] = append(all["interfaces"], i.Name)
	}
	for what, pattern := range map[string]string{
		"cgroups": "/sys/fs/cgroup/*/drover-lab-" + l.name, "cgroups v2": "/sys/fs/cgroup/drover-lab-" + l.name,
		"run": "/run/drover-lab/" + l.name, "files": "/var/tmp/drover-lab/" + l.name, "netns": "/run/netns/*",
		"etc": "/etc/*", "libvirt": "/etc/libvirt/*", "state": "/var/lib/*", "guests": "/var/lib/libvirt/qemu/*",
	} {
		if all[what], err = filepath.Glob(pattern); err != nil {
			l.Fatal(err)
		}
	}
	args, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.Fatal(err)
	}
	for _, a := range args {
		if data, _ := os.ReadFile(a); bytes.Contains(data, []byte("/drover-lab/"+l.name+"/")) {
			all["processes"] = append(all["processes"], string(bytes.ReplaceAll(data, []byte{0}, []byte{' '})))
		}
	}
	return all
}

// clean fails the test if the lab left anything. A process that noticed its maker's death needs a moment to go.
func (l lab) clean(before map[string][]string) {
	l.Helper()
	var diff string
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if diff = cmp.Diff(before, l.traces()); diff == "" {
			return
		}
	}
	l.Errorf("the machine is not as before (-before +after):\n%s", diff)
}

type report struct {
	Alive      bool    `json:"alive"`
	SilenceMS  float64 `json:"silence_ms"`
	Beats      int     `json:"beats"`
	WorkLost   float64 `json:"work_lost_seconds"`
	Mismatches int     `json:"mismatches"`
	DiskErrors int     `json:"disk_errors"`
	DiskWrites int     `json:"disk_writes"`
	Duplicates int     `json:"duplicates"`
	Reboots    int     `json:"reboots"`
}

func TestLab(t *testing.T) {
	l := newLab(t, "it")
	before := l.traces()
	l.run("up", "--hosts", "2", "--shape", "400mbit", "--cpus", "1.5")
	if _, msg, code := l.try("up"); code != 1 || !strings.Contains(msg, "up already") {
		t.Errorf("second up: exit %d, %q", code, msg)
	}
	l.run("guest", "start", "g1", "--disk", "shared", "--pattern", "page", "--rate", "2000")
	t.Run("exec", func(t *testing.T) { lab{t, l.name}.testExec() })
	t.Run("access", func(t *testing.T) { lab{t, l.name}.testAccess() })
	t.Run("migrate", func(t *testing.T) { lab{t, l.name}.testMigrate() })
	t.Run("faults", func(t *testing.T) { lab{t, l.name}.testFaults() })
	t.Run("daemons", func(t *testing.T) { lab{t, l.name}.testDaemons() })
	t.Run("corruption", func(t *testing.T) { lab{t, l.name}.testCorruption() })
	t.Run("check", func(t *testing.T) { lab{t, l.name}.testCheck() })
	l.run("down")
	l.clean(before)
}

func (l lab) testExec() {
	if out := strings.TrimSpace(l.run("exec", "kvm1", "hostname")); out != "kvm1" {
		l.Errorf("hostname says %q", out)
	}
	if _, _, code := l.try("exec", "kvm1", "--", "sh", "-c", "exit 7"); code != 7 {
		l.Errorf("exit code %d, want the command's 7", code)
	}
	if _, _, code := l.try("exec", "kvm9", "true"); code != 125 {
		l.Errorf("exec in an unknown host: exit %d, want 125", code)
	}
	cmd := l.command("exec", "control", "--", "sh", "-c", "cat; echo $WORD")
	cmd.Stdin, cmd.Env = strings.NewReader("in "), append(cmd.Env, "WORD=env")
	if out, err := cmd.Output(); err != nil || string(out) != "in env\n" {
		l.Errorf("streams and environment: %q, %v", out, err)
	}
	if quota := strings.TrimSpace(l.run("exec", "kvm1", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cat /sys/fs/cgroup/cpu.max")); !strings.HasPrefix(quota, "150000") {
		l.Errorf("the host sees a CPU quota of %q, want 150000", quota)
	}
	// What is run in a host ends with the drover-lab that runs it.
	cmd = l.command("exec", "kvm1", "sleep", "4711")
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	sleeps := func() bool {
		_, _, code := l.try("exec", "kvm1", "pgrep", "-f", "^sleep 4711")
		return code == 0
	}
	l.eventually("sleep starts", sleeps)
	if err := cmd.Process.Kill(); err != nil {
		l.Fatal(err)
	}
	_ = cmd.Wait() // killed
	l.eventually("sleep ends with its drover-lab", func() bool { return !sleeps() })
}

func (l lab) eventually(what string, ok func() bool) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatalf("did not happen: %s", what)
		}
	}
}

// testAccess checks that a certificate that may only look does not open a libvirtd.
func (l lab) testAccess() {
	var env struct{ Admin, Viewer string }
	l.json(&env, "env")
	for dir, want := range map[string]int{env.Admin: 0, env.Viewer: 1} {
		pki := l.TempDir()
		for name, file := range map[string]string{"cacert.pem": "ca-cert.pem", "clientcert.pem": "cert.pem", "clientkey.pem": "key.pem"} {
			if err := os.Symlink(filepath.Join(dir, file), filepath.Join(pki, name)); err != nil {
				l.Fatal(err)
			}
		}
		_, msg, code := l.try("exec", "control", "virsh", "-c", "qemu+tls://kvm1/system?pkipath="+pki, "list")
		if code != want {
			l.Errorf("with the certificate of %s: exit %d, want %d: %s", filepath.Base(filepath.Dir(dir)), code, want, msg)
		}
	}
}

func (l lab) testMigrate() {
	probe := l.command("probe", "g1", "-o", "json")
	var out bytes.Buffer
	probe.Stdout, probe.Stderr = &out, os.Stderr
	if err := probe.Start(); err != nil {
		l.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	begin := time.Now()
	l.run("exec", "kvm1", "--", "virsh", "migrate", "--live", "--p2p", "--tls", "--persistent", "--undefinesource", "g1", "qemu+tls://kvm2/system")
	l.Logf("migration took %v", time.Since(begin))
	time.Sleep(300 * time.Millisecond)
	if err := probe.Process.Signal(syscall.SIGINT); err != nil {
		l.Fatal(err)
	}
	if err := probe.Wait(); err != nil {
		l.Fatalf("probe: %v", err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		l.Fatal(err)
	}
	l.Logf("probe: %+v", r)
	if !r.Alive || r.Mismatches+r.DiskErrors+r.Duplicates+r.Reboots != 0 || r.DiskWrites < 1 {
		l.Errorf("after the migration: %+v, want alive, intact and writing to its disk", r)
	}
	if r.SilenceMS < 10 || r.SilenceMS > 3000 {
		l.Errorf("pause of %v ms: want a stop-and-copy, not a coma", r.SilenceMS)
	}
	var guests []struct {
		RunsOn    []struct{ Host string } `json:"runs_on"`
		DefinedOn []string                `json:"defined_on"`
	}
	l.json(&guests, "guest", "list")
	if len(guests) != 1 || len(guests[0].RunsOn) != 1 || guests[0].RunsOn[0].Host != "kvm2" || !slices.Equal(guests[0].DefinedOn, []string{"kvm2"}) {
		l.Errorf("guests: %+v, want one, on kvm2 alone", guests)
	}
	var nic struct {
		Tx int64 `json:"tx_bytes"`
	}
	l.json(&nic, "nic", "kvm1")
	if nic.Tx < 64<<20 {
		l.Errorf("kvm1 sent %d bytes on the migration network, want the guest's memory at least", nic.Tx)
	}
	// The disk is locked: a second copy must not start.
	var env struct{ Shared string }
	l.json(&env, "env")
	if _, msg, code := l.try("exec", "kvm1", "virsh", "create", filepath.Join(env.Shared, "g1.xml")); code == 0 || !strings.Contains(msg, "lock") {
		l.Errorf("second copy of the guest: exit %d, %q, want a refusal by the image lock", code, msg)
	}
}

func (l lab) testFaults() {
	l.run("restart", "kvm2")
	l.run("guest", "verify", "g1")
	reach := func() bool {
		_, _, code := l.try("exec", "control", "timeout", "2", "virsh", "-c", "qemu+tls://kvm2/system", "uri")
		return code == 0
	}
	l.run("cut", "kvm2", "--network", "mgmt")
	if reach() {
		l.Error("a host that is cut off answers")
	}
	l.run("heal", "kvm2")
	l.eventually("healed host answers", reach)
	l.run("shape", "all", "none")
	l.run("shape", "kvm1", "200mbit")
	l.run("kill", "kvm2")
	if _, _, code := l.try("guest", "verify", "g1"); code != 1 {
		l.Errorf("verify of a guest on a dead host: exit %d, want 1", code)
	}
	if _, _, code := l.try("exec", "kvm2", "true"); code != 125 {
		l.Errorf("exec in a dead host: exit %d, want 125", code)
	}
	l.run("boot", "kvm2")
	if !reach() {
		l.Error("a booted host does not answer")
	}
	// What a host has on disk survives its power cut.
	if out := l.run("exec", "kvm2", "virsh", "list", "--all", "--name"); !strings.Contains(out, "g1") {
		l.Errorf("domains after the boot: %q, want g1", out)
	}
	l.run("guest", "stop", "g1")
}

func (l lab) testDaemons() {
	l.run("spawn", "kvm1", "nap", "--restart", "--", "sleep", "100")
	type daemon struct {
		Host, Name string
		PID        int
		Restarts   int
		Running    bool
	}
	nap := func() daemon {
		var all []daemon
		l.json(&all, "ps", "kvm1")
		for _, d := range all {
			if d.Name == "nap" {
				return d
			}
		}
		return daemon{}
	}
	first := nap()
	l.run("signal", "kvm1", "nap", "KILL")
	l.eventually("daemon comes back", func() bool { d := nap(); return d.Running && d.PID != first.PID && d.Restarts == 1 })
	l.run("unspawn", "kvm1", "nap")
	if d := nap(); d.Name != "" {
		l.Errorf("after unspawn: %+v", d)
	}
}

func (l lab) testCheck() {
	if out := l.run("check"); out != "" {
		l.Errorf("leftovers in a lab at rest:\n%s", out)
	}
	var env struct{ Shared string }
	l.json(&env, "env")
	junk := filepath.Join(env.Shared, "junk.qcow2")
	if err := os.WriteFile(junk, nil, 0o644); err != nil {
		l.Fatal(err)
	}
	if out, _, code := l.try("check"); code != 1 || !strings.Contains(out, junk) {
		l.Errorf("check with a stray file: exit %d, %q", code, out)
	}
}

// TestKilledUp kills `up` at many moments; whatever was left must be found by the next command.
func TestKilledUp(t *testing.T) {
	l := newLab(t, "kill")
	before := l.traces()
	for i, after := range []time.Duration{3, 10, 20, 35, 60, 300} {
		up := l.command("up", "--hosts", "2")
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		if err := up.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = up.Wait() // killed
		if i == 2 {
			// A half-made lab is no lab, and the next up makes it whole.
			if _, _, code := l.try("env"); code != 1 {
				t.Errorf("env of a half-made lab: exit %d, want 1", code)
			}
			l.run("up", "--hosts", "1")
		}
		l.run("down")
		l.clean(before)
	}
}

// TestKilledParts kills what a lab is made of, behind its back.
func TestKilledParts(t *testing.T) {
	l := newLab(t, "parts")
	before := l.traces()
	l.run("up", "--hosts", "2")
	l.run("guest", "start", "g1")
	l.run("exec", "kvm1", "pkill", "-KILL", "-f", "^/usr/bin/qemu-system")
	var env struct {
		Hosts []struct {
			Name string
			PID  int
		}
	}
	l.json(&env, "env")
	for _, h := range env.Hosts {
		if h.Name != "kvm1" {
			if err := syscall.Kill(h.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.run("down")
	l.clean(before)
	if _, msg, code := l.try("down"); code != 0 || !strings.Contains(msg, "no lab") {
		t.Errorf("down without a lab: exit %d, %q", code, msg)
	}
	l.clean(before)
}

func TestFailedUpLeavesNothing(t *testing.T) {
	l := newLab(t, "fail")
	before := l.traces()
	dir := t.TempDir()
	foreign := filepath.Join(dir, l.name)
	if err := os.MkdirAll(filepath.Join(foreign, "precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, msg, code := l.try("up", "--dir", dir); code != 1 || !strings.Contains(msg, "not a lab's") {
		t.Errorf("up into somebody else's directory: exit %d, %q", code, msg)
	}
	if _, err := os.Stat(filepath.Join(foreign, "precious")); err != nil {
		t.Errorf("somebody else's directory: %v", err)
	}
	// A CPU share that the kernel refuses fails late, with hosts half made.
	if _, _, code := l.try("up", "--cpus", "0.000001"); code != 1 {
		t.Errorf("up with an impossible size: exit %d, want 1", code)
	}
	l.clean(before)
}
