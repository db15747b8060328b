// Package sim runs whole fleets in virtual time: a hundred hosts and thousands of guests, hours in seconds.
//
//	load, faults, people -> hosts, guests, links ---reports---> store <---> leader: Rule (drover: scheduler.Decide),
//	                             ^                                |                 auto.Decide
//	                             +--- guest.Job, flow.Network <--- agents: precopy/tune
//
// What decides is drover's own code: the scheduler's pass with its filters, drains, forecasts and automatic
// moves, and in each migration the convergence controller. What is simulated is the rest, which is thin: a store
// with revisions and fences, agents that report, claim, poll and tell, libvirt and QEMU (package guest, by
// regions of memory), the links (package flow, max-min fair), people and faults. The real loops need goroutines
// and real time, or testing/synctest; here one goroutine goes from event to event, so that it works in a
// command too, and the same seed gives the same figures.
//
// # Use
//
//	w := sim.New(sim.Config{Seed: 1})
//	err := w.Make(sim.Fleet{Hosts: 100, VMs: 3000})  // or AddHost, AddGuest
//	id := w.Drain("h001")                            // Ask, Migrate, Restore, Cordon, KillHost, KillAgent…
//	ok := w.Until(2*time.Hour, func() bool { return w.RunRecord(id).Phase.Final() })
//	fmt.Println(w.Report(0))
//
// Other rules than drover's are a [Rule]: [Peer] is other managers' limits of how many run at once. What drover
// grows is tried through [Hooks]: Before changes what a pass is given, Effect carries out decisions that the
// world does not know, and [World.Grant] is how an arbiter's share reaches a stream.
//
// # How true it is
//
// The model is not the planner's (precopy/model), so that the one can judge the other. It is measured against
// two others, and the tests say so when it is further off:
//
//   - hypervisor/sim, page by page, over 20 combinations of pattern, link and strategy: seconds and bytes
//     within 1 %, and the pause within 1 ms in the median and 35 ms in the worst case, where a round ends right
//     at the limit (package guest).
//   - real hosts and the fixed policies of other managers: see lab_test.go.
//
// What is left out: disks, the CPU that migrations cost their hosts, latency and loss of networks, and the
// scatter of real guests, as what a guest dirties is the expected amount. Agents report every 30 s (the real
// ones every 5 s) and at once after a migration. Nothing survives a host's death, and dead guests stay dead.
//
// The rooms: world.go (time), fleet.go (hosts, guests, links), store.go (records), leader.go (passes and their
// effects), agent.go and outcome.go (one migration), acts.go (people and faults), rule.go (other rules),
// judge.go (what became of it), make.go (fleets).
//
// A world is for one goroutine.
package sim
