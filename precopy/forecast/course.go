package forecast

import (
	"fmt"
	"math"
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
)

// How the convergence controller (precopy/tune) goes about it.
const (
	// FirstLimit is the downtime limit that a migration begins with.
	FirstLimit = 20 * time.Millisecond
	// Margin is how much more than what passes come down to a limit must take: they scatter.
	Margin = 1.15
	// LeastShare is what a slowed guest always keeps of its CPU use. Slowing by more hardly hastens the end: what
	// is lost is (1-q) R / (B - q w) for a rest R, bandwidth B and dirty rate w.
	LeastShare = 0.15
	// Milder is the part of the loss that a milder slowing must keep to, to be preferred, and Longer how many times as
	// long it may take.
	Milder = 0.9
	Longer = 2
	// MostShare is the share that a guest must be able to be brought below to be slowed at all.
	MostShare = 0.9
	// Worth is how many seconds of migration a lost second of guest work must save, and Spare the share of the
	// migration's time that may be lost, where the guest would converge without being slowed. For less than Little a
	// guest is not slowed: its last silence adds to the pause.
	Little = 1500 * time.Millisecond
	Worth  = 3
	Spare  = 0.06
	// lean is by what factor such a guest may lose more where that was foretold from its migrations before, or less where it
	// was not: passes scatter by as much.
	lean = 1.5
	// landing is by how much longer a guest is slowed than passes take by the model: in its first second less than it is to be,
	// and while its last, short passes scatter.
	landing = 1500 * time.Millisecond

	// soon is the part of the budget by which it is to be over by itself: else the guest is slowed as far as the class allows.
	soon = 0.9

	judged = 2 // passes after the first that it watches before it pays
	// reaction is what a step beyond a limit within the promise costs besides those passes.
	reaction = time.Second
)

// end is how a course ends, the best first.
type end int

const (
	promised end = iota // within the promise, the guest slowed within the class if need be
	ceiling             // with a pause beyond the promise, within the ceiling
	postCopy            // switched to post-copy
	never
)

// circumstances are what a course depends on besides the domain.
type circumstances struct {
	bandwidth hypervisor.BytesPerSecond
	memory    hypervisor.Bytes // all that the domain has
	first     hypervisor.Bytes // what the first pass has to send, uncompressed
	intent    Intent
}

// course is how one strategy goes.
type course struct {
	candidate
	end      end
	took     time.Duration
	sent     hypervisor.Bytes
	pause    time.Duration
	slowdown float64
	share    float64 // what the guest is left of its CPU
	rounds   int
	factor   float64 // by which it was set right; 0 if no receipt says
	recurs   bool    // it took about the same in several like circumstances
	why      string  // for people, if it never ends
}

