package kvm

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/hypervisor"
)

func domainIn(load hypervisor.HostLoad, id hypervisor.DomainID) hypervisor.DomainLoad {
	for _, d := range load.Domains {
		if d.ID == id {
			return d
		}
	}
	return hypervisor.DomainLoad{}
}

func TestLoad(t *testing.T) {
	h := openHost(t, func(c *Config) { c.LoadSource = LoadDomains })
	ctx := soon(t)
	busy := guest{name: "load-busy", uuid: "6c1f0000-0000-4000-8000-000000000020"}
	busy.start(t, false) // its firmware looks for something to boot
	off := guest{name: "load-off", uuid: "6c1f0000-0000-4000-8000-000000000021"}
	off.define(t)

	first, err := h.Load(ctx)
	if err != nil || first.Problem != "" {
		t.Fatalf("Load: %v, problem %q", err, first.Problem)
	}
	if d := domainIn(first, busy.id()); d.CPU != 0 || d.State != hypervisor.StateRunning || d.Memory < 16*hypervisor.MiB {
		t.Errorf("first sample %+v: want no rates yet, and the resident memory", d)
	}
	time.Sleep(time.Second)
	second, err := h.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := domainIn(second, busy.id())
	if d.CPU <= 0 || d.CPU > 4 || d.Migrating {
		t.Errorf("second sample %+v: want the guest to use some CPU", d)
	}
	if second.CPU != d.CPU || second.Memory != d.Memory {
		t.Errorf("host %v cores, %s: want the sum of its domains, %v cores, %s", second.CPU, second.Memory, d.CPU, d.Memory)
	}
	if d := domainIn(second, off.id()); d.State != hypervisor.StateShutoff || d.CPU != 0 || d.Memory != 0 {
		t.Errorf("a domain that is off: %+v", d)
	}
	third, err := h.Load(ctx)
	if err != nil || domainIn(third, busy.id()).CPU != d.CPU {
		t.Errorf("a sample right after: %+v, %v, want the same rates, %+v", domainIn(third, busy.id()), err, d)
	}
}

func TestLoadOfHost(t *testing.T) {
	proc := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\nintr 1\n")
	write("meminfo", "MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable: 250000 kB\n")
	write("pressure/cpu", "some avg10=12.50 avg60=1 avg300=0 total=5\nfull avg10=0.00\n")
	write("self/net/dev", "Inter-| Receive\n face |bytes\n  lo:  1000 1 0 0 0 0 0 0  2000 1 0 0 0 0 0 0\n")
	h := openHost(t, func(c *Config) { c.ProcRoot, c.MigrationInterface = proc, "lo" })
	if _, err := h.Load(soon(t)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	write("stat", "cpu  150 0 150 850 0 0 0 50 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\n")
	write("self/net/dev", "  lo: 11000 1 0 0 0 0 0 0 22000 1 0 0 0 0 0 0\n")
	l, err := h.Load(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	// 100 of 200 ticks on two CPUs: one core.
	if l.CPU != 1 || l.Memory != 750_000*hypervisor.KiB || l.Pressure != (hypervisor.Pressure{CPU: 12.5}) || l.Problem != "" {
		t.Errorf("got %+v, want one core, 750,000 KiB, pressure 12.5 %%", l)
	}
	if l.Rx <= 0 || l.Rx > 20_000 || l.Tx != 2*l.Rx && l.Tx != 2*l.Rx+1 {
		t.Errorf("traffic %d in, %d out: want 10,000 and 20,000 bytes over half a second or a little more", l.Rx, l.Tx)
	}
	write("stat", "nonsense\n")
	if l, err = h.Load(soon(t)); err != nil || l.Problem == "" {
		t.Errorf("without a readable stat: problem %q, %v; want it named", l.Problem, err)
	}
}

// hang stops a guest's QEMU, as storage that is away does; the returned function lets it go on.
func hang(t *testing.T, g guest) (goOn func()) {
	t.Helper()
	pid := 0
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(e)
		if err == nil && strings.Contains(string(text), "guest="+g.name+",") && strings.Contains(string(text), embedRoot) {
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(e)))
		}
	}
	p, err := os.FindProcess(pid)
	if err != nil || pid == 0 {
		t.Fatalf("QEMU of %s not found: %v", g.name, err)
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	done := false
	goOn = func() {
		if !done {
			_ = p.Signal(syscall.SIGCONT)
			done = true
		}
	}
	t.Cleanup(goOn)
	return goOn
}

