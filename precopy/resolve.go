package precopy

import "drover/hypervisor"

// Verdict is what the evidence of both hosts says of a migration.
type Verdict int

// The verdicts. Only OnSource, OnTarget and Nowhere end a migration.
const (
	// Undecided: the evidence contradicts itself or may still change; look again.
	Undecided Verdict = iota
	// InProgress: libvirt is still at it.
	InProgress
	// OnSource: the guest runs (or is paused by its owner) on the source and nowhere else.
	OnSource
	// SourcePaused: the source's copy is paused by an interrupted migration, and the target has
	// none: it must be resumed, or the guest would stand still for ever.
	SourcePaused
	// OnTarget: the guest is on the target and nowhere else.
	OnTarget
	// Both: two copies run. Nothing may be destroyed; a person must decide.
	Both
	// Nowhere: neither host has a process for it: it was shut down, or crashed.
	Nowhere
)

var verdictNames = [...]string{"undecided", "in progress", "on source", "paused on source", "on target", "on both", "nowhere"}

// String names the verdict.
func (v Verdict) String() string { return verdictNames[v] }

// Resolve reads the evidence of both hosts, each sampled after the question was put. It implements
// the table of what libvirt's peer-to-peer migration leaves behind (qemu_migration.c: begin,
// perform, finish, confirm, and the recovery of each after a daemon's restart).
//
// A host that has not answered proves nothing of the other. Then, that a domain runs outweighs
// everything said of the other side, except a second copy that runs. A paused copy counts as running nowhere only when a migration paused it.
func Resolve(src, dst hypervisor.Sighting) (Verdict, string) {
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
	case runs(src):
		return OnSource, "it runs on the source, and the target has none"
	case src.State == hypervisor.StatePaused &&
		(src.Reason == hypervisor.ReasonMigration || src.Reason == hypervisor.ReasonAPIError):
		return SourcePaused, "an interrupted migration left it paused on the source, and the target has none"
	case src.Active():
		return OnSource, "it is on the source (" + string(src.State) + "), and the target has none"
	}
	return Nowhere, "neither host runs it: it was shut down or crashed"
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
