package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// host builds a living host with the memory, and domains "name:GiB".
func host(name string, memory hypervisor.Bytes, domains ...string) *fleet.Host {
	h := &fleet.Host{
		Name:     name,
		Record:   fleet.HostRecord{Name: name, LibvirtUUID: "uuid-" + name},
		Session:  &fleet.Session{Host: name, LibvirtUUID: "uuid-" + name},
		Facts:    &hypervisor.HostFacts{Name: name, PeerURI: "qemu+tls://" + name + "/system", Capacity: hypervisor.Capacity{Cores: 4, Memory: memory}},
		Load:     &hypervisor.HostLoad{},
		LoadSeen: t0,
	}
	for _, d := range domains {
		var n string
		var gib int
		fmt.Sscanf(strings.ReplaceAll(d, ":", " "), "%s %d", &n, &gib)
		h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{
			ID: hypervisor.DomainID("id-" + n), Name: n, Memory: hypervisor.Bytes(gib) * hypervisor.GiB, VCPUs: 1,
		})
		h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: hypervisor.DomainID("id-" + n), State: hypervisor.StateRunning})
	}
	return h
}

func snapshot(hosts ...*fleet.Host) *fleet.Snapshot {
	s := &fleet.Snapshot{Now: t0, Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{}}
	for _, h := range hosts {
		s.Hosts[h.Name] = h
	}
	return s
}

func add(s *fleet.Snapshot, id, vm, source, target string, phase precopy.Phase) precopy.Stored {
	m := precopy.Stored{Migration: precopy.Migration{
		ID: id, Domain: vm, UUID: hypervisor.DomainID("id-" + vm), Source: source, Target: target, Phase: phase,
	}, Revision: 1}
	if phase != precopy.Requested {
		m.Order = &precopy.Order{NotAfter: t0.Add(time.Second)}
	}
	s.Migrations[id] = m
	return m
}

func inputs(s *fleet.Snapshot) Inputs {
	return Inputs{
		Fleet: s, Limits: DefaultLimits(), Placer: LeastLoaded{}, Leader: "me", Fence: 7, Now: t0,
		Memory: Memory{Preflights: map[Key]Result{}, AwaySince: map[string]time.Time{}, DownSince: map[string]time.Time{}},
	}
}

// brief renders decisions as short words, to compare.
func brief(ds []Decision) []string {
	var out []string
	for _, d := range ds {
		switch {
		case d.Bind != nil:
			out = append(out, "bind "+d.Bind.Host)
		case d.Ask != nil:
			out = append(out, "ask "+d.Ask.Key.Migration+" "+d.Ask.Key.Target)
		case d.Learn != nil:
			text := "learn " + string(d.Learn.Domain)
			for _, r := range d.Learn.Receipts {
				text += " " + r.ID
			}
			out = append(out, text)
		default:
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", d.Write.New.ID, d.Write.New.Phase, d.Write.New.Target, d.Write.New.ReasonCode)))
		}
	}
	return out
}

// silent is what a preflight found whose source or target did not answer.
func silent(at, since time.Time) Result {
	return Result{At: at, Silent: "h2", Since: since, Blockers: []hypervisor.Blocker{{Code: Unanswered, Detail: "the target h2 did not answer"}}}
}

