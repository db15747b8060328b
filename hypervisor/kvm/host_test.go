package kvm

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

func TestFactsOfHostAndDomains(t *testing.T) {
	h := openHost(t, func(c *Config) {
		c.Capacity = hypervisor.Capacity{Memory: 8 * hypervisor.GiB, Bandwidth: 50e6}
		c.AgentVersion, c.ProtocolMin, c.ProtocolMax = "1.2.3", 1, 2
	})
	running := guest{name: "facts-running", uuid: "6c1f0000-0000-4000-8000-000000000001"}
	running.start(t, true)
	defined := guest{
		name: "facts-defined", uuid: "6c1f0000-0000-4000-8000-000000000002",
		devices: `<filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>`,
	}
	defined.define(t)

	f, err := h.Facts(soon(t))
	if err != nil {
		t.Fatalf("Facts: %v", err)
	}
	if f.Name != "kvm1" || f.LibvirtVersion < 9_000_000 || f.QEMUVersion < 7_000_000 || f.Arch != "x86_64" || f.LibvirtUUID == "" {
		t.Errorf("host facts are not whole: %+v", f)
	}
	if !slices.Contains(f.VirtTypes, "qemu") || !slices.Contains(f.MachineTypes, "pc-q35-10.0") || !slices.Contains(f.MachineTypes, "q35") {
		t.Errorf("accelerators %v, %d machine types: want qemu, pc-q35-10.0 and its alias", f.VirtTypes, len(f.MachineTypes))
	}
	if f.CPUModel == "" || len(f.CPUFeatures) == 0 || !slices.IsSorted(f.CPUFeatures) {
		t.Errorf("CPU %q with %d features: want a model and sorted features", f.CPUModel, len(f.CPUFeatures))
	}
	if c := f.Capacity; c.Cores < 1 || c.Memory != 8*hypervisor.GiB || c.Reserved != 512*hypervisor.MiB || c.Bandwidth != 50e6 {
		t.Errorf("capacity %+v: want the overrides, and a default for the rest", c)
	}
	want := []hypervisor.DomainFacts{
		{
			ID: running.id(), Name: running.name, VCPUs: 1, Memory: 64 * hypervisor.MiB, VirtType: "qemu",
			Arch: "x86_64", Machine: "pc-q35-10.0", Persistent: true,
		},
		{
			ID: defined.id(), Name: defined.name, VCPUs: 1, Memory: 64 * hypervisor.MiB, VirtType: "qemu",
			Arch: "x86_64", Machine: "pc-q35-10.0", Persistent: true,
			Blockers: []hypervisor.Blocker{{
				Code: hypervisor.BlockVirtioFS, Detail: "host directory mounted into the guest as srv",
				Remedy: "unmount and detach the file system",
			}},
		},
	}
	if diff := cmp.Diff(want, f.Domains); diff != "" {
		t.Errorf("domains (-want +got):\n%s", diff)
	}
}

func TestFactsFollowEvents(t *testing.T) {
	h := openHost(t, nil)
	g := guest{name: "facts-follow", uuid: "6c1f0000-0000-4000-8000-000000000003"}
	g.define(t)
	ctx := soon(t)
	if _, err := h.Facts(ctx); err != nil {
		t.Fatalf("Facts: %v", err)
	}
	g.extra = "<title>new</title>"
	g.devices = `<shmem name='s' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>`
	g.define(t)
	eventually(t, "the changed definition shows in the facts", func() bool {
		f, err := h.Facts(ctx)
		return err == nil && len(f.Domains) == 1 && codes(f.Domains[0].Blockers) == "shared-memory"
	})
	if err := h.SetAutostart(ctx, g.id(), true); err != nil {
		t.Fatalf("SetAutostart: %v", err)
	}
	f, err := h.Facts(ctx)
	if err != nil || !f.Domains[0].Autostart {
		t.Errorf("facts after SetAutostart: %+v, %v; want autostart", f.Domains, err)
	}
}

