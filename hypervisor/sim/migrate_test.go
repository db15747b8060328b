package sim

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	vm   hypervisor.DomainID = "11111111-1111-4111-8111-111111111111"
	link                     = hypervisor.BytesPerSecond(50e6)
)

// lab is two hosts and one guest on the first.
type lab struct {
	*testing.T
	f        *Fleet
	src, dst *Host
	ctx      context.Context
}

func newLab(t *testing.T, c DomainConfig) *lab {
	t.Helper()
	f := New(Config{Seed: 1})
	t.Cleanup(f.Close)
	l := &lab{T: t, f: f, ctx: t.Context()}
	l.src, l.dst = l.host("a"), l.host("b")
	c.ID, c.Name = vm, "web"
	if c.Memory == 0 {
		c.Memory = 64 * hypervisor.MiB
	}
	if err := f.AddDomain("a", c); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) host(name string) *Host {
	l.Helper()
	h, err := l.f.AddHost(HostConfig{Name: name, Cores: 8, Memory: 8 * hypervisor.GiB, Reserved: hypervisor.GiB, Link: link})
	if err != nil {
		l.Fatal(err)
	}
	return h
}

func (l *lab) spec() hypervisor.MigrateSpec {
	return hypervisor.MigrateSpec{
		Domain: vm, PeerURI: l.dst.PeerURI(), Bandwidth: link, Downtime: 20 * time.Millisecond, Persistent: true,
	}
}

// start calls Migrate on a goroutine.
func (l *lab) start(spec hypervisor.MigrateSpec) <-chan error {
	c := make(chan error, 1)
	go func() { c <- l.src.Migrate(l.ctx, spec) }()
	return c
}

// waitStage lets time pass until the migration has come that far.
func (l *lab) waitStage(s stage) {
	l.Helper()
	for range 100_000 {
		l.f.mu.Lock()
		j := l.f.guests[vm].job
		at := over
		if j != nil {
			at = j.stage
		}
		l.f.mu.Unlock()
		if at == s {
			return
		}
		time.Sleep(time.Millisecond)
	}
	l.Fatalf("the migration never came to stage %d", s)
}

// see is both sides as (state, reason, job).
func (l *lab) see() [2][3]string {
	l.Helper()
	var out [2][3]string
	for i, h := range []*Host{l.src, l.dst} {
		s, err := h.Sight(l.ctx, vm)
		if err != nil {
			out[i] = [3]string{"error", string(hypervisor.ClassOf(err)), ""}
			continue
		}
		out[i] = [3]string{string(s.State), string(s.Reason), string(s.Job)}
	}
	return out
}

func (l *lab) wantSeen(when string, want [2][3]string) {
	l.Helper()
	if d := cmp.Diff(want, l.see()); d != "" {
		l.Errorf("%s: what both hosts show (-want +got):\n%s", when, d)
	}
}

func (l *lab) wantClass(err error, want hypervisor.Class) {
	l.Helper()
	if got := hypervisor.ClassOf(err); got != want {
		l.Errorf("error %v is of class %q, want %q", err, got, want)
	}
}

func (l *lab) wantRunning(on ...string) {
	l.Helper()
	if got := l.f.RunningOn(vm); !slices.Equal(got, on) {
		l.Errorf("the guest runs on %v, want %v", got, on)
	}
}

// quick calls take no virtual time in the tests that look at one moment.
var (
	onSource = [2][3]string{{"running", "", "none"}, {"absent", "", "none"}}
	onTarget = [2][3]string{{"shutoff", "migrated", "none"}, {"running", "migrated", "none"}}
	taken    = [2][3]string{{"running", "migration-canceled", "none"}, {"absent", "", "none"}}
)

func TestMigrationByStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		l.f.cfg.CallTime = time.Microsecond
		began := time.Now()
		result := l.start(l.spec())

		time.Sleep(10 * time.Millisecond)
		l.wantSeen("called", onSource)
		l.wantClass(l.src.Abort(l.ctx, vm), hypervisor.ClassInvalid)

		l.waitStage(setup)
		l.wantSeen("setup", [2][3]string{{"running", "", "outgoing"}, {"paused", "migration", "incoming"}})
		if s, err := l.src.JobStats(l.ctx, vm); err != nil || s.MemTotal != 0 || s.Round != 0 {
			t.Errorf("job in setup: total %d, round %d (%v), want none yet", s.MemTotal, s.Round, err)
		}
		l.waitStage(copying)
		time.Sleep(300 * time.Millisecond)
		l.wantSeen("copying", [2][3]string{{"running", "", "outgoing"}, {"paused", "migration", "incoming"}})
		s, err := l.src.JobStats(l.ctx, vm)
		if err != nil || s.Round != 1 || s.DirtyRate != 0 || s.MemTotal != 64*hypervisor.MiB+firmware || s.MemRemaining >= s.MemTotal {
			t.Errorf("job in the first round: %+v, %v", s, err)
		}
		if s, err := l.dst.JobStats(l.ctx, vm); err != nil || s.Kind != hypervisor.JobIncoming {
			t.Errorf("job on the target: %q, %v; want incoming", s.Kind, err)
		}
		if _, ok, err := l.src.CompletedStats(l.ctx, vm); ok || err != nil {
			t.Errorf("completed statistics during the job: %v, %v", ok, err)
		}
		l.wantClass(l.src.Migrate(l.ctx, l.spec()), hypervisor.ClassInvalid)

		l.waitStage(stopped)
		l.wantSeen("stopped", [2][3]string{{"paused", "migration", "outgoing"}, {"paused", "migration", "incoming"}})
		l.wantRunning()
		l.waitStage(finish)
		l.wantSeen("finish", [2][3]string{{"paused", "migration", "outgoing"}, {"running", "migrated", "incoming"}})
		l.wantRunning("b")

		if err := <-result; err != nil {
			t.Fatalf("migrate: %v", err)
		}
		l.wantSeen("over", onTarget)
		took := time.Since(began)
		if took < 1300*time.Millisecond || took > 2*time.Second {
			t.Errorf("64 MiB over 50 MB/s took %s, want about 1.5s", took)
		}
		for _, h := range []*Host{l.src, l.dst} {
			s, ok, err := h.CompletedStats(l.ctx, vm)
			if !ok || err != nil || s.Downtime < 25*time.Millisecond || s.Downtime > 50*time.Millisecond || s.MemProcessed < 64*hypervisor.MiB {
				t.Errorf("completed statistics on %s: %v %v %+v", h.Name(), ok, err, s)
			}
		}
		if err := l.src.Undefine(l.ctx, vm); err != nil {
			t.Errorf("undefine: %v", err)
		}
		l.wantSeen("undefined", [2][3]string{{"absent", "", "none"}, {"running", "migrated", "none"}})
		if w := l.f.Wrongs(); len(w) > 0 {
			t.Errorf("wrongs: %v", w)
		}
	})
}

func TestTransientLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{Transient: true})
		spec := l.spec()
		spec.Persistent = false
		if err := l.src.Migrate(l.ctx, spec); err != nil {
			t.Fatal(err)
		}
		l.wantSeen("over", [2][3]string{{"absent", "", "none"}, {"running", "migrated", "none"}})
		if _, ok, _ := l.dst.CompletedStats(l.ctx, vm); !ok {
			t.Error("no completed statistics on the target")
		}
	})
}

func TestPausedGuestStaysPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{Paused: true, Pattern: Pattern{Kind: Pages, Rate: 1e5}})
		if err := l.src.Migrate(l.ctx, l.spec()); err != nil {
			t.Fatal(err)
		}
		l.wantSeen("over", [2][3]string{{"shutoff", "migrated", "none"}, {"paused", "user", "none"}})
	})
}

