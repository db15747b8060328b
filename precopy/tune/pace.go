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
// what was ordered, and tries now and then whether it carries more: where nothing else keeps the queue in front
// of the link short.
type pace struct {
	packed string // how pages are compressed
	order  hypervisor.BytesPerSecond
	cap    hypervisor.BytesPerSecond
	// The stretch that is watched: since when, and what had been sent and was left then.
	since   time.Duration
	sent    hypervisor.Bytes
	left    hypervisor.Bytes
	changed time.Duration // the cap
	short   int           // windows in a row in which less than the cap was carried
	rising  bool          // the cap was raised, and what the link does with it is not known yet
	anew    bool          // what was watched so far was under another order
}

func newPace(order hypervisor.BytesPerSecond, compression string) pace {
	return pace{packed: compression, order: order, cap: order}
}

// tells reports whether a pass says what the link carries. A stream that compresses pages is as fast as
// that goes; XBZRLE has nothing to compress in the first pass.
func (p *pace) tells(round int) bool {
	return p.packed == "" || p.packed == xbzrle && round <= 1
}

// allow changes the most that the stream may use.
func (p *pace) allow(order hypervisor.BytesPerSecond) {
	if order == p.order || order <= 0 {
		return
	}
	if p.cap >= p.order {
		p.cap = order // it was the order that bound it
	}
	p.cap = min(p.cap, order)
	p.order, p.short, p.rising, p.anew = order, 0, false, true
}

// inForce is the cap as libvirt takes it: whole MiB, at least one.
func inForce(limit hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	return max(limit/mib*mib, mib)
}

// note takes in a reading and the one before it.
func (p *pace) note(prev, r Reading) {
	if r.ShortQueue {
		p.cap, p.short, p.rising = p.order, 0, false
		p.restart(r)
		return
	}
	// Only a stretch that was busy sending pages as they are tells what the link carries: not one in which
	// a pass ended, nor one over pages that are empty or shrink to little.
	if p.anew || !p.tells(r.Round) || prev.MemTotal == 0 || r.Round != prev.Round || r.MemRemaining >= prev.MemRemaining {
		p.anew = false
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
	if float64(rate) >= full*float64(inForce(p.cap)) {
		p.short = 0
		switch {
		case p.cap >= p.order:
			p.rising = false
		case p.rising: // the link took it: there may be much more
			p.cap, p.changed = min(p.order, 2*p.cap), r.Elapsed
		case r.Elapsed-p.changed >= probe:
			p.cap, p.changed, p.rising = min(p.order, hypervisor.BytesPerSecond(ramp*float64(p.cap))), r.Elapsed, true
		}
		return
	}
	// A moment's weakness is no measure of a link, unless it follows on a raise.
	if p.short++; p.short > 1 || p.rising {
		p.cap, p.changed, p.short, p.rising = hypervisor.BytesPerSecond(below*float64(rate)), r.Elapsed, 0, false
	}
}

func (p *pace) restart(r Reading) {
	p.since, p.sent, p.left = r.Elapsed, r.MemProcessed, r.MemRemaining
}
