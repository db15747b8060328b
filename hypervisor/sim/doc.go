// Package sim is a fleet of KVM hosts in virtual time: what libvirt and QEMU do during a peer-to-peer
// pre-copy migration, page by page, with faults on schedule.
//
// A [Fleet] holds hosts and the guests on them. A [Host] answers like hypervisor/kvm's: it starts,
// tunes and aborts migrations, says what it sees of a domain, and reports facts and load. It uses
// std time only, so inside a testing/synctest bubble hours pass in milliseconds, and outside it runs
// in real time.
//
//	guest writes -> memory (dirty log) --sync--> to send --link--> target
//	                                       ^                          |
//	                        one round  ----+--- rest fits the limit? -+-> stop-and-copy -> finish
//
// The model is sim's own and shares no arithmetic with precopy/model, so that the one can be checked
// against the other. What it keeps of QEMU: the bitmap is synchronised at each round's start, pages
// go in address order at the capped rate in slices of 100 ms, zero pages cost nearly nothing, the
// rest is compared with measured bandwidth times downtime limit after each slice, the cap is lifted
// once the vCPUs stop, the dirty rate is unknown during the first round. What it keeps of libvirt:
// which state, reason and job each side shows at each moment, what is left behind when something
// dies, that a job is visible only a while after the call, and that statistics of a completed job
// live until the daemon restarts.
//
// A migration that was begun so may be switched to post-copy: the target runs at once and the rest
// follows uncapped. When that stream breaks the call fails, the job stays, both sides show it, and only
// Recover lets it go on.
//
// The rooms: fleet.go (hosts, guests), host.go (the calls), copies.go (what each libvirt holds of a
// guest), job.go, round.go and postcopy.go (one migration), memory.go and pattern.go (the guest's pages),
// fault.go (what goes wrong, when), load.go (facts and load).
//
// All methods are safe for concurrent use; one lock guards the whole fleet. [Fleet.Close] stops what
// runs and must be called.
package sim
