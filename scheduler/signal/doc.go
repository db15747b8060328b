// Package signal turns reports of load into evidence on which VMs may be moved.
//
//	reports -> Memory (a Series for each VM) -> Estimate -> planner
//	                                              |
//	            hosts: Sum, Excess -> Heat: hot or cold only after it has held
//	finished migrations -> Trail: rest after a move, and no way back within a day
//
// Everything is pure: time is passed in, and a leader that is given the same reports says the same.
//
// # The load of a VM
//
// Reports are averaged over slots, of five minutes unless told otherwise; a [Series] keeps the slots' mean and variance with weights
// that halve every two hours, and how alike neighbouring slots are, from which the error of the mean follows.
// VMs' load is mostly noise about a level that moves slowly: of 1,052 VMs in data centres, half have a
// correlation of neighbouring five minutes below 0.05. So the level is told best by averaging for long, and
// a single high reading says next to nothing; three far ones in a row, to one side, say that there is a new
// level. A percentile comes from buckets of the single reports.
//
// Each VM also has a mean for every hour of the day. It is used as forecast only where, over the past days, it
// has foretold the hours better than the plain mean did, in squared error and by a clear margin.
//
// # Memory, and a change of leader
//
// A Series has a fixed size of 444 bytes; 20,000 VMs take 10 MiB in all. It is the leader's alone and would be
// lost with it, and the store has no history of load to build it from. So it is to be written to the store,
// by the leader, in [Chunks] parts that take turns: one part in half a minute, the whole in 32 minutes, which
// is 5 KiB/s for 20,000 VMs. A new leader begins with the parts that it finds; it has missed minutes of a
// mean over hours. What it does not find it learns anew, and an estimate is not ready before the VM was seen
// for an hour: a lost part delays moves, but never makes wrong ones.
//
// The [Trail] needs no record of its own: the store has the migrations of the last day, the last of each VM
// among the others and the rest in the history, which is bounded by a number of records that a day does not
// reach.
package signal
