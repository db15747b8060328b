package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// testHost returns a living host with the domains, all running.
func testHost(name string, domains ...hypervisor.DomainFacts) *fleet.Host {
	h := &fleet.Host{
		Name: name, Record: fleet.HostRecord{Name: name}, Session: &fleet.Session{Host: name, Version: "1"},
		Facts: &hypervisor.HostFacts{Name: name, Domains: domains, Capacity: hypervisor.Capacity{
			Cores: 8, Memory: 64 * hypervisor.GiB, Reserved: 2 * hypervisor.GiB, Bandwidth: 1250_000_000,
		}},
		Load: &hypervisor.HostLoad{CPU: 2.5, Memory: 16 * hypervisor.GiB},
	}
	for _, d := range domains {
		h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{
			ID: d.ID, State: hypervisor.StateRunning, CPU: 0.5, Rx: 1 << 20, Tx: 1 << 20,
			Dirty: &hypervisor.DirtySample{Rate: 3 << 20, Window: time.Second},
		})
	}
	return h
}

func testDomain(name, id string) hypervisor.DomainFacts {
	return hypervisor.DomainFacts{
		ID: hypervisor.DomainID(id), Name: name, VCPUs: 2, Memory: 4 * hypervisor.GiB, Persistent: true,
		Disks: []hypervisor.Disk{{Target: "vda", Source: "/d/" + name, Size: 10 * hypervisor.GiB, Shared: true}},
	}
}

func testSnapshot(hosts ...*fleet.Host) *fleet.Snapshot {
	s := &fleet.Snapshot{Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{}, Now: time.Now()}
	for _, h := range hosts {
		s.Hosts[h.Name] = h
	}
	return s
}

func migrating(s *fleet.Snapshot, id, vm, from, to string, phase precopy.Phase) {
	s.Migrations[id] = precopy.Stored{Migration: precopy.Migration{
		ID: id, Domain: vm, UUID: hypervisor.DomainID("uuid-" + vm), Source: from, Target: to, Phase: phase,
	}}
}

