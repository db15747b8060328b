package throttle

import "time"

// A metronome interrupts vCPUs so often that the scheduler sees in time that a quota is spent.

const (
	// beatEvery is shorter than the shortest quota: a vCPU never runs over by a whole one.
	beatEvery = 500 * time.Microsecond
	// mostBeaten is how many vCPUs a metronome follows at most: each takes a thread and, while it is throttled, about
	// a hundredth of a core.
	mostBeaten = 16
)

// metronomes starts metronomes.
type metronomes interface {
	// start interrupts threads of a process until stop is called, which returns when it does no longer.
	start(pid int, threads []int) (stop func(), err error)
}

// timing is what this throttle's quotas are kept by.
func (th *Throttle) timing() timing {
	if th.t.metronomes == nil || th.unbeaten || len(th.groups) > mostBeaten {
		return ticking
	}
	return beating
}

// startBeat starts the metronome, or notes that there can be none.
func (th *Throttle) startBeat() {
	var threads []int
	for _, g := range th.groups {
		threads = append(threads, g.thread)
	}
	stop, err := th.t.metronomes.start(th.process.PID, threads)
	if err != nil {
		th.unbeaten = true
		th.t.log.Warn("the guest is slowed less finely", "domain", th.id, "name", th.name, "err", err)
		return
	}
	th.stop = stop
}

// stopBeat lets the metronome go.
func (th *Throttle) stopBeat() {
	if th.stop != nil {
		th.stop()
		th.stop = nil
	}
}
