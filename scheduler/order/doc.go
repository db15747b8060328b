// Package order says in which order, and beside which others, a set of moves is carried out: so that
// every moment is feasible, and the last move ends soon.
//
//	moves -> resolve: orders in which each fits, through staging hosts where some wait for each other
//	      -> pack: times on links and streams, the critical link first, never into a dead end
//	      -> search: other rules and orders, as many as the budget allows; the one that ends first
//	      -> dependencies: which steps must be done before each, and so the waves
//
// # What always holds
//
// Memory counts on both hosts while a domain moves. Streams per host and direction, and the capacity of
// each link in each direction, are never exceeded. Members of an anti-affinity group never meet, not even
// while one of them leaves. This holds at every moment of the schedule, after every prefix of its steps,
// and for memory and groups in every execution that starts a step no sooner than the steps in its
// [Step.After] are done, however long they take: each byte that a step takes on its target was free from
// the start, or comes from one of those.
//
// # Cycles
//
// Domains that wait for each other's room go through a staging host: the smallest that lets another one
// go on moves there first, and on to its target later. Where no host has the room, those that wait are
// reported with the reason and stay where they are; the others still move. Whether moves fit in some
// order is NP-hard (it contains partition), so several orders are tried, and a set of moves that fits
// only in an order which none of these finds may go through staging, or be reported.
//
// # Time
//
// A stream has the whole of the slower link end if it can, since two at once on a link starve each other
// and a faster stream sends less again: with dirty rate w, a first pass of b bytes takes b/(r-w) at rate
// r (the sum of the rounds b/r, b/r w/r, ...). A stream may also start with what is left of a link when
// that is half of its rate or more. The bound is the busiest direction of a host: the bytes that cross it
// at full rates over the link's, or the times of its streams over how many it may have at once.
//
// Everything here is pure, gives the same result for the same moves in whatever order they come, and is
// safe for concurrent use. The budget is counted in schedules tried, not in time.
package order
