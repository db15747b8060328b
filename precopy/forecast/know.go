package forecast

import (
	"math"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
)

const (
	// recent is how many of the newest receipts a figure is the median of.
	recent = 3
	// alike is how far bandwidth, memory and promise may differ in circumstances that are the same.
	alike = 0.1
	// changed is the factor between dirty-rate samples of now and of then from which the guest is taken
	// to do something else now; sampledNoise is what samples differ by anyway, as QEMU looks at one page
	// in some hundreds.
	changed      = 2.0
	sampledNoise = 4 * hypervisor.MiB
	// unseenShare and unseenSet are what a guest of which nothing is known is taken to dirty: that share
	// of the link, in that share of its memory. Most guests dirty less; few dirty so little that they
	// need no second pass.
	unseenShare = 0.25
	unseenSet   = 0.25
	// capShare is the share of the cap that streams carry: QEMU limits in slices of 100 ms. A stream that
	// carried less than boundBelow of it was bound by something else, such as the CPU.
	capShare   = 0.97
	boundBelow = 0.8
	// leastSpeed keeps times finite where a link is said to carry nothing.
	leastSpeed = hypervisor.BytesPerSecond(64 * hypervisor.KiB)
	// setup is the time before the first byte goes, from the start of the job (measured with TLS).
	setup = 300 * time.Millisecond
	// leastSwitchover is what a switchover takes at least, whatever was expected for the sending, and guessedSwitchover the
	// most that is believed for what was expected alone.
	leastSwitchover   = 40 * time.Millisecond
	guessedSwitchover = 2 * Switchover
)

// What a pause has besides the sending of the rest, which alone a downtime limit bounds.
const (
	// Switchover is what of it libvirt counts: stopping the vCPUs, devices, the source's libvirtd. Measured
	// with TLS: 35 to 60 ms of idle guests, 60 to 110 of busy ones. What a domain's last migrations have shown counts above it.
	Switchover = 70 * time.Millisecond
	// Beyond is how much longer the guest is silent than that, until the target's libvirtd has let it run.
	// Measured from outside: 10 to 110 ms, 40 in the median.
	Beyond = 40 * time.Millisecond
	// Braked is what a slowed guest adds: it may just have used up its quota.
	Braked = 30 * time.Millisecond
)

// Sending is the part of a pause that a downtime limit bounds, of a guest that is slowed or not: what the rest of
// it leaves. Where that seems to leave less, a fifth of it, if libvirt's part of the rest leaves that: the other parts are
// seldom at their most together. A third of a slowed guest's: what is left then is what it wrote in its last piece of
// CPU time, so that it was not silent for long before. An eighth of it at least.
func Sending(pause, switchover time.Duration, slowed bool) time.Duration {
	rest, part := switchover+Beyond, pause/5
	if slowed {
		rest, part = rest+Braked, pause/3
	}
	return max(pause-rest, min(part, pause-switchover), pause/8, time.Millisecond)
}

// MostPacked is how many bytes of dirtied memory one on the link is taken to stand for, at most: a limit makes
// up for no more compression.
const MostPacked = 4.0

// known is what there is to know of a domain before a migration, in figures.
type known struct {
	Input
	receipts []Receipt // that say something of the guest, oldest first
	growth   model.Growth
	samples  []model.Sample // that it was taken from, if not from receipts
	source   source
	change   float64 // of the dirty rate since those receipts, as samples say; 1 if none is seen

	setup, switchover time.Duration
	share             float64                   // of the cap that is carried
	bound             hypervisor.BytesPerSecond // of one plain stream; 0 if the cap binds
	atSecond          float64                   // the least share that the guest can be slowed to where a second's pause is promised
}

// source is what the growth was taken from.
type source int

const (
	fromNothing source = iota
	fromSample
	fromReceipts
)

func know(in Input) *known {
	k := &known{Input: in, change: 1}
	for _, r := range in.Profile.Receipts {
		if r.Done || r.Growth.Rate > 0 {
			k.receipts = append(k.receipts, r)
		}
	}
	k.setup = medianOf(k.receipts, setup, func(r Receipt) (time.Duration, bool) { return r.Setup, r.Setup > 0 })
	k.switchover = medianOf(k.receipts, Switchover, Receipt.switchover)
	k.share = medianOf(k.receipts, capShare, func(r Receipt) (float64, bool) {
		return min(carried(r), 1), carried(r) >= boundBelow
	})
	k.bound = medianOf(k.receipts, 0, func(r Receipt) (hypervisor.BytesPerSecond, bool) {
		return r.Achieved, r.Strategy == plain && r.Achieved > 0 && carried(r) < boundBelow
	})
	k.atSecond = medianOf(k.receipts, 0, func(r Receipt) (float64, bool) {
		return r.FloorShare * r.Intent.MaxPause.Seconds(), r.FloorShare > 0 && r.FloorShare < 1
	})
	k.grow()
	return k
}

// floor is the least share that the guest can be slowed to where so long a pause is promised: a silence is for a fixed
// piece of CPU time, so that twice the pause is half the share.
func (k *known) floor(pause time.Duration) float64 {
	return min(1, max(LeastShare, k.atSecond/max(pause.Seconds(), 0.001)))
}

// carried is the share of the cap that the receipt's stream carried; 0 when it is not known.
func carried(r Receipt) float64 {
	return float64(r.Achieved) / float64(max(wholeMiB(r.Bandwidth), 1))
}

