// Package balance plans moves: which domains go where so that hosts contend less, at the least price.
//
//	Problem -compile-> index arrays -search-> a placement -prune-> fewer moves -sequence-> Plan
//
// # What is weighed
//
// One number is made as small as can be: the contention expected over a horizon, plus the price of the
// moves that avoid it, both in core-seconds of guest work lost.
//
//   - A host's contention is the CPU that its domains ask for and don't get. Their demand is taken as
//     normal with the sum of the means and the sum of the variances (independent domains; the variance of
//     one is told by its mean and its 95th percentile), so with z = (knee - mean) / sigma the part above
//     the knee is sigma (phi(z) - z Q(z)). Network traffic counts alike above its knee.
//   - Unevenness costs a little too, as the square of how far a host's CPU and memory are from the
//     fleet's: room where it will be needed. The fleet's mean is load over capacity, not the mean over
//     hosts: hosts are unequal, and only so does moving a domain leave it as it is.
//   - A move costs what it takes of link and CPU while it copies, what it slows its guest, its pause, and
//     a fixed part ([Price]).
//
// [Score] measures placements as Ganeti's hbal does instead, for comparison: the standard deviations of
// hosts' free memory and CPU load, and moves by their number and GiB.
//
// # Search
//
// Simulated annealing over placements, not over sequences of moves: a domain moves once, to where it
// stays, whatever was tried in between. A step relocates one domain, takes a move back, lets another
// domain go instead, or exchanges two. It goes through where to, or with which, one after another (scan.go);
// each is judged in constant time, from sums that are kept. The search runs for a number of evaluations, not
// for a time, so the same problem gives the same plan on any machine. Large fleets are searched in two parts
// at the same time, whose hosts are drawn anew five hundred times (crew.go).
//
// # What always holds
//
// After every prefix of the plan, with memory counted on both hosts while a domain moves: no host has
// more memory promised than it has, none more CPU load than its limit or than it had before, none takes
// domains beyond its limit on vCPUs, no required rule is broken more than before. A required affinity group that is
// together moves as a block: it is split while the block moves. Domains that are pinned or under way stay, and so do
// those that required rules want both together and apart.
//
// Everything here is pure and safe for concurrent use.
package balance
