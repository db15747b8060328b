package kvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

func nowhereShared(path string) bool { return strings.HasPrefix(path, "/shared/") }

const richXML = `<domain type='kvm'>
  <name>rich</name><uuid>6C1F0000-0000-4000-8000-000000000099</uuid>
  <memory unit='GiB'>4</memory><currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu current='2'>8</vcpu>
  <os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>
  <cpu mode='host-passthrough'><feature policy='require' name='invtsc'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/shared/a.qcow2'/><target dev='vda'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/local/b.raw'/><target dev='vdb'/>
      <mirror type='file' job='copy'><source file='/local/c.raw'/></mirror></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdc'/></disk>
    <disk type='block' device='disk'><source dev='/dev/mapper/lun'/><target dev='vdd'/><transient/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/local/x.iso'/><target dev='sdb'/><readonly/></disk>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='srv'/></filesystem>
    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='1' function='0'/></source><teaming type='transient' persistent='ua-n'/></hostdev>
    <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>
    <interface type='hostdev'><source><address type='pci' domain='0' bus='2' slot='0' function='0'/></source></interface>
    <shmem name='peer'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
    <shmem name='own' role='master'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
  </devices>
</domain>`

func TestParseDomain(t *testing.T) {
	d, err := parseDomain(richXML, nowhereShared)
	if err != nil {
		t.Fatal(err)
	}
	f := d.facts
	if got, want := codes(f.Blockers), "non-shared-disk block-job transient-disk host-device usb-device host-device virtiofs shared-memory invtsc"; got != want {
		t.Errorf("blockers\n got %s\nwant %s", got, want)
	}
	f.Blockers = nil
	want := hypervisor.DomainFacts{
		ID: "6c1f0000-0000-4000-8000-000000000099", Name: "rich", VCPUs: 2, Memory: 2 * hypervisor.GiB,
		VirtType: "kvm", Arch: "x86_64", Machine: "pc-q35-9.2",
		Disks: []hypervisor.Disk{
			{Target: "vda", Source: "/shared/a.qcow2", Shared: true, Format: "qcow2"},
			{Target: "vdb", Source: "/local/b.raw", Format: "raw"},
			{Target: "vdc", Source: "rbd:pool/image", Shared: true},
			{Target: "vdd", Source: "/dev/mapper/lun", Shared: true},
			{Target: "sda", ReadOnly: true, Shared: true},
			{Target: "sdb", Source: "/local/x.iso", ReadOnly: true},
		},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	fixed := strings.Replace(richXML, "<devices>", "<clock><timer name='tsc' frequency='2000000000'/></clock><devices>", 1)
	if d, err = parseDomain(fixed, nowhereShared); err != nil || strings.Contains(codes(d.facts.Blockers), "invtsc") {
		t.Errorf("with a fixed TSC frequency: %v, %v", codes(d.facts.Blockers), err)
	}
}

func FuzzParseDomain(f *testing.F) {
	f.Add(richXML)
	f.Add(guest{name: "g", uuid: "6c1f0000-0000-4000-8000-000000000098"}.xml())
	f.Add("<domain><memory unit='TiB'>18446744073709551615</memory><vcpu current='9'/></domain>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDomain(text, nowhereShared)
		if err == nil && d.facts.Memory < 0 {
			t.Errorf("memory %d", d.facts.Memory)
		}
	})
}

