// Package drain carries out runs: drains of hosts, restores after them, and any other list of moves. A run
// is a record ([fleet.Run]), and one step of it a pure function:
//
//	(run, fleet, now) -> Step -> the run as it is next, and requests
//
// The leader writes the run, compared by revision and fenced, and carries the requests out: cordons,
// migrations, and aborts of these. Requests follow from what the stored run says, and each may be carried
// out twice: the ID of a migration stands in the run before the migration is asked for, a domain has one
// unfinished migration at most, a cordon names the run that holds it. So a leader may die after any write,
// and the next one goes on from the record.
//
// # A drain
//
// A requested drain is planned first, with all its hosts closed in the plan. If VMs can't move it is
// refused, and nothing was changed, unless who asked wants them skipped or waited for. Then the hosts are
// cordoned, with the run as holder, and as many VMs as may leave a host at once are asked to move, in the
// plan's order. What appears on the hosts meanwhile is moved too. A target that closes, a move that was
// refused, or one that failed is planned anew, to another host if there is one, after a pause; after some
// tries the VM is given up and named, and the rest goes on. A migration that a person cancelled is not
// tried again. The cordon stays when the run is over, however it ended.
//
// Cancel: nothing new starts, what was not begun is withdrawn, what is under way may finish, or is aborted
// if so asked; the run is over when nothing of it is under way. The cordon goes if so asked.
//
// # A restore
//
// Opens the hosts, by taking away the cordons of drains that are over, and brings back what those moved
// away and is still where they put it: what a person has moved since stays. A VM that its host has no room
// for, in memory, vCPUs or CPU, stays too, and one that would crowd its host more than the one where it is. Those
// that must stay together come home one after the other, or not at all.
//
// # What is next
//
// Where links are divided live, a few more VMs of a host are asked for than are sent at once, in the order in which
// they will leave it: the scheduler has the next one prepared while another is being sent (package budget), so that
// the link does not lie idle between them. What was asked for and has not begun waits in the scheduler, holds
// nothing, and is withdrawn if the run is cancelled.
//
// # When it ends
//
// The moves that are left are played through: each takes what was forecast and some time around, times the
// run's pace, and begins when a stream is free at both its hosts. No link takes its bytes in less than they
// need. The pace is what earlier runs have shown at first, the median of the last few, and more and more what
// this one has: its time so far over what the moves that are over were to take. Each end that is told stands
// in the record, so that what was said can be held against what came.
//
// # Guests that are shut down
//
// None, unless who asked said so: then those whose VMs can't move, when all others have gone, each announced
// in Blocked from the start. They are asked, again if need be, and never forced; what still runs after some
// minutes is named.
//
// The rooms: step.go (one step), follow.go (what became of migrations), place.go (who goes where),
// restore.go, shutdown.go, rest.go (how long the moves take that are left), outlook.go (what is told of that),
// options.go (what could be traded for time). Everything here is pure and safe
// for concurrent use.
package drain
