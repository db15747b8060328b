package kvm

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"
	"pgregory.net/rapid"

	"drover/hypervisor"
)

const (
	libvirtNow = 11_003_000
	qemuNow    = 10_000_002
)

// order1 is a spec that may be sent, changed by the test.
func order1(change func(*hypervisor.MigrateSpec)) hypervisor.MigrateSpec {
	s := hypervisor.MigrateSpec{
		Domain: "d", PeerURI: "qemu+tls://kvm2/system", Bandwidth: 50 << 20, Downtime: 150 * time.Millisecond,
	}
	if change != nil {
		change(&s)
	}
	return s
}

func TestPlan(t *testing.T) {
	const always = libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PEER2PEER | libvirt.MIGRATE_ABORT_ON_ERROR
	tests := []struct {
		name  string
		spec  hypervisor.MigrateSpec
		flags libvirt.DomainMigrateFlags
		want  libvirt.DomainMigrateParameters
		speed uint64
	}{
		{
			name: "plain", spec: order1(nil), flags: always,
			want: libvirt.DomainMigrateParameters{BandwidthSet: true, Bandwidth: 50},
		},
		{
			name: "persistent, encrypted, own address, slow link", flags: always | libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_TLS,
			spec: order1(func(s *hypervisor.MigrateSpec) {
				s.Persistent, s.TLS, s.TLSDestination, s.MigrateURI = true, true, "kvm2", "tcp://192.0.2.7"
				s.Bandwidth = 1000
			}),
			want: libvirt.DomainMigrateParameters{
				BandwidthSet: true, Bandwidth: 1, TLSDestinationSet: true, TLSDestination: "kvm2", URISet: true, URI: "tcp://192.0.2.7",
			},
		},
		{
			name: "copied disks", flags: always | libvirt.MIGRATE_NON_SHARED_DISK,
			spec: order1(func(s *hypervisor.MigrateSpec) { s.CopyDisks = []string{"vda", "vdb"} }),
			want: libvirt.DomainMigrateParameters{BandwidthSet: true, Bandwidth: 50, MigrateDisksSet: true, MigrateDisks: []string{"vda", "vdb"}},
		},
		{
			name: "zstd", flags: always | libvirt.MIGRATE_PARALLEL | libvirt.MIGRATE_COMPRESSED,
			spec: order1(func(s *hypervisor.MigrateSpec) {
				s.Strategy = hypervisor.Strategy{Compression: "zstd", ZstdLevel: 3, Connections: 4}
			}),
			want: libvirt.DomainMigrateParameters{
				BandwidthSet: true, Bandwidth: 50, ParallelConnectionsSet: true, ParallelConnections: 4,
				CompressionSet: true, Compression: "zstd", CompressionZstdLevelSet: true, CompressionZstdLevel: 3,
			},
		},
		{
			name: "xbzrle", flags: always | libvirt.MIGRATE_COMPRESSED | libvirt.MIGRATE_AUTO_CONVERGE,
			spec: order1(func(s *hypervisor.MigrateSpec) {
				s.Strategy = hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 1 << 28, AutoConverge: true}
			}),
			want: libvirt.DomainMigrateParameters{
				BandwidthSet: true, Bandwidth: 50, CompressionSet: true, Compression: "xbzrle",
				CompressionXBZRLECacheSet: true, CompressionXBZRLECache: 1 << 28,
			},
		},
		{
			// The cap must not travel as a parameter: the binding would send it for post-copy too.
			name: "post-copy", flags: always | libvirt.MIGRATE_POSTCOPY, speed: 50,
			spec: order1(func(s *hypervisor.MigrateSpec) { s.Strategy.PostCopy = true }),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := plan(tt.spec, libvirtNow, qemuNow)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, o.params); diff != "" {
				t.Errorf("parameters (-want +got):\n%s", diff)
			}
			if o.flags != tt.flags || o.speed != tt.speed || o.downtime != 150 || o.peer != tt.spec.PeerURI {
				t.Errorf("flags %#x, speed %d, downtime %d: want %#x, %d, 150", o.flags, o.speed, o.downtime, tt.flags, tt.speed)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	strategy := func(st hypervisor.Strategy) hypervisor.MigrateSpec {
		return order1(func(s *hypervisor.MigrateSpec) { s.Strategy = st })
	}
	tests := []struct {
		name    string
		spec    hypervisor.MigrateSpec
		libvirt uint32
		want    hypervisor.Class
	}{
		{name: "no domain", spec: order1(func(s *hypervisor.MigrateSpec) { s.Domain = "" })},
		{name: "no peer", spec: order1(func(s *hypervisor.MigrateSpec) { s.PeerURI = "" })},
		{name: "no bandwidth", spec: order1(func(s *hypervisor.MigrateSpec) { s.Bandwidth = 0 })},
		{name: "no downtime", spec: order1(func(s *hypervisor.MigrateSpec) { s.Downtime = 0 })},
		{name: "an hour of downtime", spec: order1(func(s *hypervisor.MigrateSpec) { s.Downtime = time.Hour })},
		{name: "TLS name without TLS", spec: order1(func(s *hypervisor.MigrateSpec) { s.TLSDestination = "x" })},
		{name: "a disk twice", spec: order1(func(s *hypervisor.MigrateSpec) { s.CopyDisks = []string{"vda", "vda"} })},
		{name: "RDMA", spec: order1(func(s *hypervisor.MigrateSpec) { s.MigrateURI = "rdma://192.0.2.7" })},
		{name: "unknown compression", spec: strategy(hypervisor.Strategy{Compression: "mt"})},
		{name: "xbzrle in parallel", spec: strategy(hypervisor.Strategy{Compression: "xbzrle", Connections: 2})},
		{name: "zstd in one stream", spec: strategy(hypervisor.Strategy{Compression: "zstd"})},
		{name: "cache without xbzrle", spec: strategy(hypervisor.Strategy{XBZRLECache: 1 << 20})},
		{name: "cache of an odd size", spec: strategy(hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 3 << 20})},
		{name: "level without zstd", spec: strategy(hypervisor.Strategy{Connections: 2, ZstdLevel: 2})},
		{name: "level too high", spec: strategy(hypervisor.Strategy{Connections: 2, Compression: "zstd", ZstdLevel: 21})},
		{name: "post-copy with disks", spec: order1(func(s *hypervisor.MigrateSpec) {
			s.Strategy.PostCopy, s.CopyDisks = true, []string{"vda"}
		})},
		{
			name: "post-copy in parallel on this QEMU", want: hypervisor.ClassUnsupported,
			spec: strategy(hypervisor.Strategy{PostCopy: true, Connections: 2}),
		},
		{
			name: "zstd on old libvirt", want: hypervisor.ClassUnsupported, libvirt: 9_000_000,
			spec: strategy(hypervisor.Strategy{Compression: "zstd", Connections: 2}),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			version := tt.libvirt
			if version == 0 {
				version = libvirtNow
			}
			want := tt.want
			if want == "" {
				want = hypervisor.ClassArgument
			}
			_, err := plan(tt.spec, version, qemuNow)
			wantClass(t, err, want)
		})
	}
}

