package precopy

import (
	"fmt"
	"slices"
)

// Phase is where a migration stands.
type Phase string

// The phases. Done, Failed, Aborted and Refused are final.
const (
	Requested Phase = "requested" // asked for; the leader has not decided yet
	Queued    Phase = "queued"    // ordered: the source's agent may claim it
	Claimed   Phase = "claimed"   // the agent has taken it; libvirt was not called yet
	Preparing Phase = "preparing" // last checks done, the libvirt call is being made
	Copying   Phase = "copying"   // memory is going over, the guest runs on the source
	Switching Phase = "switching" // vCPUs are stopped, control passes
	Postcopy  Phase = "postcopy"  // the guest runs on the target, the rest of its memory follows
	Unknown   Phase = "unknown"   // nobody can say yet where it stands; evidence must decide
	Done      Phase = "done"      // the guest runs on the target
	Failed    Phase = "failed"    // the guest runs on the source; something went wrong
	Aborted   Phase = "aborted"   // the guest runs on the source; somebody wished so
	Refused   Phase = "refused"   // never started
)

// Phases lists all phases in the order of a migration's life.
func Phases() []Phase {
	return []Phase{Requested, Queued, Claimed, Preparing, Copying, Switching, Postcopy, Unknown, Done, Failed, Aborted, Refused}
}

// Final reports whether the migration is over.
func (p Phase) Final() bool {
	return p == Done || p == Failed || p == Aborted || p == Refused
}

// Started reports whether libvirt may have been called: from here on the guest's whereabouts are a
// question to both hosts, and memory counts on both.
func (p Phase) Started() bool {
	return p == Preparing || p == Copying || p == Switching || p == Postcopy || p == Unknown
}

// Holds reports whether the migration holds resources on its two hosts.
func (p Phase) Holds() bool {
	return p == Queued || p == Claimed || p.Started()
}

// Actor is who changes a record.
type Actor string

// The actors.
const (
	ActorCLI    Actor = "cli"
	ActorLeader Actor = "leader"
	ActorSource Actor = "source-agent"
)

// transitions is the whole state machine: for each phase and actor, the phases it may become.
// A person resolving by hand is ActorCLI from Unknown.
var transitions = map[Phase]map[Actor][]Phase{
	Requested: {
		ActorLeader: {Queued, Refused, Aborted},
		ActorCLI:    {Aborted}, // withdraw, cancel
	},
	Queued: {
		ActorSource: {Claimed, Aborted, Failed},
		// Never claimed and no longer to be: the compare-and-set against a claim makes it safe.
		ActorLeader: {Refused, Aborted},
		ActorCLI:    {Aborted},
	},
	Claimed: {
		ActorSource: {Preparing, Aborted, Failed},
		ActorLeader: {Unknown},
	},
	Preparing: {
		ActorSource: {Copying, Switching, Postcopy, Done, Failed, Aborted, Unknown},
		ActorLeader: {Unknown},
	},
	Copying: {
		// Back to preparing: the attempt was ended, and another is begun with another strategy.
		ActorSource: {Preparing, Switching, Postcopy, Done, Failed, Aborted, Unknown},
		ActorLeader: {Unknown},
	},
	Switching: {
		// Back to copying: QEMU resumed the source after a failed switchover and goes on.
		ActorSource: {Copying, Postcopy, Done, Failed, Aborted, Unknown},
		ActorLeader: {Unknown},
	},
	Postcopy: {
		// There is no way back: failed only means that the guest is off on both hosts.
		ActorSource: {Done, Failed, Unknown},
		ActorLeader: {Unknown},
	},
	Unknown: {
		// Not the leader: the source's own evidence is needed, and its agent is there when that is.
		ActorSource: {Copying, Postcopy, Done, Failed, Aborted},
		ActorCLI:    {Done, Failed},
	},
}

// CheckTransition returns an error unless actor may take a migration from one phase to the other.
// Staying in a phase is always allowed: a final record still learns its statistics, or that the
// target has taken over the autostart flag, but never another phase.
func CheckTransition(from, to Phase, actor Actor) error {
	if from == to {
		return nil
	}
	if slices.Contains(transitions[from][actor], to) {
		return nil
	}
	return fmt.Errorf("phase: %s may not take a migration from %s to %s", actor, from, to)
}
