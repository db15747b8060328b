package scheduler

import (
	"cmp"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
)

// Hopeless is the blocker of a migration that several earlier ones say would not end within the intent.
const Hopeless hypervisor.BlockerCode = "forecast"

// Forecast is what is to be expected of moving a domain to a host under a policy, given what its earlier
// migrations have shown. It is pure. A target that has not reported is one of which nothing is known.
func Forecast(s *fleet.Snapshot, d fleet.Domain, target string, p precopy.Policy, copyStorage bool, profile forecast.Profile, now time.Time) forecast.Forecast {
	return forecast.Of(forecastInput(s, d, target, p, copyStorage, profile, now))
}

func forecastInput(s *fleet.Snapshot, d fleet.Domain, target string, p precopy.Policy, copyStorage bool, profile forecast.Profile, now time.Time) forecast.Input {
	src, dst := d.Host, s.Hosts[target]
	if dst == nil {
		dst = &fleet.Host{}
	}
	in := forecast.Input{
		Now: now, Memory: memoryOf(d, profile), Bandwidth: budget.Between(src, dst), Intent: p.Intent(), Profile: profile,
		Basis: forecast.Basis{Resident: d.Load.Memory, Dirty: d.Load.Dirty}, DirtyLong: d.Load.DirtyLong,
		Can: forecast.Capabilities{
			XBZRLE: both(src, dst, "xbzrle"), PostCopy: both(src, dst, "postcopy"),
			Zstd: both(src, dst, "multifd-zstd") && !(p.Encrypt && hypervisor.LosesGuests(src.Facts.QEMUVersion)),
		},
	}
	if src.Load != nil {
		in.CacheFree = max(src.Capacity().Memory-src.Load.Memory, 0)
		if dirty := d.Load.Dirty; dirty != nil && !dirty.At.IsZero() {
			// By the host's clock as far as the report, by this one since.
			in.Basis.DirtyAge = max(src.Load.At.Sub(dirty.At)+now.Sub(src.LoadSeen), 0)
		}
	}
	if copyStorage {
		for _, disk := range d.Facts.Disks {
			if !disk.Shared && !disk.ReadOnly && disk.Source != "" {
				in.Disks += disk.Size
			}
		}
	}
	return in
}

// memoryOf is the domain's memory. A host that it has just come to may not have told yet: then it is what it had when
// it was moved, or what it holds.
func memoryOf(d fleet.Domain, profile forecast.Profile) hypervisor.Bytes {
	before := hypervisor.Bytes(0)
	if n := len(profile.Receipts); n > 0 {
		before = profile.Receipts[n-1].Memory
	}
	return cmp.Or(d.Facts.Memory, max(before, d.Load.Memory))
}

func both(a, b *fleet.Host, capability string) bool {
	can := func(h *fleet.Host) bool { return h.Facts != nil && slices.Contains(h.Facts.Capabilities, capability) }
	return can(a) && can(b)
}

// HopelessBlocker is what speaks against a migration that is sure not to end within the intent; nil when
// it is worth trying. Another manager's policy keeps to no intent.
func HopelessBlocker(f forecast.Forecast, p precopy.Policy) *hypervisor.Blocker {
	if !f.Hopeless() || p.Tuning != "" {
		return nil
	}
	return &hypervisor.Blocker{
		Code: Hopeless, Detail: "it would not end within the intent: " + f.Why + " (" + f.Rests() + ")",
		Remedy: "allow a longer --max-pause, more --max-slowdown or more time, or move it when it has less to do",
	}
}
