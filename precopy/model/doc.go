// Package model is the arithmetic of pre-copy rounds: from how fast a guest dirties memory and how
// fast a link takes it, does the migration converge, when, with what pause, and how many bytes.
//
// # How dirtied memory grows
//
// After a bitmap sync the set of dirtied pages grows at first as fast as the guest writes, and ever
// slower as it meets pages that are dirty already. For writes spread evenly over a working set of
// size S at w bytes of pages per second, the expected distinct bytes after t are
//
//	D(t) = S (1 - e^(-w t / S))
//
// (the occupancy of S/page bins after w t/page throws). It is linear for small t and saturates at S,
// the writable working set. A sweep over S is linear until it saturates and lies between this curve
// and its asymptotes.
//
// # Rounds
//
// Round n sends R(n) bytes in R(n)/B at bandwidth B; what the guest dirtied meanwhile is the next
// round: R(n+1) = D(R(n)/B). If w <= B the rounds shrink to nothing. Otherwise they settle at the
// floor R* > 0 with R* = D(R*/B), and a switchover needs a downtime limit of at least R*/B. QEMU
// switches once the rest fits into bandwidth times downtime limit (migration.c, since 2.8).
//
// A stream that sends r bytes for each dirtied one clears dirtied memory at B/r: after the first pass,
// which has nothing to compress against, its rounds are those of a link of that bandwidth.
//
// # What is not sent again
//
// A page that was dirtied and then sent within one pass is dirty at the next sync, although the target has it as it is.
// XBZRLE, which compares pages with what it sent of them last, sends nothing for it; a plain stream sends it again. Of
// pages written at random that is up to a half ([Growth.Anew]), of which so much is reckoned with as was seen on real
// guests ([Growth.Sent]). Under a sweep it is anything between nothing and all, by who is ahead of whom, the guest or the
// stream, and nothing is reckoned with.
//
// # Slowing the guest
//
// vCPUs that run only a share q of the time write q w. The largest share whose floor fits a limit L
// follows from R* = B L: q = -S / (w L) ln(1 - B L / S), and any share will do where B L >= S.
//
// # How far off it is
//
// Receipts tell by how much what a pass left was not what the passes before it had let expect. On real guests (the
// workloads and links of "make bench-precopy", 30 migrations) that was 17 % in the median: 1 to 20 % for writes spread
// over a set, 19 to 40 % for sweeps, and a factor of two to nine where passes are of some MiB and for bursts.
// "make bench-precopy-show" gives it for what was measured last.
//
// Everything here is pure. Durations that exceed what time.Duration holds are its maximum.
package model
