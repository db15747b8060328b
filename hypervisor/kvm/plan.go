package kvm

import (
	"math/bits"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// Version thresholds, in libvirt's notation.
const (
	libvirtRecover = 8_005_000 // post-copy can go on after its stream broke
	// libvirtCrashes to libvirtSound: the target's daemon ends when post-copy is to go on (a regression of
	// 11.2, as libvirt's release notes of 11.4 say; seen with 11.3).
	libvirtCrashes  = 11_002_000
	libvirtSound    = 11_004_000
	libvirtZstd     = 9_004_000  // zlib and zstd as compression methods of parallel streams
	qemuPostMultifd = 10_001_000 // first QEMU that takes post-copy together with multifd
)

const (
	// maxDowntime is the greatest downtime limit that QEMU takes.
	maxDowntime = 2_000_000 * time.Millisecond
	// maxBandwidth keeps the product with MiB inside QEMU's 64-bit parameter.
	maxBandwidth = 1 << 43
	// maxConnections is QEMU's bound for multifd-channels.
	maxConnections = 255
)

// order is a MigrateSpec in libvirt's words.
type order struct {
	peer   string
	params libvirt.DomainMigrateParameters
	flags  libvirt.DomainMigrateFlags
	// downtime (ms) and speed (MiB/s) are set on the domain before the migrate call; speed is 0
	// when it travels as a parameter.
	downtime uint64
	speed    uint64
}

// mebibytes turns a rate into libvirt's whole MiB/s: rounded down so that no link's share is
// exceeded, but never to 0, which QEMU reads as unlimited.
func mebibytes(r hypervisor.BytesPerSecond) uint64 {
	return uint64(max(1, hypervisor.Bytes(r)/hypervisor.MiB))
}

// wholeMilliseconds turns a downtime limit into libvirt's unit, at least 1.
func wholeMilliseconds(d time.Duration) uint64 {
	return uint64(max(1, d.Milliseconds()))
}

// plan translates the spec, or refuses it before anything is asked of libvirt. The versions are the
// source's; the target checks its own when it is prepared.
func plan(spec hypervisor.MigrateSpec, libvirtVersion, qemuVersion uint32) (order, error) {
	if err := checkSpec(spec); err != nil {
		return order{}, err
	}
	if err := checkStrategy(spec, libvirtVersion, qemuVersion); err != nil {
		return order{}, err
	}
	o := order{
		peer:     spec.PeerURI,
		downtime: wholeMilliseconds(spec.Downtime),
		flags: libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PEER2PEER |
			// A guest paused by an I/O error would arrive broken.
			libvirt.MIGRATE_ABORT_ON_ERROR,
	}
	p := &o.params
	if spec.Persistent {
		o.flags |= libvirt.MIGRATE_PERSIST_DEST
	}
	if spec.MigrateURI != "" {
		p.URISet, p.URI = true, spec.MigrateURI
	}
	if spec.TLS {
		o.flags |= libvirt.MIGRATE_TLS
		if spec.TLSDestination != "" {
			p.TLSDestinationSet, p.TLSDestination = true, spec.TLSDestination
		}
	}
	if len(spec.CopyDisks) > 0 {
		o.flags |= libvirt.MIGRATE_NON_SHARED_DISK
		p.MigrateDisksSet, p.MigrateDisks = true, spec.CopyDisks
	}
	if spec.Strategy.PostCopy {
		// The binding sends Bandwidth as the post-copy limit too, and a post-copy phase under a
		// pre-copy cap would stall the guest on every missing page.
		o.flags |= libvirt.MIGRATE_POSTCOPY
		o.speed = mebibytes(spec.Bandwidth)
	} else {
		p.BandwidthSet, p.Bandwidth = true, mebibytes(spec.Bandwidth)
	}
	encode(spec.Strategy, &o)
	return o, nil
}

// Recovers reports whether a target with that libvirt survives that a broken post-copy goes on.
func Recovers(libvirtVersion uint32) bool {
	return libvirtVersion < libvirtCrashes || libvirtVersion >= libvirtSound
}

// recovery turns the spec of a migration whose post-copy broke into the call that lets it go on. Libvirt
// wants the options that it was begun with; its limits stand as they were.
func recovery(spec hypervisor.MigrateSpec, libvirtVersion, qemuVersion uint32) (order, error) {
	o, err := plan(spec, libvirtVersion, qemuVersion)
	target := spec.TargetLibvirt
	if target == 0 {
		target = libvirtVersion // fleets are much alike
	}
	switch {
	case err != nil:
		return order{}, err
	case !Recovers(target):
		return order{}, refuse("recover", spec.Domain, hypervisor.ClassUnsupported,
			"the target's libvirt %d.%d would crash of it: bring it to 11.4 or later there, its guests run on meanwhile", target/1_000_000, target/1000%1000)
	case !spec.Strategy.PostCopy:
		return order{}, refuse("recover", spec.Domain, hypervisor.ClassArgument, "the migration was begun without post-copy")
	case libvirtVersion < libvirtRecover || target < libvirtRecover:
		return order{}, refuse("recover", spec.Domain, hypervisor.ClassUnsupported, "post-copy can't go on after its stream broke: this needs libvirt 8.5")
	}
	o.flags |= libvirt.MIGRATE_POSTCOPY_RESUME
	return o, nil
}

// encode adds how the stream is encoded.
func encode(s hypervisor.Strategy, o *order) {
	p := &o.params
	if s.Connections > 0 {
		o.flags |= libvirt.MIGRATE_PARALLEL
		p.ParallelConnectionsSet, p.ParallelConnections = true, s.Connections
	}
	if s.Compression != "" {
		o.flags |= libvirt.MIGRATE_COMPRESSED
		p.CompressionSet, p.Compression = true, s.Compression
	}
	if s.XBZRLECache > 0 {
		p.CompressionXBZRLECacheSet, p.CompressionXBZRLECache = true, uint64(s.XBZRLECache)
	}
	if s.ZstdLevel > 0 {
		p.CompressionZstdLevelSet, p.CompressionZstdLevel = true, s.ZstdLevel
	}
	if s.AutoConverge {
		o.flags |= libvirt.MIGRATE_AUTO_CONVERGE
	}
}

// checkSpec refuses what no version of libvirt could mean.
func checkSpec(spec hypervisor.MigrateSpec) error {
	bad := func(format string, args ...any) error {
		return refuse("migrate", spec.Domain, hypervisor.ClassArgument, format, args...)
	}
	switch {
	case spec.Domain == "":
		return bad("no domain given")
	case spec.PeerURI == "":
		return bad("no URI of the target's libvirt given")
	case spec.Bandwidth <= 0 || hypervisor.Bytes(spec.Bandwidth)/hypervisor.MiB > maxBandwidth:
		return bad("bandwidth %d B/s: want a limit above zero, so that no default decides", spec.Bandwidth)
	case spec.Downtime <= 0 || spec.Downtime > maxDowntime:
		return bad("downtime limit %s: want more than 0 and at most %s", spec.Downtime, maxDowntime)
	case !spec.TLS && spec.TLSDestination != "":
		return bad("a TLS name for the target without TLS")
	case strings.HasPrefix(spec.MigrateURI, "rdma:"):
		return bad("migration over RDMA is not supported")
	}
	seen := map[string]bool{}
	for _, disk := range spec.CopyDisks {
		if disk == "" || seen[disk] {
			return bad("disks to copy %q: want each target once", spec.CopyDisks)
		}
		seen[disk] = true
	}
	return nil
}

// checkStrategy refuses encodings that exclude each other. Old libvirt lets some of them through to
// QEMU, which then fails half way or ignores one of them.
func checkStrategy(spec hypervisor.MigrateSpec, libvirtVersion, qemuVersion uint32) error {
	s := spec.Strategy
	bad := func(format string, args ...any) error {
		return refuse("migrate", spec.Domain, hypervisor.ClassArgument, format, args...)
	}
	unsupported := func(format string, args ...any) error {
		return refuse("migrate", spec.Domain, hypervisor.ClassUnsupported, format, args...)
	}
	switch {
	case s.Connections < 0 || s.Connections > maxConnections:
		return bad("%d connections: want 0 to %d", s.Connections, maxConnections)
	case s.Compression != "" && s.Compression != "xbzrle" && s.Compression != "zstd":
		return bad("compression %q: want xbzrle or zstd", s.Compression)
	case s.Compression == "xbzrle" && s.Connections > 0:
		return bad("xbzrle needs a single stream, not %d connections", s.Connections)
	case s.Compression == "zstd" && s.Connections == 0:
		return bad("zstd needs parallel connections")
	case s.XBZRLECache != 0 && s.Compression != "xbzrle":
		return bad("an xbzrle cache without xbzrle")
	case s.XBZRLECache < 0 || s.XBZRLECache > 0 && bits.OnesCount64(uint64(s.XBZRLECache)) != 1:
		return bad("xbzrle cache of %d bytes: want a power of two", s.XBZRLECache)
	case s.ZstdLevel != 0 && s.Compression != "zstd":
		return bad("a zstd level without zstd")
	case s.ZstdLevel < 0 || s.ZstdLevel > 20:
		return bad("zstd level %d: want 1 to 20", s.ZstdLevel)
	case s.PostCopy && len(spec.CopyDisks) > 0:
		// Between switchover and the last page neither host holds the guest, and the mirrors would
		// end at switchover: a broken link then loses disk and memory at once.
		return bad("post-copy together with copied disks")
	case s.Compression == "zstd" && libvirtVersion < libvirtZstd:
		return unsupported("zstd needs libvirt 9.4")
	case s.PostCopy && s.Connections > 0 && qemuVersion < qemuPostMultifd:
		return unsupported("post-copy with parallel connections needs QEMU 10.1")
	}
	return nil
}
