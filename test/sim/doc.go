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
// world does not know, and [World.Grant] caps a stream by hand. drover's own arbiter divides links in each pass; for
// peers nobody does.
//
// # How true it is
//
// The model is not the planner's (precopy/model), so that the one can judge the other. It is measured against
// three others, and the tests say so when it is further off:
//
//   - hypervisor/sim, page by page, over 20 combinations of pattern, link and strategy: seconds and bytes within
//     0.6 %; the pause within 1 ms in the median, and 30 ms off at worst, where a round ends right at the limit
//     (package guest).
//   - the real worker on hypervisor/sim, under the same orders with drover's controller (worker_test.go): it ends the
//     same way in all of 7 patterns, with seconds and bytes within 0.2 % in the median and 9 % at worst, where the
//     one slows the guest a little and the other does not; the pause within 1 ms in the median and 51 ms at worst.
//   - real hosts under TCG with QEMU's own limit of 300 ms (lab_test.go): seconds within 8 % for idle guests, whole
//     pages, sweeps and XBZRLE, and the guest's silence within 70 ms. Auto-converge is 10 to 60 % too fast here,
//     since real vCPUs are slowed later and less than QEMU says. An idle guest under that limit is silent for 76 ms
//     here and for 306 ms there, where zero pages lie between the others.
//
// What is left out: disks, second attempts with another strategy, the CPU that migrations cost their hosts, latency and loss of networks, and the scatter of
// real guests, as what a guest dirties is the expected amount. Agents report every 30 s (the real ones every 5 s) and
// at once after a migration; the leader looks every second while anything is under way, and else as often as agents
// report. Nothing survives a host's death, and dead guests stay dead. A slowed guest is slowed exactly as asked.
//
// # How fast it is
//
// On one core, 100 hosts with 3,000 guests: 6 hours with automatic moves take 20 s, ten hosts drained one after the
// other (300 migrations) 5 s.
//
// The rooms: world.go (time), fleet.go (hosts, guests, links), store.go (records), leader.go (passes and their
// effects), agent.go and outcome.go (one migration), acts.go (people and faults), rule.go (other rules),
// judge.go (what became of it), make.go (fleets).
//
// A world is for one goroutine.
package sim
