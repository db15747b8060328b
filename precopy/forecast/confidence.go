package forecast

import (
	"fmt"
	"time"

	"drover/hypervisor"
)

// Confidence says what a forecast rests on. The words are stable.
type Confidence string

// The confidences, from the least to the most.
const (
	None   Confidence = "none"   // nothing is known but the size
	Sample Confidence = "sample" // a dirty-rate sample
	Stale  Confidence = "stale"  // receipts that are old, or of a guest that does something else now
	Mixed  Confidence = "mixed"  // receipts that do not agree
	Once   Confidence = "once"   // one receipt, or none of the strategy to be used
	Agreed Confidence = "agreed" // several receipts that agree
)

const (
	// receiptLife is how old a receipt may be to count in full.
	receiptLife = 30 * 24 * time.Hour
	// sampleLife is how old a dirty-rate sample may be to say what the guest does now.
	sampleLife = 15 * time.Minute
	// agreeing and agreed are the factors within which receipts agree of the memory that is dirtied, and of
	// the time that it took.
	agreeing = 1.5
	agreed   = 1.25
)

// around is the range of a duration that nine in ten fall into: of simulated guests (TestAccuracy), with
// some room for real ones above. Less than that is known of guests that nothing is known of.
func (c Confidence) around(d time.Duration) (low, high time.Duration) {
	r := map[Confidence][2]float64{
		None: {0.5, 4}, Sample: {0.4, 1.5}, Stale: {0.5, 2}, Mixed: {0.8, 1.5}, Once: {0.5, 1.35}, Agreed: {0.8, 1.25},
	}[c]
	return seconds(r[0] * d.Seconds()), seconds(r[1] * d.Seconds())
}

// confidence is how sure the forecast of a course is.
func (k *known) confidence(c course) Confidence {
	switch k.source {
	case fromNothing:
		return None
	case fromSample:
		return Sample
	case fromReceipts:
	}
	var fresh []Receipt
	for _, r := range k.receipts {
		if k.Now.Sub(r.At) <= receiptLife {
			fresh = append(fresh, r)
		}
	}
	fresh = fresh[max(0, len(fresh)-recent):]
	switch {
	case len(fresh) == 0 || k.change != 1:
		return Stale
	case len(fresh) == 1 || !c.tried:
		return Once
	case !c.recurs && !k.agree(fresh):
		return Mixed
	}
	return Agreed
}

// agree reports whether receipts show a guest that dirties about the same in a second and in a first
// pass.
func (k *known) agree(receipts []Receipt) bool {
	for _, window := range []time.Duration{time.Second, k.speed(k.Bandwidth).Time(k.firstPass())} {
		low, high := hypervisor.Bytes(0), hypervisor.Bytes(0)
		for i, r := range receipts {
			d := r.Growth.Dirtied(window) + sampledNoise
			if i == 0 {
				low, high = d, d
			}
			low, high = min(low, d), max(high, d)
		}
		if float64(high) > agreeing*float64(low) {
			return false
		}
	}
	return true
}

// Hopeless reports whether the forecast is so sure that the migration would not end within the intent
// that to try it would only cost time.
func (f Forecast) Hopeless() bool { return !f.Converges && f.Confidence == Agreed }

// Rests says in words what the forecast rests on.
func (f Forecast) Rests() string {
	switch f.Confidence {
	case None:
		return "never seen, no sample"
	case Sample:
		return fmt.Sprintf("never seen, memory sampled %s ago", f.Basis.DirtyAge.Round(time.Second))
	case Stale:
		return "earlier migrations that are old, or of another load"
	case Mixed:
		return fmt.Sprintf("%d earlier migrations that do not agree", f.Receipts)
	case Once:
		return "one earlier migration, or another strategy than before"
	case Agreed:
	}
	return fmt.Sprintf("%d earlier migrations that agree", f.Receipts)
}