func TestRecoveryIsTheSameCallAgain(t *testing.T) {
	spec := order1(func(s *hypervisor.MigrateSpec) { s.Strategy.PostCopy, s.TLS, s.Persistent = true, true, true })
	begun, err := plan(spec, libvirtNow, qemuNow)
	if err != nil {
		t.Fatal(err)
	}
	spec.TargetLibvirt = 11_004_000
	again, err := recovery(spec, libvirtNow, qemuNow)
	if err != nil || again.flags != begun.flags|libvirt.MIGRATE_POSTCOPY_RESUME || again.params.BandwidthSet {
		t.Errorf("%+v, %v: want the flags %#x and the one for going on, and no limit", again, err, begun.flags)
	}
	for _, v := range [][2]uint32{{8_004_000, 11_004_000}, {11_004_000, 8_004_000}, {11_004_000, 11_002_000}, {9_000_000, 11_003_999}, {11_003_000, 0}} {
		spec.TargetLibvirt = v[1]
		_, err = recovery(spec, v[0], qemuNow)
		wantClass(t, err, hypervisor.ClassUnsupported)
	}
	for _, v := range [][2]uint32{{11_003_000, 11_001_000}, {11_003_000, 12_000_000}, {9_000_000, 9_000_000}, {9_000_000, 0}} {
		spec.TargetLibvirt = v[1]
		if _, err = recovery(spec, v[0], qemuNow); err != nil {
			t.Errorf("from libvirt %d to %d: %v", v[0], v[1], err)
		}
	}
	spec.TargetLibvirt, spec.Strategy.PostCopy = 11_004_000, false
	_, err = recovery(spec, libvirtNow, qemuNow)
	wantClass(t, err, hypervisor.ClassArgument)
}

