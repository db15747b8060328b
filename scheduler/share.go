package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// UnknownLink is assumed where a migration network's speed is not known.
const UnknownLink = budget.UnknownLink

// LimitsOf is how many streams may run at once at a moment: what the policy says, else the given ones.
func LimitsOf(n policy.Network, otherwise Limits) Limits {
	if n.Limits.StreamsOut > 0 {
		otherwise.Outgoing = n.Limits.StreamsOut
	}
	if n.Limits.StreamsIn > 0 {
		otherwise.Incoming = n.Limits.StreamsIn
	}
	return otherwise
}

// divide makes the pass's arbiter.
func (p *pass) divide() {
	network, _ := p.Fleet.Policy.Network.At(p.Now)
	p.Limits = LimitsOf(network, p.Limits)
	p.budget = budget.New(budget.Input{
		Fleet: p.Fleet, Network: network, Traffic: p.Memory.Traffic, Memory: p.Memory.Streams,
		Outgoing: p.Limits.Outgoing, Incoming: p.Limits.Incoming, Now: p.Now,
	})
}

// admitted asks for the bandwidth of a migration that nothing else stands against. The verdict of one that has
// to wait is in the record, with when that is expected to end.
func (p *pass) admitted(m precopy.Stored, r request, target string, f forecast.Forecast) (budget.Verdict, bool) {
	v := p.budget.Admit(budget.Candidate{
		Migration: m, Target: target, Behind: r.behind,
		Need: need(r.input, f, p.budget.Alone(m.Source, target)),
	})
	if !v.OK && v.Reason != "" {
		p.waitUntil(m, v.Reason, v.Until)
	}
	return v, v.OK
}

// waitFull waits for one of the streams of a host that has as many as it may.
func (p *pass) waitFull(m precopy.Stored, host, reason string) {
	until, _ := p.budget.Ends(host)
	p.waitUntil(m, reason, until)
}

// passes is how long a request may be passed by for the sake of the links.
const passes = 10 * time.Minute

// letsPass reports whether a migration leaves its turn to another of its host and its standing whose target
// nothing else is being sent to: both hosts' links are then in full use.
func (p *pass) letsPass(m precopy.Stored) bool {
	if m.Target == "" || p.Now.Sub(m.Created) > passes || !p.budget.Contended(m.Target) {
		return false
	}
	rank := budget.Rank(p.Fleet, m.Migration)
	for _, o := range p.Fleet.Migrations {
		if o.Phase == precopy.Requested && o.ID != m.ID && o.Source == m.Source && o.Target != "" && o.Cancel == nil &&
			o.Policy.Priority == m.Policy.Priority && p.Now.Sub(o.Created) < passes &&
			!p.budget.Contended(o.Target) && budget.Rank(p.Fleet, o.Migration) == rank && p.budget.Blocked(o.Source, o.Target) == "" {
			return true
		}
	}
	return false
}

// request is what the pass knows of a migration that is about to be ordered.
type request struct {
	input  forecast.Input
	behind bool
}

// waitUntil says in the record why a migration waits and until about when, without writing anew for every
// second by which that changes.
func (p *pass) waitUntil(m precopy.Stored, reason string, until time.Time) {
	const mark = "; until about "
	if before, when, ok := strings.Cut(m.Reason, mark); ok && before == reason {
		old, err := time.Parse(time.TimeOnly+" MST", when)
		if err == nil && !until.IsZero() {
			told := time.Date(until.Year(), until.Month(), until.Day(), old.Hour(), old.Minute(), old.Second(), 0, time.UTC)
			if off := told.Sub(until).Abs(); off < 10*time.Second || off > 23*time.Hour {
				return
			}
		}
	}
	if !until.IsZero() {
		reason += mark + until.UTC().Format(time.TimeOnly) + " UTC"
	}
	p.wait(m, reason)
}

// need is the least bandwidth by which a migration is expected to go as well as with all that there is: to
// end within the intent, and without a slower guest or a longer pause if it takes none then. It is in whole
// MiB/s; all of the bandwidth where even that is not enough.
func need(in forecast.Input, whole forecast.Forecast, bandwidth hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	const unit = hypervisor.BytesPerSecond(hypervisor.MiB)
	if !whole.Converges || in.Profile.Receipts == nil && in.Basis.Dirty == nil {
		// Of a guest that nothing is known of only its passes will tell.
		if whole.Converges {
			return 0
		}
		return bandwidth
	}
	as := func(f forecast.Forecast) bool {
		if !f.Converges {
			return false
		}
		if whole.Beyond == "" {
			return f.Beyond == ""
		}
		return f.Pause <= whole.Pause+whole.Pause/10 && f.Slowdown <= 1.1*whole.Slowdown+0.01
	}
	low, high := hypervisor.BytesPerSecond(0), max(bandwidth/unit, 1)
	for low+1 < high {
		mid := (low + high) / 2
		in.Bandwidth = mid * unit
		if as(forecast.Of(in)) {
			high = mid
		} else {
			low = mid
		}
	}
	return high * unit
}

// sharing adds which shares to change now.
func (p *pass) sharing() {
	if w := p.budget.Writes(); len(w) > 0 {
		p.decisions = append(p.decisions, Decision{Shares: w})
	}
}

// writeShares carries changes of shares out.
func (l *Loop) writeShares(ctx context.Context, writes []budget.Write) error {
	n, revision, err := l.Orders.Share(ctx, writes)
	l.own.wrote(revision, err)
	l.Metrics.shared(n)
	return l.tolerate(ctx, "shares not written, they will be divided again", err)
}

// lookAtStreams brings what is remembered of streams and tenants up to date.
func (l *Loop) lookAtStreams(s *fleet.Snapshot, now time.Time) {
	l.traffic.Look(s, now)
	for _, id := range l.streams.Look(s, now) {
		m, p := s.Migrations[id], s.Progress[id]
		l.Log.Warn("a stream does not keep to its share", "migration", id, "domain", m.Domain, "source", m.Source,
			"cap", p.Cap, "achieved", p.Achieved, "strategy", fmt.Sprint(m.Order.Strategy.Name()))
		l.Metrics.deaf()
	}
	l.Metrics.streams(s)
}

// shareGap is the least time between two changes of shares, of whichever streams: agents' acknowledgements come
// one by one, and each lets some other stream grow.
const shareGap = 150 * time.Millisecond

// mayShare reports whether shares may be changed now; if not, another pass follows when they may.
func (l *Loop) mayShare(now time.Time) bool {
	if wait := l.shared.Add(shareGap).Sub(now); wait > 0 {
		time.AfterFunc(wait, l.again)
		return false
	}
	l.shared = now
	return true
}

// again asks for another pass.
func (l *Loop) again() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// ownWrites is what a leader has given away of the links: a picture from before must not be divided again, or
// the same bandwidth would be given to two. It is safe for concurrent use.
type ownWrites struct {
	mu       sync.Mutex
	revision int64
	doubt    time.Time // until when a write may yet be applied whose answer was lost
}

// doubted is how long nothing is given away after such a write.
const doubted = 2 * time.Second

func (o *ownWrites) wrote(revision int64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.revision = max(o.revision, revision)
	if err != nil && !errors.Is(err, precopy.ErrConflict) && !errors.Is(err, precopy.ErrFenced) {
		o.doubt = time.Now().Add(doubted)
	}
}

// seen reports whether a picture has all that was given away.
func (o *ownWrites) seen(revision int64, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return revision >= o.revision && !now.Before(o.doubt)
}
