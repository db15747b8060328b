//go:build lab

package throttle

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
)

// These tests throttle a guest of a real libvirt host. They need root and the lab's packages.

type labHost struct {
	testing.TB
	program string
	name    string
}

func newLab(t testing.TB) labHost {
	t.Helper()
	l := labHost{TB: t, program: filepath.Join(t.TempDir(), "drover-lab"), name: fmt.Sprintf("thr-%d", os.Getpid())}
	build := exec.Command("go", "build", "-o", l.program, "drover/cmd/drover-lab")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := l.command("down").CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	return l
}

func (l labHost) command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.program, args...)
	cmd.Env = append(os.Environ(), "DROVER_LAB="+l.name)
	return cmd
}

func (l labHost) run(args ...string) string {
	l.Helper()
	out, err := l.command(args...).CombinedOutput()
	if err != nil {
		l.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// seen is what a guest did for some seconds.
type seen struct {
	Silence float64 `json:"silence_ms"`
	Work    float64 `json:"work_pages"`
	Seconds float64 `json:"seconds"`
	Bad     int     `json:"mismatches"`
	rate    float64 // pages per second
	cpu     float64 // of a core
	denied  float64 // of a core
}

func (l labHost) watch(guest string, groups []group) seen {
	l.Helper()
	before := counters(l.TB, groups)
	began := time.Now()
	var s seen
	if err := json.Unmarshal([]byte(l.run("probe", guest, "--for", "5s", "-o", "json")), &s); err != nil {
		l.Fatal(err)
	}
	u := usage(before, counters(l.TB, groups))
	s.cpu, s.denied = float64(u.VCPUs[0].Used), float64(u.VCPUs[0].Denied)
	s.rate = s.Work / s.Seconds
	l.Logf("%.1f s: %.2f of a core used, %.2f denied, %.0f pages/s, longest silence %.0f ms", time.Since(began).Seconds(), s.cpu, s.denied, s.rate, s.Silence)
	if s.Bad != 0 {
		l.Errorf("%d mismatches", s.Bad)
	}
	return s
}

func counters(t testing.TB, groups []group) sample {
	t.Helper()
	s := sample{at: time.Now()}
	for _, g := range groups {
		u, err := g.use()
		if err != nil {
			t.Fatal(err)
		}
		s.use = append(s.use, u)
	}
	return s
}

// holder throttles the domain from inside the host, as the agent does.
type holder struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	pid   string // on that host
}

func (l labHost) hold(id hypervisor.DomainID, share string) holder {
	l.Helper()
	self, err := os.Executable()
	if err != nil {
		l.Fatal(err)
	}
	h := holder{cmd: l.command("exec", "kvm1", "--", self, roleHolder, "/proc", "/var/lib/throttle-test", string(id), share)}
	var stderr bytes.Buffer
	h.cmd.Stderr = &stderr
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		l.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	_, _ = io.WriteString(h.stdin, "go\n")
	line, err := bufio.NewReader(stdout).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "throttled by ")
	if !ok {
		l.Fatalf("holder says %q, %v, %s", line, err, &stderr)
	}
	h.pid = pid
	return h
}

func TestRealHost(t *testing.T) {
	l := newLab(t)
	l.run("up", "--hosts", "1")
	l.run("guest", "start", "g1", "--pattern", "page", "--rate", "1000000") // as fast as it can
	id := hypervisor.DomainID(strings.TrimSpace(l.run("exec", "kvm1", "--", "virsh", "-q", "domuuid", "g1")))
	_, groups, err := realKernel.find(id)
	if err != nil {
		t.Fatal(err)
	}
	// What else this machine does must not look like a throttle.
	if err := writeFile(filepath.Join(groups[0].top, "drover-lab-"+l.name, "cpu.shares"), "16384"); err != nil {
		t.Fatal(err)
	}
	original, err := groups[0].read()
	if err != nil {
		t.Fatal(err)
	}
	back := func() bool {
		b, err := groups[0].read()
		return err == nil && b == original
	}
	free := l.watch("g1", groups)
	for _, share := range []float64{0.3, ticking.least(150*ms, 1)} {
		h := l.hold(id, fmt.Sprint(share))
		s := l.watch("g1", groups)
		if s.cpu > share+0.04 || s.cpu < share/2 {
			t.Errorf("%.3f of a core used, allowed are %.3f", s.cpu, share)
		}
		if want := free.rate * s.cpu / free.cpu; s.rate > 1.5*want || s.rate < want/2 {
			t.Errorf("%.0f pages/s with %.2f of a core, %.0f with %.2f", s.rate, s.cpu, free.rate, free.cpu)
		}
		// What this machine's other work adds comes and goes; what a throttle adds is there at all times.
		for again := 0; s.Silence >= 150 && again < 10; again++ {
			s = l.watch("g1", groups)
		}
		if s.Silence >= 150 {
			t.Errorf("silent for %.0f ms, promised were less than 150 (unthrottled: %.0f)", s.Silence, free.Silence)
		}
		began := time.Now()
		l.run("exec", "kvm1", "--", "kill", "-9", h.pid)
		within(t, 5*time.Second, "the quota is back", back)
		t.Logf("quota back %s after the command that killed the holder began", time.Since(began).Round(time.Millisecond))
		_ = h.stdin.Close()
		_ = h.cmd.Wait()
	}
	// A domain that ends while it is throttled is no fault of the holder's.
	h := l.hold(id, "0.3")
	l.run("guest", "stop", "g1")
	if err := h.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Wait(); err != nil {
		t.Errorf("holder of a domain that ended: %v", err)
	}
	if left := strings.TrimSpace(l.run("exec", "kvm1", "--", "sh", "-c", "ls /var/lib/throttle-test")); left != "" {
		t.Errorf("spool: %s", left)
	}
}
