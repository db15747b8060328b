package guest

import (
	"math"
	"time"

	"drover/hypervisor"
)

// Slice is how often QEMU compares the rest with the downtime limit.
const Slice = 100 * time.Millisecond

// Stage is how far a job has come.
type Stage int

// The stages.
const (
	Copying   Stage = iota // the guest runs, the rest is too much
	Stopped                // the vCPUs stand still, the rest goes over at whatever the links give
	Following              // post-copy: the guest runs on the target, the rest goes over
	Sent                   // all is on the target
)

// Job is the pre-copy of one guest, from the first page on.
type Job struct {
	parts []part
	total float64
	slot  int // of parts, at which sending goes on

	stage Stage
	at    time.Duration // until when everything is told
	rate  float64       // of the stream, bytes per second
	limit time.Duration // downtime
	share float64       // of its own speed that the guest runs at

	began   time.Duration
	clock   time.Duration // the guest's own, for bursts
	slice   time.Duration // when the present slice began
	stopped time.Duration

	round     int
	processed float64
	normal    float64
	zero      float64
	synced    float64 // dirtied since rated
	rated     time.Duration
	dirtyRate hypervisor.BytesPerSecond
	rest      float64 // to be sent, right after the last sync

	converges  bool // auto-converge
	throttle   int  // per cent
	judged     time.Duration
	judgedSent float64
	judgedNew  float64
	strikes    int
}

// QEMU's defaults for auto-converge.
const (
	throttleFirst = 20
	throttleStep  = 10
	throttleMax   = 99
	throttleShare = 0.5 // of the bytes sent that may be dirtied
)

// NewJob begins a job, at a moment by the owner's clock. Phase is what the guest's own clock says then: where
// in their periods its bursts are.
func NewJob(m Memory, s hypervisor.Strategy, limit time.Duration, at, phase time.Duration) *Job {
	j := &Job{
		parts: m.parts(s), at: at, began: at, slice: at, rated: at, clock: phase, limit: limit, share: 1, round: 1,
		total: float64(m.Total + firmware), converges: s.AutoConverge, judged: at,
	}
	j.rest = j.total
	return j
}

// Stage says how far it is.
func (j *Job) Stage() Stage { return j.stage }

// StoppedAt is since when the vCPUs have stood still.
func (j *Job) StoppedAt() time.Duration { return j.stopped }

// SetRate is what the stream is given from now on.
func (j *Job) SetRate(now time.Duration, rate float64) { j.Advance(now); j.rate = rate }

// SetLimit sets the downtime limit.
func (j *Job) SetLimit(now time.Duration, limit time.Duration) { j.Advance(now); j.limit = limit }

// SetShare sets what the guest is left of its own speed.
func (j *Job) SetShare(now time.Duration, share float64) { j.Advance(now); j.share = share }

// Remaining is what is to be sent.
func (j *Job) Remaining() hypervisor.Bytes { return hypervisor.Bytes(j.remaining()) }

func (j *Job) remaining() float64 {
	sum := 0.0
	for i := range j.parts {
		sum += j.parts[i].todo
	}
	return sum
}

// Advance lets time pass at the present rate: pages are sent, the guest writes. Whoever advances a job beyond
// what Next said loses a round.
func (j *Job) Advance(now time.Duration) {
	d := now - j.at
	if d <= 0 {
		return
	}
	j.at = now
	j.send(j.rate * d.Seconds())
	if j.stage == Copying {
		j.write(time.Duration(j.share * float64(100-j.throttle) / 100 * float64(d)))
	}
}

// send uses up so many bytes on the link.
func (j *Job) send(budget float64) {
	for range j.parts {
		p := &j.parts[j.slot]
		if p.todo > 0 {
			price := p.price(p.again)
			bytes := min(p.todo, budget/price)
			p.todo -= bytes
			p.sent += bytes
			budget -= bytes * price
			j.processed += bytes * price
			if p.Rate == 0 && price < 0.5/100 {
				j.zero += bytes
			} else {
				j.normal += bytes
			}
			if p.todo > 1 {
				return
			}
			p.todo = 0
		}
		j.slot = (j.slot + 1) % len(j.parts)
	}
}

// write lets the guest run for d of its own time.
func (j *Job) write(d time.Duration) {
	for i := range j.parts {
		if p := &j.parts[i]; p.Rate > 0 {
			p.dirty = p.grow(p.dirty, p.active(j.clock, j.clock+d))
		}
	}
	j.clock += d
}

// sync moves what was dirtied into what is to be sent, and returns how much that added.
func (j *Job) sync() float64 {
	added := 0.0
	for i := range j.parts {
		p := &j.parts[i]
		if j.round > 1 {
			p.again = 1 - (1-p.again)*(1-min(p.sent/p.size, 1))
		}
		p.sent = 0
		fresh := p.dirty * (p.size - p.todo)
		p.todo += fresh
		p.dirty = 0
		added += fresh
	}
	return added
}

