package precopy

import (
	"context"
	"log/slog"
	"math"
	"time"

	"drover/hypervisor"
)

// Throttle is the hold on one domain's vCPUs (hypervisor/throttle).
type Throttle interface {
	// Set lets each vCPU, of which the busiest uses so much of a core unslowed, use no more than the share of one core,
	// above 0 up to 1; 1 takes nothing away. It returns the share in force, which is larger where the guest would be
	// silent for as long as silence.
	Set(share float64, use hypervisor.Cores, silence time.Duration) (float64, error)
	// Busiest is what the vCPU that used most used since the call before, or since the beginning.
	Busiest() (hypervisor.Cores, error)
	// Least is the smallest share of a core that can be set for a vCPU that uses so much unslowed without silencing it
	// for so long.
	Least(use hypervisor.Cores, silence time.Duration) float64
	// End gives back what was taken. It must be called.
	End() error
}

// Throttler takes hold of a domain's vCPUs and changes nothing yet. name is for people.
type Throttler func(ctx context.Context, id hypervisor.DomainID, name string) (Throttle, error)

// brake slows the guest of a migration. A quota acts on what the vCPUs really use, and the tuner
// speaks of shares of that: the brake translates. It is used by one goroutine.
type brake struct {
	th  Throttle // nil when the guest can't be slowed
	log *slog.Logger
	// most is the longest silence that slowing the guest may bring about.
	most time.Duration

	use   hypervisor.Cores // of the busiest vCPU at full speed, over the last seconds
	read  time.Time
	share float64 // in force, of that
	asked float64
	// silence is the longest that the guest is silent for that.
	silence time.Duration
	failed  time.Time // when slowing it failed last
	// lapsed is the share that the guest had, up to then, when its migration could not be read; 0 once that is told. toldAt is
	// when its share was told last.
	lapsed           float64
	lapsedAt, toldAt time.Time
	// Until warm the guest that has just been slowed keeps more of its CPU than is asked for; zero is not.
	warm time.Time
}

// endEvery is how often giving back is tried again, for as long as the agent lives; its end gives back
// what is left.
const endEvery = time.Second

// newBrake takes hold of the domain where that is possible.
func newBrake(ctx context.Context, open Throttler, m Migration, log *slog.Logger) *brake {
	b := &brake{log: log, share: 1, asked: 1}
	b.most = m.Policy.Silence()
	if open == nil || m.Policy.MaxSlowdown <= 0 {
		return b
	}
	th, err := open(ctx, m.UUID, m.Domain)
	if err != nil {
		log.Warn("the guest can't be slowed", "err", err)
		return b
	}
	b.th = th
	return b
}

const (
	// useEvery is how often the guest's CPU use is read.
	useEvery = time.Second
	// slowAgain is how long after a failure the guest is slowed at the earliest: each try starts a process and writes to the
	// disk, which may be what fails.
	slowAgain = 2 * time.Second
	// A guest that begins to stand still comes upon code that it seldom runs, such as for timers that it has missed, with
	// cold caches or, emulated, not translated yet: that takes it several pieces, in which it gives no sign of life. So
	// for warmUp it keeps warmShare times as much.
	warmUp    = time.Second
	warmShare = 2
)

// look reads what the guest uses of its CPUs, while it is not slowed.
func (b *brake) look(now time.Time) {
	if b.th == nil || b.asked != 1 || now.Sub(b.read) < useEvery {
		return
	}
	use, err := b.th.Busiest()
	if err != nil {
		b.log.Debug("the guest's CPU use can't be read", "err", err)
		return
	}
	if b.read = now; b.use == 0 {
		b.use = use
	}
	b.use = min(1, (b.use+use)/2)
}

// least is the smallest share of its own CPU use that the guest can be brought to without being silenced for too long; 1
// when that is not known.
func (b *brake) least() float64 {
	if b.th == nil || b.use <= 0 {
		return 1
	}
	return min(1, b.th.Least(b.use, b.most)/float64(b.use))
}

// set brings the guest to the share of its own CPU use; it reports whether anything changed. What
// fails is tried again at the next call.
func (b *brake) set(share float64) bool {
	now := time.Now()
	over := !b.warm.IsZero() && !now.Before(b.warm)
	if b.th == nil || share == b.asked && !over && !b.outgrown() || share < 1 && time.Since(b.failed) < slowAgain {
		return false
	}
	quota, warm := 1.0, b.warm
	if share < 1 {
		if b.use <= 0 {
			return false
		}
		quota = max(share, b.least()) * float64(b.use)
		if b.share == 1 && b.warm.IsZero() {
			warm = now.Add(warmUp)
		}
	}
	if share == 1 || over {
		warm = time.Time{}
	}
	if !warm.IsZero() {
		quota = min(1, warmShare*quota)
	}
	got, err := b.th.Set(quota, b.use, b.most)
	if err != nil {
		b.log.Warn("the guest's CPU share could not be set", "share", share, "err", err)
		b.asked, b.failed = math.NaN(), time.Now() // some vCPUs may have it: whatever is wanted next is written
		return false
	}
	if share == 1 {
		// What it used while it was slowed says nothing.
		_, _ = b.th.Busiest()
		b.read = time.Now()
	}
	b.asked, b.share, b.silence, b.warm = share, 1, 0, warm
	if share < 1 && b.use > 0 {
		b.share, b.silence = math.Min(1, got/float64(b.use)), b.most
	}
	b.log.Info("guest slowed", "share", b.share, "cores", got, "of", float64(b.use))
	return true
}

// lapse gives the guest its speed back because its migration can't be read.
func (b *brake) lapse() {
	b.lapsed, b.lapsedAt = b.share, time.Now()
	b.set(1)
}

// told is the share that the guest has had since it was told last: what it lost while nobody read is not forgotten, nor that
// it was given its speed back then.
func (b *brake) told() float64 {
	now, share := time.Now(), b.share
	if all := now.Sub(b.toldAt).Seconds(); b.lapsed > 0 && all > 0 {
		slowed := min(max(b.lapsedAt.Sub(b.toldAt).Seconds()/all, 0), 1)
		share = slowed*b.lapsed + (1-slowed)*share
	}
	b.toldAt, b.lapsed = now, 0
	return share
}

// outgrown reports whether the guest can't be slowed as much any more as it was: it has longer pieces of CPU time since
// they are no longer kept exactly.
func (b *brake) outgrown() bool { return b.share < 1 && b.share < b.least()-0.01 }

// warming reports whether the guest is to be slowed more than it is by now.
func (b *brake) warming() bool { return !b.warm.IsZero() }

// loosen lets the guest run for a switchover: it is paused now, and its process may end at any time. If that is taken
// back, whatever is wanted then is set anew.
func (b *brake) loosen() {
	if b.th == nil || b.asked == 1 {
		return
	}
	b.asked = math.NaN()
	if _, err := b.th.Set(1, b.use, b.most); err != nil {
		b.log.Debug("the guest's CPU quota is given back at the end", "err", err)
	}
}

// release gives the guest back what was taken; it can't be slowed after that.
func (b *brake) release() {
	if b == nil || b.th == nil {
		return
	}
	if err := b.th.End(); err != nil {
		b.log.Error("the guest's CPU quota is not all given back, trying again", "err", err)
		go func(th Throttle) {
			for err := err; err != nil; err = th.End() {
				time.Sleep(endEvery)
			}
			b.log.Info("the guest's CPU quota is given back")
		}(b.th)
	}
	b.th, b.share, b.asked, b.silence, b.warm = nil, 1, 1, 0, time.Time{}
}
