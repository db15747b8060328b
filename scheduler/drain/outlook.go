package drain

import (
	"maps"
	"slices"
	"time"

	"drover/scheduler/fleet"
)

const (
	// keptForecasts bounds the record of what was told.
	keptForecasts = 100
	// least is the smallest change of the end that is told, and leastShare the smallest share of the time left.
	least      = 2 * time.Second
	leastShare = 0.05
	// earlierRuns is how many runs that are over are asked how right their forecasts were.
	earlierRuns = 5
	// trust is the share of a run's expected work that has to be done before its own pace weighs as much as what
	// was expected before it began.
	trust = 0.15
)

// look brings the run's outlook up to date. One that says much the same as the last is not told.
func (s *step) look() {
	if s.r.Phase != fleet.RunRunning {
		if s.r.Phase.Final() {
			s.r.Outlook = nil
		}
		return
	}
	o := &fleet.Outlook{At: s.Now, Pace: s.pace()}
	moved := 0
	for _, m := range s.r.Moves {
		switch {
		case !m.State.Final():
			o.Left++
		case m.State == fleet.MoveMoved:
			moved++
		}
	}
	o.End = s.Now.Add(s.rest(s.r.Moves, s.lanes(), o.Pace).Round(time.Second))
	if d := s.r.Deadline; d != nil && o.End.After(*d) {
		o.Late = true
		o.Options = s.options(o)
	}
	if alike(s.r.Outlook, o) {
		return
	}
	s.r.Outlook = o
	s.r.Forecasts = append(slices.Clone(s.r.Forecasts), fleet.RunForecast{At: o.At, End: o.End, Left: o.Left, Moved: moved, Late: o.Late})
	if n := len(s.r.Forecasts); n > keptForecasts {
		kept := s.r.Forecasts[:1]
		for i := 2; i < n; i += 2 {
			kept = append(kept, s.r.Forecasts[i])
		}
		s.r.Forecasts = kept
	}
}

// alike reports whether two outlooks say much the same.
func alike(a, b *fleet.Outlook) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Late != b.Late || a.Left != b.Left {
		return false
	}
	return b.End.Sub(a.End).Abs() <= max(least, time.Duration(leastShare*float64(b.End.Sub(b.At))))
}

// pace is how long the run takes over what its moves are expected to: as earlier runs have shown at first, and
// more and more as this one does. A move under way says nothing yet.
func (s *step) pace() float64 {
	before := s.earlier()
	if s.r.Started == nil || s.r.Kind == fleet.RunRebalance {
		return before
	}
	all, left := s.rest(s.whole(), s.lanes(), before), s.rest(s.r.Moves, s.lanes(), before)
	done := all - left
	if done <= 0 || all <= 0 {
		return before
	}
	weight := trust * float64(all)
	return before * (float64(s.Now.Sub(*s.r.Started)) + weight) / (float64(done) + weight)
}

// whole is the run's moves as if none had begun.
func (s *step) whole() []fleet.RunMove {
	whole := slices.Clone(s.r.Moves)
	for i := range whole {
		if m := &whole[i]; m.State == fleet.MoveMoved || m.State == fleet.MoveAsked {
			m.State, m.Began = fleet.MovePlanned, nil
		}
	}
	return whole
}

// earlier is the pace that runs had which are over: the median of the last few, 1 without any.
func (s *step) earlier() float64 {
	var paces []float64
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(s.Fleet.Runs))) {
		r := s.Fleet.Runs[id]
		if p, known := shown(r.Run); known && r.Kind == s.r.Kind {
			paces = append(paces, p)
		}
		if len(paces) == earlierRuns {
			break
		}
	}
	if len(paces) == 0 {
		return 1
	}
	slices.Sort(paces)
	return paces[len(paces)/2]
}

// shown is the pace that a run had which is over and did all it was to.
func shown(r fleet.Run) (float64, bool) {
	if r.Phase != fleet.RunDone || r.Pace <= 0 {
		return 0, false
	}
	return r.Pace, true
}
