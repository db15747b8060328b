//go:build lab

package kvm

// Tests on two real libvirt hosts with real guests, made by drover-lab. They run as root with
//
//	go test -tags 'libvirt_dlopen lab' -run TestLab ./hypervisor/kvm
//
// and need the program drover-lab, in build/ or where DROVER_LAB_TOOL says. With DROVER_LAB set they
// use the lab of that name, which must have two hosts and links of 200 Mbit/s; without it they make
// one and remove it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/qmp"
)

// labTool runs drover-lab and returns what it printed.
func labTool(t testing.TB, args ...string) string {
	t.Helper()
	tool := os.Getenv("DROVER_LAB_TOOL")
	if tool == "" {
		tool = filepath.Join("..", "..", "build", "drover-lab")
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "DROVER_LAB="+labName())
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", tool, strings.Join(args, " "), err, problem.String())
	}
	return out.String()
}

func labName() string {
	if name := os.Getenv("DROVER_LAB"); name != "" {
		return name
	}
	return "kvmtest"
}

// TestLab makes a lab, unless there is one, for the tests of this file.
func TestLab(t *testing.T) {
	if os.Getenv("DROVER_LAB") == "" {
		labTool(t, "up", "--hosts", "2", "--shape", "200mbit", "--dir", "/var/tmp/drover-kvmtest")
		t.Cleanup(func() { labTool(t, "down") })
	}
	t.Run("migrate with TLS", testMigrateWithTLS)
	t.Run("abort", testAbort)
	t.Run("context ends, migration goes on", testContextEnds)
	t.Run("refusals", testRefusals)
	t.Run("copy a disk", testCopyDisk)
	t.Run("strategies", testStrategies)
	t.Run("source's libvirtd dies", testSourceDaemonDies)
	t.Run("target's libvirtd dies", testTargetDaemonDies)
	t.Run("target's libvirtd dies at switchover", testTargetDiesAtSwitchover)
	t.Run("another's migration", testForeignMigration)
	t.Run("network cut", testNetworkCut)
}

// machine is one of the lab's hosts.
type machine struct {
	*Host
	name   string
	uri    string // for the peers
	stream string // address for migration streams
}

