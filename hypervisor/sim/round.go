package sim

import (
	"time"

	"drover/hypervisor"
)

// progress is what QEMU counts during pre-copy.
type progress struct {
	began     time.Time // the job
	started   time.Time // the copy
	processed float64   // bytes on the link
	debt      float64   // bytes sent beyond what was due
	normal    int       // pages
	zero      int
	round     int
	bandwidth hypervisor.BytesPerSecond // of the last slice
	dirtyRate hypervisor.BytesPerSecond
	synced    int // pages dirtied since rated
	ratedAt   time.Time
	rest      int // pages to send right after the last sync
	downtime  time.Duration

	throttle   int // percent
	judgedAt   time.Time
	judgedSent float64
	judgedNew  int
	strikes    int
}

// QEMU's defaults for auto-converge.
const (
	throttleFirst = 20
	throttleStep  = 10
	throttleMax   = 99
	throttleShare = 0.5 // of the bytes sent that may be dirtied
)

// copyRounds sends rounds until the rest fits into the downtime limit; false when it must end.
func (j *job) copyRounds() bool {
	j.stage = copying
	j.mem = newPaged(j.g.DomainConfig, j.f.cfg.Seed)
	p := &j.copy
	now := time.Now()
	p.started, p.ratedAt, p.judgedAt, p.round, p.rest = now, now, now, 1, j.mem.remaining()
	j.reached(AtCopy)
	j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventRound, Round: 1})
	for {
		sent, drained, ok := j.sendSlice()
		if !ok {
			return false
		}
		if sent.took > 0 {
			p.bandwidth = hypervisor.Rate(hypervisor.Bytes(sent.bytes), sent.took)
		}
		if j.switchNow {
			return true
		}
		if !drained && !j.fits() {
			continue
		}
		j.syncRound()
		if j.fits() {
			return true
		}
	}
}

// fits reports whether the rest could be sent within the downtime limit, as QEMU sees it: at the
// bandwidth it measures, which is the capped one.
func (j *job) fits() bool {
	return float64(j.rest()) < float64(j.copy.bandwidth)*j.downtime.Seconds()
}

func (j *job) rest() hypervisor.Bytes { return hypervisor.Bytes(j.mem.remaining()) * pageSize }

type piece struct {
	bytes float64
	took  time.Duration
}

// sendSlice sends for 100 ms, or until nothing is left to send.
func (j *job) sendSlice() (piece, bool, bool) {
	var done piece
	for done.took < slice {
		rate := min(j.limit, j.share())
		var s sent
		if !j.gone {
			// A page is sent whole: what that goes over the budget is missing from the next.
			budget := float64(rate)*tick.Seconds() - j.copy.debt
			s = j.mem.send(budget, j.price)
			j.copy.debt = max(0, s.cost-budget)
		}
		j.count(s)
		done.bytes += s.cost
		step := tick
		if j.mem.remaining() == 0 {
			// Only part of the step was needed; at least a millisecond, so that time goes on.
			step = min(tick, max(time.Millisecond, time.Duration(s.cost/float64(rate)*float64(time.Second))))
		}
		if !j.pause(step) {
			return done, false, false
		}
		done.took += step
		j.guestRuns(step)
		if j.mem.remaining() == 0 {
			return done, true, true
		}
	}
	return done, false, true
}

// guestRuns lets the guest write for d of wall time, less what the throttle takes.
func (j *job) guestRuns(d time.Duration) {
	if j.from.state == hypervisor.StateRunning {
		j.mem.write(time.Duration((1 - j.from.slowed) * float64(d*time.Duration(100-j.copy.throttle)/100)))
	}
}

func (j *job) count(s sent) {
	j.copy.processed += s.cost
	j.copy.normal += s.normal
	j.copy.zero += s.zero
}

// drain sends everything at once, and returns its cost.
func (j *job) drain() hypervisor.Bytes {
	s := j.mem.send(1e18, j.price)
	j.count(s)
	return hypervisor.Bytes(s.cost)
}

// price is what a page that is not zero costs on the link.
func (j *job) price(again bool) hypervisor.Bytes {
	s := j.spec.Strategy
	switch {
	case s.Compression == "zstd" && j.g.Compression > 1:
		return hypervisor.Bytes(float64(pageSize) / j.g.Compression)
	case s.Compression == "xbzrle" && again && j.g.Pattern.Kind == Words:
		const difference = 16 // of one word
		held := j.held()
		return hypervisor.Bytes(held*difference + (1-held)*float64(pageSize))
	}
	return pageSize
}

// held is the share of the working set that XBZRLE's cache holds. QEMU does not throw out what is of use
// for a page that is not: what does not fit is sent whole, and only that.
func (j *job) held() float64 {
	cache := j.spec.Strategy.XBZRLECache
	if cache == 0 {
		cache = 64 * hypervisor.MiB
	}
	set := j.g.Pattern.WorkingSet
	if set == 0 {
		set = used(j.g.DomainConfig)
	}
	return min(1, float64(cache)/float64(max(set, 1)))
}

// syncRound fetches the dirty log and begins a round with it.
func (j *job) syncRound() {
	p := &j.copy
	fresh := j.mem.sync()
	p.round++
	p.synced += fresh
	p.judgedNew += fresh
	p.rest = j.mem.remaining()
	if since := time.Since(p.ratedAt); since >= time.Second {
		p.dirtyRate = hypervisor.Rate(hypervisor.Bytes(p.synced)*pageSize, since)
		p.synced, p.ratedAt = 0, time.Now()
	}
	j.converge()
	j.src.emit(hypervisor.Event{Domain: j.g.ID, Kind: hypervisor.EventRound, Round: p.round})
}

// converge is QEMU's auto-converge: it looks at a sync at most once a second, and at each second
// time that too much was dirtied takes more of the vCPUs. It never gives back.
func (j *job) converge() {
	p := &j.copy
	if !j.spec.Strategy.AutoConverge || time.Since(p.judgedAt) <= time.Second {
		return
	}
	if float64(p.judgedNew)*float64(pageSize) > throttleShare*(p.processed-p.judgedSent) {
		if p.strikes++; p.strikes >= 2 {
			p.strikes = 0
			if p.throttle == 0 {
				p.throttle = throttleFirst
			} else {
				p.throttle = min(p.throttle+throttleStep, throttleMax)
			}
		}
	}
	p.judgedAt, p.judgedSent, p.judgedNew = time.Now(), p.processed, 0
}

// stats is the job as libvirt would tell it now.
func (j *job) stats() hypervisor.JobStats {
	p, now := &j.copy, time.Now()
	s := hypervisor.JobStats{
		Kind: hypervisor.JobOutgoing, At: now, Elapsed: now.Sub(p.began), PageSize: pageSize,
		Setup: min(now.Sub(p.began), j.f.cfg.Setup),
	}
	if j.mem == nil {
		return s
	}
	s.MemTotal = hypervisor.Bytes(j.mem.total()) * pageSize
	s.MemProcessed = hypervisor.Bytes(p.processed)
	s.MemRemaining = j.rest()
	s.MemNormal = hypervisor.Bytes(p.normal) * pageSize
	s.MemZero = hypervisor.Bytes(p.zero) * pageSize
	s.Bandwidth, s.DirtyRate, s.Round, s.Throttle = p.bandwidth, p.dirtyRate, p.round, p.throttle
	s.Downtime = j.downtime
	s.Postcopy, s.PostcopyBroken = j.from.split(), j.stage == broken
	if p.dirtyRate > 0 {
		s.Downtime = p.bandwidth.Time(hypervisor.Bytes(p.rest) * pageSize)
	}
	return s
}
