package tune

import (
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// Fixed returns one of the fixed policies of other managers, to compare with: they run through the
// same code, by their published schedules, and keep no promise. False for an unknown name.
func Fixed(name string, s Start) (Tuner, bool) {
	f := &fixed{start: s, downtime: qemuDowntime}
	switch name {
	case "default":
	case "least-pause":
		f.downtime = leastLimit
	case "auto-converge":
		f.strategy.AutoConverge = true
	case "xbzrle":
		f.strategy.Compression = "xbzrle"
	case "multifd-zstd":
		f.strategy.Connections, f.strategy.Compression = 2, "zstd"
	case "postcopy":
		f.strategy.PostCopy, f.step = true, f.postcopyAfterPass
	case "vdsm-minimal":
		f.strategy.AutoConverge = true
		f.downtime, f.step = 100*time.Millisecond, vdsm(f, false)
	case "vdsm-suspend":
		f.strategy.Compression = "xbzrle"
		f.strategy.AutoConverge = true
		f.downtime, f.step = 100*time.Millisecond, vdsm(f, true)
	case "nova":
		f.downtime, f.step = novaFirst, f.nova
	case "kubevirt":
		f.step = (&kubevirt{f: f}).step
	default:
		return nil, false
	}
	return f, true
}

// FixedNames lists the fixed policies.
func FixedNames() []string {
	return []string{"default", "least-pause", "auto-converge", "xbzrle", "multifd-zstd", "postcopy", "vdsm-minimal", "vdsm-suspend", "nova", "kubevirt"}
}

// qemuDowntime is QEMU's own downtime limit, which libvirt leaves as it is.
const qemuDowntime = 300 * time.Millisecond

// fixed is a policy whose schedule does not depend on any promise. What all share is the time after
// which the benchmark gives up.
type fixed struct {
	start    Start
	strategy hypervisor.Strategy
	downtime time.Duration
	step     func(s hypervisor.JobStats, now time.Time) Decision
	switched bool
	allowed  hypervisor.BytesPerSecond
	first    int // the first iteration number seen
	ticked   time.Time
}

// Strategy implements Tuner.
func (f *fixed) Strategy() hypervisor.Strategy { return f.strategy }

// Share implements Tuner.
func (f *fixed) Share() float64 { return 1 }

// Bandwidth implements Tuner.
func (f *fixed) Bandwidth() hypervisor.BytesPerSecond { return f.allowed }

// Allow implements Tuner.
func (f *fixed) Allow(bandwidth, _ hypervisor.BytesPerSecond) { f.allowed = bandwidth }

// Lost implements Tuner: fixed policies slow nobody, QEMU does.
func (f *fixed) Lost() time.Duration { return 0 }

// Learned implements Tuner: fixed policies learn nothing.
func (f *fixed) Learned() forecast.Receipt { return forecast.Receipt{} }

// Limit implements Tuner.
func (f *fixed) Limit() time.Duration { return f.downtime }

// Step implements Tuner.
func (f *fixed) Step(r Reading) Decision {
	s, now := r.JobStats, r.Now
	if f.start.Budget > 0 && s.Elapsed > f.start.Budget && !s.Postcopy {
		return Decision{Action: Abort, Reason: OverBudget, Text: "out of time"}
	}
	if f.step == nil {
		return Decision{Reason: Copying, Text: "fixed policy"}
	}
	return f.step(s, now)
}

func (f *fixed) set(limit time.Duration) Decision {
	if limit == f.downtime {
		return Decision{Reason: Copying, Text: "fixed policy"}
	}
	f.downtime = limit
	return Decision{Reason: Stalled, Text: "the schedule's next step"}
}

func (f *fixed) postcopyAfterPass(s hypervisor.JobStats, _ time.Time) Decision {
	if s.Round > 1 && !f.switched {
		f.switched = true
		return Decision{Action: StartPostCopy, Reason: Stalled, Text: "post-copy after the first pass"}
	}
	return Decision{Reason: Copying, Text: "fixed policy"}
}

// vdsm is oVirt's schedule: a tick of 10 s, steps by iterations since the first one seen (vdsm
// lib/vdsm/virt/migration.py and the engine's policies "minimal downtime" and "suspend workload").
func vdsm(f *fixed, suspend bool) func(hypervisor.JobStats, time.Time) Decision {
	steps := []struct {
		after int
		limit time.Duration
	}{{1, 150}, {2, 200}, {3, 300}, {4, 400}, {6, 500}}
	return func(s hypervisor.JobStats, now time.Time) Decision {
		if f.first == 0 {
			f.first = max(s.Round, 1)
		}
		if f.ticked.IsZero() {
			f.ticked = now
		}
		if now.Sub(f.ticked) < 10*time.Second {
			return Decision{Reason: Copying, Text: "fixed policy"}
		}
		f.ticked = now
		done := s.Round - f.first
		if f.downtime >= 5*time.Second || f.downtime >= 500*time.Millisecond && !suspend {
			if done > 6 {
				return Decision{Action: Abort, Reason: NotConverged, Text: "the schedule's last step"}
			}
		}
		if f.downtime >= 500*time.Millisecond && suspend && done > 6 {
			return f.set(5 * time.Second)
		}
		// One action per tick: the next step whose iteration has passed.
		for _, step := range steps {
			limit := step.limit * time.Millisecond
			if done > step.after && f.downtime < limit {
				return f.set(limit)
			}
		}
		return Decision{Reason: Copying, Text: "fixed policy"}
	}
}

// Nova's schedule: 10 linear steps to 500 ms, each after 75 s per GiB, of at least 2 GiB
// (nova/virt/libvirt/migration.py: downtime_steps).
const (
	novaSteps = 10
	novaMax   = 500 * time.Millisecond
	novaFirst = novaMax / novaSteps
)

func (f *fixed) nova(s hypervisor.JobStats, _ time.Time) Decision {
	gib := max(2, float64(s.MemTotal)/float64(hypervisor.GiB))
	step := time.Duration(75 * gib * float64(time.Second))
	n := 1 + int(s.Elapsed/step)
	return f.set(min(time.Duration(n)*novaFirst, novaMax))
}

// kubevirt is the stall detector of KubeVirt's enhancement 248, from its description: stalled when
// a round begins with at least 0.96 of the lowest rest that is older than 40 s; then at a local
// minimum, within 4 % of the best, the limit is raised to what the rest needs, up to 900 ms (1.5
// times that tolerated), with 60 s to switch over; otherwise it aborts.
type kubevirt struct {
	f        *fixed
	round    int
	rates    hypervisor.BytesPerSecond
	history  []kubevirtRound
	switchBy time.Time
}

type kubevirtRound struct {
	at   time.Time
	rest hypervisor.Bytes
}

const (
	kubevirtWindow  = 40 * time.Second
	kubevirtCeiling = 900 * time.Millisecond
	kubevirtSwitch  = 60 * time.Second
)

func (k *kubevirt) step(s hypervisor.JobStats, now time.Time) Decision {
	wait := Decision{Reason: Copying, Text: "fixed policy"}
	k.rates = hypervisor.BytesPerSecond(0.4*float64(s.Bandwidth) + 0.6*float64(k.rates))
	if !k.switchBy.IsZero() {
		if now.After(k.switchBy) {
			return Decision{Action: Abort, Reason: NotConverged, Text: "no switchover within 60 s"}
		}
		return wait
	}
	if s.Round == k.round || s.Round < 2 {
		k.round = s.Round
		return wait
	}
	k.round = s.Round
	k.history = append(k.history, kubevirtRound{now, s.MemRemaining})
	var old []hypervisor.Bytes
	var all []hypervisor.Bytes
	for _, r := range k.history {
		all = append(all, r.rest)
		if now.Sub(r.at) > kubevirtWindow {
			old = append(old, r.rest)
		}
	}
	if len(old) == 0 || float64(s.MemRemaining) < 0.96*float64(slices.Min(old)) {
		return wait
	}
	if float64(s.MemRemaining) > 1.04*float64(slices.Min(all)) {
		return wait // not a local minimum
	}
	implied := k.rates.Time(s.MemRemaining)
	if implied > kubevirtCeiling*3/2 {
		return Decision{Action: Abort, Reason: NotConverged, Text: "the rest needs more than the ceiling"}
	}
	k.switchBy = now.Add(kubevirtSwitch)
	return k.f.set(max(implied, kubevirtCeiling))
}