func TestEventsOfLifecycle(t *testing.T) {
	h := openHost(t, nil)
	events := h.Events()
	g := guest{name: "events", uuid: "6c1f0000-0000-4000-8000-000000000004"}
	g.start(t, true)
	g.with(t, func(d *libvirt.Domain) {
		if err := d.Suspend(); err != nil {
			t.Fatal(err)
		}
		if err := d.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := d.Destroy(); err != nil {
			t.Fatal(err)
		}
	})
	want := []hypervisor.EventKind{
		hypervisor.EventDefined, hypervisor.EventStarted, hypervisor.EventSuspended, hypervisor.EventResumed,
		hypervisor.EventStopped,
	}
	var got []hypervisor.EventKind
	timeout := time.After(20 * time.Second)
	for len(got) < len(want) {
		select {
		case e := <-events:
			// Starting a guest resumes its vCPUs, which is an event like any other.
			starting := e.Kind == hypervisor.EventResumed && len(got) < 3
			if e.Domain == g.id() && !starting {
				got = append(got, e.Kind)
			}
		case <-timeout:
			t.Fatalf("events so far: %v, want %v", got, want)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestEventsEndWithHost(t *testing.T) {
	cfgHost := openUnmanaged(t)
	events := cfgHost.Events()
	cfgHost.Close()
	select {
	case _, open := <-events:
		if open {
			t.Error("got an event, want the end of the channel")
		}
	case <-time.After(5 * time.Second):
		t.Error("the channel did not end")
	}
	if _, open := <-cfgHost.Events(); open {
		t.Error("a subscription after Close: want it ended")
	}
	if _, err := cfgHost.Sight(soon(t), "6c1f0000-0000-4000-8000-0000000000ff"); !hypervisor.IsClass(err, hypervisor.ClassUnavailable) {
		t.Errorf("Sight after Close: got %v, want class unavailable", err)
	}
}

func TestSight(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	g := guest{name: "sight", uuid: "6c1f0000-0000-4000-8000-000000000005"}
	look := func(want hypervisor.DomainState, reason hypervisor.StateReason) {
		t.Helper()
		s, err := h.Sight(ctx, g.id())
		if err != nil {
			t.Fatalf("Sight: %v", err)
		}
		if s.State != want || s.Reason != reason || s.Job != hypervisor.JobNone || s.Domain != g.id() || s.At.IsZero() {
			t.Errorf("got %+v, want %s %q without a job", s, want, reason)
		}
	}
	look(hypervisor.StateAbsent, "")
	g.start(t, true)
	look(hypervisor.StateRunning, "")
	g.with(t, func(d *libvirt.Domain) { _ = d.Suspend() })
	look(hypervisor.StatePaused, hypervisor.ReasonUser)
	if err := h.Resume(ctx, g.id()); err != nil {
		t.Fatalf("Resume: %v", err)
	}
	look(hypervisor.StateRunning, "")
	g.with(t, func(d *libvirt.Domain) { _ = d.Destroy() })
	look(hypervisor.StateShutoff, hypervisor.ReasonDestroyed)

	id, err := h.FindDomain(ctx, g.name)
	if err != nil || id != g.id() {
		t.Errorf("FindDomain: got %s, %v, want %s", id, err, g.id())
	}
	_, err = h.FindDomain(ctx, "nobody")
	wantClass(t, err, hypervisor.ClassNoDomain)
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestCallsOnIdleDomain(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	g := guest{name: "idle", uuid: "6c1f0000-0000-4000-8000-000000000006"}
	g.start(t, false)

	stats, err := h.JobStats(ctx, g.id())
	if err != nil || stats.Kind != hypervisor.JobNone {
		t.Errorf("JobStats: got %+v, %v, want kind none", stats, err)
	}
	if _, ok, err := h.CompletedStats(ctx, g.id()); ok || err != nil {
		t.Errorf("CompletedStats: got %t, %v, want none", ok, err)
	}
	wantClass(t, h.Abort(ctx, g.id()), hypervisor.ClassInvalid)
	wantClass(t, h.StartPostCopy(ctx, g.id()), hypervisor.ClassInvalid)
	// Broken post-copy is tried to be mended for as long as it takes: no try may keep its connection.
	files := openFiles(t)
	for range 5 {
		if err := h.Recover(ctx, hypervisor.MigrateSpec{
			Domain: g.id(), PeerURI: "qemu+tcp://127.0.0.1:1/system", Bandwidth: hypervisor.BytesPerSecond(hypervisor.MiB),
			Downtime: time.Second, Strategy: hypervisor.Strategy{PostCopy: true},
		}); err == nil {
			t.Error("Recover: want a refusal, since nothing is broken")
		}
	}
	for now := openFiles(t); now > files+1; now = openFiles(t) {
		if ctx.Err() != nil {
			t.Fatalf("refused recoveries keep %d files open", now-files)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if h.outgoing.leaving(g.id()) {
		t.Error("the refused recovery keeps its place")
	}
	if err := h.SetDowntime(ctx, g.id(), 120*time.Millisecond); err != nil {
		t.Errorf("SetDowntime: %v", err)
	}
	if err := h.SetBandwidth(ctx, g.id(), 8_300_000); err != nil {
		t.Errorf("SetBandwidth: %v", err)
	}
	g.with(t, func(d *libvirt.Domain) {
		if ms, err := d.MigrateGetMaxDowntime(0); err != nil || ms != 120 {
			t.Errorf("downtime limit: got %d ms, %v, want 120", ms, err)
		}
		if mib, err := d.MigrateGetMaxSpeed(0); err != nil || mib != 7 {
			t.Errorf("bandwidth limit: got %d MiB/s, %v, want 7", mib, err)
		}
	})
	wantClass(t, h.SetDowntime(ctx, g.id(), 0), hypervisor.ClassArgument)
	wantClass(t, h.SetBandwidth(ctx, g.id(), 0), hypervisor.ClassArgument)
	if ids, err := h.Migrations(ctx); err != nil || len(ids) != 0 {
		t.Errorf("Migrations: got %v, %v, want none", ids, err)
	}
	wantClass(t, h.SetAutostart(ctx, g.id(), true), hypervisor.ClassInvalid)
	wantClass(t, h.Undefine(ctx, g.id()), hypervisor.ClassInvalid)
}

func TestCallsOnAbsentDomain(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	const id = "6c1f0000-0000-4000-8000-0000000000fe"
	_, err := h.JobStats(ctx, id)
	wantClass(t, err, hypervisor.ClassNoDomain)
	wantClass(t, h.Abort(ctx, id), hypervisor.ClassNoDomain)
	wantClass(t, h.SetDowntime(ctx, id, time.Second), hypervisor.ClassNoDomain)
	wantClass(t, h.SetAutostart(ctx, id, true), hypervisor.ClassNoDomain)
	_, err = h.Inspect(ctx, id)
	wantClass(t, err, hypervisor.ClassNoDomain)
	if err := h.Undefine(ctx, id); err != nil {
		t.Errorf("Undefine: got %v, want nil", err)
	}
	if _, ok, err := h.CompletedStats(ctx, id); ok || err != nil {
		t.Errorf("CompletedStats: got %t, %v, want none", ok, err)
	}
	err = h.Migrate(ctx, hypervisor.MigrateSpec{Domain: id, PeerURI: "qemu+tcp://peer/system", Bandwidth: 1e6, Downtime: time.Second})
	wantClass(t, err, hypervisor.ClassNoDomain)
	if n := h.Stragglers(); n != 0 {
		t.Errorf("stragglers: got %d, want 0", n)
	}
}

func TestUndefineKeepsActive(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	g := guest{name: "undefine", uuid: "6c1f0000-0000-4000-8000-000000000007"}
	g.start(t, true)
	wantClass(t, h.Undefine(ctx, g.id()), hypervisor.ClassInvalid)
	g.with(t, func(d *libvirt.Domain) {
		if p, err := d.IsPersistent(); err != nil || !p {
			t.Errorf("persistent after a refused undefine: %t, %v", p, err)
		}
		_ = d.Destroy()
	})
	if err := h.Undefine(ctx, g.id()); err != nil {
		t.Errorf("Undefine when shut off: %v", err)
	}
	s, err := h.Sight(ctx, g.id())
	if err != nil || s.State != hypervisor.StateAbsent {
		t.Errorf("afterwards: %+v, %v, want absent", s, err)
	}
}

// openUnmanaged opens a Host that the test closes itself.
func openUnmanaged(t *testing.T) *Host {
	t.Helper()
	h, err := Open(t.Context(), Config{URI: embedURI, DirtyPeriod: -1, connect: lendEmbed})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return h
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}