// TestConvergence compares what QEMU's rule decides with arithmetic on paper: a working set that is
// rewritten faster than the link carries it never fits a short limit, and fits a long one.
func TestConvergence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{
			Memory: 256 * hypervisor.MiB, Pattern: Pattern{Kind: Pages, Rate: 20_000, WorkingSet: 32 * hypervisor.MiB},
		})
		result := l.start(l.spec())
		time.Sleep(time.Minute)
		s, err := l.src.JobStats(l.ctx, vm)
		if err != nil || s.Round < 20 {
			t.Fatalf("after a minute: round %d, %v; want many", s.Round, err)
		}
		// A round takes 32 MiB/50 MB/s = 0.67 s, in which 13,400 writes hit 8,192 pages: 81 % of them.
		if s.DirtyRate < 25e6 || s.DirtyRate > 60e6 {
			t.Errorf("dirty rate %s, want about 40 MB/s", s.DirtyRate)
		}
		if err := l.src.SetDowntime(l.ctx, vm, 700*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		raised := time.Now()
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(raised); d > 3*time.Second {
			t.Errorf("it took %s after the limit was raised, want at most a few rounds", d)
		}
		done, _, _ := l.dst.CompletedStats(l.ctx, vm)
		if done.Downtime < 300*time.Millisecond || done.Downtime > 900*time.Millisecond {
			t.Errorf("pause %s, want about half a second", done.Downtime)
		}
	})
}

func TestBandwidthIsLiveAndLiftedAtSwitchover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{Memory: 128 * hypervisor.MiB})
		spec := l.spec()
		spec.Bandwidth = 2 * 1024 * 1024
		began := time.Now()
		result := l.start(spec)
		time.Sleep(10 * time.Second)
		s, _ := l.src.JobStats(l.ctx, vm)
		if s.MemProcessed < 15*hypervisor.MiB || s.MemProcessed > 21*hypervisor.MiB {
			t.Errorf("%s sent in 10s at 2 MiB/s", s.MemProcessed)
		}
		if err := l.src.SetBandwidth(l.ctx, vm, 3<<20+12345); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 40*time.Second || d > 52*time.Second {
			t.Errorf("took %s, want about 46s: 10s at 2 MiB/s, the rest at 3", d)
		}
		done, _, _ := l.dst.CompletedStats(l.ctx, vm)
		if done.Downtime > 40*time.Millisecond {
			t.Errorf("pause %s: the cap was not lifted at switchover", done.Downtime)
		}
		l.wantClass(l.src.SetBandwidth(l.ctx, vm, 0), hypervisor.ClassArgument)
		l.wantClass(l.src.SetDowntime(l.ctx, vm, 0), hypervisor.ClassArgument)
	})
}

func TestStreamsShareTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{Memory: 200 * hypervisor.MiB})
		c := l.host("c")
		const other hypervisor.DomainID = "22222222-2222-4222-8222-222222222222"
		if err := l.f.AddDomain("a", DomainConfig{ID: other, Memory: 200 * hypervisor.MiB}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		result := l.start(l.spec())
		spec := l.spec()
		spec.Domain, spec.PeerURI = other, c.PeerURI()
		if err := l.src.Migrate(l.ctx, spec); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 8*time.Second || d > 10*time.Second {
			t.Errorf("two streams of 200 MiB over 50 MB/s took %s, want about 8.5s", d)
		}
	})
}

