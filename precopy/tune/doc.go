// Package tune decides, while a pre-copy migration runs, what to do about it. It is pure: Step takes
// one reading of the job, and returns what to do now and the reason. What is to be kept in force (the
// downtime limit, the guest's share of its CPU, the stream's cap) the caller asks for after each step
// and brings about.
//
// # How drover's controller goes about it
//
//	first pass -> fit growth (precopy/model) at the beginning of each pass -> does it converge?
//	  yes: the least downtime limit that hardly delays the end; a slower guest for the last passes where
//	       that saves seconds, and several for each that is lost
//	  no:  limit up to the promise, wait for a dip of periodic load
//	       another attempt with another strategy, where what was seen says that this pays; once
//	       slow the guest, as long as the intent allows; if that is too much of a short migration, later. The last
//	       pass that begins within a quarter of the budget decides whether that will do
//	       limit up to the ceiling
//	       post-copy where allowed, else give up: which says what would have to change
//
// A downtime limit bounds only the sending in a pause, so what it has besides is taken off the promise
// first: what the domain's last migrations have shown, else what was measured of others.
// What QEMU compares with the limit is what is left, uncompressed, at the bandwidth of the link: where
// pages shrink, the limit is larger than the pause that it stands for. It falls again when pages no longer shrink as
// well, and when the guest is slowed, whose silences come on top of its pause.
//
// A slowed guest loses least when it is slowed much for a short time, at the end: with a rest R, the
// bandwidth B and a dirty rate w the time to the end at a share q is about R / (B - q w), of which
// 1 - q is lost. So the guest is slowed in the last passes only, to no less than [forecast.LeastShare], and no more
// deeply than the silences allow that the host's throttle makes (hypervisor/throttle). When it has lost what the intent
// allows, it runs on, and is slowed again once that is enough for what the first time has taught, where there is time.
//
// The rooms: tuner.go (what goes in and comes out), seen.go (what is made of the readings), controller.go
// (what is done about it), plan.go (what it could come to, and whether that is allowed), land.go (the guest slowed until the
// rest fits), restart.go (whether another strategy
// pays), pace.go (the stream's cap), fixed.go (the schedules of other managers, to compare with).
package tune
