// Package forecast says before a migration how it will go: seconds, bytes, pause, slowdown, the
// strategy to use and how sure that is. It rests on what is known of the domain: its memory, a
// dirty-rate sample, and the receipts of its earlier migrations. Everything here is pure.
//
// # From what is known to a forecast
//
//	Profile, samples, memory --know--> growth, first pass, speed, overheads
//	                                        |
//	      for each strategy: play the rounds (model.Predict), raising the pause limit as the
//	      controller does --course--> calibrated by what that strategy's receipts took
//	                                        |
//	                  the least time that keeps the promise --Forecast--> confidence, range
//
// First pass: what the newest receipts sent in theirs, plus what the domain holds more of its host's
// memory now than then; without receipts, what it holds. Speed: the cap in whole MiB/s times the share
// of it that receipts achieved; of a stream that was bound by something else, what it achieved.
//
// Growth: the median of the newest receipts, the rate scaled by the dirty-rate sample of now over
// those taken before them once that is more than [changed]; without receipts, [model.Fit] of the samples, each with the
// error of what QEMU's page sampling counts (one over the root of the pages found dirty);
// without these, a guest that dirties [unseenShare] of the link.
//
// # The course of one strategy
//
// A strategy that sends r bytes for each dirtied one makes the link B one of B/r (precopy/model). The
// controller begins with a limit of [FirstLimit], which a limit L of the promise P and a switchover o
// follow, at most [Sending] of P and o; then it slows the guest, as far as the class allows; then it goes to the
// ceiling C - o; then to post-copy, if that is allowed. Each step costs [reaction]. Slowing to the share
// q for T2 of the time T loses the guest (1-q) T2/T of its work. Of several strategies that keep as much of
// the intent, the one with the least time is taken, a lost second of work counting as [Worth].
//
// # Calibration
//
// Each receipt of the strategy is played in the circumstances that it had. What it took over what its
// course says is a factor on the seconds and bytes of the forecast: the median over the receipts of like
// circumstances (bandwidth, memory and promise within [alike]), else over all of the strategy's, within
// a factor of 2. What its pause had more than its course is added to the pause in like circumstances
// only. A strategy that was never tried is set right by what the others took. So what recurs is forecast by what happened, and what is new by the growth.
//
// The rooms: receipt.go (what is learned), know.go (from receipts to figures), course.go (one strategy
// played), strategy.go (which there are, and the priors of those never tried), forecast.go (the choice),
// confidence.go (how sure, and the range).
package forecast
