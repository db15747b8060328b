package forecast

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
)

// Input is what a forecast is made from. Zero fields are not known.
type Input struct {
	Now time.Time
	// Memory is the domain's allotment; Disks what is to be copied besides.
	Memory hypervisor.Bytes
	Disks  hypervisor.Bytes
	Basis  Basis
	// DirtyLong is a dirty-rate sample over a window several times as long as that of the basis.
	DirtyLong *hypervisor.DirtySample
	// Bandwidth is the cap on the stream.
	Bandwidth hypervisor.BytesPerSecond
	// CacheFree is the memory that is free on the source.
	CacheFree hypervisor.Bytes
	Can       Capabilities
	Intent    Intent
	Profile   Profile
}

// Capabilities are what both hosts can do besides one plain stream.
type Capabilities struct {
	XBZRLE   bool
	Zstd     bool // over multifd
	PostCopy bool
}

// Forecast is what is to be expected of a migration.
type Forecast struct {
	Strategy hypervisor.Strategy
	// Converges is false when it is not expected to end within the intent; Why says then what would have
	// to change, and Duration and Bytes are those until that is clear.
	Converges bool
	Why       string
	Duration  time.Duration
	// Low and High are the range that the duration is expected in, nine times in ten.
	Low, High time.Duration
	Bytes     hypervisor.Bytes // sent
	Pause     time.Duration    // of the guest
	Slowdown  float64          // share of guest work lost over Duration
	// Beyond says what of the intent it takes besides a pause within the promise; often empty.
	Beyond     string
	Confidence Confidence
	Basis      Basis
	// Receipts is how many earlier migrations it rests on.
	Receipts int
	Prior    Prior
}

// The factor on the cost by which a strategy must be better than the one at hand to be taken: one that
// is tried, or any while none is, and one of which nothing is known while something is known of another.
const (
	clearTried   = 0.97
	clearUntried = 0.9
	enough       = 2 // receipts
	farOff       = 1.4
)

// tooLong is by what factor a pause must be forecast to be longer than may be, for there to be no use in trying.
const tooLong = 1.5

// Of makes a forecast.
func Of(in Input) Forecast {
	k := know(in)
	at := circumstances{bandwidth: in.Bandwidth, memory: in.Memory, first: k.firstPass(), intent: in.Intent}
	var courses []course
	for _, c := range k.candidates() {
		courses = append(courses, k.calibrated(c, at))
	}
	likewise(courses)
	best := k.choose(courses)
	f := Forecast{
		Strategy: best.strategy, Converges: best.end != never, Why: best.why,
		Duration: best.took, Bytes: best.sent + in.Disks, Pause: best.pause, Slowdown: best.slowdown,
		Beyond: best.beyond(in.Intent), Confidence: k.confidence(best), Basis: in.Basis, Receipts: len(k.receipts),
		Prior: k.prior(best),
	}
	f.Duration += k.speed(in.Bandwidth).Time(in.Disks)
	f.Low, f.High = f.Confidence.around(f.Duration)
	budget := in.Intent.Budget
	if budget <= 0 {
		budget = Budget(in.Bandwidth, in.Memory, in.Disks)
	}
	switch most := max(in.Intent.MaxPause, in.Intent.Ceiling); {
	case !f.Converges:
	case f.Duration > budget:
		f.Converges = false
		f.Why = fmt.Sprintf("it takes about %s, and %s are allowed", brief(f.Duration), brief(budget))
	case most > 0 && float64(f.Pause) > tooLong*float64(most):
		f.Converges = false
		f.Why = fmt.Sprintf("its pause would be about %s, and %s are allowed", f.Pause.Round(10*time.Millisecond), most)
	}
	return f
}