// openMachine connects to a lab host's libvirtd by the socket in its mount namespace.
func openMachine(t *testing.T, name string) *machine {
	t.Helper()
	var env struct {
		PID       int    `json:"pid"`
		URI       string `json:"uri"`
		Migration string `json:"migration_address"`
	}
	if err := json.Unmarshal([]byte(labTool(t, "env", name, "-o", "json")), &env); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", env.PID)
	h, err := Open(t.Context(), Config{
		URI:  "qemu+unix:///system?socket=" + root + "/run/libvirt/libvirt-sock",
		Name: name, PeerURI: env.URI, MigrationAddress: env.Migration, LoadSource: LoadDomains,
		QEMUConf: root + "/etc/libvirt/qemu.conf", DirtyPeriod: -1, QueryQEMU: true,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(h.Close)
	return &machine{Host: h, name: name, uri: env.URI, stream: "tcp://" + env.Migration}
}

// pair opens both hosts and starts a guest on the first.
func pair(t *testing.T, guestArgs ...string) (from, to *machine, id hypervisor.DomainID) {
	t.Helper()
	from, to = openMachine(t, "kvm1"), openMachine(t, "kvm2")
	labTool(t, append([]string{"guest", "start", "--host", "kvm1"}, append(guestArgs, "adapter")...)...)
	t.Cleanup(func() { labTool(t, "guest", "stop", "adapter") })
	id, err := from.FindDomain(t.Context(), "adapter")
	if err != nil {
		t.Fatal(err)
	}
	return from, to, id
}

func (m *machine) spec(id hypervisor.DomainID) hypervisor.MigrateSpec {
	return hypervisor.MigrateSpec{
		Domain: id, PeerURI: m.uri, MigrateURI: m.stream, Bandwidth: 100 << 20, Downtime: 200 * time.Millisecond,
		Persistent: true,
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantSight(t *testing.T, m *machine, id hypervisor.DomainID, state hypervisor.DomainState, reason hypervisor.StateReason) {
	t.Helper()
	s, err := m.Sight(within(t, 30*time.Second), id)
	if err != nil || s.State != state || s.Reason != reason {
		t.Errorf("%s sees %s (%s), %v, want %s (%s)", m.name, s.State, s.Reason, err, state, reason)
	}
}

// drained reads what events there are.
func drained(events <-chan hypervisor.Event, id hypervisor.DomainID) []string {
	var list []string
	for {
		select {
		case e := <-events:
			word := string(e.Kind)
			if e.Migration && e.Kind != hypervisor.EventRound {
				word += "-migration"
			}
			if e.Domain == id && (len(list) == 0 || list[len(list)-1] != word) {
				list = append(list, word)
			}
		case <-time.After(500 * time.Millisecond):
			return list
		}
	}
}

// copying waits until the domain's memory is being copied.
func copying(t *testing.T, m *machine, id hypervisor.DomainID) hypervisor.JobStats {
	t.Helper()
	var s hypervisor.JobStats
	eventually(t, "the migration is copying", func() bool {
		var err error
		s, err = m.JobStats(t.Context(), id)
		return err == nil && s.Kind == hypervisor.JobOutgoing && s.MemProcessed > 0
	})
	return s
}

func testMigrateWithTLS(t *testing.T) {
	from, to, id := pair(t, "--disk", "shared")
	left, arrived := from.Events(), to.Events()
	seen, err := from.Inspect(t.Context(), id)
	if err != nil || len(seen.Facts.Blockers) != 0 {
		t.Fatalf("Inspect: %v, %v", seen.Facts.Blockers, err)
	}
	stranger := to.spec(id)
	stranger.TLS, stranger.TLSDestination = true, "stranger"
	err = from.Migrate(within(t, time.Minute), stranger)
	wantClass(t, err, hypervisor.ClassFailed)
	t.Logf("the target has another name in its certificate: %v", err)

	found, err := to.CheckTarget(t.Context(), hypervisor.TargetQuestion{Inspection: seen})
	if err != nil || len(found) != 0 {
		t.Fatalf("CheckTarget: %v, %v", found, err)
	}
	spec := to.spec(id)
	spec.TLS, spec.TLSDestination = true, to.name
	done := make(chan error, 1)
	go func() { done <- from.Migrate(within(t, time.Minute), spec) }()
	s := copying(t, from, id)
	if s.MemTotal < 256*hypervisor.MiB || s.PageSize != 4096 || s.Round < 1 || s.Elapsed <= 0 {
		t.Errorf("statistics %+v", s)
	}
	wantMigrating(t, from, id, true)
	wantMigrating(t, to, id, true)
	if in, err := to.JobStats(t.Context(), id); err != nil || in.Kind != hypervisor.JobIncoming {
		t.Errorf("statistics on the target: %+v, %v, want an incoming job", in, err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	wantSight(t, from, id, hypervisor.StateShutoff, hypervisor.ReasonMigrated)
	wantSight(t, to, id, hypervisor.StateRunning, hypervisor.ReasonMigrated)
	wantMigrating(t, to, id, false)
	for _, m := range []*machine{from, to} {
		last, ok, err := m.CompletedStats(t.Context(), id)
		if err != nil || !ok || last.Kind != hypervisor.JobOutgoing && last.Kind != hypervisor.JobIncoming || last.MemProcessed == 0 {
			t.Errorf("completed on %s: %+v, %t, %v", m.name, last, ok, err)
		}
		t.Logf("completed on %s: kind %s, %s in %s, pause %s (net %s), %d rounds", m.name, last.Kind, last.Processed(), last.Elapsed, last.Downtime, last.DowntimeNet, last.Round)
	}
	if got := drained(left, id); !slices.Contains(got, "round") || got[len(got)-1] != "stopped-migration" {
		t.Errorf("events on the source: %v", got)
	}
	got := drained(arrived, id)
	if !slices.Contains(got, "started-migration") || !slices.Contains(got, "resumed-migration") {
		t.Errorf("events on the target: %v", got)
	}
	if err := from.Undefine(t.Context(), id); err != nil {
		t.Errorf("Undefine: %v", err)
	}
	wantSight(t, from, id, hypervisor.StateAbsent, "")
}

func wantMigrating(t *testing.T, m *machine, id hypervisor.DomainID, want bool) {
	t.Helper()
	l, err := m.Load(within(t, 10*time.Second))
	if d := domainIn(l, id); err != nil || d.Migrating != want {
		t.Errorf("%s: domain %+v, %v, want migrating %t", m.name, d, err, want)
	}
}

func testAbort(t *testing.T) {
	from, to, id := pair(t)
	ctx := within(t, time.Minute)
	spec := to.spec(id)
	spec.Bandwidth = 1 << 20
	done := make(chan error, 1)
	go func() { done <- from.Migrate(ctx, spec) }()
	copying(t, from, id)
	if err := from.SetDowntime(ctx, id, 50*time.Millisecond); err != nil {
		t.Errorf("SetDowntime in mid-copy: %v", err)
	}
	if err := from.SetBandwidth(ctx, id, 2<<20); err != nil {
		t.Errorf("SetBandwidth in mid-copy: %v", err)
	}
	if d, err := qmp.MigrationDetail(ctx, from, id); err != nil || d.Status != "active" || d.Transferred == 0 {
		t.Errorf("QEMU's own view: %+v, %v", d, err)
	}
	wantClass(t, from.Migrate(ctx, spec), hypervisor.ClassInvalid)
	begun := time.Now()
	if err := from.Abort(ctx, id); err != nil {
		t.Errorf("Abort: %v", err)
	}
	err := <-done
	t.Logf("aborted within %s: %v", time.Since(begun), err)
	wantClass(t, err, hypervisor.ClassAborted)
	wantSight(t, to, id, hypervisor.StateAbsent, "")
	s, err := from.Sight(ctx, id)
	if err != nil || s.State != hypervisor.StateRunning || s.Job != hypervisor.JobNone {
		t.Errorf("source after abort: %+v, %v", s, err)
	}
	wantClass(t, from.Abort(ctx, id), hypervisor.ClassInvalid)
	if n := from.Stragglers(); n != 0 {
		t.Errorf("stragglers: %d", n)
	}
}

func testContextEnds(t *testing.T) {
	from, to, id := pair(t)
	spec := to.spec(id)
	spec.Bandwidth = 1 << 20
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- from.Migrate(ctx, spec) }()
	copying(t, from, id)
	leave()
	err := <-done
	wantClass(t, err, hypervisor.ClassUnknownOutcome)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v: want it to say that the context ended", err)
	}
	if n := from.Stragglers(); n != 1 {
		t.Errorf("stragglers: %d, want the migration", n)
	}
	if s, err := from.JobStats(t.Context(), id); err != nil || s.Kind != hypervisor.JobOutgoing {
		t.Errorf("job afterwards: %+v, %v, want it to go on", s, err)
	}
	// An agent that starts anew finds it, and can steer it on a connection of its own.
	again := openMachine(t, "kvm1")
	if ids, err := again.Migrations(t.Context()); err != nil || !slices.Equal(ids, []hypervisor.DomainID{id}) {
		t.Errorf("Migrations: %v, %v", ids, err)
	}
	wantMigrating(t, again, id, true)
	if err := again.SetBandwidth(t.Context(), id, 100<<20); err != nil {
		t.Errorf("SetBandwidth: %v", err)
	}
	eventually(t, "the migration is over", func() bool { return from.Stragglers() == 0 })
	wantSight(t, to, id, hypervisor.StateRunning, hypervisor.ReasonMigrated)
	wantSight(t, from, id, hypervisor.StateShutoff, hypervisor.ReasonMigrated)
}

func testRefusals(t *testing.T) {
	from, to, id := pair(t, "--disk", "local")
	ctx := within(t, 2*time.Minute)
	base := to.spec(id)
	tests := []struct {
		name   string
		change func(*hypervisor.MigrateSpec)
		want   hypervisor.Class
		code   int
	}{
		{"local disk", func(*hypervisor.MigrateSpec) {}, hypervisor.ClassUnsafe, 81},
		{"peer's port closed", func(s *hypervisor.MigrateSpec) {
			s.PeerURI = strings.Replace(s.PeerURI, "kvm2/", "kvm2:16999/", 1)
			s.CopyDisks = []string{"vda"}
		}, hypervisor.ClassFailed, 38},
		{"peer's name unknown", func(s *hypervisor.MigrateSpec) {
			s.PeerURI, s.CopyDisks = "qemu+tls://nobody/system", []string{"vda"}
		}, hypervisor.ClassFailed, 38},
		{"no file on the target", func(s *hypervisor.MigrateSpec) { s.CopyDisks = []string{"vda"} }, hypervisor.ClassFailed, 49},
		{"to itself", func(s *hypervisor.MigrateSpec) {
			s.PeerURI, s.CopyDisks = "qemu+tls://kvm1/system", []string{"vda"}
		}, hypervisor.ClassFailed, 1},
		{"another disk than the local one", func(s *hypervisor.MigrateSpec) { s.CopyDisks = []string{"vdz"} }, hypervisor.ClassUnsafe, 81},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec := base
			tt.change(&spec)
			err := from.Migrate(ctx, spec)
			wantClass(t, err, tt.want)
			var e *hypervisor.Error
			if errors.As(err, &e) {
				t.Logf("class %s, code %d: %s", e.Class, e.Code, e.Message)
			}
			if e != nil && tt.code != 0 && e.Code != tt.code {
				t.Errorf("code %d, want %d", e.Code, tt.code)
			}
			s, err := from.Sight(ctx, id)
			if err != nil || s.State != hypervisor.StateRunning || s.Job != hypervisor.JobNone {
				t.Errorf("source afterwards: %+v, %v", s, err)
			}
		})
	}
}

func testCopyDisk(t *testing.T) {
	from, to, id := pair(t, "--disk", "local", "--prepare", "kvm2")
	spec := to.spec(id)
	spec.CopyDisks, spec.TLS, spec.TLSDestination = []string{"vda"}, true, to.name
	if err := from.Migrate(within(t, time.Minute), spec); err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	wantSight(t, to, id, hypervisor.StateRunning, hypervisor.ReasonMigrated)
	s, ok, err := from.CompletedStats(t.Context(), id)
	if err != nil || !ok || s.DiskTotal == 0 || s.DiskProcessed == 0 {
		t.Errorf("completed: %+v, %t, %v, want disk figures", s, ok, err)
	}
}

func testStrategies(t *testing.T) {
	from, to, id := pair(t)
	for _, s := range []hypervisor.Strategy{
		{},
		{Compression: "xbzrle", XBZRLECache: 32 * hypervisor.MiB},
		{Connections: 2},
		{Connections: 2, Compression: "zstd", ZstdLevel: 1},
		{AutoConverge: true},
		{PostCopy: true},
	} {
		t.Run(s.Name(), func(t *testing.T) {
			spec := to.spec(id)
			spec.Strategy = s
			done := make(chan error, 1)
			go func() { done <- from.Migrate(within(t, time.Minute), spec) }()
			if s.PostCopy {
				copying(t, from, id)
				if err := from.StartPostCopy(t.Context(), id); err != nil {
					t.Errorf("StartPostCopy: %v", err)
				}
			}
			if err := <-done; err != nil {
				t.Fatalf("Migrate: %v", err)
			}
			wantSight(t, to, id, hypervisor.StateRunning, hypervisor.ReasonMigrated)
			last, ok, err := from.CompletedStats(t.Context(), id)
			t.Logf("%s in %s, pause %s, %d rounds (%t, %v)", last.Processed(), last.Elapsed, last.Downtime, last.Round, ok, err)
			from, to = to, from
		})
	}
}
