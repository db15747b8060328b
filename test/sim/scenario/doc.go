// Package scenario is simulated fleets as text: a fleet, its load, what happens to it, and what must hold then.
//
// A scenario is a list of commands, each with what it is expected to answer below a line of four dashes, as
// cockroachdb/datadriven has it:
//
//	fleet hosts=20 vms=300 load=steady seed=1
//	----
//
//	at 5m drain h001 h002
//	----
//
//	run 2h
//	----
//
//	assert
//	moves <= 40
//	steady 30m
//	----
//	ok
//
// The commands are:
//
//	seed N                    before anything else; 1 if it is not given
//	fleet hosts=N vms=N …     a made fleet: fill= hot= load=KIND trace=FILE racks= uneven= cores= memory= link=
//	host NAME …               a host: cores= memory= reserved= vcpus= (its limit) link= rack=
//	guest NAME host=H …       a guest: vcpus= memory= used= load=SHARE set=SIZE rate=RATE on= off= (sweep)
//	auto level=full …         automatic moves: least= (core-minutes) hold= mark= at-once=
//	rule NAME                 drover, or how many migrations another manager runs at once: nova, ovirt,
//	                          kubevirt, all-at-once
//	uplink RACK RATE          before the hosts of the rack
//	at TIME EVENT             TIME from now; the events are below
//	run TIME                  let time pass
//	until-idle LIMIT          … until no event is due, and no run or migration under way
//	evaluate [since=TIME]     all figures of the time since then
//	assert [since=TIME]       one condition a line; answers "ok", or those that do not hold
//
// Events: drain HOSTS… (parallel=N), restore HOSTS…, migrate VM (to=HOST), cordon HOST, uncordon HOST (the
// admin's cordon), open HOST (every cordon), kill-host HOST, start-host HOST, kill-agent HOST (for=TIME), cut HOST (for=TIME), kill-leader, tenants HOST (out=RATE
// in=RATE), pause, resume, cancel (the last run; abort).
//
// Conditions are figures with <, <=, =, >= or > (moves, again, returns, failed, refused, gib, thrash, balance,
// final-balance, overloaded, worst-pause, median-pause, over-ceiling, narrow, lost, doubled, killed, writes,
// share-writes), or "steady TIME": no guest has moved for so long; "n+1": the guests of any host would have fit on the
// others at every moment; "sound": no guest is lost or doubled, and no record lies; "runs done": every run has
// done all that was asked.
package scenario
