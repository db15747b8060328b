package scheduler

import (
	"slices"
	"time"

	"drover/scheduler/fleet"
)

// clocks holds what load reports say of the hosts' clocks. A report carries the host's time, and the
// leader knows when it came by its own: their difference is the offset less the time that the report
// took, so the largest of the last few is nearest to the truth. It is not safe for concurrent use.
type clocks map[string]*clockSamples

// clockSamples are the differences seen in the latest reports of one host.
type clockSamples struct {
	revision int64 // of the latest report
	last     []time.Duration
	told     bool // that the clock is off
}

// clockReports is of how many reports the best is taken; a clock that was set back is believed by then.
const clockReports = 6

// clockLimit is how far a clock may be off before it is worth a word; reports take less on the way.
const clockLimit = 2 * time.Second

// look takes in the reports that are new in a snapshot.
func (c clocks) look(s *fleet.Snapshot) {
	for name, h := range s.Hosts {
		if h.Load == nil || h.Load.At.IsZero() || h.LoadSeen.IsZero() {
			continue
		}
		samples := c[name]
		if samples == nil {
			samples = &clockSamples{}
			c[name] = samples
		}
		if samples.revision == h.LoadRevision {
			continue
		}
		samples.revision = h.LoadRevision
		samples.last = append(samples.last, h.Load.At.Sub(h.LoadSeen))
		samples.last = samples.last[max(len(samples.last)-clockReports, 0):]
	}
	for name := range c {
		if s.Hosts[name] == nil {
			delete(c, name)
		}
	}
}

// offsets returns each host's clock minus the leader's.
func (c clocks) offsets() map[string]time.Duration {
	out := make(map[string]time.Duration, len(c))
	for name, samples := range c {
		out[name] = slices.Max(samples.last)
	}
	return out
}

// news returns the hosts whose clocks were found to be off since it was called last, with their offsets.
// Only what several reports agree upon is told: the first ones of a new leader were on the way for long.
func (c clocks) news() map[string]time.Duration {
	out := map[string]time.Duration{}
	for name, samples := range c {
		off := slices.Max(samples.last)
		switch {
		case off.Abs() <= clockLimit:
			samples.told = false
		case !samples.told && len(samples.last) == clockReports:
			samples.told, out[name] = true, off
		}
	}
	return out
}
