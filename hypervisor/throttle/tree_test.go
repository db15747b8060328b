package throttle

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/hypervisor"
)

const (
	guestID = hypervisor.DomainID("11111111-2222-4333-8444-555555555555")
	qemuPID = 4711
)

// tree is a machine's /proc and control groups as files, with the kernel's rules about bandwidths.
type tree struct {
	fail   func(format string, args ...any)
	root   string
	kernel kernel
	v2     bool
	vcpus  int
	leaf   Bandwidth // original of the vCPUs' groups
	parent Bandwidth // of the domain's group
	boot   int       // counts what must be new: starts of processes

	spent    int // periods in which the quota ran out, beyond 3, in counters
	writes   int
	failFrom int                              // writes from this one on fail, 0 for never
	onWrite  func(g group, b Bandwidth) error // looks at each state in between
}

// set throttles as if the guest were busy and might be silent for 150 ms.
func set(x *Throttle, share float64) error {
	_, err := x.Set(share, 1, 150*ms)
	return err
}

func unlimited() Bandwidth { return Bandwidth{Quota: noLimit, Period: 100 * time.Millisecond} }

// newTree makes a machine with one domain of two vCPUs.
func newTree(t testing.TB, change func(*tree)) *tree {
	return buildTree(t.TempDir(), t.Fatalf, change)
}

func buildTree(root string, fail func(string, ...any), change func(*tree)) *tree {
	tr := &tree{fail: fail, root: root, vcpus: 2, leaf: unlimited(), parent: unlimited()}
	if change != nil {
		change(tr)
	}
	tr.kernel = kernel{proc: filepath.Join(root, "proc"), write: tr.write}
	tr.put("proc/sys/kernel/random/boot_id", "boot-1\n")
	mounts := fmt.Sprintf("30 1 0:1 / %s/cg/cpu rw - cgroup cgroup rw,cpu\n31 1 0:2 / %s/cg/cpuacct rw - cgroup cgroup rw,cpuacct\n", root, root)
	if tr.v2 {
		mounts = fmt.Sprintf("30 1 0:1 / %s/cg rw - cgroup2 cgroup2 rw\n", root)
	}
	tr.put("proc/self/mountinfo", mounts)
	tr.start(os.Getpid(), "drover-agent", 100)
	tr.startQEMU(qemuPID, 200)
	return tr
}

func (tr *tree) put(name, text string) {
	p := filepath.Join(tr.root, name)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	if err == nil {
		err = os.WriteFile(p, []byte(text), 0o644)
	}
	if err != nil {
		tr.fail("%v", err)
	}
}

func (tr *tree) start(pid int, name string, ticks int) {
	after := strings.Repeat("0 ", 18)
	tr.put(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (%s) x) S %s%d 0 0\n", pid, name, after, ticks))
}

// restartSelf makes this process another one, as the agent is after its restart.
func (tr *tree) restartSelf() {
	tr.boot++
	tr.start(os.Getpid(), "drover-agent", 1000+tr.boot)
}

func (tr *tree) startQEMU(pid, ticks int) {
	tr.start(pid, "qemu-system-x86", ticks)
	tr.put(fmt.Sprintf("proc/%d/cmdline", pid), "/usr/bin/qemu\x00-name\x00guest=web\x00-uuid\x00"+string(guestID)+"\x00-S\x00")
	tr.put(fmt.Sprintf("proc/%d/task/%d/cgroup", pid, pid), tr.member("emulator"))
	for i := range tr.vcpus {
		tr.put(fmt.Sprintf("proc/%d/task/%d/cgroup", pid, pid+1+i), tr.member(fmt.Sprintf("vcpu%d", i)))
		tr.set(tr.dir(i), tr.leaf)
		tr.counters(i, 0, 0)
	}
	tr.set(filepath.Dir(tr.dir(0)), tr.parent)
}

func (tr *tree) endQEMU() {
	for _, d := range []string{fmt.Sprintf("proc/%d", qemuPID), "cg"} {
		if err := os.RemoveAll(filepath.Join(tr.root, d)); err != nil {
			tr.fail("%v", err)
		}
	}
}

func (tr *tree) member(leaf string) string {
	if tr.v2 {
		return "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/" + leaf + "\n"
	}
	return fmt.Sprintf("2:cpuacct:/machine/qemu-1-web.libvirt-qemu/%s\n1:cpu:/machine/qemu-1-web.libvirt-qemu/%s\n0::/\n", leaf, leaf)
}

func (tr *tree) dir(vcpu int) string {
	if tr.v2 {
		return filepath.Join(tr.root, "cg/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt", fmt.Sprintf("vcpu%d", vcpu))
	}
	return filepath.Join(tr.root, "cg/cpu/machine/qemu-1-web.libvirt-qemu", fmt.Sprintf("vcpu%d", vcpu))
}