func TestPlanInput(t *testing.T) {
	web := testDomain("web", "uuid-web")
	dead := testHost("kvm9", testDomain("lost", "uuid-lost"))
	dead.Session = nil
	cordoned := testHost("kvm2", web) // the arriving half of a migration
	cordoned.Record.Cordons = []fleet.Cordon{{Holder: "admin"}}
	cordoned.Record.Labels = map[string]string{"rack": "r1"}
	off := testHost("kvm3", testDomain("off", "uuid-off"))
	off.Load.Domains[0].State = hypervisor.StateShutoff
	snap := testSnapshot(testHost("kvm1", web), cordoned, off, dead)
	migrating(snap, "m1", "web", "kvm1", "kvm2", precopy.Copying)

	input, remarks := planInputOf(snap)
	if diff := cmp.Diff([]string{"kvm9 is left out: no agent reports from it"}, remarks); diff != "" {
		t.Errorf("remarks (-want +got):\n%s", diff)
	}
	host := func(name string) planHost {
		return planHost{Name: name, Cores: 8, MemMiB: 65536, ReservedMiB: 2048, NetGbit: 10}
	}
	second := host("kvm2")
	second.Cordoned, second.Labels = true, map[string]string{"rack": "r1"}
	want := planInput{
		Hosts: []planHost{host("kvm1"), second, host("kvm3")},
		VMs: []planVM{{
			Name: "web", UUID: "uuid-web", Host: "kvm1", VCPUs: 2, MemMiB: 4096, CPULoad: 0.5,
			DirtyMiBs: 3, NetMiBs: 2, DiskGiB: 10,
		}},
	}
	if diff := cmp.Diff(want, input); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The names of the planner's input are a contract.
func TestPlanInputNames(t *testing.T) {
	snap := testSnapshot(testHost("kvm1", testDomain("web", "uuid-web")))
	input, _ := planInputOf(snap)
	text, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"hosts":[{"name":"kvm1","cores":8,"mem_mib":65536,"reserved_mib":2048,"net_gbit":10,"cordoned":false}],` +
		`"vms":[{"name":"web","uuid":"uuid-web","host":"kvm1","vcpus":2,"mem_mib":4096,"cpu_load":0.5,` +
		`"dirty_mib_s":3,"net_mib_s":2,"disk_gib":10,"pinned":false}]}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFindVM(t *testing.T) {
	web := testDomain("web", "uuid-web")
	snap := testSnapshot(testHost("kvm1", web, testDomain("db", "uuid-db")), testHost("kvm2", web, testDomain("db", "uuid-db2")))
	migrating(snap, "m1", "web", "kvm1", "kvm2", precopy.Copying)
	tests := []struct{ word, host, err string }{
		{word: "web", host: "kvm1"},
		{word: "uuid-web", host: "kvm1"},
		{word: "kvm2/db", host: "kvm2"},
		{word: "uuid-db2", host: "kvm2"},
		{word: "db", err: `"db" means more than one VM: say which of kvm1/db (uuid-db), kvm2/db (uuid-db2)`},
		{word: "mail", err: `no VM is called "mail"`},
		{word: "kvm3/web", err: "no VM is called"},
	}
	for _, tt := range tests {
		d, err := findVM(snap, tt.word)
		switch {
		case tt.err == "" && (err != nil || d.Host.Name != tt.host):
			t.Errorf("%s: host %v, err %v; want %s", tt.word, d.Host, err, tt.host)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: err %v, want %q", tt.word, err, tt.err)
		}
	}
}

// What an aborted migration leaves on the target for a moment is not a second VM; two that run are.
func TestFindVMLeftOver(t *testing.T) {
	web := testDomain("web", "uuid-web")
	snap := testSnapshot(testHost("kvm1", web), testHost("kvm2", web))
	if _, err := findVM(snap, "web"); err == nil || !strings.Contains(err.Error(), "more than one VM") {
		t.Errorf("err %v, want both hosts named", err)
	}
	snap.Hosts["kvm2"].Load.Domains[0].State = hypervisor.StatePaused
	if d, err := findVM(snap, "web"); err != nil || d.Host.Name != "kvm1" {
		t.Errorf("web is on %v, err %v; want kvm1", d.Host, err)
	}
}

// What is known of VMs on hosts that do not report: the last reports of their agents, and moves since.
func TestTraces(t *testing.T) {
	snap := testSnapshot(testHost("kvm1", testDomain("web", "uuid-web")), testHost("kvm2"), testHost("kvm3"), testHost("kvm4"))
	seen := func(host string, revision int64, vms ...string) {
		h := snap.Hosts[host]
		h.Session, h.Facts, h.Load, h.SeenRevision = nil, nil, nil, revision
		for _, vm := range vms {
			h.Seen = append(h.Seen, fleet.SeenDomain{ID: hypervisor.DomainID("uuid-" + vm), Name: vm})
		}
	}
	moved := func(id, vm, from, to string, revision int64) {
		migrating(snap, id, vm, from, to, precopy.Done)
		m := snap.Migrations[id]
		m.Revision = revision
		snap.Migrations[id] = m
	}
	seen("kvm2", 20, "web", "db", "mail", "back")
	seen("kvm3", 30, "left", "back")
	moved("m1", "mail", "kvm2", "kvm3", 40) // newer than what either host said last
	moved("m2", "db", "kvm3", "kvm2", 10)   // told by kvm2 already
	moved("m3", "gone", "kvm1", "kvm3", 25) // and it was gone again when kvm3 was heard of last
	moved("m4", "back", "kvm3", "kvm2", 35)
	moved("m5", "new", "kvm1", "kvm9", 50) // a host that is forgotten
	var got []string
	for _, tr := range indexOf(snap).gone {
		got = append(got, tr.host.Name+"/"+tr.Name)
	}
	want := []string{"kvm2/back", "kvm2/db", "kvm3/left", "kvm3/mail"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// One that comes in by an unfinished migration is not there yet.
	snap.Hosts["kvm4"] = testHost("kvm4", testDomain("left", "uuid-left"))
	if n := len(indexOf(snap).gone); n != 3 {
		t.Errorf("%d VMs are gone, want 3", n)
	}
	migrating(snap, "m6", "left", "kvm3", "kvm4", precopy.Unknown)
	if n := len(indexOf(snap).gone); n != 4 {
		t.Errorf("%d VMs are gone while left is under way, want 4", n)
	}
	for word, want := range map[string]string{
		"left":       "left was last seen on kvm3, which is away (no agent reports)",
		"kvm3/left":  "left was last seen on kvm3, which is away (no agent reports)",
		"kvm3/mail":  "mail was last seen on kvm3, which is away (no agent reports)",
		"uuid-mail":  "mail was last seen on kvm3, which is away (no agent reports)",
		"kvm2/web":   `no VM is called "web" on kvm2: there is kvm1/web`,
		"kvm2/other": `no VM is called "kvm2/other" (drover vm list shows all)`,
	} {
		if _, err := findVM(snap, word); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", word, err, want)
		}
	}
}

// While control passes the source's guest is stopped and the target's may run: it is still one VM, the
// source's.
func TestFindVMSwitching(t *testing.T) {
	web := testDomain("web", "uuid-web")
	snap := testSnapshot(testHost("kvm1", web), testHost("kvm2", web))
	snap.Hosts["kvm1"].Load.Domains[0].State = hypervisor.StatePaused
	migrating(snap, "m1", "web", "kvm1", "kvm2", precopy.Switching)
	if d, err := findVM(snap, "web"); err != nil || d.Host.Name != "kvm1" {
		t.Errorf("web is on %v, err %v; want kvm1", d.Host, err)
	}
}

func TestHostState(t *testing.T) {
	tests := []struct {
		name        string
		change      func(*fleet.Host)
		state, note string
	}{
		{"ready", func(*fleet.Host) {}, hostReady, ""},
		{"away", func(h *fleet.Host) { h.Session = nil }, hostAway, "no agent reports"},
		{"starting", func(h *fleet.Host) { h.Load = nil }, hostStarting, "agent is there, no report yet"},
		{"problem", func(h *fleet.Host) { h.Load.Problem = "libvirt is away" }, hostProblem, "libvirt is away"},
		{"cordoned", func(h *fleet.Host) {
			h.Record.Cordons = []fleet.Cordon{{Holder: "admin", By: "ada", Reason: "disk"}, {Holder: "run/1", By: "bob"}, {Holder: "run/2"}}
		}, hostCordoned, "cordoned by ada: disk; run/1 (bob); run/2"},
		{"away and cordoned", func(h *fleet.Host) {
			h.Session, h.Record.Cordons = nil, []fleet.Cordon{{Holder: "admin"}}
		}, hostAway, "no agent reports; cordoned by admin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := testHost("kvm1")
			tt.change(h)
			if state, note := hostState(h); state != tt.state || note != tt.note {
				t.Errorf("%q, %q; want %q, %q", state, note, tt.state, tt.note)
			}
		})
	}
}