// play is the course of a strategy under the circumstances, by the model alone.
func (k *known) play(c candidate, at circumstances) course {
	g := k.growth
	b := k.speed(at.bandwidth)
	wire := hypervisor.Bytes(c.first * float64(at.first))
	drain := hypervisor.BytesPerSecond(max(float64(b)/c.ratio, 1)) // of dirtied memory
	out := course{candidate: c, share: 1, rounds: 1, took: k.setup + b.Time(wire), sent: wire}
	rest := g.Dirtied(b.Time(wire))

	// QEMU lets the rest go over once it is less than bandwidth times limit, uncompressed; the controller
	// raises the limit by what the stream packs, up to a point.
	fits := min(1, MostPacked*c.ratio)
	try := func(rest hypervisor.Bytes, share float64, sending time.Duration) model.Forecast {
		limit := time.Duration(fits * float64(sending))
		fit := hypervisor.Bytes(float64(drain) * limit.Seconds())
		if rest <= fit {
			return model.Forecast{Converges: true, Pause: drain.Time(rest), Duration: drain.Time(rest), Bytes: rest}
		}
		return model.Predict(model.Input{Growth: g.Slowed(share), Rest: rest, Bandwidth: drain, Limit: limit})
	}
	land := func(f model.Forecast, e end) course {
		out.end = e
		out.took += f.Duration + k.switchover
		out.sent += hypervisor.Bytes(c.ratio * float64(f.Bytes))
		out.pause = k.switchover + f.Pause
		out.rounds += f.Rounds
		return out
	}
	promise := k.sending(at.intent.MaxPause)
	slow := func(share float64) model.Forecast {
		return try(rest, share, Sending(at.intent.MaxPause, k.switchover, true))
	}
	landSlowed := func(f model.Forecast, share float64) course {
		out.share = share
		out = land(f, promised)
		out.pause += Braked
		out.slowdown = (1 - share) * f.Duration.Seconds() / max(out.took.Seconds(), 0.001)
		return out
	}
	pass := func() {
		t := drain.Time(rest)
		out.took, out.sent, out.rounds = out.took+t, out.sent+hypervisor.Bytes(c.ratio*float64(rest)), out.rounds+1
		rest = g.Dirtied(t)
	}
	watch := func() { // what it does before it is sure
		for range judged {
			pass()
		}
	}
	easy := try(rest, 1, promise)
	if f := easy; f.Converges {
		for limit := min(FirstLimit, promise); limit < promise; limit = limit * 3 / 2 {
			if low := try(rest, 1, limit); low.Converges && low.Duration <= f.Duration+f.Duration/20+300*time.Millisecond {
				f = low
				break
			}
		}
		worth := func(f model.Forecast) (model.Forecast, float64, bool) {
			s, share, ok := k.slowed(at, drain, slow)
			if ok && MustSlow(f.Duration, s.Duration, drain.Time(rest), out.took, at.intent.Budget) {
				return s, share, lost(s, share).Seconds() <= at.intent.MaxSlowdown*(out.took+s.Duration).Seconds()
			}
			return s, share, ok && WorthSlowing(f.Duration, s.Duration, share, 0, out.took, at.intent.MaxSlowdown, 1)
		}
		if s, share, ok := worth(f); ok {
			return landSlowed(s, share)
		}
		// The less is left, the less it loses.
		first := out
		for n := 1; n < f.Rounds; n++ {
			if pass(); n < judged {
				continue
			}
			if s, share, ok := worth(try(rest, 1, promise)); ok {
				return landSlowed(s, share)
			}
		}
		out = first
		return land(f, promised)
	}
	watch()
	out.took += reaction
	out.sent += hypervisor.Bytes(float64(b) * reaction.Seconds())
	if f, share, ok := k.slowed(at, drain, slow); ok {
		// What may be lost is a share of the whole time: later it is more.
		whole := seconds(lost(f, share).Seconds() / at.intent.MaxSlowdown)
		if wait := max(whole-out.took-f.Duration, 0); wait == 0 || whole <= at.budget()*9/10 {
			out.took += wait
			out.sent += hypervisor.Bytes(float64(b) * wait.Seconds())
			return landSlowed(f, share)
		}
	}
	floor := max(g.Floor(drain), easy.Floor) // where passes hardly shrink, they come down too late
	need := time.Duration(Margin * float64(drain.Time(floor)) / fits)
	if need <= k.sending(at.intent.Ceiling) {
		if f := try(rest, 1, max(need, promise)); f.Converges {
			return land(f, ceiling)
		}
	}
	out.pause = k.switchover + drain.Time(floor)
	if at.intent.PostCopy && k.Can.PostCopy && c.strategy.Connections == 0 {
		out.end, out.pause = postCopy, k.switchover
		out.took, out.sent = out.took+b.Time(floor), out.sent+floor
		return out
	}
	out.end = never
	out.why = k.advice(b, drain, floor, at)
	return out
}

func (k *known) sending(pause time.Duration) time.Duration {
	return Sending(pause, k.switchover, false)
}

// slowed finds the least slowing of a guest that writes more slowly than the link takes it by which it loses clearly less
// than by the most, and that does not take far longer; else the most. False when it is not allowed, or no use.
func (k *known) slowed(at circumstances, drain hypervisor.BytesPerSecond, try func(share float64) model.Forecast) (f model.Forecast, share float64, ok bool) {
	floor := k.floor(at.intent.MaxPause)
	if at.intent.MaxSlowdown <= 0 || floor > MostShare {
		return f, 1, false
	}
	f, share = try(floor), floor
	for s := 0.7; s > floor && f.Converges && k.growth.Rate < drain; s -= 0.1 {
		if m := try(s); m.Converges && float64(lost(m, s)) <= Milder*float64(lost(f, share)) && m.Duration <= Longer*f.Duration {
			return m, s, true
		}
	}
	return f, share, f.Converges
}

