package signal

import (
	"math"
	"time"

	"drover/hypervisor"
)

const (
	// Slot is the span over which reports are averaged unless a memory has another one; means and variances
	// are of slots.
	Slot = 5 * time.Minute
	// halfLife is after how many slots one counts half.
	halfLife = 24
	// Warmup is how many slots make an estimate ready: an hour.
	Warmup = 12

	bins  = 32 // of reports, for the percentile
	hours = 24
	// daysKept is how many days an hour's mean is over, about.
	daysKept = 7
	// provenHours is how many hours the daily profile must have foretold before it may be used: three days.
	provenHours = 3 * hours
	// A load that for jumpRun slots in a row was off its mean to one side, each time by more than jumpOff
	// standard deviations, has another level now. Of independent normal slots three in a row are once in two
	// million; of loads as they are, with their bursts, once in some hundred days of a VM.
	jumpRun = 3
	jumpOff = 2.5
	// betterBy is how much smaller the profile's squared error must be than the plain mean's.
	betterBy = 0.8
)

// Estimate is what is known of a load, of a VM or of VMs together.
type Estimate struct {
	// Mean is the load expected, SD the standard deviation of slots around it, and Error the standard error
	// of Mean itself.
	Mean, SD, Error hypervisor.Cores
	// P95 is the load that one report in twenty exceeds. Of VMs together it is that of a normal distribution.
	P95 hypervisor.Cores
	// Daily says that Mean is what the hour of the day foretells.
	Daily bool
	// Ready says that there is evidence enough to move VMs by.
	Ready bool
}

// Series is the load of one VM, in a fixed size. The zero value is a VM never seen.
type Series struct {
	// Fields are exported for encoding only.

	LastMS  int64 // Unix time of the last report
	SlotMS  int64 // the length of a slot; 0 is Slot
	SlotAt  int64 // the slot that is being filled: Unix time over its length
	SlotSum float32
	SlotFor float32 // seconds

	// Of closed slots, with weights that fall with age: sum of weights and of their squares; mean; variance;
	// covariance of neighbours; the last slot.
	Weight, Weight2, Mean, Var, Cov, Prev float32

	Seen   float32 // slots, whatever their age
	Run    float32 // of slots off to one side: so many, below zero if to the lower one
	RunSum float32 // of these
	RunVar float32 // Var when they began

	Top  float32 // cores at the end of the last bin but one; above is the last
	Bins [bins]float32

	HourAt          int64 // the hour that is being filled: Unix time over an hour
	HourSum         float32
	HourFor         float32
	HourGuess       float32 // the plain mean when the hour began
	Day             [hours]float32
	Days            [hours]float32 // of how many days Day is
	ErrDay, ErrMean float32        // squared errors, with weights as Proven
	Proven          float32        // hours foretold
}

// Add takes one report: the cores that a VM of so many vCPUs used since the last report. Reports older than
// the last one are left out, and so is nonsense.
func (s *Series) Add(at time.Time, used hypervisor.Cores, vcpus int) {
	x, ms := float32(used), at.UnixMilli()
	if ms <= s.LastMS || !(x >= 0) || x > 1e6 {
		return
	}
	seconds := float32(1) // of the first report the span is not known
	if s.LastMS > 0 {
		// One that is late counts for a slot at most.
		seconds = float32(min(ms-s.LastMS, s.slotMS())) / 1000
	}
	s.LastMS = ms
	if slot := s.slotOf(ms); slot != s.SlotAt {
		s.closeSlot(slot)
	}
	if hour := hourOf(ms); hour != s.HourAt {
		s.closeHour(hour)
	}
	s.SlotSum += x * seconds
	s.SlotFor += seconds
	s.HourSum += x * seconds
	s.HourFor += seconds
	s.bin(x, float32(max(vcpus, 1)), seconds)
}

// A report is about the time before it: one of a full hour belongs to the hour that ends.
func (s *Series) slotOf(ms int64) int64 { return (ms - 1) / s.slotMS() }

func (s *Series) slotMS() int64 {
	if s.SlotMS > 0 {
		return s.SlotMS
	}
	return Slot.Milliseconds()
}

