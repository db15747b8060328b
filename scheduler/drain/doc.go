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
// for, in memory or in CPU, stays too.
//
// # When it ends
//
// A move takes what was forecast and some seconds around, times the run's pace: what its moves have taken
// over what they were to. A host needs the sum over its VMs over the streams at once, no less than the
// longest of them, and no less than their bytes over its link: two streams share one. A target needs the
// sum of what comes to it over the streams that it takes. The run ends with the slowest of them.
//
// The rooms: step.go (one step), follow.go (what became of migrations), place.go (who goes where),
// restore.go, outlook.go (when it ends, and what could be traded for time). Everything here is pure and safe
// for concurrent use.
package drain
