// Package budget divides the bandwidth of the fleet among the migrations that run: which may start, and how
// much each may send. It is pure; the leader's pass calls it, the store keeps the shares, agents apply them.
//
//	snapshot, policy, tenants' traffic --model--> links, streams --Divide--> what each should have
//	       ^                                                                       |
//	       |                          shares written: shrink first <--hysteresis---+
//	       +-- agents: applied, achieved, near the end      then, once acknowledged, grow
//
// # Links
//
// A link is one direction of something that streams share: a host's migration network, out and in; what
// the policy names by labels of hosts (a rack's uplink), out of it and into it; all streams of the fleet, where
// the policy bounds them. Usable is what of its capacity migrations may take now: a tenth is left for headers and
// short queues, then what is kept for tenants, or what tenants send and receive at present if that is
// more. A link whose capacity nobody knows bounds no one: each stream then has what was ordered.
//
// # What is fair
//
// Every stream has 1 MiB/s, the least that libvirt takes. One that is about to switch over has all that its
// links give, but for what streams need whose guests are slowed: those lose work for as long as it takes. Then needs are met: the least rate by which its promise can be kept, each whole or not at all, in
// order of rank (evacuation before drain before rebalance, a person's order before automation), then of age.
// What is left is divided among those whose needs are met, and what they leave among the others, each time
// by weighted max-min fairness: no stream below its cap could have more without taking from one that, for
// its weight, has no more than itself, or has no more than its need. Nothing stays idle that a stream could use.
//
// # What is next
//
// The start of a migration takes a second or two in which it sends nothing. So one more than may be sent at once out
// of a host, or into one, is prepared when a stream in front of it may end soon: by its present pass, or by what was
// forecast of it. It has the least, 1 MiB/s, until the one in front is over, and all then. Copies of disks keep the rate that
// they begin with: what copies disks is not prepared so, but begins with its whole part.
//
// # Soundness
//
// A share counts, until its agent has said that it applied it, with the most that may be in force: what it was
// before, if that was more. Only what is left beside all shares counted so is given to one that grows. So the
// sum never exceeds a link, also while a leader takes over, who sees all of this in the records. An
// agent that says nothing keeps what it has. What can make a sum exceed a link is the link: tenants that begin to
// send. Then shares shrink first.
//
// A share also says what it would be if nobody else used its links. An agent waits for more only up to that: a link that
// became slower, or a lower limit, is nothing that comes back when others are done.
//
// Changes are few: nothing is written for less than an eighth, nor twice in a second for one stream unless a
// link is over-full; all of one pass are one transaction, and there are at most seven of these in a second.
//
// The rooms: divide.go (the division), model.go (links and streams of a snapshot), tenants.go (their
// traffic), arbiter.go (admission), writes.go (which shares to change), show.go (what people see).
package budget
