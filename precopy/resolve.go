package precopy

import "drover/hypervisor"

// Verdict is what the evidence of both hosts says of a migration.
type Verdict int

// The verdicts. Only OnSource, OnTarget, Moved, Stopped and Nowhere end a migration.
const (
	// Undecided: the evidence contradicts itself or may still change; look again.
	Undecided Verdict = iota
	// InProgress: libvirt is still at it.
	InProgress
	// OnSource: the guest runs (or is paused by its owner) on the source and nowhere else.
	OnSource
	// SourcePaused: the source's copy is paused by an interrupted migration, and the target has
	// never run it: it must be resumed, or the guest would stand still for ever.
	SourcePaused
	// Stranded: the source's copy is paused by an interrupted migration, and the target has none
	// now, but may have run it in between. Resuming old memory on a disk that was written since would
	// destroy it: a person must decide.
	Stranded
	// OnTarget: the guest is on the target and nowhere else.
	OnTarget
	// Moved: the migration succeeded, and the guest has been stopped on the target since.
	Moved
	// Both: two copies run. Nothing may be destroyed; a person must decide.
	Both
	// Stopped: the guest was shut down, or crashed, on the source; the target has never run it.
	Stopped
	// Nowhere: neither host has a process for it, and nobody can say which of them ran it last.
	Nowhere
)

var verdictNames = [...]string{
	"undecided", "in progress", "on source", "paused on source", "stranded on source", "on target", "moved and stopped",
	"on both", "stopped on source", "nowhere",
}

// String names the verdict.
func (v Verdict) String() string { return verdictNames[v] }

// Evidence is what both hosts answered, each sampled after the question was put.
type Evidence struct {
	Source, Target hypervisor.Sighting
	// Persistent says that the migration was to define the guest on the target too. libvirt does so
	// before the guest starts there, and keeps no definition of one that failed to come.
	Persistent bool
}

// Resolve reads the evidence of both hosts. It implements the table of what libvirt's peer-to-peer
// migration leaves behind (qemu_migration.c: begin, perform, finish, confirm, and the recovery of
// each after a daemon's restart).
//
// A host that has not answered proves nothing of the other. Then, that a domain runs outweighs
// everything said of the other side, except a second copy that runs. A paused copy counts as running
// nowhere only when a migration paused it. That a target has no process now does not prove that it
// never had one that ran.
func Resolve(e Evidence) (Verdict, string) {
	src, dst := e.Source, e.Target
	switch {
	case src.State == "" || dst.State == "":
		return Undecided, "one of the hosts has not answered"
	case postcopy(src) || postcopy(dst):
		return Undecided, "post-copy: the guest's memory is on both hosts, neither may be touched"
	case src.Job == hypervisor.JobOutgoing:
		return InProgress, "the source's libvirt is still migrating it"
	case runs(src) && runs(dst):
		return Both, "the guest runs on both hosts"
	case runs(dst):
		if src.Active() {
			return OnTarget, "it runs on the target; a paused copy is left on the source, which must not be resumed"
		}
		return OnTarget, "it runs on the target, and the source has none"
	case dst.Active():
		// Incoming, or paused by the failed switchover: libvirt kills it, or it starts.
		return Undecided, "the target holds a copy that does not run"
	}
	return e.withoutTarget()
}

// withoutTarget is the part of the table in which the target has no process for the guest.
func (e Evidence) withoutTarget() (Verdict, string) {
	src := e.Source
	switch {
	case runs(src):
		return OnSource, "it runs on the source, and the target has none"
	case src.State == hypervisor.StatePaused &&
		(src.Reason == hypervisor.ReasonMigration || src.Reason == hypervisor.ReasonAPIError):
		if e.neverRan() {
			return SourcePaused, "an interrupted migration left it paused on the source, and the target never ran it"
		}
		return Stranded, "an interrupted migration left it paused on the source; the target may have run it since and has it " + said(e.Target) + " now"
	case src.Active():
		return OnSource, "it is on the source (" + string(src.State) + "), and the target has none"
	case src.Reason == hypervisor.ReasonMigrated:
		return Moved, "the source says that it moved; the target has it " + said(e.Target) + " now"
	case e.neverRan(), src.Reason == hypervisor.ReasonShutdown:
		return Stopped, "it was shut down or crashed on the source: " + said(src)
	}
	return Nowhere, "neither host runs it: the source has it " + said(src) + ", the target " + said(e.Target)
}

// neverRan reports whether the target, which has no process for the guest, is proven never to have
// run it: it failed to come, or never got the definition that it would have had before it ran.
func (e Evidence) neverRan() bool {
	return e.Target.Reason == hypervisor.ReasonFailed && e.Target.State == hypervisor.StateShutoff ||
		e.Target.State == hypervisor.StateAbsent && e.Persistent
}

// said puts a sighting into words.
func said(s hypervisor.Sighting) string {
	if s.Reason == hypervisor.ReasonOther {
		return string(s.State)
	}
	return string(s.State) + " (" + string(s.Reason) + ")"
}

// runs reports that this copy is the guest: running, or moved or kept in the paused state that its
// owner put it in.
func runs(s hypervisor.Sighting) bool {
	return s.State == hypervisor.StateRunning ||
		s.State == hypervisor.StatePaused && s.Job == hypervisor.JobNone &&
			(s.Reason == hypervisor.ReasonUser || s.Reason == hypervisor.ReasonIOError)
}

func postcopy(s hypervisor.Sighting) bool {
	return s.Reason == hypervisor.ReasonPostcopy || s.Reason == hypervisor.ReasonPostcopyFailed
}
