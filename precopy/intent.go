package precopy

import (
	"fmt"
	"math"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// Forecast is what was expected before the start.
type Forecast struct {
	Seconds float64 `json:"seconds"`
	// SecondsLow and SecondsHigh are the range that nine in ten are expected in.
	SecondsLow  float64          `json:"seconds_low,omitempty"`
	SecondsHigh float64          `json:"seconds_high,omitempty"`
	Bytes       hypervisor.Bytes `json:"bytes"`
	PauseMS     int64            `json:"pause_ms"`
	Strategy    string           `json:"strategy,omitempty"`
	// Slowdown is the share of guest work that is expected to be lost, 0 to 1.
	Slowdown   float64             `json:"slowdown,omitempty"`
	Confidence forecast.Confidence `json:"confidence,omitempty"`
	// Rests says what it rests on, Beyond what of the intent it takes besides a pause within the promise.
	Rests  string `json:"rests,omitempty"`
	Beyond string `json:"beyond,omitempty"`
	// Unlikely says why it is not expected to end within the intent, and what would have to change; empty
	// when it is.
	Unlikely string         `json:"unlikely,omitempty"`
	Basis    forecast.Basis `json:"basis,omitzero"`
}

// ForecastOf is the record of a forecast.
func ForecastOf(f forecast.Forecast) *Forecast {
	tenth := func(d time.Duration) float64 { return math.Round(d.Seconds()*10) / 10 }
	return &Forecast{
		Seconds: tenth(f.Duration), SecondsLow: tenth(f.Low), SecondsHigh: tenth(f.High),
		Bytes: f.Bytes, PauseMS: f.Pause.Milliseconds(), Strategy: f.Strategy.Name(),
		Slowdown: math.Round(f.Slowdown*1000) / 1000, Confidence: f.Confidence, Rests: f.Rests(),
		Beyond: f.Beyond, Unlikely: f.Why, Basis: f.Basis,
	}
}

// Intent is the policy as a forecast knows it.
func (p Policy) Intent() forecast.Intent {
	return forecast.Intent{
		MaxPause: p.MaxPause(), Ceiling: p.MaxPauseCeiling(), MaxSlowdown: p.MaxSlowdown, PostCopy: p.PostCopy,
		Budget: time.Duration(p.BudgetSeconds * float64(time.Second)),
	}
}

// Receipt is what a finished migration has shown of its domain, together with what it was ordered under;
// false when it has shown nothing, or was driven by another manager's policy, which says little of how
// drover's own would do.
func (m Migration) Receipt() (forecast.Receipt, bool) {
	if !m.Phase.Final() || m.Outcome == nil || m.Outcome.Receipt == nil || m.Policy.Tuning != "" {
		return forecast.Receipt{}, false
	}
	r := *m.Outcome.Receipt
	r.ID, r.Done, r.Encrypt = m.ID, m.Phase == Done, m.Policy.Encrypt
	r.Intent, r.CopyStorage = m.Policy.Intent(), m.CopyStorage
	if !r.Done {
		r.Code = m.ReasonCode
	}
	if m.Forecast != nil {
		r.Basis = m.Forecast.Basis
	}
	return r, true
}

// Promise says what became of what a migration was started under.
type Promise string

// What may have become of a promise.
const (
	PromiseKept    Promise = "kept"
	PromiseCeiling Promise = "ceiling" // the pause is longer than promised, but within the ceiling
	PromiseBroken  Promise = "broken"  // a pause beyond the ceiling, or more slowdown or time than allowed
	PromiseUnknown Promise = "unknown" // the pause is not known
)

// Promises lists what may have become of a promise.
func Promises() []Promise {
	return []Promise{PromiseKept, PromiseCeiling, PromiseBroken, PromiseUnknown}
}

// Promise judges a completed migration; false for others, which moved nothing and broke nothing.
func (m Migration) Promise() (Promise, bool) {
	o, p := m.Outcome, m.Policy
	switch {
	case m.Phase != Done || o == nil:
		return "", false
	case o.Slowdown > p.MaxSlowdown+slack, p.BudgetSeconds > 0 && o.Seconds > p.BudgetSeconds,
		o.PauseKnown && o.PauseMS > p.MaxPauseCeiling().Milliseconds():
		return PromiseBroken, true
	case !o.PauseKnown:
		return PromiseUnknown, true
	case o.PauseMS > p.MaxPauseMS:
		return PromiseCeiling, true
	}
	return PromiseKept, true
}

// Unkept says for people what a completed migration has promised and not kept; empty where it has, and where
// nothing was promised, as under another manager's policy.
func (m Migration) Unkept() string {
	became, judged := m.Promise()
	if !judged || became == PromiseKept || became == PromiseUnknown || m.Policy.Tuning != "" || m.Policy.MaxPauseMS <= 0 {
		return ""
	}
	o, p := m.Outcome, m.Policy
	most := time.Duration(p.MaxPauseMS) * time.Millisecond
	switch ceiling := p.MaxPauseCeiling(); {
	case became == PromiseCeiling:
		return fmt.Sprintf("a pause of at most %s was promised, and %s if there is no other way", most, ceiling)
	case o.PauseKnown && o.PauseMS > ceiling.Milliseconds():
		return fmt.Sprintf("PROMISE NOT KEPT: a pause of at most %s was promised", ceiling)
	case o.Slowdown > p.MaxSlowdown+slack:
		return fmt.Sprintf("PROMISE NOT KEPT: the guest was slowed by %.0f %%, at most %.0f %% was promised", 100*o.Slowdown, 100*p.MaxSlowdown)
	}
	return fmt.Sprintf("PROMISE NOT KEPT: it was to take at most %s", time.Duration(p.BudgetSeconds*float64(time.Second)))
}

// slack is by how much a slowdown, which is read at intervals, may seem more than it was.
const slack = 0.005

// silentPart is the part of the promised pause for which slowing a guest may silence it.
const silentPart = 0.33

// Silence is how long a guest may be silent for being slowed. It is so small a part of the promised pause because now and
// then a guest is silent for twice that, when it needs more CPU time for a sign of life than is reckoned with
// (hypervisor/throttle), and the last silence comes on top of the switchover. The ceiling is for a pause at the end, not
// for silences over and over.
func (p Policy) Silence() time.Duration { return time.Duration(silentPart * float64(p.MaxPause())) }
