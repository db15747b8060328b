package feasible

import (
	"slices"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is two hosts that are up: "web" of 4 GiB runs on h1, "db" of 4 GiB on h2, which has 16 GiB of which 2 are
// its own.
type world struct {
	*fleet.Snapshot
	h1, h2 *fleet.Host
}

func newWorld() *world {
	host := func(name, vm string) *fleet.Host {
		return &fleet.Host{
			Name: name, Session: &fleet.Session{}, LoadSeen: t0,
			Facts: &hypervisor.HostFacts{
				Arch: "x86_64", VirtTypes: []string{"kvm"}, MachineTypes: []string{"pc-q35-9.0"}, ProtocolMin: 1, ProtocolMax: 1,
				Capacity: hypervisor.Capacity{Cores: 8, Memory: 16 * hypervisor.GiB, Reserved: 2 * hypervisor.GiB},
				Domains: []hypervisor.DomainFacts{{
					ID: hypervisor.DomainID("id-" + vm), Name: vm, Memory: 4 * hypervisor.GiB, Arch: "x86_64", VirtType: "kvm", Machine: "pc-q35-9.0",
				}},
			},
			Load: &hypervisor.HostLoad{Domains: []hypervisor.DomainLoad{{ID: hypervisor.DomainID("id-" + vm), State: hypervisor.StateRunning}}},
		}
	}
	w := &world{h1: host("h1", "web"), h2: host("h2", "db")}
	w.Snapshot = &fleet.Snapshot{
		Now: t0, Hosts: map[string]*fleet.Host{"h1": w.h1, "h2": w.h2},
		Migrations: map[string]precopy.Stored{}, VMs: map[hypervisor.DomainID]policy.VMRecord{},
	}
	return w
}

// migrate adds a migration of the VM, with the memory that its order says.
func (w *world) migrate(id, vm, from, to string, phase precopy.Phase, memory hypervisor.Bytes) {
	w.Migrations[id] = precopy.Stored{Migration: precopy.Migration{
		ID: id, Domain: vm, UUID: hypervisor.DomainID("id-" + vm), Source: from, Target: to, Phase: phase, Order: &precopy.Order{Domain: &hypervisor.DomainFacts{Memory: memory}},
	}}
}

// away adds a third host with a VM on it.
func (w *world) away(vm string, memory hypervisor.Bytes) {
	w.Hosts["h3"] = &fleet.Host{
		Name: "h3", Session: &fleet.Session{}, LoadSeen: t0,
		Facts: &hypervisor.HostFacts{Domains: []hypervisor.DomainFacts{{ID: hypervisor.DomainID("id-" + vm), Name: vm, Memory: memory}}},
		Load:  &hypervisor.HostLoad{Domains: []hypervisor.DomainLoad{{ID: hypervisor.DomainID("id-" + vm), State: hypervisor.StateRunning}}},
	}
}

func (w *world) group(kind policy.Kind, strength policy.Strength, vms ...string) {
	w.Policy.Groups = append(w.Policy.Groups, policy.Group{Name: "g", VMs: vms, Kind: kind, Strength: strength})
}

// Every filter has its name, and what is not its case passes.
func TestFilters(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(w *world, r *Request)
		want []hypervisor.BlockerCode
	}{
		{"nothing speaks against it", func(*world, *Request) {}, nil},

		{"the source's agent is away", func(w *world, _ *Request) { w.h1.Session = nil }, []hypervisor.BlockerCode{HostAway}},
		{"the target's agent is away", func(w *world, _ *Request) { w.h2.Session = nil }, []hypervisor.BlockerCode{HostAway}},
		{"the target has not reported yet", func(w *world, _ *Request) { w.h2.Load = nil }, []hypervisor.BlockerCode{HostStale}},
		{"the target's report is old", func(w *world, _ *Request) { w.h2.LoadSeen = t0.Add(-StaleAfter - 1) }, []hypervisor.BlockerCode{HostStale}},
		{"the target's report is just young enough", func(w *world, _ *Request) { w.h2.LoadSeen = t0.Add(-StaleAfter) }, nil},
		{"the target's libvirt does not answer", func(w *world, _ *Request) { w.h2.Load.Problem = "gone" }, []hypervisor.BlockerCode{HostDegraded}},
		{"the target is cordoned", func(w *world, _ *Request) { w.h2.Record.Cordons = []fleet.Cordon{{Holder: "admin"}} }, []hypervisor.BlockerCode{HostCordoned}},
		{"the source is cordoned", func(w *world, _ *Request) { w.h1.Record.Cordons = []fleet.Cordon{{Holder: "admin"}} }, nil},

		{"the VM is pinned", func(w *world, _ *Request) {
			w.VMs["id-web"] = policy.VMRecord{UUID: "id-web", Pinned: new(true)}
		}, []hypervisor.BlockerCode{Pinned}},
		{"the VM's class is gone", func(w *world, _ *Request) {
			w.VMs["id-web"] = policy.VMRecord{UUID: "id-web", Class: "gold"}
		}, []hypervisor.BlockerCode{Policy}},
		{"it is being migrated", func(w *world, _ *Request) {
			w.migrate("m1", "web", "h1", "h2", precopy.Copying, 4*hypervisor.GiB)
		}, []hypervisor.BlockerCode{UnderWay}},
		{"its own migration is not in the way", func(w *world, r *Request) {
			w.migrate("m1", "web", "h1", "h2", precopy.Requested, 0)
			r.Migration = "m1"
		}, nil},
		{"its disk is not shared", func(_ *world, r *Request) {
			r.Domain.Facts.Blockers = []hypervisor.Blocker{{Code: hypervisor.BlockLocalDisk}}
		}, []hypervisor.BlockerCode{hypervisor.BlockLocalDisk}},
		{"its disk is copied", func(_ *world, r *Request) {
			r.Domain.Facts.Blockers = []hypervisor.Blocker{{Code: hypervisor.BlockLocalDisk}, {Code: hypervisor.BlockHostDevice}}
			r.CopyStorage = true
		}, []hypervisor.BlockerCode{hypervisor.BlockHostDevice}},

		{"another architecture", func(w *world, _ *Request) { w.h2.Facts.Arch = "aarch64" }, []hypervisor.BlockerCode{hypervisor.BlockArch}},
		{"no KVM", func(w *world, _ *Request) { w.h2.Facts.VirtTypes = []string{"qemu"} }, []hypervisor.BlockerCode{hypervisor.BlockVirtType}},
		{"an older QEMU", func(w *world, _ *Request) { w.h2.Facts.MachineTypes = []string{"pc-q35-8.2"} }, []hypervisor.BlockerCode{hypervisor.BlockMachine}},
		{"an older agent", func(w *world, _ *Request) { w.h2.Facts.ProtocolMin, w.h2.Facts.ProtocolMax = 2, 3 }, []hypervisor.BlockerCode{Protocol}},
		{"the name is taken", func(w *world, _ *Request) { w.h2.Facts.Domains[0].Name = "web" }, []hypervisor.BlockerCode{hypervisor.BlockNameTaken}},
		{"what is not known does not block", func(w *world, _ *Request) {
			w.h2.Facts.Arch, w.h2.Facts.VirtTypes, w.h2.Facts.MachineTypes, w.h2.Facts.ProtocolMax = "", nil, nil, 0
		}, nil},

		{"it fits exactly above the reserve", func(_ *world, r *Request) { r.Domain.Facts.Memory = 10 * hypervisor.GiB }, nil},
		{"it needs of the reserve", func(_ *world, r *Request) { r.Domain.Facts.Memory = 10*hypervisor.GiB + 1 }, []hypervisor.BlockerCode{hypervisor.BlockMemory}},
		{"one that is off holds no memory", func(w *world, r *Request) {
			w.h2.Load.Domains[0].State = hypervisor.StateShutoff
			r.Domain.Facts.Memory = 14 * hypervisor.GiB
		}, nil},
		{"one that comes holds its memory", func(w *world, r *Request) {
			w.away("big", 6*hypervisor.GiB)
			w.migrate("m1", "big", "h3", "h2", precopy.Queued, 7*hypervisor.GiB)
			r.Domain.Facts.Memory = 3*hypervisor.GiB + 1
		}, []hypervisor.BlockerCode{hypervisor.BlockMemory}},
		{"one that leaves holds its memory still", func(w *world, r *Request) {
			w.migrate("m1", "db", "h2", "h1", precopy.Switching, 4*hypervisor.GiB)
			r.Domain.Facts.Memory = 10*hypervisor.GiB + 1
		}, []hypervisor.BlockerCode{hypervisor.BlockMemory}},

		{"its vCPUs just fit", func(w *world, r *Request) {
			w.h2.Facts.Capacity.VCPUs, w.h2.Facts.Domains[0].VCPUs, r.Domain.Facts.VCPUs = 12, 8, 4
		}, nil},
		{"its vCPUs are too many", func(w *world, r *Request) {
			w.h2.Facts.Capacity.VCPUs, w.h2.Facts.Domains[0].VCPUs, r.Domain.Facts.VCPUs = 12, 8, 5
		}, []hypervisor.BlockerCode{VCPUs}},
		{"one that comes has its vCPUs", func(w *world, r *Request) {
			w.away("big", hypervisor.GiB)
			w.migrate("m1", "big", "h3", "h2", precopy.Queued, hypervisor.GiB)
			w.Migrations["m1"].Order.Domain.VCPUs = 2
			w.h2.Facts.Capacity.VCPUs, w.h2.Facts.Domains[0].VCPUs, r.Domain.Facts.VCPUs = 12, 8, 3
		}, []hypervisor.BlockerCode{VCPUs}},
		{"without a limit nobody counts vCPUs", func(w *world, r *Request) {
			w.h2.Facts.Domains[0].VCPUs, r.Domain.Facts.VCPUs = 1000, 1000
		}, nil},

		{"one that it must be apart from is there", func(w *world, _ *Request) { w.group(policy.Apart, policy.Required, "web", "db") }, []hypervisor.BlockerCode{AntiAffinity}},
		{"and leaves, but is there yet", func(w *world, _ *Request) {
			w.group(policy.Apart, policy.Required, "web", "db")
			w.migrate("m1", "db", "h2", "h3", precopy.Copying, 4*hypervisor.GiB)
		}, []hypervisor.BlockerCode{AntiAffinity}},
		{"one that it must be apart from comes", func(w *world, _ *Request) {
			w.group(policy.Apart, policy.Required, "web", "app")
			w.away("app", hypervisor.GiB)
			w.migrate("m1", "app", "h3", "h2", precopy.Queued, hypervisor.GiB)
		}, []hypervisor.BlockerCode{AntiAffinity}},
		{"a wish is no filter", func(w *world, _ *Request) { w.group(policy.Apart, policy.Preferred, "web", "db") }, nil},
		{"others' groups are none of it", func(w *world, _ *Request) { w.group(policy.Apart, policy.Required, "db", "app") }, nil},
		{"by labels", func(w *world, _ *Request) {
			w.VMs["id-web"] = policy.VMRecord{UUID: "id-web", Labels: map[string]string{"role": "db"}}
			w.VMs["id-db"] = policy.VMRecord{UUID: "id-db", Labels: map[string]string{"role": "db"}}
			w.Policy.Groups = []policy.Group{{Name: "g", Labels: map[string]string{"role": "db"}, Kind: policy.Apart, Strength: policy.Required}}
		}, []hypervisor.BlockerCode{AntiAffinity}},
		{"one that it must be apart from is off", func(w *world, _ *Request) {
			w.group(policy.Apart, policy.Required, "web", "db")
			w.h2.Load.Domains[0].State = hypervisor.StateShutoff
		}, nil},
		{"those that must be together move one by one", func(w *world, _ *Request) { w.group(policy.Together, policy.Required, "web", "other") }, nil},

		{"all reasons are given", func(w *world, _ *Request) {
			w.h2.Record.Cordons = []fleet.Cordon{{Holder: "admin"}}
			w.h2.Facts.Arch = "aarch64"
			w.group(policy.Apart, policy.Required, "web", "db")
		}, []hypervisor.BlockerCode{HostCordoned, hypervisor.BlockArch, AntiAffinity}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld()
			r := Request{Domain: w.h1.Domains()[0]}
			tc.set(w, &r)
			var got []hypervisor.BlockerCode
			for _, b := range Check(w.Snapshot, r, "h2") {
				got = append(got, b.Code)
				if b.Detail == "" && b.Code != hypervisor.BlockLocalDisk && b.Code != hypervisor.BlockHostDevice {
					t.Errorf("%s says no more", b.Code)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestTargetsThatAreNone(t *testing.T) {
	w := newWorld()
	r := Request{Domain: w.h1.Domains()[0]}
	for host, want := range map[string]hypervisor.BlockerCode{"h1": SameHost, "h9": UnknownHost} {
		if got := Target(w.Snapshot, r, host); len(got) != 1 || got[0].Code != want {
			t.Errorf("%s: got %v, want %s", host, got, want)
		}
	}
}