// brief is a time for people, with a fraction where it is short.
func brief(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// choose takes the strategy that keeps most of the intent, of those the one that costs the least. One that
// this domain was never moved by is tried only if it is clearly better by what is assumed of it, or if
// those that it was moved by are known not to do.
// Where several migrations kept the promise, no other is tried any more.
func (k *known) choose(courses []course) course {
	settled := slices.ContainsFunc(courses, func(c course) bool { return c.tried && c.end == promised }) && len(k.receipts) >= enough
	if settled {
		courses = slices.DeleteFunc(slices.Clone(courses), func(c course) bool { return !c.tried })
	}
	anyTried := slices.ContainsFunc(courses, func(c course) bool { return c.tried })
	best := courses[0]
	for _, c := range courses[1:] {
		better := clearTried
		switch {
		case !c.tried && (anyTried || c.name == zstd): // zstd costs CPU
			better = clearUntried
		case anyTried && !best.tried:
			better = 1 / clearUntried
		}
		if c.end == never && best.end == never && c.tried != best.tried {
			better = math.Inf(1) // nothing is lost by trying
			if c.tried && best.name != plain {
				better = 0
			}
		}
		if c.end < best.end || c.end == best.end && c.cost() < better*best.cost() {
			best = c
		}
	}
	return best
}

// calibrated is the course of a strategy, set right by what its receipts took over what their courses
// say.
func (k *known) calibrated(c candidate, now circumstances) course {
	out := k.play(c, now)
	var like, other []float64
	var pauses []time.Duration
	var last *Receipt
	for i := len(k.receipts) - 1; i >= 0; i-- {
		r := &k.receipts[i]
		if r.Strategy != c.name || r.CopyStorage {
			continue
		}
		then := r.circumstances(c, now)
		same := then.alike(now)
		if same && last == nil {
			last = r
		}
		if !r.Done {
			continue
		}
		was := k.play(c, then)
		factor := r.Seconds / max(was.took.Seconds(), 0.001)
		switch {
		case !same:
			other = append(other, min(max(factor, 0.5), 2))
		case len(like) < recent:
			like = append(like, factor)
			pauses = append(pauses, time.Duration(r.PauseMS)*time.Millisecond-was.pause)
		}
	}
	factors := like
	if len(like) == 0 {
		factors = other[:min(len(other), recent)]
	}
	out.recurs = len(like) > 1 && slices.Max(like) <= agreed*slices.Min(like)
	if len(factors) > 0 {
		out.factor = median(factors)
		out.scale(out.factor)
	}
	if len(like) > 0 && k.change == 1 {
		out.pause = max(out.pause+median(pauses), time.Millisecond)
		out.happened(*last, now)
	}
	if last != nil && last.gaveUp() && k.change == 1 && out.end != postCopy {
		out.end = never
		if out.why == "" {
			out.why = k.advice(k.speed(now.bandwidth), k.speed(now.bandwidth), k.growth.Floor(k.speed(now.bandwidth)), now)
		}
		out.why = fmt.Sprintf("it was given up %s (%s): %s", last.At.Format("2006-01-02 15:04"), last.Code, out.why)
	}
	return out
}

// likewise sets right the courses of strategies that were never tried by what the others' took more or
// less: most of what the model does not know of a guest is the same for all of them. What is far off was
// the strategy's own.
func likewise(courses []course) {
	var known []float64
	for _, c := range courses {
		if c.factor > 0 {
			known = append(known, c.factor)
		}
	}
	if len(known) == 0 {
		return
	}
	for i := range courses {
		if courses[i].factor == 0 {
			courses[i].scale(min(max(median(known), 1/farOff), farOff))
		}
	}
}

func (c *course) scale(by float64) {
	c.took, c.sent = seconds(by*c.took.Seconds()), hypervisor.Bytes(by*float64(c.sent))
}

// happened lets what the last migration in like circumstances did say how this one ends.
func (c *course) happened(last Receipt, now circumstances) {
	switch {
	case !last.Done:
	case c.pause <= now.intent.MaxPause:
		c.end, c.why = promised, ""
	default:
		c.end, c.why = ceiling, ""
	}
	if last.Done && last.LeastShare > 0 {
		c.slowdown, c.share = last.Slowdown, last.LeastShare
	}
}

// gaveUp reports whether the convergence controller ended the attempt for want of a way to finish it.
func (r *Receipt) gaveUp() bool {
	return !r.Done && (r.Code == "not-converging" || r.Code == "over-budget")
}

// circumstances are those of the receipt, where it says, and those of now.
func (r *Receipt) circumstances(c candidate, now circumstances) circumstances {
	then := circumstances{bandwidth: r.Bandwidth, memory: r.Memory, first: now.first, intent: r.Intent}
	switch whole := r.firstWhole(); {
	case whole > 0:
		then.first = whole
	case r.FirstPass > 0:
		then.first = hypervisor.Bytes(float64(r.FirstPass) / c.first)
	}
	if then.intent == (Intent{}) {
		then.intent = now.intent
	}
	return then
}

// alike reports whether two circumstances are the same for this purpose.
func (at circumstances) alike(now circumstances) bool {
	return near(at.bandwidth, now.bandwidth) && near(at.memory, now.memory) && near(at.first, now.first) &&
		near(at.intent.MaxPause, now.intent.MaxPause) && near(at.intent.Ceiling, now.intent.Ceiling) &&
		near(at.intent.MaxSlowdown, now.intent.MaxSlowdown)
}

func (c course) beyond(in Intent) string {
	switch {
	case c.end == postCopy:
		return "post-copy after the first pass"
	case c.end != never && c.pause > max(in.MaxPause, in.Ceiling):
		return fmt.Sprintf("a pause beyond the %s that may be at most", max(in.MaxPause, in.Ceiling))
	case c.end == ceiling || c.end == promised && c.pause > in.MaxPause:
		return "a pause beyond the promise, within the ceiling"
	case c.end == promised && c.share < 1:
		return fmt.Sprintf("the guest slowed to %.0f %% for a while", 100*c.share)
	}
	return ""
}

// prior is what the controller is told. Of a domain that nothing is known of that is nothing.
func (k *known) prior(c course) Prior {
	p := Prior{Receipts: len(k.receipts)}
	if c.first < 1 {
		p.First = c.first
	}
	for _, o := range k.candidates() {
		if o.name != c.name {
			p.Others = append(p.Others, Option{Strategy: o.strategy, First: o.first, Ratio: o.ratio, Tried: o.tried})
		}
	}
	if k.source != fromNothing {
		p.Growth, p.Samples = k.growth, k.samples
	}
	if c.tried {
		p.Ratio = c.ratio
	}
	switch {
	case len(k.receipts) < enough || k.change != 1:
	case c.share < 1:
		p.Lean = lean
	default:
		p.Lean = 1 / lean
	}
	for _, r := range k.receipts {
		p.Ended = p.Ended || r.Done && !strings.HasSuffix(r.Strategy, UsedPostCopy)
		p.GaveUp = r.gaveUp() && k.change == 1
		if r.Done && k.change == 1 {
			p.Limit = r.Limit
		}
	}
	for _, s := range latest(k.receipts, Receipt.switchover) {
		p.Switchover = max(p.Switchover, s)
	}
	return p
}

func median[T ~int64 | ~float64](v []T) T {
	slices.Sort(v)
	low, high := v[(len(v)-1)/2], v[len(v)/2]
	return low + (high-low)/2
}