func TestEndTexts(t *testing.T) {
	m := precopy.Migration{ID: "id", Domain: "web", Source: "kvm1", Target: "kvm2", Phase: precopy.Done, Outcome: &precopy.Outcome{
		Seconds: 12.34, Bytes: 512 * hypervisor.MiB, PauseMS: 87, PauseKnown: true, Rounds: 4,
	}}
	tests := []struct {
		name   string
		change func(*precopy.Migration)
		want   string
	}{
		{"done", func(*precopy.Migration) {}, "web moved from kvm1 to kvm2 in 12.3 s: 512 MiB sent, pause 87 ms, 4 rounds"},
		{"statistics lost", func(m *precopy.Migration) {
			m.Outcome = &precopy.Outcome{Seconds: 1, Rounds: 1}
			m.Notes = []string{"statistics were lost"}
		}, "web moved from kvm1 to kvm2 in 1.0 s: 0 B sent, pause not known, 1 round; statistics were lost"},
		{"failed", func(m *precopy.Migration) {
			m.Phase, m.Reason, m.ReasonCode, m.Error = precopy.Failed, "the target died", "target-lost", "libvirt: oh\nno"
		}, "migration of web failed: the target died; libvirt: oh no [target-lost] (id)"},
		{"aborted", func(m *precopy.Migration) {
			m.Phase, m.Reason, m.ReasonCode, m.Error = precopy.Aborted, "cancelled by ada", "cancelled", "libvirt: aborted"
		}, "migration of web aborted: cancelled by ada [cancelled] (id)"},
		{"no reason given", func(m *precopy.Migration) { m.Phase = precopy.Failed }, "migration of web failed: web stays on kvm1 (id)"},
		{"refused", func(m *precopy.Migration) {
			m.Phase, m.Reason, m.ReasonCode = precopy.Refused, "no room", "memory"
		}, "migration of web refused: no room [memory] (id)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := m
			tt.change(&m)
			got := whyNot(m)
			if m.Phase == precopy.Done {
				got = summary(m)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseDays(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "12h": 12 * time.Hour, "0d": 0} {
		if got, err := parseDays(text); err != nil || got != want {
			t.Errorf("parseDays(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "d", "-1d", "-5h", "soon", "1000000000d"} {
		if got, err := parseDays(bad); err == nil {
			t.Errorf("parseDays(%q) = %v, want an error", bad, got)
		}
	}
}