func TestParseConf(t *testing.T) {
	text := `
# comment
user = "root" # trailing
#group = "nobody"
max_files=32768
migrate_tls_x509_cert_dir='/etc/pki'
shared_filesystems = [
    "/a",   # one
    "/b"
]
empty = []
broken = [ "x"
still = "seen"
`
	want := map[string][]string{
		"user": {"root"}, "max_files": {"32768"}, "migrate_tls_x509_cert_dir": {"/etc/pki"},
		"shared_filesystems": {"/a", "/b"}, "empty": {},
	}
	got := parseConf(strings.Split(text, "broken")[0])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := parseConf(text); len(got["user"]) != 1 {
		t.Errorf("a fault further down spoils what stands above: %v", got)
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add(qemuConfText)
	f.Add("a = [ \"\"\"x\"\"\", 'y' # z\n]\n= [")
	f.Fuzz(func(_ *testing.T, text string) { parseConf(text) })
}

func TestQEMUConfIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qemu.conf")
	c := newQEMUConf(path)
	if c.first("user", "x") != "x" {
		t.Error("a file that isn't there has keys")
	}
	for i, text := range []string{"user=\"a\"\n", "user=\"bb\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, want := c.first("user", ""), []string{"a", "bb"}[i]; got != want {
			t.Errorf("user: got %q, want %q", got, want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(path, []byte("default_tls_x509_cert_dir = \""+dir+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.migrationTLS() {
		t.Error("TLS without certificates")
	}
	for _, name := range []string{"ca-cert.pem", "server-cert.pem", "server-key.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !c.migrationTLS() {
		t.Error("no TLS with certificates in the default directory")
	}
}

func TestShared(t *testing.T) {
	declared := []string{"/srv/images/", "/mnt/one"}
	for path, want := range map[string]bool{
		"/srv/images/a/b": true, "/srv/images": true, "/srv/images2/a": false, "/mnt/one/../two/x": false,
		"/mnt/one": true, "/proc/self/none": false,
	} {
		if got := isShared(path, declared, "/proc"); got != want {
			t.Errorf("%s: got %t, want %t", path, got, want)
		}
	}
	proc := procfs{root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(proc.root, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := "x / ext4 rw 0 0\ngl:/v /mnt/gl fuse.glusterfs rw 0 0\ns /mnt/gl/ssh fuse.sshfs rw 0 0\n"
	if err := os.WriteFile(filepath.Join(proc.root, "self", "mounts"), []byte(mounts), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/mnt/gl/a": true, "/mnt/gl/ssh/a": false, "/mnt/glass": false} {
		if got := sharedFuse(proc, path); got != want {
			t.Errorf("%s in user space: got %t, want %t", path, got, want)
		}
	}
}

func TestLinkSpeed(t *testing.T) {
	sys := t.TempDir()
	add := func(name string, speed string, entries ...string) {
		dir := filepath.Join(sys, "class", "net", name)
		for _, e := range append(entries, "") {
			if err := os.MkdirAll(filepath.Join(dir, e), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "speed"), []byte(speed+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add("eth0", "25000", "device")
	add("down0", "-1", "device")
	add("bond0", "50000", "bonding", "lower_eth0", "lower_eth1")
	add("vlan7", "10000", "lower_bond0")
	add("veth0", "10000")
	add("br0", "10000", "lower_eth0", "lower_veth0")
	for name, want := range map[string]hypervisor.BytesPerSecond{
		"eth0": 3_125_000_000, "down0": 0, "bond0": 6_250_000_000, "vlan7": 6_250_000_000, "veth0": 0, "br0": 0, "": 0, "none": 0,
	} {
		if got := linkSpeed(sys, name); got != want {
			t.Errorf("%s: got %d B/s, want %d", name, got, want)
		}
	}
}

func TestReserve(t *testing.T) {
	for memory, want := range map[hypervisor.Bytes]hypervisor.Bytes{
		hypervisor.GiB:       256 * hypervisor.MiB,
		4 * hypervisor.GiB:   512 * hypervisor.MiB,
		64 * hypervisor.GiB:  64 * hypervisor.GiB / 20,
		512 * hypervisor.GiB: 8 * hypervisor.GiB,
	} {
		if got := reserve(memory); got != want {
			t.Errorf("of %s: got %s, want %s", memory, got, want)
		}
	}
}

func TestStatsOf(t *testing.T) {
	at := time.Now()
	info := &libvirt.DomainJobInfo{
		Type: libvirt.DOMAIN_JOB_UNBOUNDED, OperationSet: true, Operation: libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT,
		TimeElapsedSet: true, TimeElapsed: 1500, DowntimeSet: true, Downtime: 300,
		MemTotalSet: true, MemTotal: 1 << 30, MemProcessedSet: true, MemProcessed: 5 << 20,
		MemRemainingSet: true, MemRemaining: 1<<64 - 4096, // it went below zero
		MemConstantSet: true, MemConstant: 10, MemDirtyRateSet: true, MemDirtyRate: 1000,
		MemPageSizeSet: true, MemPageSize: 4096, MemBpsSet: true, MemBps: 25e6,
		MemIterationSet: true, MemIteration: 3, AutoConvergeThrottleSet: true, AutoConvergeThrottle: 40,
		DiskTotal: 99, // not set
	}
	want := hypervisor.JobStats{
		Kind: hypervisor.JobOutgoing, At: at, Elapsed: 1500 * time.Millisecond, Downtime: 300 * time.Millisecond,
		MemTotal: 1 << 30, MemProcessed: 5 << 20, MemZero: 40960, DirtyRate: 4096000, Bandwidth: 25e6,
		Round: 3, PageSize: 4096, Throttle: 40,
	}
	if diff := cmp.Diff(want, statsOf(info, at)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := statsOf(&libvirt.DomainJobInfo{}, at); got.Kind != hypervisor.JobNone {
		t.Errorf("an empty answer: %+v", got)
	}
}

func TestSample(t *testing.T) {
	at := time.Now()
	r := record{id: "d", state: hypervisor.StateRunning, active: true, answered: true, resident: 100, counters: counters{cpu: 1e9, rx: 100}}
	first := sample(nil, r, at)
	if first.load.CPU != 0 || first.load.Memory != 100 {
		t.Errorf("first: %+v", first.load)
	}
	r.counters = counters{cpu: 3e9, rx: 1100, write: 50}
	second := sample(first, r, at.Add(2*time.Second))
	if l := second.load; l.CPU != 1 || l.Rx != 500 || l.Write != 25 {
		t.Errorf("second: %+v, want 1 core, 500 B/s in, 25 B/s written", l)
	}
	// A domain that doesn't answer keeps its memory and shows no wild rates.
	silent := record{id: "d", state: hypervisor.StateRunning, active: true, counters: counters{cpu: 4e9, rx: 1100}}
	third := sample(second, silent, at.Add(3*time.Second))
	if l := third.load; l.Memory != 100 || l.CPU != 1 || l.Write != 0 || third.silent != 1 {
		t.Errorf("third: %+v, silent %d", l, third.silent)
	}
	silent.migrating = true
	if moving := sample(third, silent, at.Add(4*time.Second)); moving.silent != 0 || moving.load.Memory != 100 {
		t.Errorf("one that migrates: silent %d, %+v: want it not counted, and its memory kept", moving.silent, moving.load)
	}
	r.counters = counters{cpu: 10, rx: 5} // started anew
	fourth := sample(third, r, at.Add(4*time.Second))
	if l := fourth.load; l.CPU != 0 || l.Rx != 0 || fourth.silent != 0 {
		t.Errorf("counters that went back: %+v", l)
	}
	r.counters = counters{cpu: 5e9, grouped: true}
	if l := sample(fourth, r, at.Add(5*time.Second)).load; l.CPU != 0 {
		t.Errorf("another kind of CPU time: %+v, want no rate from it", l)
	}
}

func TestDirtyTurns(t *testing.T) {
	s := newDirtySampler(time.Minute)
	o := newOutgoing(8)
	loads := []hypervisor.DomainLoad{
		{ID: "a", State: hypervisor.StateRunning},
		{ID: "b", State: hypervisor.StateRunning},
		{ID: "c", State: hypervisor.StateRunning, Migrating: true},
		{ID: "d", State: hypervisor.StatePaused},
	}
	s.offer(loads, nil, o)
	now := time.Now()
	if _, _, ok := s.next(now); ok {
		t.Error("sampled while domains may be leaving unseen")
	}
	o.settled()
	s.offer(loads, nil, o)
	want := []struct {
		after  time.Duration
		id     hypervisor.DomainID
		window time.Duration
	}{
		{0, "a", shortWindow},
		{0, "b", shortWindow},
		{0, "", 0},
		{early - 1, "", 0},
		{early, "a", shortWindow}, // it may have been booting
		{early, "b", shortWindow},
		{2 * early, "a", longWindow},
		{3 * early, "b", longWindow},
	}
	for _, w := range want {
		at := now.Add(w.after)
		id, window, ok := s.next(at)
		if id != w.id || window != w.window || ok != (w.id != "") {
			t.Errorf("after %s: %s over %s, want %s over %s", w.after, id, window, w.id, w.window)
		}
		if ok {
			s.put(id, hypervisor.DirtySample{Rate: 1, Window: window, At: at})
		}
	}
	s.offer(loads[1:], nil, o)
	if short, _ := s.latest("a"); short != nil {
		t.Error("a domain that is gone is remembered")
	}
}

// The samples of a domain are told as the mean of the latest few over each window, without the first, in which it may have
// been booting. They are taken soon after one another at first, then once in a period.
func TestDirtyMeans(t *testing.T) {
	s := newDirtySampler(time.Minute)
	o := newOutgoing(8)
	o.settled()
	s.offer([]hypervisor.DomainLoad{{ID: "a", State: hypervisor.StateRunning}}, nil, o)
	start := time.Now()
	var at time.Duration
	for n, want := range []struct {
		window time.Duration
		short  hypervisor.BytesPerSecond // the mean then, where each is the number of the sample
		long   hypervisor.BytesPerSecond
	}{
		{shortWindow, 0, -1},
		{shortWindow, 1, -1},
		{longWindow, 1, 2},
		{shortWindow, 2, 2},
		{longWindow, 2, 3},
		{shortWindow, 3, 3},
		{longWindow, 3, 4},
		// Those soon after the first may be of its boot too.
		{shortWindow, 7, 4},
		{longWindow, 7, 8},
		{shortWindow, 8, 8},
		{longWindow, 8, 9},
		{shortWindow, 9, 9},
		{longWindow, 9, 10},
		{shortWindow, 11, 10},
	} {
		if n > 0 {
			gap := early
			if n >= earlyTimes {
				gap = time.Minute
			}
			if _, _, ok := s.next(start.Add(at + gap - 1)); ok {
				t.Errorf("sample %d comes before %s have passed", n, gap)
			}
			at += gap
		}
		id, window, ok := s.next(start.Add(at))
		if !ok || window != want.window {
			t.Fatalf("sample %d: %v over %s, want %s", n, ok, window, want.window)
		}
		s.put(id, hypervisor.DirtySample{Rate: hypervisor.BytesPerSecond(n), Window: window, At: start.Add(at)})
		short, long := s.latest(id)
		if short.Rate != want.short || (long == nil) != (want.long < 0) || long != nil && long.Rate != want.long {
			t.Errorf("sample %d: %+v and %+v, want %v and %v", n, short, long, want.short, want.long)
		}
	}
	if short, _ := s.latest("a"); short.Times != averaged || !short.At.Equal(start.Add(at)) {
		t.Errorf("%+v, want the mean of %d at the time of the last", short, averaged)
	}
	// After a long time without one the old ones say nothing.
	at += time.Hour
	id, window, _ := s.next(start.Add(at))
	s.put(id, hypervisor.DirtySample{Rate: 100, Window: window, At: start.Add(at)})
	if _, long := s.latest("a"); window != longWindow || long.Rate != 100 || long.Times != 1 {
		t.Errorf("%+v over %s, want that of now alone", long, window)
	}
}

func TestConfigValidate(t *testing.T) {
	err := Config{
		LoadSource: "moon", MaxOutgoing: 9, Capacity: hypervisor.Capacity{Cores: -1, Memory: -1}, MigrationInterface: "none0",
	}.Validate()
	for _, word := range []string{"moon", "9", "cores", "memory", "none0"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v: want it to name %q", err, word)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}
