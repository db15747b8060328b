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

// usage compares the counters now with those at the call before. A vCPU that is new since counts from now on.
func usage(before, now sample) Usage {
	u := Usage{Interval: now.at.Sub(before.at), VCPUs: make([]VCPUUsage, 0, len(now.use))}
	for _, n := range now.use {
		v := VCPUUsage{VCPU: n.VCPU}
		if b, ok := before.of(n.VCPU); ok && u.Interval > 0 {
			v.Used = hypervisor.Cores((n.CPU - b.CPU).Seconds() / u.Interval.Seconds())
			v.Denied = hypervisor.Cores((n.Throttled - b.Throttled).Seconds() / u.Interval.Seconds())
		}
		u.VCPUs = append(u.VCPUs, v)
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