// Next is when something will happen at the present rate: a round ends, the vCPUs stop, all is sent. Never when
// the rate is 0.
func (j *Job) Next() time.Duration {
	const never = math.MaxInt64
	if j.rate <= 0 || j.stage == Sent {
		return never
	}
	if j.stage != Copying {
		return j.at + j.until(0)
	}
	empty := j.at + max(j.until(0), time.Millisecond)
	enough := j.at + j.until(j.rate*j.limit.Seconds())
	// Compared at the end of a slice only.
	check := j.slice + (max(enough-j.slice, 1)+Slice-1)/Slice*Slice
	return min(empty, check)
}

// until is the time after which no more than the rest is to be sent.
func (j *Job) until(rest float64) time.Duration {
	left, seconds := j.remaining(), 0.0
	for i := range j.parts {
		p := &j.parts[(j.slot+i)%len(j.parts)]
		bytes := min(p.todo, left-rest)
		if bytes <= 0 {
			continue
		}
		seconds += bytes * p.price(p.again) / j.rate
		left -= bytes
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second)))
}

// Fire is called when Next has come. It reports whether the stage is another one.
func (j *Job) Fire(now time.Duration) bool {
	j.Advance(now)
	switch j.stage {
	case Stopped, Following:
		if j.remaining() > 0 {
			return false
		}
		j.stage = Sent
		return true
	case Sent:
		return false
	case Copying:
	}
	if left := j.remaining(); left > 0 && !j.fits() {
		return false // the rate or the limit has changed since
	}
	j.next(now)
	if !j.fits() {
		return false
	}
	j.stage, j.stopped = Stopped, now
	return true
}

// fits reports whether the rest could be sent within the downtime limit, give or take a byte.
func (j *Job) fits() bool { return j.remaining() < j.rate*j.limit.Seconds()+1 }

// next begins a round.
func (j *Job) next(now time.Duration) {
	fresh := j.sync()
	j.synced += fresh
	j.judgedNew += fresh
	j.round++
	j.slice, j.rest = now, j.remaining()
	if since := now - j.rated; since >= time.Second {
		j.dirtyRate = hypervisor.Rate(hypervisor.Bytes(j.synced), since)
		j.synced, j.rated = 0, now
	}
	j.converge(now)
}

// converge is QEMU's auto-converge: it looks at a sync at most once a second, and at each second time that too
// much was dirtied takes more of the vCPUs. It never gives back.
func (j *Job) converge(now time.Duration) {
	if !j.converges || now-j.judged <= time.Second {
		return
	}
	if j.judgedNew > throttleShare*(j.processed-j.judgedSent) {
		if j.strikes++; j.strikes >= 2 {
			j.strikes = 0
			if j.throttle == 0 {
				j.throttle = throttleFirst
			} else {
				j.throttle = min(j.throttle+throttleStep, throttleMax)
			}
		}
	}
	j.judged, j.judgedSent, j.judgedNew = now, j.processed, 0
}

// Follow goes over to post-copy: the guest runs on the target from now on, and what it has not there follows.
func (j *Job) Follow(now time.Duration) {
	j.Advance(now)
	if j.stage == Copying {
		j.sync()
		j.stage, j.stopped = Following, now
	}
}

// Stats is the job as libvirt would tell it, its beginning being when the libvirt job began.
func (j *Job) Stats(now, beginning time.Duration) hypervisor.JobStats {
	j.Advance(now)
	s := hypervisor.JobStats{
		Kind: hypervisor.JobOutgoing, Elapsed: now - beginning, Setup: j.began - beginning, PageSize: PageSize,
		MemTotal: hypervisor.Bytes(j.total), MemProcessed: hypervisor.Bytes(j.processed), MemRemaining: hypervisor.Bytes(j.remaining()),
		MemNormal: hypervisor.Bytes(j.normal), MemZero: hypervisor.Bytes(j.zero),
		Bandwidth: hypervisor.BytesPerSecond(j.rate), DirtyRate: j.dirtyRate, Round: j.round, Downtime: j.limit,
		Throttle: j.throttle, Postcopy: j.stage == Following,
	}
	if j.dirtyRate > 0 && j.rate > 0 {
		s.Downtime = s.Bandwidth.Time(hypervisor.Bytes(j.rest))
	}
	return s
}

// Processed is what went over the link.
func (j *Job) Processed() hypervisor.Bytes { return hypervisor.Bytes(j.processed) }

// Round is the round that is under way.
func (j *Job) Round() int { return j.round }