func (tr *tree) set(dir string, b Bandwidth) {
	rel, _ := filepath.Rel(tr.root, dir)
	quota, period := strconv.FormatInt(b.Quota.Microseconds(), 10), strconv.FormatInt(b.Period.Microseconds(), 10)
	if tr.v2 {
		if b.Quota <= 0 {
			quota = "max"
		}
		tr.put(filepath.Join(rel, maxFile), quota+" "+period+"\n")
		return
	}
	tr.put(filepath.Join(rel, quotaFile), quota+"\n")
	tr.put(filepath.Join(rel, periodFile), period+"\n")
}

func (tr *tree) counters(vcpu int, cpu, throttled time.Duration) {
	rel, _ := filepath.Rel(tr.root, tr.dir(vcpu))
	if tr.v2 {
		tr.put(filepath.Join(rel, "cpu.stat"), fmt.Sprintf("usage_usec %d\nnr_periods 7\nnr_throttled %d\nthrottled_usec %d\n", cpu.Microseconds(), 3+tr.spent, throttled.Microseconds()))
		return
	}
	tr.put(filepath.Join(rel, "cpu.stat"), fmt.Sprintf("nr_periods 7\nnr_throttled %d\nthrottled_time %d\n", 3+tr.spent, throttled.Nanoseconds()))
	tr.put(filepath.Join(strings.Replace(rel, "cg/cpu/", "cg/cpuacct/", 1), "cpuacct.usage"), fmt.Sprintln(cpu.Nanoseconds()))
}

func (tr *tree) read(vcpu int) Bandwidth {
	b, err := readBandwidth(tr.dir(vcpu), tr.v2)
	if err != nil {
		tr.fail("%v", err)
	}
	return b
}

// has is for files that another process writes meanwhile: unlike the kernel's they can be found half written.
func (tr *tree) has(vcpu int, want Bandwidth) bool {
	b, err := readBandwidth(tr.dir(vcpu), tr.v2)
	return err == nil && b == want
}

// write obeys as the kernel does: it refuses values out of bounds and, with v1, a child above its
// parent, whichever of the two files is written.
func (tr *tree) write(path, text string) error {
	tr.writes++
	if tr.failFrom > 0 && tr.writes >= tr.failFrom {
		return syscall.EIO
	}
	dir := filepath.Dir(path)
	before, err := readBandwidth(dir, tr.v2)
	if err != nil {
		return err
	}
	if err := writeFile(path, text+"\n"); err != nil {
		return err
	}
	after, err := readBandwidth(dir, tr.v2)
	if err == nil {
		err = tr.rules(dir, after)
	}
	if err == nil && tr.onWrite != nil {
		err = tr.onWrite(group{dir: dir, v2: tr.v2}, after)
	}
	if err != nil {
		tr.set(dir, before)
	}
	return err
}

func (tr *tree) rules(dir string, b Bandwidth) error {
	parent, err := readBandwidth(filepath.Dir(dir), tr.v2)
	switch {
	case err != nil:
		return err
	case b.Period < time.Millisecond || b.Period > time.Second, b.Quota > 0 && b.Quota < time.Millisecond:
		return syscall.EINVAL
	case !tr.v2 && b.Quota > 0 && b.Share() > parent.Share():
		return syscall.EINVAL
	}
	return nil
}

// fakeKeeper stands by, or says that it does not.
type fakeKeeper struct {
	held int
	err  error
}

func (f *fakeKeeper) hold() error {
	if f.err == nil {
		f.held++
	}
	return f.err
}
func (f *fakeKeeper) release()     { f.held-- }
func (f *fakeKeeper) check() error { return f.err }

func (tr *tree) throttler(k keeper) *Throttler {
	th, err := New(Config{
		Dir: filepath.Join(tr.root, "spool"), Logger: slog.New(slog.DiscardHandler), kernel: &tr.kernel, keeper: k,
		metronomes: noMetronomes,
	})
	if err != nil {
		tr.fail("New: %v", err)
	}
	return th
}

func noMetronomes() (metronomes, error) { return nil, syscall.EPERM }

func (tr *tree) begin(t testing.TB, th *Throttler) *Throttle {
	t.Helper()
	x, err := th.Begin(t.Context(), guestID, "web")
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	t.Cleanup(x.die)
	return x
}

// die ends what goes on by itself, as the end of the process does.
func (th *Throttle) die() {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.stopForgiving()
}

func (tr *tree) spooled() []string {
	files, err := filepath.Glob(filepath.Join(tr.root, "spool", "*"))
	if err != nil {
		tr.fail("%v", err)
	}
	return files
}

func wantError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 0.001 }