func hourOf(ms int64) int64 { return (ms - 1) / time.Hour.Milliseconds() }

// closeSlot takes the slot that is over into the mean and the variance, by the usual update of weighted
// moments, unless it shows another level.
func (s *Series) closeSlot(next int64) {
	if s.SlotFor > 0 {
		x := s.SlotSum / s.SlotFor
		s.run(x)
		s.Seen++
		s.Weight++
		s.Weight2++
		share := 1 / s.Weight
		off, before := x-s.Mean, s.Prev-s.Mean
		s.Mean += share * off
		s.Var = (1 - share) * (s.Var + share*off*off)
		s.Cov = (1 - share) * (s.Cov + share*off*before)
		s.Prev = x
		if s.Run == jumpRun || s.Run == -jumpRun {
			s.Mean, s.Var, s.Cov = s.RunSum/jumpRun, s.RunVar, 0
			s.Weight, s.Weight2, s.Run = jumpRun, jumpRun, 0
		}
	}
	fall := fallOver(next - s.SlotAt)
	s.Weight *= fall
	s.Weight2 *= fall * fall
	for i := range s.Bins {
		s.Bins[i] *= fall
	}
	s.SlotAt, s.SlotSum, s.SlotFor = next, 0, 0
}

// run counts slots in a row that are off to one side.
func (s *Series) run(x float32) {
	off, side := x-s.Mean, float32(1)
	if off < 0 {
		side = -1
	}
	switch {
	case s.Seen < Warmup || off*off <= jumpOff*jumpOff*s.Var:
		s.Run = 0
	case s.Run*side > 0:
		s.Run += side
		s.RunSum += x
	default:
		s.Run, s.RunSum, s.RunVar = side, x, s.Var
	}
}

// fallOver is what is left of a weight after so many slots.
func fallOver(slots int64) float32 { return float32(math.Exp2(-float64(slots) / halfLife)) }

// weightAt is the weight of what is known, at the slot if that is later than the series' own.
func (s *Series) weightAt(slot int64) float32 { return s.Weight * fallOver(max(slot-s.SlotAt, 0)) }

// closeHour compares what the profile and the plain mean foretold of the hour that is over, then lets the
// profile learn it.
func (s *Series) closeHour(next int64) {
	// An hour of which less than half was seen tells too little.
	if s.HourFor >= float32(time.Hour.Seconds()/2) {
		h, x := s.HourAt%hours, s.HourSum/s.HourFor
		if s.Days[h] > 0 && s.HourGuess >= 0 {
			const fall = 1 - 1.0/(daysKept*hours)
			day, mean := x-s.Day[h], x-s.HourGuess
			s.ErrDay = s.ErrDay*fall + day*day
			s.ErrMean = s.ErrMean*fall + mean*mean
			s.Proven = s.Proven*fall + 1
		}
		s.Days[h] = min(s.Days[h]+1, daysKept)
		s.Day[h] += (x - s.Day[h]) / s.Days[h]
	}
	s.HourAt, s.HourSum, s.HourFor = next, 0, 0
	s.HourGuess = s.Mean
	if s.Weight == 0 {
		s.HourGuess = -1 // nothing was foretold
	}
}

// bin counts a report. A change of the vCPUs begins anew.
func (s *Series) bin(x, top, seconds float32) {
	if s.Top != top {
		s.Top, s.Bins = top, [bins]float32{}
	}
	s.Bins[min(int(x/top*(bins-1)), bins-1)] += seconds
}

// quantile is the load that the share of reports stays below, to a bin's width, which is a thirty-first of
// the VM's vCPUs. What exceeds all vCPUs counts as these and one width more.
func (s *Series) quantile(share float32) float32 {
	total := float32(0)
	for _, w := range s.Bins {
		total += w
	}
	sum := float32(0)
	for i, w := range s.Bins {
		if sum+w >= share*total && w > 0 {
			return (float32(i) + (share*total-sum)/w) * s.Top / (bins - 1)
		}
		sum += w
	}
	return 0
}

