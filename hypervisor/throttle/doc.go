// Package throttle slows a running domain's vCPUs, exactly and reversibly, by the CPU bandwidth of the
// control groups that libvirt gives them, so that pre-copy of a guest that rewrites memory faster than
// the link can carry it still converges.
//
// libvirt refuses changes of scheduler parameters while a migration runs, and QEMU's auto-converge only
// ever rises, in steps of ten percent. The agent is on the host and writes the groups itself. Only the
// vCPUs' own leaf groups are written: QEMU's main and migration threads live in another one and must
// not be slowed. libvirt makes and removes the groups with the QEMU process, so nothing of a throttle
// outlives the source of a migration.
//
//	Begin: /proc/*/cmdline has "-uuid ID" -> threads -> leaf groups "vcpuN" -> originals
//	Set:   watchdog armed -> originals in the spool (synced) -> quota of each leaf
//	Use:   what each vCPU used and what it was denied
//	End:   originals back -> spool entry removed -> watchdog let go with the last throttle
//
// # The promise to give it back
//
// Before the first write the originals are in a file of the spool, and a watchdog process holds the
// reading end of a pipe whose other end only this process has. However this process ends, the kernel
// closes the pipe, and the watchdog writes the originals back. A service manager that kills the whole
// service kills the watchdog too, so the agent's unit also runs [Recover] after it stopped, and [New]
// calls it at the next start. A process is known by pid and start time, and a spooled group is written
// only while the QEMU process that it belonged to lives. What the spool holds is never restored while
// the process that throttles lives, except by that process.
//
// # Silence
//
// A throttled vCPU stands still until its period ends. The scheduler notices an exhausted quota only at
// its tick (4 ms with 250 Hz), or when another thread takes the vCPU's place, and takes what ran over from the next
// periods: with quotas shorter than a tick the guest stands still for several periods. Hence a metronome while a guest is
// slowed: a real-time thread for each vCPU, which follows it from CPU to CPU and interrupts it more often than
// every millisecond. Quotas of some milliseconds are kept exactly then, and a vCPU stands still for one period. Measured with a
// busy thread on a 2-core machine at 250 Hz: a quota of 1 ms in 20 ms gave silences of 76 ms at ticks, and of 20 ms at beats.
// A guest needs some CPU time in one go to give a sign of life, though, and loses some in every piece: emulated ones
// with 3 % of a core were silent for up to five periods with 1 ms in 33 ms, and for two at most with 1.2 ms in 40 ms
// (README.md). So pieces are 1.2 ms at least, and a silence is reckoned as one period; now and then it is two.
//
// A vCPU that is in the kernel when its quota is spent runs on there (since Linux 6.18), for 5 to 10 ms where the host is a
// virtual machine and the guest first writes to a huge page, and owes that to the periods that follow: guests with 1 ms
// in 33 ms were silent for 200 to 360 ms. So while a guest is slowed, the quota of a vCPU that stood still for a whole
// period (two at ticks, where a vCPU runs over as a rule) is set anew, which forgives its debt: it stands still for little
// more than that then, and has had more than its share, which shows in the dirty rate. For the same reason a quota is set
// anew once the vCPU has spent it on page faults of its thread (refund.go).
//
// QEMU's migration thread waits for the vCPUs when it stops the guest, and for those of an emulated one at the end of each
// pass: up to a period each time, in which nothing is sent. So a vCPU that stands still while that thread waits is given a
// piece at once (await.go), which is its last before a switchover as a rule: it was silent for little before that then.
//
// Where the agent may not schedule in real time, and for guests with more than 16 vCPUs, quotas are 1 to 5 ms, by use,
// and periods make the share: shares within 0.03 of what was asked from 0.03 to 0.8, silences of one period less one
// quota, at times one period more. Either way a fifth of the pause is left
// for what a host with other work adds. Short periods also matter to QEMU itself: a vCPU that is stopped while it holds
// QEMU's big lock stops the migration too.
//
// A quota acts on what a vCPU really uses: a guest at 10 % is not slowed by a share of 0.2. Use tells
// what each vCPU uses; close the loop on that and on the dirty rate.
//
// # Control group versions
//
// Both layouts are known: v1 (cpu.cfs_quota_us and cpu.cfs_period_us, where a child may not exceed its
// parent) and v2 (cpu.max). Guests of real libvirt hosts were throttled with v1 only; with v2 the
// kernel's side was tried, at ticks. README.md has the figures.
//
// The rooms: bandwidth.go (the arithmetic), find.go (process and groups), group.go (one vCPU's files),
// throttle.go (Throttler, Throttle), metronome.go (when there is one), beat_cgo.go (its threads), debt.go (quotas that
// were overdrawn), refund.go (and those spent on the host's work), await.go (vCPUs that QEMU waits for), usage.go, spool.go,
// recover.go, guard.go (the watchdog's parent), watchdog.go (the watchdog).
package throttle