func TestHangingGuestDoesNotStaleHost(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	well := guest{name: "hang-well", uuid: "6c1f0000-0000-4000-8000-000000000022"}
	well.start(t, false)
	stuck := guest{name: "hang-stuck", uuid: "6c1f0000-0000-4000-8000-000000000023"}
	stuck.start(t, false)
	if _, err := h.Load(ctx); err != nil {
		t.Fatal(err)
	}
	goOn := hang(t, stuck)

	// The first call meets the guest unprepared and makes a second one necessary.
	begun := time.Now()
	if _, err := h.Load(ctx); err != nil || time.Since(begun) > 2*loadLimit {
		t.Errorf("first Load: %v after %s", err, time.Since(begun))
	}
	for range 3 {
		begun := time.Now()
		l, err := h.Load(ctx)
		if err != nil || time.Since(begun) > 2*time.Second {
			t.Fatalf("Load beside a hanging guest: %v after %s", err, time.Since(begun))
		}
		if d := domainIn(l, well.id()); d.State != hypervisor.StateRunning || d.Memory == 0 {
			t.Errorf("the other guest: %+v", d)
		}
		if d := domainIn(l, stuck.id()); d.Memory == 0 {
			t.Errorf("the hanging guest: %+v, want its last figures", d)
		}
	}
	l, err := h.Load(ctx)
	if err != nil || l.Problem != "" || domainIn(l, stuck.id()).Problem == "" || domainIn(l, well.id()).Problem != "" {
		t.Errorf("problem %q, %v, domains %+v: want the hanging guest's own, and no other", l.Problem, err, l.Domains)
	}

	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = h.JobStats(short, stuck.id())
	wantClass(t, err, hypervisor.ClassUnknownOutcome)
	_, err = h.JobStats(ctx, stuck.id())
	wantClass(t, err, hypervisor.ClassBusy)
	if _, err := h.JobStats(ctx, well.id()); err != nil {
		t.Errorf("JobStats of the other guest: %v", err)
	}
	if n := h.Stragglers(); n < 1 || n > 2 {
		t.Errorf("stragglers: got %d, want the load's and the statistics'", n)
	}
	goOn()
	eventually(t, "no stragglers once the guest goes on", func() bool { return h.Stragglers() == 0 })
	if _, err := h.JobStats(ctx, stuck.id()); err != nil {
		t.Errorf("JobStats afterwards: %v", err)
	}
}

func TestDirtySamples(t *testing.T) {
	h := openHost(t, func(c *Config) { c.DirtyPeriod = time.Millisecond })
	g := guest{name: "dirty", uuid: "6c1f0000-0000-4000-8000-000000000024"}
	g.start(t, false)
	ctx := soon(t)
	var d hypervisor.DomainLoad
	eventually(t, "a sample over each window", func() bool {
		l, err := h.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		d = domainIn(l, g.id())
		return d.Dirty != nil && d.DirtyLong != nil
	})
	if d.Dirty.Window != shortWindow || d.DirtyLong.Window != longWindow || d.Dirty.Rate < 0 {
		t.Errorf("samples %+v and %+v", d.Dirty, d.DirtyLong)
	}
	// A domain that leaves is left alone.
	h.outgoing.seen(g.id())
	_, err := h.estimateDirty(ctx, g.id(), shortWindow)
	wantClass(t, err, hypervisor.ClassInvalid)
}

func TestLoadSurvivesConnectionLoss(t *testing.T) {
	h := openHost(t, nil)
	events := h.Events()
	h.view.mu.Lock()
	now := h.view.now
	h.view.mu.Unlock()
	h.view.lost(now) // what the close callback does
	select {
	case e := <-events:
		if e.Kind != hypervisor.EventReset {
			t.Errorf("event %+v, want a reset", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no reset after the connection was lost")
	}
	if _, err := h.Load(soon(t)); err != nil {
		t.Errorf("Load after reconnect: %v", err)
	}
	g := guest{name: "after-reset", uuid: "6c1f0000-0000-4000-8000-000000000025"}
	g.define(t)
	select {
	case e := <-events:
		if e.Kind != hypervisor.EventDefined || e.Domain != g.id() {
			t.Errorf("event %+v, want the definition", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no events after reconnect")
	}
}
