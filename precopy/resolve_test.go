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
	}{
		{"moved, transient", seen(absent, "", noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget},
		{"moved, definition left", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget},
		{"moved, source's daemon restarted", seen(shutoff, "", noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget},
		{"moved, finish not over", seen(absent, "", noJob), seen(running, hypervisor.ReasonMigrated, inward), OnTarget},
		{"moved, paused copy left", seen(paused, hypervisor.ReasonMigration, noJob), seen(running, hypervisor.ReasonMigrated, noJob), OnTarget},
		{"moved, paused by its owner", seen(shutoff, hypervisor.ReasonMigrated, noJob), seen(paused, hypervisor.ReasonUser, noJob), OnTarget},
		{"rolled back in the copy", seen(running, "", noJob), seen(absent, "", noJob), OnSource},
		{"rolled back from the switchover", seen(running, hypervisor.ReasonMigrationCanceled, noJob), seen(absent, "", noJob), OnSource},
		{"rolled back, old definition on the target", seen(running, "", noJob), seen(shutoff, "", noJob), OnSource},
		{"never moved, paused by its owner", seen(paused, hypervisor.ReasonUser, noJob), seen(absent, "", noJob), OnSource},
		{"never moved, disk full", seen(paused, hypervisor.ReasonIOError, noJob), seen(absent, "", noJob), OnSource},
		{"copying", seen(running, "", outward), seen(paused, hypervisor.ReasonMigration, inward), InProgress},
		{"switching", seen(paused, hypervisor.ReasonMigration, outward), seen(paused, hypervisor.ReasonMigration, inward), InProgress},
		{"finishing", seen(paused, hypervisor.ReasonMigration, outward), seen(running, hypervisor.ReasonMigrated, inward), InProgress},
		{"left paused", seen(paused, hypervisor.ReasonMigration, noJob), seen(absent, "", noJob), SourcePaused},
		{"left paused, old definition on the target", seen(paused, hypervisor.ReasonMigration, noJob), seen(shutoff, "", noJob), SourcePaused},
		{"resume failed", seen(paused, hypervisor.ReasonAPIError, noJob), seen(absent, "", noJob), SourcePaused},
		{"left paused, target's copy not gone", seen(paused, hypervisor.ReasonMigration, noJob), seen(paused, hypervisor.ReasonMigration, inward), Undecided},
		{"rolled back, target's copy not gone", seen(running, "", noJob), seen(paused, hypervisor.ReasonMigration, inward), Undecided},
		{"doubled", seen(running, hypervisor.ReasonMigrationCanceled, noJob), seen(running, hypervisor.ReasonMigrated, noJob), Both},
		{"post-copy", seen(paused, hypervisor.ReasonPostcopy, outward), seen(running, hypervisor.ReasonPostcopy, inward), Undecided},
		{"post-copy failed", seen(paused, hypervisor.ReasonPostcopyFailed, noJob), seen(running, hypervisor.ReasonPostcopyFailed, noJob), Undecided},
		{"shut down", seen(shutoff, "", noJob), seen(absent, "", noJob), Nowhere},
		{"gone", seen(absent, "", noJob), seen(absent, "", noJob), Nowhere},
		{"source silent", hypervisor.Sighting{}, seen(running, hypervisor.ReasonMigrated, noJob), Undecided},
		{"target silent, source runs", seen(running, "", noJob), hypervisor.Sighting{}, Undecided},
		{"target silent, source paused", seen(paused, hypervisor.ReasonMigration, noJob), hypervisor.Sighting{}, Undecided},
		{"target silent, source gone", seen(absent, "", noJob), hypervisor.Sighting{}, Undecided},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why := Resolve(tc.src, tc.dst)
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
	for _, src := range all {
		for _, dst := range all {
			v, why := Resolve(src, dst)
			bad := func(rule string) {
				t.Errorf("source (%s %s %s), target (%s %s %s): %q (%s), but %s", src.State, src.Reason, src.Job, dst.State, dst.Reason, dst.Job, v, why, rule)
			}
			ends := v != Undecided && v != InProgress
			switch {
			case ends && (src.State == "" || dst.State == ""):
				bad("one has not answered")
			case ends && (postcopy(src) || postcopy(dst)):
				bad("its memory may be on both")
			case (v == OnSource || v == SourcePaused || v == Nowhere) && dst.Active():
				bad("the target has a process for it")
			case v == SourcePaused && (src.State != paused || src.Job == outward):
				bad("there is nothing to resume")
			case v == OnTarget && !runs(dst):
				bad("it does not run on the target")
			case v == OnTarget && src.State == running:
				bad("it runs on the source too")
			case v == Nowhere && src.Active():
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
}
