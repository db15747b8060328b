package tune

import (
	"time"

	"drover/hypervisor"
)

const (
	// full is the share of its cap that a stream carries when nothing else holds it back.
	full = 0.94
	// below is the share of what a link really carries that a stream is capped to: the queue in front of a
	// link that is full delays the last pages of a switchover by as much as it holds, which is 100 ms and
	// more with common buffers.
	below = 0.93
	// window is how long the stream is watched before it is judged, ramp how much more it is given, and
	// probe how often.
	window = 1200 * time.Millisecond
	ramp   = 1.1
	probe  = 10 * time.Second
)

// pace keeps the cap of a stream a little below what the link really carries, where that is less than
// what was ordered, and tries now and then whether it carries more.
type pace struct {
	order hypervisor.BytesPerSecond
	cap   hypervisor.BytesPerSecond
	// The stretch that is watched: since when, and what had been sent and was left then.
	since   time.Duration
	sent    hypervisor.Bytes
	left    hypervisor.Bytes
	changed time.Duration // the cap
}

func newPace(order hypervisor.BytesPerSecond) pace { return pace{order: order, cap: order} }

// inForce is the cap as libvirt takes it: whole MiB, at least one.
func inForce(limit hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	return max(limit/mib*mib, mib)
}

// note takes in a reading and the one before it.
func (p *pace) note(prev, r Reading) {
	// Only a stretch that was busy sending pages as they are tells what the link carries: not one in which
	// a pass ended, nor one over pages that are empty or shrink to little.
	if prev.MemTotal == 0 || r.Round != prev.Round || r.MemRemaining >= prev.MemRemaining {
		p.restart(r)
		return
	}
	took := r.Elapsed - p.since
	if took < window || p.order <= 0 {
		return
	}
	sent, gone := r.MemProcessed-p.sent, p.left-r.MemRemaining
	p.restart(r)
	if sent <= 0 || gone > 2*sent {
		return
	}
	rate := hypervisor.Rate(sent, took)
	switch {
	case float64(rate) < full*float64(inForce(p.cap)):
		p.cap, p.changed = hypervisor.BytesPerSecond(below*float64(rate)), r.Elapsed
	case p.cap < p.order && r.Elapsed-p.changed >= probe:
		p.cap, p.changed = min(p.order, hypervisor.BytesPerSecond(ramp*float64(p.cap))), r.Elapsed
	}
}

func (p *pace) restart(r Reading) {
	p.since, p.sent, p.left = r.Elapsed, r.MemProcessed, r.MemRemaining
}
