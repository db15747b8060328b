package scheduler

import (
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// The record of a migration whose source is gone says what the target sees, and what a person can do;
// it is written again only when that changes.
func TestLapseSaysWhatToDo(t *testing.T) {
	tests := []struct {
		name  string
		setup func(h2 *fleet.Host)
		want  []string
	}{
		{"the target runs it", func(h2 *fleet.Host) {
			h2.Load.Domains = []hypervisor.DomainLoad{{ID: "id-a", State: hypervisor.StateRunning}}
		}, []string{"h2 reports the VM running", "resolve m1 --runs-on h2 --yes"}},
		{"the target has the unfinished half", func(h2 *fleet.Host) {
			h2.Load.Domains = []hypervisor.DomainLoad{{ID: "id-a", State: hypervisor.StatePaused}}
		}, []string{"h2 has the VM, but paused", "resolve m1 --runs-on HOST --yes"}},
		{"the target has nothing", func(*fleet.Host) {}, []string{"h2 does not run the VM", "resolve m1 --runs-on h1 --yes"}},
		{"the target has only its definition", func(h2 *fleet.Host) {
			h2.Load.Domains = []hypervisor.DomainLoad{{ID: "id-a", State: hypervisor.StateShutoff}}
		}, []string{"h2 does not run the VM", "resolve m1 --runs-on h1 --yes"}},
		{
			"the target is away too", func(h2 *fleet.Host) { h2.Session = nil },
			[]string{"h2 does not report either", "resolve m1 --runs-on HOST --yes"},
		},
		{
			"the target's report is old", func(h2 *fleet.Host) { h2.LoadSeen = t0.Add(-time.Minute) },
			[]string{"h2 does not report either"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := snapshot(host("h1", 8*hypervisor.GiB), host("h2", 8*hypervisor.GiB))
			s.Hosts["h1"].Session = nil
			tc.setup(s.Hosts["h2"])
			in := inputs(s)
			in.Memory.AwaySince["h1"] = t0.Add(-time.Minute)
			for _, phase := range []precopy.Phase{precopy.Copying, precopy.Unknown} {
				add(s, "m1", "a", "h1", "h2", phase)
				ds := Decide(in)
				if len(ds) != 1 || ds[0].Write == nil {
					t.Fatalf("%s: decisions %v, want one write", phase, brief(ds))
				}
				m := ds[0].Write.New
				for _, want := range append(tc.want, "the agent of h1 is away", "drover host forget h1") {
					if !strings.Contains(m.Reason, want) {
						t.Errorf("%s: the reason lacks %q: %s", phase, want, m.Reason)
					}
				}
				s.Migrations["m1"] = precopy.Stored{Migration: m, Revision: 2}
				if again := Decide(in); len(again) != 0 {
					t.Errorf("%s: written again: %v", phase, brief(again))
				}
			}
		})
	}
}

// Of a VM whose memory may be on both hosts nobody is told to switch one off.
func TestLapseInPostCopy(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB), host("h2", 8*hypervisor.GiB))
	s.Hosts["h1"].Session = nil
	in := inputs(s)
	in.Memory.AwaySince["h1"] = t0.Add(-time.Minute)
	for _, phase := range []precopy.Phase{precopy.Copying, precopy.Postcopy, precopy.Unknown} {
		m := add(s, "m1", "a", "h1", "h2", phase)
		m.Attempts = []precopy.Attempt{{Number: 1, PostCopy: new(t0)}}
		s.Migrations["m1"] = m
		ds := Decide(in)
		if len(ds) != 1 || ds[0].Write == nil {
			t.Fatalf("%s: decisions %v, want one write", phase, brief(ds))
		}
		next := ds[0].Write.New
		if next.Phase != precopy.Unknown || !strings.Contains(next.Reason, "LOST IF h1 OR h2 IS SWITCHED OFF") || strings.Contains(next.Reason, "forget") {
			t.Errorf("%s: %s (%s), want a warning against switching off", phase, next.Phase, next.Reason)
		}
	}
}
