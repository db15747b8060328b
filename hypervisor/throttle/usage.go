package throttle

import (
	"time"

	"drover/hypervisor"
)

// VCPUUse is one vCPU's counters since libvirt made its group, as the kernel keeps them.
type VCPUUse struct {
	VCPU int
	// CPU is the time it ran; Throttled the time it could have run but for its quota.
	CPU       time.Duration
	Throttled time.Duration
	// Periods with something to run, and those of them in which the quota ran out.
	Periods          int64
	ThrottledPeriods int64
}

// Usage is what a domain's vCPUs did.
type Usage struct {
	// Interval is the time since the Use before, or since Begin. Used and Denied of VCPUs are about it.
	Interval time.Duration
	VCPUs    []VCPUUsage
	// Share of a core that each vCPU may use now; 1 when nothing is taken away.
	Share float64
	// Total is the time since Begin, and Lost what the vCPU that was denied most was denied of it. It
	// bounds the guest's lost work from above: a guest that wanted less than a core but more than its
	// share counts as wanting all of it, because it never catches up.
	Total time.Duration
	Lost  time.Duration
}

// VCPUUsage is one vCPU's part over an interval.
type VCPUUsage struct {
	VCPU   int
	Used   hypervisor.Cores // 1: it ran all the time
	Denied hypervisor.Cores // 1: it stood still all the time though it had work
}

// Busiest returns what the vCPU that used most used: a share above it changes nothing.
func (u Usage) Busiest() hypervisor.Cores {
	var most hypervisor.Cores
	for _, v := range u.VCPUs {
		most = max(most, v.Used)
	}
	return most
}

// sample is the counters of all vCPUs at one moment.
type sample struct {
	at  time.Time
	use []VCPUUse
}

// usage compares the counters now with those at the call before and at the beginning. A vCPU that is
// new since counts from now on.
func usage(begin, before, now sample, share float64) Usage {
	u := Usage{
		Interval: now.at.Sub(before.at), Total: now.at.Sub(begin.at), Share: share,
		VCPUs: make([]VCPUUsage, 0, len(now.use)),
	}
	for _, n := range now.use {
		v := VCPUUsage{VCPU: n.VCPU}
		if b, ok := before.of(n.VCPU); ok && u.Interval > 0 {
			v.Used = hypervisor.Cores((n.CPU - b.CPU).Seconds() / u.Interval.Seconds())
			v.Denied = hypervisor.Cores((n.Throttled - b.Throttled).Seconds() / u.Interval.Seconds())
		}
		u.VCPUs = append(u.VCPUs, v)
		if b, ok := begin.of(n.VCPU); ok {
			u.Lost = max(u.Lost, n.Throttled-b.Throttled)
		}
	}
	return u
}

func (s sample) of(vcpu int) (VCPUUse, bool) {
	for _, u := range s.use {
		if u.VCPU == vcpu {
			return u, true
		}
	}
	return VCPUUse{}, false
}
