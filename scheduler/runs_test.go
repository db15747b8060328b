package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/fleet"
)

// withRun makes the migration part of a run.
func withRun(s *fleet.Snapshot, id string, r fleet.Run) {
	r.ID = "r1"
	if s.Runs == nil {
		s.Runs = map[string]fleet.StoredRun{}
	}
	s.Runs[r.ID] = fleet.StoredRun{Run: r, Revision: 1}
	if m, ok := s.Migrations[id]; ok {
		m.Run = r.ID
		s.Migrations[id] = m
	}
}

func TestDecideRuns(t *testing.T) {
	ok := Result{At: t0}
	tests := []struct {
		name  string
		setup func(s *fleet.Snapshot, in *Inputs)
		want  []string
	}{
		{"a request of a cancelled run is withdrawn", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			in.Memory.Preflights[Key{"m1", "h2"}] = ok
			withRun(s, "m1", fleet.Run{Phase: fleet.RunCancelled})
		}, []string{"m1 aborted h2 cancelled"}},
		{"an order too, if nobody has taken it", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Queued)
			withRun(s, "m1", fleet.Run{Phase: fleet.RunPartial})
		}, []string{"m1 aborted h2 cancelled"}},
		{"what is under way goes on", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Copying)
			withRun(s, "m1", fleet.Run{Phase: fleet.RunCancelled})
		}, nil},
		{"a request of a run that is gone is withdrawn", func(s *fleet.Snapshot, _ *Inputs) {
			m := add(s, "m1", "a", "h1", "h2", precopy.Requested)
			m.Run = "r9"
			s.Migrations["m1"] = m
		}, []string{"m1 aborted h2 cancelled"}},
		{"a run may allow more at once", func(s *fleet.Snapshot, in *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Copying)
			add(s, "m2", "b", "h1", "h3", precopy.Requested)
			in.Memory.Preflights[Key{"m2", "h3"}] = ok
			withRun(s, "m2", fleet.Run{Phase: fleet.RunPartial})
			r := s.Runs["r1"]
			r.Phase, r.Kind, r.MaxParallel = fleet.RunRunning, fleet.RunRebalance, 2
			r.Moves = []fleet.RunMove{{VM: "b", UUID: "id-b", From: "h1", To: "h3", State: fleet.MoveAsked, Migration: "m2", Began: &t0}}
			r.Outlook = &fleet.Outlook{At: t0, End: t0.Add(time.Second), Left: 1, Pace: 1}
			s.Runs["r1"] = r
		}, []string{"m2 queued h3"}},
		{"a drain closes its host before its cordon is set", func(s *fleet.Snapshot, _ *Inputs) {
			add(s, "m1", "a", "h1", "h2", precopy.Requested)
			withRun(s, "", fleet.Run{Kind: fleet.RunDrain, Phase: fleet.RunRunning, Hosts: []string{"h2"}, RequestedBy: "eve", Moves: []fleet.RunMove{}, Outlook: &fleet.Outlook{At: t0, End: t0}})
		}, []string{"cordon h2 run/r1", "m1 refused h2 host-cordoned"}},
		{"a drain that is asked for is planned, and written", func(s *fleet.Snapshot, _ *Inputs) {
			withRun(s, "", fleet.Run{Kind: fleet.RunDrain, Phase: fleet.RunRequested, Hosts: []string{"h1"}})
		}, []string{"run r1 running"}},
		{"but first it is read what earlier migrations have shown", func(s *fleet.Snapshot, in *Inputs) {
			delete(in.Memory.Profiles, "id-a")
			withRun(s, "", fleet.Run{Kind: fleet.RunDrain, Phase: fleet.RunRequested, Hosts: []string{"h1"}})
		}, []string{"fetch [id-a]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := snapshot(host("h1", 8*hypervisor.GiB, "a:2", "b:2"), host("h2", 8*hypervisor.GiB), host("h3", 8*hypervisor.GiB))
			in := inputs(s)
			in.Memory.Profiles = map[hypervisor.DomainID]forecast.Profile{"id-a": {}, "id-b": {}}
			tt.setup(s, &in)
			var got []string
			for _, d := range Decide(in) {
				switch {
				case d.Run != nil:
					got = append(got, "run "+d.Run.New.ID+" "+string(d.Run.New.Phase))
				case d.Fetch != nil:
					got = append(got, fmt.Sprintf("fetch %v", d.Fetch))
				case d.Cordon != nil:
					got = append(got, "cordon "+d.Cordon.Host+" "+d.Cordon.Cordon.Holder)
				default:
					got = append(got, brief([]Decision{d})...)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("decisions (-want +got):\n%s", diff)
			}
		})
	}
}

// What a run still has to look at stays where it can see it; a run stays while its cordon does.
func TestRunsAreKept(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB))
	old := t0.Add(-60 * 24 * time.Hour)
	for _, id := range []string{"m1", "m2"} {
		m := add(s, id, "a", "h1", "h2", precopy.Failed)
		m.Finished = &old
		s.Migrations[id] = m
	}
	withRun(s, "m1", fleet.Run{Phase: fleet.RunRunning})
	if got := Retired(s, t0); len(got) != 1 || got[0].ID != "m2" {
		t.Errorf("to the history go %v, want only m2", got)
	}
	withRun(s, "m1", fleet.Run{Phase: fleet.RunDone, Finished: &old})
	if got := Retired(s, t0); len(got) != 2 {
		t.Errorf("%d go to the history when the run is over, want both", len(got))
	}
	if got := outdated(s, t0); len(got) != 1 {
		t.Errorf("%d runs are outdated, want the one", len(got))
	}
	s.Hosts["h1"].Record.Cordons = []fleet.Cordon{{Holder: "run/r1"}}
	if got := outdated(s, t0); len(got) != 0 {
		t.Errorf("outdated: %v, though its cordon is there", got)
	}
	s.Hosts["h1"].Record.Cordons = nil
	if got := outdated(s, old.Add(time.Hour)); slices.ContainsFunc(got, func(r fleet.StoredRun) bool { return r.ID == "r1" }) {
		t.Error("outdated within the hour")
	}
}
