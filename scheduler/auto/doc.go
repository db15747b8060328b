// Package auto moves VMs off hot hosts without being asked.
//
//	snapshot -> Memory (load, trail, heat) -> Choose -> Plan -> run -> requests -> scheduler.Decide
//	                                             ^        |
//	                                 balance ----+        +-- by level: kept for a person, or run at once
//
// # When a VM moves by itself
//
// Nothing happens while no host is hot. A host is hot when its load, by what is sure of it, is expected above a
// mark for more core-minutes than the least gain within the horizon, and that has held for a while. Then the
// planner proposes moves off hot hosts only, and of those each is kept that by itself avoids at least the
// least gain, with the errors of both hosts' means against it ([Rule]). A VM rests after a move and never
// returns to a host within a day ([signal.Trail]). VMs whose policy says automatic: false are left alone, and
// so are those that must stay together with others.
//
// # Plans and runs
//
// A plan ([fleet.Plan]) is a proposal. At level manual it only recommends; at level partial it waits for a person's
// word, for a day at most; at level full it is approved as it is made. One that waits ends as outdated when none of
// its moves is worth it any more, and a person's no holds for as long as the plan would have waited. Its run ([fleet.Run], of kind rebalance) asks for one
// move after the other: each is judged again just before, against the fleet as it is then, and given up with
// the reason if it has lost its sense. That happens within windows only, and not while the fleet is paused;
// what is under way goes on. The run of a person's plan is carried out by package drain.
//
// [Decide] is a pure function of the records, the fleet and the time. A leader that dies between two writes
// leaves records from which the next one goes on. A migration that is asked for is one more request: it is
// admitted, with preflight, forecast and limits, as those of people are.
//
// The rooms: settings.go, memory.go (what the leader keeps), choose.go (which VM goes where), fleet.go (the
// snapshot as a planner's problem), decide.go (a pass over plans and runs), run.go (the moves of a run),
// frozen.go (what a plan was made from, for replays).
package auto