// lost is the guest work that slowing it to the share costs.
func lost(f model.Forecast, share float64) time.Duration {
	return time.Duration((1 - share) * float64(f.Duration))
}

// budget is how long its memory may take: what was ordered, else what Budget computes.
func (at circumstances) budget() time.Duration {
	if at.intent.Budget > 0 {
		return at.intent.Budget
	}
	return Budget(at.bandwidth, at.memory, 0)
}

// Budget is how long a migration may take where nothing is ordered: a minute, twelve passes over its memory and twice
// what copying its disks takes, if they are copied; without an end where no bandwidth is known.
func Budget(b hypervisor.BytesPerSecond, memory, disks hypervisor.Bytes) time.Duration {
	pass, copying := b.Time(memory), b.Time(disks)
	if pass > math.MaxInt64/48 || copying > math.MaxInt64/8 {
		return math.MaxInt64
	}
	return time.Minute + 12*pass + 2*copying
}

// advice says what would have to change for it to end.
func (k *known) advice(b, drain hypervisor.BytesPerSecond, floor hypervisor.Bytes, at circumstances) string {
	promise := k.sending(at.intent.MaxPause)
	text := fmt.Sprintf("it dirties memory at %s, in a working set of %s, and the link gives %s: it would take a pause of about %s, or about %s of bandwidth",
		k.growth.Rate, k.growth.Set, b, (k.switchover + drain.Time(floor)).Round(10*time.Millisecond), k.enough(promise))
	if share := k.growth.Share(drain, Sending(at.intent.MaxPause, k.switchover, true)); share >= k.floor(at.intent.MaxPause) && share < 1 && at.intent.MaxSlowdown > 0 {
		text += fmt.Sprintf(", or the guest slowed to %.0f %% of its speed", 100*share)
	}
	return text
}

// enough is the least bandwidth at which the floor of a plain stream can be sent within the time.
func (k *known) enough(sending time.Duration) hypervisor.BytesPerSecond {
	low, high := 0.0, float64(max(k.growth.Rate, 1))
	for range 40 {
		b := (low + high) / 2
		rate := hypervisor.BytesPerSecond(b)
		if rate.Time(k.growth.Floor(rate)) <= sending {
			high = b
		} else {
			low = b
		}
	}
	return hypervisor.BytesPerSecond(high)
}

// WorthSlowing reports whether a guest that would converge by itself, in the time fast, is to be slowed to the share for its
// landing, which takes the time slow by the model. It has lost so much by now, the migration has taken so long, and the
// class allows it to lose that share. lean is how many times as much it may lose as it would be worth otherwise (Prior.Lean).
func WorthSlowing(fast, slow time.Duration, share float64, lost, took time.Duration, maxSlowdown, lean float64) bool {
	lands := slow.Seconds() + landing.Seconds()
	more := (1 - share) * lands
	return fast.Seconds()-lands >= max(Little.Seconds(), Worth*more/lean) &&
		lost.Seconds()+more <= min(Spare*lean, maxSlowdown)*(took.Seconds()+lands)
}

// MustSlow reports whether such a guest has to be slowed to end within the budget that was ordered, 0 if none was: by itself
// it would be late, and after the time pass until the next pass begins it would be too late for slowing it.
func MustSlow(fast, slow, pass, took, budget time.Duration) bool {
	lands, by := slow.Seconds()+landing.Seconds(), soon*budget.Seconds()
	return budget > 0 && (took+fast).Seconds() > by && lands < fast.Seconds() &&
		(took+pass).Seconds()+lands > by && took+slow <= budget
}

// cost is what a course is compared by: the time, and the guest work that is lost.
func (c course) cost() float64 { return c.took.Seconds() * (1 + Worth*c.slowdown) }

// seconds is a duration that is at most what a duration holds.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0)*float64(time.Second), math.MaxInt64/4))
}
