package auto

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/balance"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// What a person's plan sees: loads as reported, VMs that stay, those that rest, and hosts that are emptied.
func TestLive(t *testing.T) {
	w := newWorld(3, hot())
	w.cordoned["h2"] = true
	w.policy.Classes = map[string]policy.Class{"still": {Automatic: new(false)}, "fixed": {Pinned: new(true)}}
	w.policy.Rules = []policy.Rule{
		{Match: policy.Match{Name: "vm00"}, Class: "still"}, {Match: policy.Match{Name: "vm01"}, Class: "fixed"},
	}
	ended := w.now.Add(-time.Minute)
	w.migrations["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", UUID: "vm02", Source: "h1", Target: "h0", Phase: precopy.Done, Finished: &ended}}
	w.migrations["y"] = precopy.Stored{Migration: precopy.Migration{ID: "y", UUID: "vm03", Source: "h0", Target: "h1", Phase: precopy.Copying}}
	s := w.snapshot()
	s.Hosts["h9"] = &fleet.Host{Name: "h9"}
	p, who, remarks, err := Live(s, nil, w.now)
	if err != nil || len(p.Hosts) != 3 || len(p.VMs) != 14 || len(who) != 14 || !p.Hosts[2].Cordoned {
		t.Fatalf("%d hosts, %d VMs, %v", len(p.Hosts), len(p.VMs), err)
	}
	if len(remarks) != 1 || !strings.HasPrefix(remarks[0], "h9 is left out") {
		t.Errorf("remarks: %q", remarks)
	}
	for i, v := range p.VMs {
		want := map[string]balance.VM{"vm00": {Pinned: true}, "vm01": {Pinned: true}, "vm02": {Resting: true}, "vm03": {Pinned: true, Moving: true}}[v.Name]
		if v.Pinned != want.Pinned || v.Resting != want.Resting || v.Moving != want.Moving || v.Mean.CPU != 1 || who[i].Facts.Name != v.Name {
			t.Errorf("%+v", v)
		}
	}
	// A drain moves what only moves when it is asked for, and what rests.
	if p, _, _, err = Live(s, []string{"h0"}, w.now); err != nil || !p.Hosts[0].Draining || p.VMs[0].Pinned || !p.VMs[1].Pinned || p.VMs[2].Resting {
		t.Errorf("drain: %v, %+v", err, p.VMs[:3])
	}
	for _, bad := range []string{"h7", "h9"} {
		if _, _, _, err := Live(s, []string{bad}, w.now); err == nil {
			t.Errorf("a drain of %s is planned", bad)
		}
	}
}

// A person's rebalance goes on while what is left of it evens the fleet out, and stops when it would not.
func TestDoubt(t *testing.T) {
	w := newWorld(3, hot())
	run := func(cause balance.Cause) fleet.StoredRun {
		r := fleet.StoredRun{Run: fleet.Run{Kind: fleet.RunRebalance, Phase: fleet.RunRunning, RequestedBy: "ada"}}
		for _, vm := range []string{"vm00", "vm01", "vm02"} {
			r.Moves = append(r.Moves, fleet.RunMove{VM: vm, UUID: hypervisor.DomainID(vm), From: "h0", To: "h2", Cause: string(cause), State: fleet.MovePlanned})
		}
		r.Moves[0].State = fleet.MoveMoved
		return r
	}
	if r := Doubt(w.snapshot(), run(balance.ToEven)); r.Moves[1].State != fleet.MovePlanned {
		t.Errorf("given up though it helps: %+v", r.Moves)
	}
	w.away["h0"] = true
	if r := Doubt(w.snapshot(), run(balance.ToEven)); r.Moves[1].State != fleet.MovePlanned {
		t.Errorf("given up because an agent is away: %+v", r.Moves)
	}
	delete(w.away, "h0")
	for _, g := range w.vms { // the load goes where the run wants to move more
		g.load = 0.2
		if g.host == "h2" {
			g.load = 3
		}
	}
	old := run(balance.ToEven)
	r := Doubt(w.snapshot(), old)
	if m := r.Moves[1]; m.State != fleet.MoveStays || !strings.Contains(m.Reason, "load has changed") || r.Moves[0].State != fleet.MoveMoved || old.Moves[1].State != fleet.MovePlanned {
		t.Errorf("goes on though it does harm: %+v", r.Moves)
	}
	if r := Doubt(w.snapshot(), run(balance.ToEmpty)); r.Moves[1].State != fleet.MovePlanned {
		t.Errorf("what is for something else is judged: %+v", r.Moves)
	}
	drain := run(balance.ToEven)
	drain.Kind = fleet.RunDrain
	if r := Doubt(w.snapshot(), drain); r.Moves[1].State != fleet.MovePlanned {
		t.Errorf("a drain is judged: %+v", r.Moves)
	}
}

// What a plan was made from is kept so that the same policy makes the same plan again, and another one another.
func TestReplay(t *testing.T) {
	vms := map[string]*guest{}
	for name, g := range hot() { // loads are kept by UUIDs
		vms["00000000-0000-4000-8000-0000000000"+name[2:]] = g
	}
	w := newWorld(3, vms)
	w.settings.Level = Partial
	ended := w.now.Add(-time.Hour)
	w.migrations["x"] = precopy.Stored{Migration: precopy.Migration{ID: "x", UUID: "00000000-0000-4000-8000-000000000000", Source: "h2", Target: "h0", Phase: precopy.Done, Finished: &ended}}
	for len(w.plans) == 0 {
		w.pass(t)
		if w.now.Sub(t0) > 3*time.Hour {
			t.Fatal("no plan")
		}
	}
	text, err := Freeze(w.snapshot(), w.memory, w.now)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Thaw(text)
	if err != nil {
		t.Fatal(err)
	}
	moves := func(doc policy.Document) []fleet.PlanMove {
		t.Helper()
		p, err := f.Replay(doc)
		if err != nil {
			t.Fatal(err)
		}
		return p.Moves
	}
	if diff := cmp.Diff(w.plans[0].Moves, moves(policy.Document{})); diff != "" || len(w.plans[0].Moves) == 0 {
		t.Errorf("the same policy (-then +replayed):\n%s", diff)
	}
	if got := moves(policy.Document{Automation: policy.Automation{Mark: new(policy.Percent(100))}}); len(got) >= len(w.plans[0].Moves) {
		t.Errorf("a higher mark gives as many moves: %+v", got)
	}
	if got := moves(policy.Document{Automation: policy.Automation{MaxMoves: new(1)}}); len(got) != 1 {
		t.Errorf("one move at most: %+v", got)
	}
	most := hypervisor.Bytes(0)
	for _, m := range moves(policy.Document{Automation: policy.Automation{MaxGiB: new(5)}}) {
		most += m.Memory
	}
	if most == 0 || most > 5*hypervisor.GiB {
		t.Errorf("moves %s, at most 5 GiB", most)
	}
	if got := moves(policy.Document{Default: policy.Class{Automatic: new(false)}}); len(got) != 0 {
		t.Errorf("all have opted out: %+v", got)
	}
	if _, err := Thaw([]byte("{")); err == nil {
		t.Error("nonsense is read")
	}
	if persons, err := Freeze(w.snapshot(), nil, w.now); err != nil {
		t.Error(err)
	} else if f, err := Thaw(persons); err != nil || f.Memory != nil {
		t.Errorf("a person's: %v", err)
	}
}
