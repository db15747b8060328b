package probe

import (
	"slices"
	"time"
)

// Silence is a stretch without any output.
type Silence struct {
	Start  time.Time     `json:"-"`
	Length time.Duration `json:"-"`
}

// tellSilence is the shortest silence worth listing: a busy machine makes shorter ones by itself.
const tellSilence = 50 * time.Millisecond

// maxSilences bounds the list.
const maxSilences = 200

// aliveWithin is how recent the last output of a live guest is; a pause is shorter than that or it is an outage.
const aliveWithin = time.Second

// Analysis turns time-stamped output into figures. Make it with [NewAnalysis], feed it with Grow in order of time, and
// read it with Report. It is pure: it reads no clock.
type Analysis struct {
	parser   Parser
	begin    time.Time
	lastAt   time.Time // last growth, or the beginning
	grown    bool
	longest  Silence
	silences []Silence
	first    *stamped
	last     *stamped
	early    []stamped // for a baseline when the history gives none
	baseline float64   // pages per second; 0 when unknown
}

type stamped struct {
	at time.Time
	Sample
}

// NewAnalysis begins at a time, with the output from before in history: counted in the totals, and the source of
// the work rate to compare with. Only the part of history from offset count on is counted.
func NewAnalysis(begin time.Time, history []byte, count int) *Analysis {
	a := &Analysis{begin: begin, lastAt: begin}
	var before Parser
	samples := before.Feed(history[:count])
	uncounted := before.Tally
	samples = append(samples, before.Feed(history[count:])...)
	a.baseline = medianRate(samples)
	a.parser = before
	// Keep the state, so that the next sample is compared with the last one, but start the counts at the mark.
	t := &a.parser.Tally
	t.Beats -= uncounted.Beats
	t.Samples -= uncounted.Samples
	t.Mismatches -= uncounted.Mismatches
	t.DiskErrors -= uncounted.DiskErrors
	t.Boots -= uncounted.Boots
	t.Duplicates -= uncounted.Duplicates
	return a
}

// baselineSamples is how much history the rate is taken from: three seconds.
const baselineSamples = 30

// medianRate is the usual work per second of guest time over the last samples; the median leaves out the moments of
// an earlier pause or throttle. It is 0 when there is too little to tell.
func medianRate(samples []Sample) float64 {
	samples = samples[max(0, len(samples)-baselineSamples-1):]
	var rates []float64
	for i := 1; i < len(samples); i++ {
		d := samples[i].GuestTime - samples[i-1].GuestTime
		if w := samples[i].Work - samples[i-1].Work; d > 0 && w >= 0 {
			rates = append(rates, float64(w)/d.Seconds())
		}
	}
	if len(rates) < 5 {
		return 0
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// Grow takes output that appeared at a time.
func (a *Analysis) Grow(at time.Time, data []byte) {
	if len(data) == 0 {
		return
	}
	a.quiet(at)
	a.lastAt, a.grown = at, true
	boots := a.parser.Tally.Boots
	for _, s := range a.parser.Feed(data) {
		st := stamped{at, s}
		if len(a.early) < baselineSamples {
			a.early = append(a.early, st)
		}
		if a.first == nil {
			a.first = &st
		}
		a.last = &st
	}
	if a.parser.Tally.Boots != boots {
		// The work counter began again: what came before cannot be compared.
		a.first = a.last
	}
}

// quiet notes the silence that ends at a time.
func (a *Analysis) quiet(at time.Time) {
	s := Silence{Start: a.lastAt, Length: at.Sub(a.lastAt)}
	if s.Length > a.longest.Length {
		a.longest = s
	}
	if s.Length >= tellSilence && len(a.silences) < maxSilences {
		a.silences = append(a.silences, s)
	}
}

// rate is the work rate to compare with.
func (a *Analysis) rate() float64 {
	if a.baseline > 0 {
		return a.baseline
	}
	samples := make([]Sample, len(a.early))
	for i, s := range a.early {
		samples[i] = s.Sample
	}
	return medianRate(samples)
}

// lost is the guest work that was not done between the first and the last sample, as time at the usual rate.
func (a *Analysis) lost() (lost, over time.Duration) {
	r := a.rate()
	if a.first == nil || a.last == a.first || r <= 0 {
		return 0, 0
	}
	over = a.last.at.Sub(a.first.at)
	done := time.Duration(float64(a.last.Work-a.first.Work) / r * float64(time.Second))
	return max(0, over-done), over
}
