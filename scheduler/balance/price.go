package balance

import (
	"math"
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
)

// Price is what one migration is expected to take.
type Price struct {
	Duration  time.Duration
	Bytes     hypervisor.Bytes // on the wire
	Pause     time.Duration
	Slowdown  float64 // share of the guest's work that is lost while it moves
	Converges bool
}

const (
	// linkShare of a link carries payload.
	linkShare = 0.95
	// pauseLimit is the downtime limit that prices reckon with, QEMU's default.
	pauseLimit = 300 * time.Millisecond
	// copySlowdown is the share of its work that a guest loses while it is copied without throttling:
	// write faults of dirty logging and shared memory bandwidth.
	copySlowdown = 0.05
	// copyCores are busy on source and target together while a link of 10 Gbit/s is full.
	copyCores = 2.0
	tenGbit   = 10e9 / 8
	// moveSeconds is what any migration costs in guest work besides, in core-seconds: preparation,
	// caches that are cold, the risk that it goes wrong.
	moveSeconds = 5.0
	// pauseWeight is how much worse a second of pause is than a second of lost work per core.
	pauseWeight = 10.0
)

// PriceOf reckons what moving a domain over a stream of the given rate takes, when nothing is known of it
// but its memory and dirty rate: writes may touch all of its memory.
func PriceOf(v *VM, rate hypervisor.BytesPerSecond) Price {
	f := model.Predict(model.Input{
		Growth: model.Growth{Set: v.Memory, Rate: v.Dirty}, Rest: v.Memory, Bandwidth: rate, Limit: pauseLimit,
	})
	return Price{Duration: f.Duration, Bytes: f.Bytes, Pause: f.Pause, Slowdown: copySlowdown, Converges: f.Converges}
}

// coreSeconds is the price in guest work, for a domain with that load.
func (p Price) coreSeconds(load Load) float64 {
	cpu := max(float64(load.CPU), 0.1)
	copying := float64(p.Bytes) / tenGbit * copyCores
	return moveSeconds + copying + p.Duration.Seconds()*p.Slowdown*cpu + p.Pause.Seconds()*pauseWeight*math.Max(cpu, 1)
}
