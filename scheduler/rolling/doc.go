// Package rolling takes hosts out of service and back, some at a time: rolling maintenance. A roll is a run
// ([fleet.Run] of kind maintenance) beside the drains and restores that it starts, and one step of it a pure
// function:
//
//	(run, fleet, results of hooks, now) -> Step -> the run as it is next, and requests
//
// As with drains, the leader writes the run and carries the requests out; requests follow from what the
// stored run says, and each may be carried out twice. The ID of a drain, a restore or a hook's attempt stands
// in the run before it is asked for. So a leader may die after any write, and the next one goes on.
//
// # One host
//
//	waiting -> draining -> hooks -> health -> restoring -> done
//
// A host is begun when a place is free, its forecast end fits the windows and the deadline, its drain would
// have a place for all VMs, and the rest could still lose any one host. Its drain keeps off hosts that are to
// be rolled later, so that VMs move once: those done are as good as those outside the roll. Where there is not
// enough room without them, the host that is rolled last takes VMs first, and the next one last.
// When it is empty, the hooks run in order. Then its agent must have reported since, and whatever else was
// asked of its health must hold. At last the drain's cordon goes, and the VMs come back if so asked.
//
// # Failures
//
// At the first failure no further host is begun; those under way are brought to their end. The run stops
// then, and says which host is in what state: it goes on where it stopped when a person says so ([Resume]),
// with or without the host that failed. A host that failed stays as it is, closed.
//
// # The plan
//
// [Plan] goes through the whole roll beforehand, on the fleet as each host will find it: who goes where, when
// each host begins and ends, the latest start with which all still end in time, and what is in the way.
//
// The rooms: plan.go (the whole of it beforehand), times.go (windows and forecasts), step.go (one step),
// host.go (one host), hook.go. Everything here is pure and safe for concurrent use.
package rolling