// Foretells reports whether the hours of the day have foretold the load better than the plain mean.
func (s *Series) Foretells() bool {
	return s.Proven >= provenHours*0.8 && s.ErrDay < betterBy*s.ErrMean
}

// Estimate is the load expected from now on for the horizon.
func (s *Series) Estimate(now time.Time, horizon time.Duration) Estimate {
	if s.Weight == 0 {
		return Estimate{}
	}
	// Of n slots with weights w, q = sum(w^2)/sum(w)^2 is what 1/n is of equal ones: the sample variance is
	// too small by 1-q, and the mean's variance is q times it. Neighbours that are alike by r make the mean
	// as uncertain as (1-r)/(1+r) times as many independent slots (first-order autoregression).
	q := float64(min(s.Weight2/(s.Weight*s.Weight), 1))
	out := Estimate{
		Mean:  hypervisor.Cores(s.Mean),
		P95:   hypervisor.Cores(s.quantile(0.95)),
		Ready: s.Seen >= Warmup,
	}
	if q < 1 && s.Var > 0 {
		r := min(max(float64(s.Cov/s.Var), 0), 0.9)
		sd := math.Sqrt(float64(s.Var) / (1 - q))
		out.SD = hypervisor.Cores(sd)
		out.Error = hypervisor.Cores(sd * math.Sqrt(q*(1+r)/(1-r)))
	}
	if s.Foretells() {
		if mean, ok := s.profile(now, horizon); ok {
			out.Mean, out.Daily = hypervisor.Cores(mean), true
			out.Error = hypervisor.Cores(math.Sqrt(float64(s.ErrDay / s.Proven)))
		}
	}
	return out
}

// profile is the mean of the hours of the day from now to the horizon, but for a day at most.
func (s *Series) profile(now time.Time, horizon time.Duration) (float32, bool) {
	first := now.Unix() / 3600
	last := first + int64(max(horizon-1, 0)/time.Hour)
	last = max(min(last, first+hours-1), first)
	sum := float32(0)
	for h := first; h <= last; h++ {
		if s.Days[h%hours] == 0 {
			return 0, false
		}
		sum += s.Day[h%hours]
	}
	return sum / float32(last-first+1), true
}

// Sum is the load of VMs together, taken as independent of each other. It is ready when all are.
func Sum(list ...Estimate) Estimate {
	out := Estimate{Ready: true}
	var variance, square float64
	for _, e := range list {
		out.Mean += e.Mean
		variance += float64(e.SD * e.SD)
		square += float64(e.Error * e.Error)
		out.Ready = out.Ready && e.Ready
		out.Daily = out.Daily || e.Daily
	}
	out.SD, out.Error = hypervisor.Cores(math.Sqrt(variance)), hypervisor.Cores(math.Sqrt(square))
	out.P95 = out.Mean + 1.645*out.SD
	return out
}

// Excess is the load above c that is expected, by a normal distribution. With the mean shifted by z of its
// errors it is what the evidence bears out: z below zero for what is sure, above for what is possible.
func (e Estimate) Excess(c hypervisor.Cores, z float64) hypervisor.Cores {
	over := e.Mean + hypervisor.Cores(z)*e.Error - c
	if e.SD <= 0 {
		return max(over, 0)
	}
	// The expectation of the positive part of a normal is sigma (phi(x) + x Phi(x)), x = mean / sigma.
	x := float64(over / e.SD)
	return e.SD * hypervisor.Cores(math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)+x*0.5*math.Erfc(-x/math.Sqrt2))
}

// Less is what is left of e, a sum, without one of those that it is of.
func (e Estimate) Less(x Estimate) Estimate {
	e.Mean = max(e.Mean-x.Mean, 0)
	e.SD = rootOfDifference(e.SD, x.SD)
	e.Error = rootOfDifference(e.Error, x.Error)
	e.P95 = e.Mean + 1.645*e.SD
	return e
}

func rootOfDifference(a, b hypervisor.Cores) hypervisor.Cores {
	return hypervisor.Cores(math.Sqrt(max(float64(a*a-b*b), 0)))
}