func TestDecide(t *testing.T) {
	ok := Result{At: t0}
	blocked := Result{At: t0, Blockers: []hypervisor.Blocker{{Code: hypervisor.BlockCPU, Detail: "avx2 missing"}}}
	tests := []struct {
		name  string
		setup func(s *fleet.Snapshot, in *Inputs)
		want  []string
	}{
		{"a request is first asked about", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"ask m1 h2"}},
		{"while asked, nothing happens", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = Result{}
		}, nil},
		{"an old answer is asked again", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = Result{At: t0.Add(-time.Hour)}
		}, []string{"ask m1 h2"}},
		{"a good answer is an order", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = ok
		}, []string{"m1 queued h2"}},
		{"a bad answer is a refusal with its code", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = blocked
		}, []string{"m1 refused h2 cpu-incompatible"}},
		{"a host that has not answered is asked again", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = silent(t0.Add(-askAgain), t0.Add(-downGrace+1))
		}, []string{"ask m1 h2", "m1 requested h2 waiting"}},
		{"but not at once", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = silent(t0, t0)
		}, []string{"m1 requested h2 waiting"}},
		{"and not for ever", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = silent(t0, t0.Add(-downGrace))
		}, []string{"m1 refused h2 no-answer"}},
		{"without a named target one that answers is tried first", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "", precopy.Requested)
			res := silent(t0.Add(-askAgain), t0.Add(-askAgain))
			res.Silent = "h3"
			in.Memory.Preflights[Key{"m1", "h3"}] = res
		}, []string{"ask m1 h2"}},
		{"a source that does not answer is asked again before any other target", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "", precopy.Requested)
			res := silent(t0.Add(-askAgain), t0.Add(-askAgain))
			res.Silent = "h1"
			in.Memory.Preflights[Key{"m1", "h3"}] = res
		}, []string{"ask m1 h3", "m1 requested  waiting"}},
		{"a required rule counts for orders by hand", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = ok
			s.Policy.Groups = []policy.Group{{Name: "g", VMs: []string{"a", "c"}, Kind: policy.Apart, Strength: policy.Required}}
		}, []string{"m1 refused h2 anti-affinity"}},
		{"without a named target the next host is tried", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h3"}] = blocked
		}, []string{"ask m1 h2"}},
		{"all hosts blocked", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = blocked
			in.Memory.Preflights[Key{"m1", "h3"}] = blocked
		}, []string{"m1 refused  no-target"}},
		{"two from one host: the second waits", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			add(s, "m2", "b", "h1", "h3", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}], in.Memory.Preflights[Key{"m2", "h3"}] = ok, ok
		}, []string{"m1 queued h2", "m2 requested h3 waiting"}},
		{"a running one holds its source", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Unknown)
			add(s, "m2", "b", "h1", "h3", precopy.Requested)
			in.Memory.Preflights[Key{"m2", "h3"}] = ok
		}, []string{"m2 requested h3 waiting"}},
		{"the limit of incoming", func(s *fleet.Snapshot, in *Inputs) {
			in.Limits.Incoming = 1
			add(s, "m1", "c", "h2", "h3", precopy.Copying)
			add(s, "m2", "a", "h1", "h3", precopy.Requested)
			in.Memory.Preflights[Key{"m2", "h3"}] = ok
		}, []string{"m2 requested h3 waiting"}},
		{"memory of one on its way counts", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h3"].Facts.Capacity.Memory = 3 * hypervisor.GiB
			add(s, "m1", "c", "h2", "h3", precopy.Copying)
			add(s, "m2", "a", "h1", "h3", precopy.Requested)
		}, []string{"m2 refused h3 memory"}},
		{"also while its source does not report", func(s *fleet.Snapshot, _ *Inputs) {
			s.Hosts["h3"].Facts.Capacity.Memory = 3 * hypervisor.GiB
			s.Hosts["h2"].Session, s.Hosts["h2"].Facts, s.Hosts["h2"].Load = nil, nil, nil
			m := add(s, "m1", "c", "h2", "h3", precopy.Copying)
			m.Order.Domain = &hypervisor.DomainFacts{Memory: 2 * hypervisor.GiB}
			add(s, "m2", "a", "h1", "h3", precopy.Requested)
		}, []string{"m2 refused h3 memory"}},
		{"cancelled before anything", func(s *fleet.Snapshot, _ *Inputs) {
			m := add(s, "m1", "a", "h1", "h2", precopy.Requested)
			m.Cancel = &precopy.Cancel{By: "eve"}
			s.Migrations["m1"] = m
		}, []string{"m1 aborted h2 cancelled"}},
		{"an unclaimed order lapses", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Queued)
			in.Now = t0.Add(time.Minute)
		}, []string{"m1 refused h2 not-claimed"}},
		{"an agent just gone is not unknown yet", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Copying)
			in.Memory.AwaySince["h1"] = t0.Add(-time.Second)
		}, nil},
		{"an agent gone for long is", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Copying)
			in.Memory.AwaySince["h1"] = t0.Add(-time.Minute)
		}, []string{"m1 unknown h2 agent-away"}},
		{"a cordoned target", func(s *fleet.Snapshot, _ *Inputs) {
			s.Hosts["h2"].Record.Cordons = []fleet.Cordon{{Holder: "admin", By: "eve"}}
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 host-cordoned"}},
		{"a target stale for long", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h2"].LoadSeen = t0.Add(-time.Minute)
			in.Memory.DownSince["h2"] = t0.Add(-downGrace)
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 host-stale"}},
		{"a target that restarts is waited for", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h2"].Session, s.Hosts["h2"].Facts, s.Hosts["h2"].Load = nil, nil, nil
			in.Memory.DownSince["h2"] = t0.Add(-time.Second)
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 requested h2 waiting"}},
		{"so is one that none named, if no other can take it", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h2"].Load.Problem = "libvirt away"
			s.Hosts["h3"].Record.Cordons = []fleet.Cordon{{Holder: "admin", By: "eve"}}
			in.Memory.DownSince["h2"] = t0.Add(-time.Second)
			add(s, "m1", "a", "h1", "", precopy.Requested)
		}, []string{"m1 requested  waiting"}},
		{"a cordoned target that restarts is not", func(s *fleet.Snapshot, _ *Inputs) {
			s.Hosts["h2"].Session = nil
			s.Hosts["h2"].Record.Cordons = []fleet.Cordon{{Holder: "admin", By: "eve"}}
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 host-cordoned"}},
		{"a source whose agent restarts is waited for", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h1"].Session, s.Hosts["h1"].Facts, s.Hosts["h1"].Load = nil, nil, nil
			in.Memory.DownSince["h1"] = t0.Add(-time.Second)
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 requested h2 waiting"}},
		{"a source that has not reported yet is waited for", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h1"].Facts, s.Hosts["h1"].Load = nil, nil
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 requested h2 waiting"}},
		{"a source away for long", func(s *fleet.Snapshot, in *Inputs) {
			s.Hosts["h1"].Session, s.Hosts["h1"].Facts, s.Hosts["h1"].Load = nil, nil, nil
			in.Memory.DownSince["h1"] = t0.Add(-downGrace)
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 host-away"}},
		{"a source that nobody knows", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h9", "h2", precopy.Requested)
		}, []string{"m1 refused h2 unknown-host"}},
		{"the same host", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h1", "h1", precopy.Requested)
		}, []string{"m1 refused h1 same-host"}},
		{"a VM that has gone", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "zz", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 unknown-vm"}},
		{"a pinned VM", func(s *fleet.Snapshot, _ *Inputs) {
			s.VMs = map[hypervisor.DomainID]policy.VMRecord{"id-a": {Pinned: new(true)}}
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 pinned"}},
		{"a class that is gone", func(s *fleet.Snapshot, _ *Inputs) {
			s.VMs = map[hypervisor.DomainID]policy.VMRecord{"id-a": {Class: "gold"}}
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 policy"}},
		{"a policy that can't be read", func(s *fleet.Snapshot, _ *Inputs) {
			s.Policy.Fault = "bad"
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
		}, []string{"m1 refused h2 policy"}},
		{"the higher priority goes first, whoever states it", func(s *fleet.Snapshot, in *Inputs) {
			s.Policy.Rules = []policy.Rule{{Match: policy.Match{Name: "b"}, Class: "urgent"}}
			s.Policy.Classes = map[string]policy.Class{"urgent": {Priority: new(5)}}
			m := add(s, "m1", "a", "h1", "h2", precopy.Requested)
			m.Policy.Priority = 4
			s.Migrations["m1"] = m
			add(s, "m2", "b", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}], in.Memory.Preflights[Key{"m2", "h2"}] = ok, ok
		}, []string{"m2 queued h2", "m1 requested h2 waiting"}},
		{"a new host is bound", func(s *fleet.Snapshot, _ *Inputs) {
			s.Hosts["h3"].Record.LibvirtUUID = ""
		}, []string{"bind h3"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := snapshot(host("h1", 8*hypervisor.GiB, "a:2", "b:2"), host("h2", 8*hypervisor.GiB, "c:2"), host("h3", 8*hypervisor.GiB))
			in := inputs(s)
			tc.setup(s, &in)
			if diff := cmp.Diff(tc.want, brief(Decide(in))); diff != "" {
				t.Errorf("decisions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOrderCarriesWhatTheAgentNeeds(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB))
	s.Hosts["h1"].Facts.Capacity.Bandwidth = 400e6 / 8
	s.Hosts["h2"].Facts.Capacity.Bandwidth = 10e9 / 8
	s.Hosts["h2"].Facts.MigrationAddress = "2001:db8::7"
	s.Hosts["h2"].RecordRevision = 41
	add(s, "m1", "a", "h1", "h2", precopy.Requested)
	in := inputs(s)
	in.Memory.Preflights[Key{"m1", "h2"}] = Result{At: t0}
	in.Memory.Clocks = map[string]time.Duration{"h1": time.Minute}
	w := Decide(in)[0].Write
	if w.Host != "h2" || w.HostRevision != 41 {
		t.Errorf("the order depends on %q at %d, want h2's record at 41", w.Host, w.HostRevision)
	}
	got, d := w.New.Order, s.Hosts["h1"].Domains()[0]
	want := &precopy.Order{
		PeerURI: "qemu+tls://h2/system", MigrateURI: "tcp://[2001:db8::7]", TLSName: "h2",
		Bandwidth: 45e6, Share: 42 << 20, Domain: &d.Facts, Load: &d.Load,
		IssuedAt: t0, NotAfter: t0.Add(orderLife), ClockOffset: time.Minute, Leader: "me", Fence: 7,
		Prior: &forecast.Prior{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// Whatever the fleet and the answers: limits and memory hold at every prefix of the decisions, no
// order goes to a host that is away or cordoned, and the same inputs give the same decisions.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInputs(t)
		got := Decide(in)
		if diff := cmp.Diff(brief(got), brief(Decide(in))); diff != "" {
			t.Fatalf("not deterministic:\n%s", diff)
		}
		out, inc := map[string]int{}, map[string]int{}
		for _, m := range in.Fleet.Unfinished() {
			if m.Phase.Holds() {
				out[m.Source]++
				inc[m.Target]++
			}
		}
		for _, d := range got {
			if d.Write == nil {
				continue
			}
			if err := precopy.CheckTransition(d.Write.Old.Phase, d.Write.New.Phase, precopy.ActorLeader); err != nil {
				t.Fatalf("%s: %v", d.Write.New.ID, err)
			}
			m := d.Write.New
			if m.Phase != precopy.Queued {
				continue
			}
			out[m.Source]++
			inc[m.Target]++
			if out[m.Source] > in.Limits.Outgoing || inc[m.Target] > in.Limits.Incoming {
				t.Fatalf("%s: over the limits: %d out of %s, %d into %s", m.ID, out[m.Source], m.Source, inc[m.Target], m.Target)
			}
			if h := in.Fleet.Hosts[m.Target]; !h.Alive() || len(h.Record.Cordons) > 0 {
				t.Fatalf("%s ordered to %s, which is away or cordoned", m.ID, m.Target)
			}
		}
	})
}

func drawInputs(t *rapid.T) Inputs {
	names := []string{"h1", "h2", "h3", "h4"}
	s := snapshot()
	vm := 0
	var down []string
	for _, n := range names {
		var domains []string
		for range rapid.IntRange(0, 3).Draw(t, "domains") {
			domains = append(domains, fmt.Sprintf("v%d:%d", vm, rapid.IntRange(1, 3).Draw(t, "gib")))
			vm++
		}
		h := host(n, 8*hypervisor.GiB, domains...)
		if rapid.IntRange(0, 5).Draw(t, "away") == 0 {
			h.Session = nil
			if rapid.Bool().Draw(t, "for long") {
				down = append(down, n)
			}
		}
		if rapid.IntRange(0, 5).Draw(t, "cordoned") == 0 {
			h.Record.Cordons = []fleet.Cordon{{Holder: "admin"}}
		}
		s.Hosts[n] = h
	}
	in := inputs(s)
	for _, n := range down {
		in.Memory.DownSince[n] = t0.Add(-time.Hour)
	}
	i := 0
	for _, d := range s.Domains() {
		if rapid.Bool().Draw(t, "migrates") {
			phase := rapid.SampledFrom(precopy.Phases()).Draw(t, "phase")
			target := rapid.SampledFrom(append(slices.Clone(names), "")).Draw(t, "target")
			if target == "" && phase != precopy.Requested {
				continue
			}
			id := fmt.Sprintf("m%d", i)
			i++
			add(s, id, d.Facts.Name, d.Host.Name, target, phase)
			for _, n := range names {
				switch rapid.IntRange(0, 2).Draw(t, "answer") {
				case 0:
					in.Memory.Preflights[Key{id, n}] = Result{At: t0}
				case 1:
					in.Memory.Preflights[Key{id, n}] = Result{At: t0, Blockers: []hypervisor.Blocker{{Code: hypervisor.BlockCPU}}}
				}
			}
		}
	}
	return in
}

// A set of orders that one pass gives must fit the memory of each target together.
func TestOrdersOfOnePassFitTogether(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB, "b:2"), host("h3", 3*hypervisor.GiB))
	add(s, "m1", "a", "h1", "h3", precopy.Requested)
	add(s, "m2", "b", "h2", "h3", precopy.Requested)
	in := inputs(s)
	in.Memory.Preflights[Key{"m1", "h3"}] = Result{At: t0}
	in.Memory.Preflights[Key{"m2", "h3"}] = Result{At: t0}
	got := brief(Decide(in))
	want := []string{"m1 queued h3", "m2 refused h3 memory"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

func TestLeastLoadedPrefersTheEmptierHost(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB, "b:3"), host("h3", 8*hypervisor.GiB), host("h4", 8*hypervisor.GiB))
	s.Hosts["h3"].Load.CPU = 3.5
	r := feasible.Request{Domain: s.Hosts["h1"].Domains()[0]}
	hosts, refused := LeastLoaded{}.Place(s, r)
	if diff := cmp.Diff([]string{"h4", "h2", "h3"}, hosts); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if len(refused["h1"]) == 0 {
		t.Error("the source was not refused")
	}
}
