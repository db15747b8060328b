package throttle

import "time"

// A metronome interrupts vCPUs so often that the scheduler sees in time that a quota is spent.

const (
	// beatEvery is far shorter than the shortest quota: what a vCPU runs over is taken from its next piece, which may be too
	// small for a sign of life then. With 800 µs pieces of 1.5 ms were 0.6 to 2.3 ms long, with 400 they are 1.0 to 1.9. A
	// vCPU that stands still is looked for a third as often: by when it has spent its next quota at the latest.
	beatEvery = 400 * time.Microsecond
	// mostBeaten is how many vCPUs a metronome follows at most: each takes a thread and, while it is throttled, up to
	// a thirtieth of a core (measured in a virtual machine, whose timers are dear).
	mostBeaten = 16
)

// metronomes starts metronomes.
type metronomes interface {
	// start interrupts threads of a process from now on. An error says that it can't, or can't go where they may.
	start(pid int, threads []int) (metronome, error)
}

// metronome interrupts some threads until it is stopped.
type metronome interface {
	// stop returns when it does no longer; once.
	stop()
	// lost is an error once it can't follow a thread any more.
	lost() error
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
	m, err := th.t.metronomes.start(th.process.PID, threads)
	if err != nil {
		th.unbeatable(err)
		return
	}
	th.beat = m
}

// stopBeat lets the metronome go.
func (th *Throttle) stopBeat() {
	if th.beat != nil {
		th.beat.stop()
		th.beat = nil
	}
}

func (th *Throttle) unbeatable(err error) {
	th.unbeaten = true
	th.t.log.Warn("the guest is slowed less finely", "domain", th.id, "name", th.name, "err", err)
}

// heed gives the guest longer pieces once its metronome can't follow it any more.
func (th *Throttle) heed() {
	if th.beat == nil {
		return
	}
	err := th.beat.lost()
	if err == nil {
		return
	}
	th.stopBeat()
	th.unbeatable(err)
	if err := th.set(th.asked); err != nil {
		th.t.log.Warn("the guest's CPU share could not be set", "domain", th.id, "name", th.name, "err", err)
	}
}
