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
	// Set lets each vCPU use no more than the share of one core, above 0 up to 1; 1 takes nothing away.
	// It returns the share in force, which is larger where the silence that it makes would be too long.
	Set(share float64) (float64, error)
	// Busiest is what the vCPU that used most used since the call before, or since the beginning.
	Busiest() (hypervisor.Cores, error)
	// End gives back what was taken. It must be called.
	End() error
}

// Throttler takes hold of a domain's vCPUs and changes nothing yet. No silence that a throttle
// imposes may be as long as pause. name is for people.
type Throttler func(ctx context.Context, id hypervisor.DomainID, name string, pause time.Duration) (Throttle, error)

// brakeSilence is the part of the promised pause that slowing the guest may silence it for.
const brakeSilence = 0.6

// brake slows the guest of a migration. A quota acts on what the vCPUs really use, and the tuner
// speaks of shares of that: the brake translates. It is used by one goroutine.
type brake struct {
	th    Throttle // nil when the guest can't be slowed
	log   *slog.Logger
	use   hypervisor.Cores // of the busiest vCPU at full speed
	share float64          // in force, of that
	asked float64
}

// newBrake takes hold of the domain where that is possible.
func newBrake(ctx context.Context, open Throttler, m Migration, log *slog.Logger) *brake {
	b := &brake{log: log, share: 1, asked: 1}
	if open == nil || m.Policy.MaxSlowdown <= 0 {
		return b
	}
	th, err := open(ctx, m.UUID, m.Domain, time.Duration(brakeSilence*float64(m.Policy.MaxPause())))
	if err != nil {
		log.Warn("the guest can't be slowed", "err", err)
		return b
	}
	b.th = th
	return b
}

func (b *brake) works() bool { return b.th != nil }

// set brings the guest to the share of its own CPU use; it reports whether anything changed. A failure
// leaves the guest as it was, and the tuner sees that by the share in force.
func (b *brake) set(share float64) bool {
	if b.th == nil || share == b.asked {
		return false
	}
	if b.share == 1 && share < 1 {
		use, err := b.th.Busiest()
		if err != nil || use < 0.01 {
			b.log.Warn("the guest's CPU use is not known", "use", use, "err", err)
			return false
		}
		b.use = min(use, 1)
	}
	quota := 1.0
	if share < 1 {
		quota = min(1, max(share*float64(b.use), 0.01))
	}
	got, err := b.th.Set(quota)
	if err != nil {
		b.log.Warn("the guest's CPU share could not be set", "share", share, "err", err)
		return false
	}
	b.asked, b.share = share, 1
	if share < 1 && b.use > 0 {
		b.share = math.Min(1, got/float64(b.use))
	}
	b.log.Info("guest slowed", "share", b.share, "cores", got, "of", float64(b.use))
	return true
}

// release gives the guest back what was taken; it can't be slowed after that.
func (b *brake) release() {
	if b == nil || b.th == nil {
		return
	}
	if err := b.th.End(); err != nil {
		b.log.Error("the guest's CPU quota is not all given back", "err", err)
	}
	b.th, b.share, b.asked = nil, 1, 1
}
