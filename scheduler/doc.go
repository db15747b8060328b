// Package scheduler is the leader's loop: it looks at the fleet, decides, and orders.
//
//	store -snapshot-> decide (pure) -decisions-> Loop -fenced writes-> store
//	                      ^                       |
//	                      +---- preflight answers +-- asks agents
//
// One pass is a pure function, [Decide], of a snapshot, what the agents answered, and the time. The
// [Loop] carries its decisions out: every write compares the record's revision and the leader's
// fence, so that a deposed leader changes nothing and a stale decision is simply taken again.
//
// The rooms: decide.go (one pass: admission and orders), lapse.go (agents that are away), clocks.go (what
// reports say of hosts' clocks), place.go (which host, when none was named), preflight.go (what
// only the two hosts can say), forecast.go (what to expect of a move), share.go (who gets what of the
// links), learn.go (what finished ones have shown), retire.go (which of them go to the history), runs.go and
// hooks.go (drains, maintenance and its hooks), loop.go (effects), automatic.go (moves that nobody asked for:
// scheduler/auto decides, after each pass, from what the leader remembers of VMs' load). scheduler/fleet is
// the snapshot,
// scheduler/policy what people want of migrations, scheduler/feasible the hard filters, scheduler/order in
// which order moves go.
package scheduler