// wholeMiB is the cap as libvirt takes it.
func wholeMiB(b hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	return max(b/mib*mib, mib)
}

// grow finds how the guest dirties memory.
func (k *known) grow() {
	if len(k.receipts) > 0 {
		k.source = fromReceipts
		k.growth = model.Growth{
			Set:  medianOf(k.receipts, 0, func(r Receipt) (hypervisor.Bytes, bool) { return r.Growth.Set, true }),
			Rate: medianOf(k.receipts, 0, func(r Receipt) (hypervisor.BytesPerSecond, bool) { return r.Growth.Rate, true }),
			Linear: medianOf(k.receipts, 0, func(r Receipt) (float64, bool) {
				if r.Growth.Linear {
					return 1, true
				}
				return 0, true
			}) > 0.5,
		}
		if c := k.sampledChange(); c > changed || c < 1/changed {
			k.change = c
			k.growth.Rate = hypervisor.BytesPerSecond(float64(k.growth.Rate) * c)
		}
		return
	}
	if k.Basis.Dirty != nil {
		k.source = fromSample
		for _, s := range []*hypervisor.DirtySample{k.Basis.Dirty, k.DirtyLong} {
			if s != nil && s.Rate > 0 {
				k.samples = append(k.samples, window(s))
			}
		}
		k.growth, _, _ = model.Fit(k.samples, k.Memory) // no growth when they saw nothing
		return
	}
	k.growth = model.Growth{
		Set:  hypervisor.Bytes(unseenSet * float64(k.firstPass())),
		Rate: hypervisor.BytesPerSecond(unseenShare * float64(k.Bandwidth)),
	}
}

// sampledPage is the memory that each page stands for that QEMU looks at (DIRTYRATE_DEFAULT_SAMPLE_PAGES is 512 of a GiB).
const sampledPage = hypervisor.GiB / 512

func window(s *hypervisor.DirtySample) model.Sample {
	dirtied := hypervisor.Bytes(float64(s.Rate) * s.Window.Seconds())
	pages := float64(dirtied) / float64(sampledPage) * float64(max(s.Times, 1)) // that were found dirty
	return model.Sample{Window: s.Window, Dirtied: dirtied, Error: 1 / math.Sqrt(max(pages, 1))}
}

// sampledChange compares the dirty-rate sample with those taken before earlier migrations.
func (k *known) sampledChange() float64 {
	now := k.Basis.Dirty
	if now == nil || k.Basis.DirtyAge > sampleLife || k.uneven(now) {
		return 1
	}
	return medianOf(k.receipts, 1, func(r Receipt) (float64, bool) {
		then := r.Basis.Dirty
		if then == nil || then.Window != now.Window {
			return 0, false
		}
		return float64(window(now).Dirtied+sampledNoise) / float64(window(then).Dirtied+sampledNoise), true
	})
}

// uneven reports whether samples of this domain differ as widely without any change of its load: those before earlier
// migrations from each other, or the present one from the longer one after it, which can only show less per second of
// a load that is steady.
func (k *known) uneven(now *hypervisor.DirtySample) bool {
	then := latest(k.receipts, func(r Receipt) (float64, bool) {
		s := r.Basis.Dirty
		if s == nil || s.Window != now.Window {
			return 0, false
		}
		return float64(window(s).Dirtied + sampledNoise), true
	})
	if len(then) > 1 && slices.Max(then) > changed*slices.Min(then) {
		return true
	}
	return k.DirtyLong != nil && float64(k.DirtyLong.Rate) > changed*float64(now.Rate)+float64(sampledNoise)/now.Window.Seconds()
}

// firstPass is what the first pass sends, uncompressed.
func (k *known) firstPass() hypervisor.Bytes {
	held := k.Basis.Resident
	if held <= 0 || held > k.Memory {
		held = k.Memory
	}
	sent := medianOf(k.receipts, held, func(r Receipt) (hypervisor.Bytes, bool) {
		more := hypervisor.Bytes(0)
		if r.Basis.Resident > 0 && k.Basis.Resident > 0 {
			// What a migration has moved holds no more zero pages than were sent: less says nothing.
			more = max(k.Basis.Resident-r.Basis.Resident, 0)
		}
		return r.firstWhole() + more, r.firstWhole() > 0
	})
	return min(max(sent, hypervisor.MiB), k.Memory)
}

// speed is what a stream carries under the cap.
func (k *known) speed(bandwidth hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	s := hypervisor.BytesPerSecond(k.share * float64(wholeMiB(bandwidth)))
	if k.bound > 0 {
		s = min(s, k.bound)
	}
	return max(s, leastSpeed)
}

// medianOf is the median of what the newest receipts say; otherwise when none says anything. Of two
// it is the mean.
func medianOf[T ~int64 | ~float64](receipts []Receipt, otherwise T, f func(Receipt) (T, bool)) T {
	v := latest(receipts, f)
	if len(v) == 0 {
		return otherwise
	}
	return median(v)
}

// latest is what the newest few receipts say that say it.
func latest[T any](receipts []Receipt, f func(Receipt) (T, bool)) []T {
	var v []T
	for _, r := range slices.Backward(receipts) {
		if x, ok := f(r); ok && len(v) < recent {
			v = append(v, x)
		}
	}
	return v
}

// near reports whether two amounts are the same for this purpose.
func near[T ~int64 | ~float64](a, b T) bool {
	x, y := float64(a), float64(b)
	return math.Abs(x-y) <= alike*max(x, y)
}
