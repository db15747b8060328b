// Package calendar says when drover may move VMs by itself: windows, and blackouts that count above them.
//
// # For operators
//
//	windows:                        # without any, every time that is not blacked out is allowed
//	  - name: nightly
//	    cron: "30 1 * * MON-FRI"    # minute, hour, day of month, month, day of week
//	    duration: 4h
//	    zone: Europe/Berlin         # UTC when not said, which has no clock changes: best for machines
//	  - name: after-upgrade
//	    at: 2026-11-28T22:00        # once
//	    duration: 6h
//	blackouts:
//	  - name: backup
//	    cron: "0 3 * * *"
//	    duration: 45m
//
// A cron expression may also say SUN#1 and FRI#L (the first Sunday, the last Friday of a month), L and 15W
// (the last day, the working day nearest the 15th). A day of month beside a day of week is refused: some
// programs read it as "and", some as "or".
//
// An occurrence of a window begins when the clock on the wall shows the time, and lasts as long as its
// duration by a stopwatch, or until the window's next occurrence begins. Where clocks go forward and the
// time does not exist, it begins at the moment of the change, together with others that fall into the
// gap. Where they go back and the time comes twice, it begins at the first and not again.
//
// # For programmers
//
// [New] checks a [Spec] and makes a [Calendar], which never changes and may be shared. All answers are
// pure functions of the time asked about. Every [Occurrence] has an ID made of the window's name and the
// time on the wall, which is the same whoever asks and whenever: a record that is created only if absent
// under that ID makes it happen once, across restarts and changes of leader.
//
// Cron expressions are read by go-cron, whose arithmetic is used in UTC only, on times on the wall (see
// zone.go): in other zones it gives an autumn hour twice.
package calendar