func TestStrategiesHelpWhereTheyShould(t *testing.T) {
	words := Pattern{Kind: Words, Rate: 20_000, WorkingSet: 48 * hypervisor.MiB}
	for _, tc := range []struct {
		name     string
		pattern  Pattern
		strategy hypervisor.Strategy
		done     bool // within 45 s
	}{
		{"words, plain", words, hypervisor.Strategy{}, false},
		{"words, xbzrle", words, hypervisor.Strategy{Compression: "xbzrle"}, true},
		{"words, cache too small", words, hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 16 * hypervisor.MiB}, false},
		{"pages, xbzrle", Pattern{Kind: Pages, Rate: 20_000, WorkingSet: 48 * hypervisor.MiB}, hypervisor.Strategy{Compression: "xbzrle"}, false},
		{"words, auto-converge", words, hypervisor.Strategy{AutoConverge: true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, DomainConfig{Memory: 128 * hypervisor.MiB, Pattern: tc.pattern})
				spec := l.spec()
				spec.Strategy, spec.Downtime = tc.strategy, 50*time.Millisecond
				result := l.start(spec)
				select {
				case err := <-result:
					if err != nil || !tc.done {
						t.Errorf("ended with %v after all, want it to run on", err)
					}
				case <-time.After(45 * time.Second):
					s, _ := l.src.JobStats(l.ctx, vm)
					if tc.done {
						t.Errorf("not done after 45s: round %d, rest %s, throttle %d%%", s.Round, s.MemRemaining, s.Throttle)
					}
					if s.Throttle != 0 {
						t.Errorf("throttled by %d%% unasked", s.Throttle)
					}
					_ = l.src.Abort(l.ctx, vm)
					<-result
				}
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{})
		for _, tc := range []struct {
			name   string
			change func(*hypervisor.MigrateSpec)
			want   hypervisor.Class
		}{
			{"no such domain", func(s *hypervisor.MigrateSpec) { s.Domain = "none" }, hypervisor.ClassNoDomain},
			{"no bandwidth", func(s *hypervisor.MigrateSpec) { s.Bandwidth = 0 }, hypervisor.ClassArgument},
			{"no downtime", func(s *hypervisor.MigrateSpec) { s.Downtime = 0 }, hypervisor.ClassArgument},
			{"unknown peer", func(s *hypervisor.MigrateSpec) { s.PeerURI = "sim://z" }, hypervisor.ClassFailed},
			{"itself", func(s *hypervisor.MigrateSpec) { s.PeerURI = l.src.PeerURI() }, hypervisor.ClassFailed},
		} {
			spec := l.spec()
			tc.change(&spec)
			if got := hypervisor.ClassOf(l.src.Migrate(l.ctx, spec)); got != tc.want {
				t.Errorf("%s: class %q, want %q", tc.name, got, tc.want)
			}
		}
		if err := l.f.AddDomain("b", DomainConfig{ID: "big", Memory: 7 * hypervisor.GiB}); err != nil {
			t.Fatal(err)
		}
		in, err := l.src.Inspect(l.ctx, vm)
		if err != nil {
			t.Fatal(err)
		}
		found, err := l.dst.CheckTarget(l.ctx, hypervisor.TargetQuestion{Inspection: in})
		if err != nil || len(found) != 1 || found[0].Code != hypervisor.BlockMemory {
			t.Errorf("check of a full target: %v, %v; want %s", found, err, hypervisor.BlockMemory)
		}
		l.wantClass(l.src.Migrate(l.ctx, l.spec()), hypervisor.ClassFailed)
		l.wantSeen("after refusals", onSource)
	})
}

func TestFactsAndLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, DomainConfig{CPU: 1.5, VCPUs: 2, Autostart: true, Pattern: Pattern{Kind: Sweep, Rate: 1000}})
		facts, err := l.src.Facts(l.ctx)
		if err != nil || len(facts.Domains) != 1 || !facts.Domains[0].Autostart || facts.PeerURI != l.src.PeerURI() {
			t.Fatalf("facts: %+v, %v", facts, err)
		}
		load, err := l.src.Load(l.ctx)
		if err != nil || load.CPU != 1.5 || len(load.Domains) != 1 {
			t.Fatalf("load: %+v, %v", load, err)
		}
		if d := load.Domains[0].Dirty; d == nil || d.Rate != 1000*4096 {
			t.Errorf("dirty sample %+v, want 4096000 B/s", d)
		}
		result := l.start(l.spec())
		time.Sleep(500 * time.Millisecond)
		load, _ = l.src.Load(l.ctx)
		in, _ := l.dst.Load(l.ctx)
		if load.Tx < 45e6 || in.Rx != load.Tx || !load.Domains[0].Migrating || in.CPU != 0 {
			t.Errorf("during a migration: tx %s, rx %s, migrating %v, target's CPU %v", load.Tx, in.Rx, load.Domains[0].Migrating, in.CPU)
		}
		<-result
	})
}
