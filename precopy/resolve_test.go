package precopy

import (
	"testing"

	"drover/hypervisor"
)

func seen(state hypervisor.DomainState, reason hypervisor.StateReason, job hypervisor.JobKind) hypervisor.Sighting {
	return hypervisor.Sighting{Domain: vm, State: state, Reason: reason, Job: job}
}

const (
	running = hypervisor.StateRunning
	paused  = hypervisor.StatePaused
	shutoff = hypervisor.StateShutoff
	absent  = hypervisor.StateAbsent
	noJob   = hypervisor.JobNone
	outward = hypervisor.JobOutgoing
	inward  = hypervisor.JobIncoming
)

// TestResolveTable is what libvirt leaves behind, line by line.
func TestResolveTable(t *testing.T) {
	for _, tc := range []struct {
		name     string
		src, dst hypervisor.Sighting
		want     Verdict
		gone     bool // the guest is transient
	}{
		{"moved, transient", seen(absent, "", noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget, true},
		{"moved, definition left", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget, false},
		{"moved, source's daemon restarted", seen(shutoff, "", noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget, false},
		{"moved, finish not over", seen(absent, "", noJob), seen(running, hypervisor.ReasonMigrated, inward), OnTarget, false},
		{"moved, paused copy left", seen(paused, hypervisor.ReasonMigration, noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget, false},
		{"moved, paused by its owner", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(paused, hypervisor.ReasonUser, noJob), OnTarget, false},
		{"rolled back in the copy", seen(running, "", noJob), seen(absent, "", noJob), OnSource, false},
		{"rolled back from the switchover", seen(running, hypervisor.ReasonMigrationCanceled, noJob), seen(absent, "", noJob), OnSource, false},
		{"rolled back, old definition on the target", seen(running, "", noJob), seen(shutoff, "", noJob), OnSource, false},
		{"never moved, paused by its owner", seen(paused, hypervisor.ReasonUser, noJob), seen(absent, "", noJob), OnSource, false},
		{"never moved, disk full", seen(paused, hypervisor.ReasonIOError, noJob), seen(absent, "", noJob), OnSource, false},
		{"copying", seen(running, "", outward), seen(paused, hypervisor.ReasonMigration, inward), InProgress, false},
		{"switching", seen(paused, hypervisor.ReasonMigration, outward), seen(paused, hypervisor.ReasonMigration, inward), InProgress, false},
		{"finishing", seen(paused, hypervisor.ReasonMigration, outward), seen(running, hypervisor.ReasonMigrated, inward), InProgress, false},
		{"left paused", seen(paused, hypervisor.ReasonMigration, noJob), seen(absent, "", noJob), SourcePaused, false},
		{"left paused, old definition on the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, hypervisor.ReasonFailed, noJob), SourcePaused, false},
		{"resume failed", seen(paused, hypervisor.ReasonAPIError, noJob), seen(absent, "", noJob), SourcePaused, false},
		{"left paused, target's copy not gone", seen(paused, hypervisor.ReasonMigration, noJob), seen(paused, hypervisor.ReasonMigration, inward), Undecided, false},
		{"rolled back, target's copy not gone", seen(running, "", noJob), seen(paused, hypervisor.ReasonMigration, inward), Undecided, false},
		{"doubled", seen(running, hypervisor.ReasonMigrationCanceled, noJob), seen(running, hypervisor.ReasonMigrated, noJob), Both, false},
		{"post-copy", seen(paused, hypervisor.ReasonPostcopy, outward), seen(running, hypervisor.ReasonPostcopy, inward), Undecided, false},
		{"post-copy failed", seen(paused, hypervisor.ReasonPostcopyFailed, noJob), seen(running, hypervisor.ReasonPostcopyFailed, noJob), Undecided, false},
		{"shut down", seen(shutoff, hypervisor.ReasonShutdown, noJob), seen(absent, "", noJob), Stopped, false},
		{"gone", seen(absent, "", noJob), seen(absent, "", noJob), Nowhere, true},
		{"source silent", hypervisor.Sighting{}, seen(running, hypervisor.ReasonMigrated, noJob), Undecided, false},
		{"target silent, source runs", seen(running, "", noJob), hypervisor.Sighting{}, Undecided, false},
		{"target silent, source paused", seen(paused, hypervisor.ReasonMigration, noJob), hypervisor.Sighting{}, Undecided, false},
		{"target silent, source gone", seen(absent, "", noJob), hypervisor.Sighting{}, Undecided, false},
		{"left paused, transient: absent proves nothing", seen(paused, hypervisor.ReasonMigration, noJob), seen(absent, "", noJob), Stranded, true},
		{"left paused, shut down on the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, hypervisor.ReasonShutdown, noJob), Stranded, false},
		{"left paused, crashed on the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, hypervisor.ReasonCrashed, noJob), Stranded, false},
		{"left paused, killed on the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, hypervisor.ReasonDestroyed, noJob), Stranded, false},
		{"left paused, moved on from the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, hypervisor.ReasonMigrated, noJob), Stranded, false},
		{"left paused, target was rebooted", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, "", noJob), Stranded, false},
		{"resume failed, shut down on the target", seen(paused, hypervisor.ReasonAPIError, noJob), seen(shutoff, hypervisor.ReasonShutdown, noJob), Stranded, false},
		{"moved, shut down there", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(shutoff, hypervisor.ReasonShutdown, noJob), Moved, false},
		{"moved, target was rebooted", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(shutoff, "", noJob), Moved, false},
		{"moved, removed there", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(absent, "", noJob), Moved, false},
		{"source's daemon forgot, shut down on the target", seen(shutoff, "", noJob), seen(shutoff, hypervisor.ReasonShutdown, noJob), Nowhere, false},
		{"crashed on the source, never came", seen(shutoff, hypervisor.ReasonCrashed, noJob), seen(absent, "", noJob), Stopped, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why := Resolve(Evidence{Source: tc.src, Target: tc.dst, Persistent: !tc.gone})
			if got != tc.want {
				t.Errorf("verdict %q (%s), want %q", got, why, tc.want)
			}
			if why == "" {
				t.Error("no reason given")
			}
		})
	}
}

// TestResolveProperties goes through every combination of what both hosts can say.
func TestResolveProperties(t *testing.T) {
	states := []hypervisor.DomainState{"", running, paused, shutoff, absent, hypervisor.StateCrashed, hypervisor.StateOther}
	reasons := []hypervisor.StateReason{
		"", hypervisor.ReasonMigrated, hypervisor.ReasonMigration, hypervisor.ReasonMigrationCanceled, hypervisor.ReasonPostcopy,
		hypervisor.ReasonPostcopyFailed, hypervisor.ReasonAPIError, hypervisor.ReasonUser, hypervisor.ReasonIOError,
		hypervisor.ReasonShutdown, hypervisor.ReasonFailed,
	}
	jobs := []hypervisor.JobKind{noJob, outward, inward, hypervisor.JobOther}
	var all []hypervisor.Sighting
	for _, s := range states {
		for _, r := range reasons {
			for _, j := range jobs {
				all = append(all, seen(s, r, j))
			}
		}
	}
	var evidence []Evidence
	for _, src := range all {
		for _, dst := range all {
			evidence = append(evidence, Evidence{src, dst, true}, Evidence{src, dst, false})
		}
	}
	for _, e := range evidence {
		src, dst, persistent := e.Source, e.Target, e.Persistent
		v, why := Resolve(e)
		bad := func(rule string) {
			t.Errorf("source (%s %s %s), target (%s %s %s): %q (%s), but %s", src.State, src.Reason, src.Job, dst.State, dst.Reason, dst.Job, v, why, rule)
		}
		ends := v != Undecided && v != InProgress
		switch {
		case ends && (src.State == "" || dst.State == ""):
			bad("one has not answered")
		case ends && (postcopy(src) || postcopy(dst)):
			bad("its memory may be on both")
		case (v == OnSource || v == SourcePaused || v == Stranded || v == Moved || v == Stopped || v == Nowhere) && dst.Active():
			bad("the target has a process for it")
		case v == SourcePaused && (src.State != paused || src.Job == outward):
			bad("there is nothing to resume")
		case v == SourcePaused && (dst.State != absent || !persistent) && dst.Reason != hypervisor.ReasonFailed:
			bad("the target may have run it")
		case (v == Stopped || v == Nowhere) && src.Reason == hypervisor.ReasonMigrated:
			bad("the source says that it moved")
		case v == Stopped && dst.State != absent && dst.Reason != hypervisor.ReasonFailed && src.Reason != hypervisor.ReasonShutdown:
			bad("the target may have run it last")
		case v == OnTarget && !runs(dst):
			bad("it does not run on the target")
		case v == OnTarget && src.State == running:
			bad("it runs on the source too")
		case (v == Nowhere || v == Stopped || v == Moved) && src.Active():
			bad("the source has a process for it")
		case ends && src.Job == outward:
			bad("libvirt is still at it")
		case src.State == running && dst.State == running && v != Both && !postcopy(src) && !postcopy(dst) && src.Job != outward:
			bad("both run")
		case v.String() == "" || why == "":
			bad("it says nothing")
		}
	}
}