// Whatever is sent has an explicit limit, asks for nothing dangerous and nothing contradictory.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := hypervisor.MigrateSpec{
			Domain: "d", PeerURI: "qemu+tls://kvm2/system",
			Bandwidth:  hypervisor.BytesPerSecond(rapid.Int64().Draw(t, "bandwidth")),
			Downtime:   time.Duration(rapid.Int64().Draw(t, "downtime")),
			Persistent: rapid.Bool().Draw(t, "persistent"),
			TLS:        rapid.Bool().Draw(t, "tls"),
			CopyDisks:  rapid.SliceOfN(rapid.SampledFrom([]string{"", "vda", "vdb"}), 0, 2).Draw(t, "disks"),
			Strategy: hypervisor.Strategy{
				Compression:  rapid.SampledFrom([]string{"", "xbzrle", "zstd", "zlib"}).Draw(t, "compression"),
				XBZRLECache:  hypervisor.Bytes(rapid.SampledFrom([]int64{0, 1 << 20, 5}).Draw(t, "cache")),
				ZstdLevel:    rapid.IntRange(-1, 22).Draw(t, "level"),
				Connections:  rapid.IntRange(-1, 300).Draw(t, "connections"),
				AutoConverge: rapid.Bool().Draw(t, "auto"),
				PostCopy:     rapid.Bool().Draw(t, "post"),
			},
		}
		o, err := plan(spec, libvirtNow, qemuNow)
		if err != nil {
			if c := hypervisor.ClassOf(err); c != hypervisor.ClassArgument && c != hypervisor.ClassUnsupported {
				t.Fatalf("class %q of %v", c, err)
			}
			return
		}
		has := func(f libvirt.DomainMigrateFlags) bool { return o.flags&f != 0 }
		if has(libvirt.MIGRATE_UNSAFE | libvirt.MIGRATE_UNDEFINE_SOURCE | libvirt.MIGRATE_TUNNELLED | libvirt.MIGRATE_OFFLINE) {
			t.Fatalf("flags %#x", o.flags)
		}
		if has(libvirt.MIGRATE_POSTCOPY) && (o.params.BandwidthSet || has(libvirt.MIGRATE_PARALLEL)) {
			t.Fatalf("post-copy with %+v", o)
		}
		if limit := o.params.Bandwidth + o.speed; limit == 0 || o.params.BandwidthSet == (o.speed > 0) || limit > 1 && limit<<20 > uint64(spec.Bandwidth) {
			t.Fatalf("limit %d MiB/s for %d B/s", limit, spec.Bandwidth)
		}
		if o.downtime < 1 || o.downtime > 2_000_000 {
			t.Fatalf("downtime %d ms for %s", o.downtime, spec.Downtime)
		}
		if has(libvirt.MIGRATE_COMPRESSED) != o.params.CompressionSet || has(libvirt.MIGRATE_PARALLEL) != o.params.ParallelConnectionsSet {
			t.Fatalf("flags and parameters disagree: %+v", o)
		}
	})
}

func TestVerdict(t *testing.T) {
	at := func(state hypervisor.DomainState, raw int, job hypervisor.JobKind) vantage {
		return vantage{Sighting: hypervisor.Sighting{Domain: "d", State: state, Job: job}, raw: raw}
	}
	const (
		booted    = int(libvirt.DOMAIN_RUNNING_BOOTED)
		unpaused  = int(libvirt.DOMAIN_RUNNING_UNPAUSED)
		cancelled = int(libvirt.DOMAIN_RUNNING_MIGRATION_CANCELED)
		unknown   = hypervisor.ClassUnknownOutcome
		failed    = hypervisor.ClassFailed
	)
	running := func(raw int) vantage { return at(hypervisor.StateRunning, raw, hypervisor.JobNone) }
	tests := []struct {
		name          string
		before, after vantage
		disturbed     bool // an event told that the vCPUs stopped, or one may have been lost
		class, want   hypervisor.Class
	}{
		{"aborted, never stopped", running(booted), running(booted), false, hypervisor.ClassAborted, hypervisor.ClassAborted},
		{"aborted at switchover", running(booted), running(cancelled), true, hypervisor.ClassAborted, hypervisor.ClassAborted},
		{"QEMU failed, rolled back", running(booted), running(unpaused), true, failed, failed},
		{"transport, never stopped", running(booted), running(booted), false, unknown, failed},
		{"transport, resumed by libvirt: the target may run", running(booted), running(cancelled), true, unknown, unknown},
		{"transport, resumed by QEMU: the target may run", running(booted), running(unpaused), true, unknown, unknown},
		{"transport, resumed, its event lost", running(booted), running(unpaused), false, unknown, unknown},
		{"transport, resumed as it was resumed before", running(unpaused), running(unpaused), true, unknown, unknown},
		{"transport, resumed long before", running(unpaused), running(unpaused), false, unknown, failed},
		{"certificates, resumed", running(booted), running(unpaused), true, hypervisor.ClassDenied, unknown},
		{"certificates, never stopped", running(booted), running(booted), false, hypervisor.ClassDenied, hypervisor.ClassDenied},
		{"peer forgot the domain, resumed", running(booted), running(unpaused), true, hypervisor.ClassNoDomain, unknown},
		{"peer forgot the domain, never stopped", running(booted), running(booted), false, hypervisor.ClassNoDomain, failed},
		{"source paused", running(booted), at(hypervisor.StatePaused, 2, hypervisor.JobNone), true, failed, unknown},
		{"source gone", running(booted), at(hypervisor.StateAbsent, 0, hypervisor.JobNone), false, hypervisor.ClassAborted, unknown},
		{"guest shut down in mid-copy", running(booted), at(hypervisor.StateShutoff, 1, hypervisor.JobNone), false, failed, unknown},
		{"another job holds it", running(booted), at(hypervisor.StateRunning, booted, hypervisor.JobOutgoing), false, hypervisor.ClassInvalid, hypervisor.ClassInvalid},
		{
			"post-copy broke, and libvirt says invalid", running(booted),
			vantage{Sighting: hypervisor.Sighting{
				Domain: "d", State: hypervisor.StatePaused, Reason: hypervisor.ReasonPostcopyFailed, Job: hypervisor.JobOutgoing,
			}},
			true, hypervisor.ClassInvalid, unknown,
		},
		{"still going", running(booted), at(hypervisor.StateRunning, booted, hypervisor.JobOutgoing), false, failed, unknown},
		{
			"a paused guest stays paused", at(hypervisor.StatePaused, 1, hypervisor.JobNone),
			at(hypervisor.StatePaused, 1, hypervisor.JobNone), false, unknown, failed,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdictOn(tt.before, tt.after, !tt.disturbed, tt.class); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	o := newOutgoing(8)
	still, stopped, blind := o.watch("a"), o.watch("b"), o.watch("a")
	o.suspended("b")
	if !o.unwatch(still) || o.unwatch(stopped) {
		t.Error("want the suspended domain disturbed, and only that")
	}
	o.doubt()
	if o.unwatch(blind) {
		t.Error("events were lost: want doubt")
	}
}

func TestOutgoingPlaces(t *testing.T) {
	o := newOutgoing(2)
	if _, err := o.begin("a"); err != nil {
		t.Fatal(err)
	}
	_, err := o.begin("a")
	wantClass(t, err, hypervisor.ClassInvalid)
	if _, err := o.begin("b"); err != nil {
		t.Fatal(err)
	}
	_, err = o.begin("c")
	wantClass(t, err, hypervisor.ClassBusy)
	o.seen("a")
	o.seen("z")
	if got := o.foreign(); len(got) != 1 || got[0] != "z" {
		t.Errorf("foreign: %v, want z alone", got)
	}
	o.end("a")
	if o.leaving("a") || !o.leaving("b") || !o.leaving("z") {
		t.Error("leaving: want b and z")
	}
	o.gone("z")
	if _, err := o.begin("c"); err != nil || o.leaving("z") {
		t.Errorf("after an end: %v", err)
	}
}
