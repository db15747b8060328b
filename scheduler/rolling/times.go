package rolling

import (
	"time"

	"drover/scheduler/calendar"
	"drover/scheduler/fleet"
)

const (
	// around is what a host takes besides its parts: the drain's beginning, the cordon that goes.
	around = 5 * time.Second
	// report is how long a host needs to be heard of anew.
	report = 10 * time.Second
	// maxWindows bounds how many windows are looked through for one that is long enough.
	maxWindows = 500
)

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// fit is the first time from t on at which needs fit into what the calendar allows, and when that ends (zero:
// never); false if there is none.
func fit(c *calendar.Calendar, t time.Time, needs time.Duration) (start, until time.Time, ok bool) {
	for range maxWindows {
		at, open := c.Opens(t)
		if !open {
			break
		}
		until = openUntil(c, at)
		if until.IsZero() || !at.Add(needs).After(until) {
			return at, until, true
		}
		t = until
	}
	return t, time.Time{}, false
}

// openUntil is when the time that is allowed at t ends, whichever windows it is made of.
func openUntil(c *calendar.Calendar, t time.Time) time.Time {
	for range maxWindows {
		v := c.At(t)
		switch {
		case !v.Allowed:
			return t
		case v.Until.IsZero():
			return time.Time{}
		}
		t = v.Until
	}
	return t
}

// needs is how long a host takes whose drain is foreseen.
func (s *step) needs(d fleet.Run) time.Duration {
	moving := time.Duration(0)
	if d.Outlook != nil {
		moving = d.Outlook.End.Sub(d.Outlook.At)
	}
	out := moving + s.work() + around
	if s.roll.Return {
		out += moving
	}
	return out.Round(time.Second)
}

// work is how long a host is expected to be empty.
func (s *step) work() time.Duration {
	var out time.Duration
	for _, h := range s.roll.Hooks {
		out += h.Expected()
	}
	return out + s.recovery()
}

// recovery is how long a host is expected to need until it is healthy.
func (s *step) recovery() time.Duration {
	h := s.roll.Healthy
	switch {
	case h.Takes > 0:
		return time.Duration(h.Takes)
	case s.restarts():
		return time.Duration(h.Within)
	case s.waits():
		return report
	}
	return 0
}

// waits reports whether anything is done with a host for which its agent is to be heard of anew.
func (s *step) waits() bool { return len(s.roll.Hooks) > 0 || s.roll.Healthy != (fleet.Healthy{}) }

// restarts reports whether a host's agent must have started anew.
func (s *step) restarts() bool {
	for _, h := range s.roll.Hooks {
		if h.Away {
			return true
		}
	}
	return s.roll.Healthy.Restarted
}

// look brings the outlook up to date. When each host begins and ends is told anew when one has begun or ended.
func (s *step) look() {
	if s.r.Phase != fleet.RunRunning {
		s.r.Outlook = nil
		return
	}
	o := &fleet.Outlook{At: s.Now, End: s.Now, Pace: 1}
	var lanes []time.Time
	for i := range s.roll.Rolled {
		h := &s.roll.Rolled[i]
		if h.State.Active() {
			o.Left++
			lanes = append(lanes, s.ends(h))
		}
	}
	for len(lanes) < s.parallel() {
		lanes = append(lanes, s.Now)
	}
	for i := range s.roll.Rolled {
		h := &s.roll.Rolled[i]
		if h.State != fleet.RollWaiting {
			continue
		}
		o.Left++
		k := 0
		for j := range lanes {
			if lanes[j].Before(lanes[k]) {
				k = j
			}
		}
		needs := time.Duration(h.Needs * float64(time.Second))
		at, _, fits := fit(s.cal, lanes[k], needs)
		if !fits {
			at = lanes[k]
		}
		if s.changed {
			h.Start, h.End = at, at.Add(needs)
		}
		lanes[k] = at.Add(needs)
		if i == 0 && s.roll.Canary {
			for j := range lanes {
				lanes[j] = laterOf(lanes[j], lanes[k])
			}
		}
	}
	for _, t := range lanes {
		o.End = laterOf(o.End, t)
	}
	o.End = o.End.Round(time.Second)
	if d := s.r.Deadline; d != nil && o.End.After(*d) {
		o.Late = true
		o.Options = []fleet.Option{{
			Effect: "more time", Command: "drover run set " + s.r.ID + " --deadline " + o.End.Add(o.End.Sub(s.Now)/5).UTC().Format(time.RFC3339),
		}}
	}
	s.r.Outlook = o
}

// ends is when a host that is out of service is expected to be back.
func (s *step) ends(h *fleet.RolledHost) time.Time {
	var left time.Duration
	since := func(d time.Duration) time.Duration {
		if h.Since == nil {
			return d
		}
		return max(d-s.Now.Sub(*h.Since), 0)
	}
	back := time.Duration(0)
	if s.roll.Return {
		back = max((time.Duration(h.Needs*float64(time.Second))-s.work()-around)/2, 0)
	}
	switch h.State {
	case fleet.RollDraining:
		if d, there := s.Fleet.Runs[h.Drain]; there && d.Outlook != nil {
			left = max(d.Outlook.End.Sub(s.Now), 0) + s.work() + back
		} else {
			left = since(time.Duration(h.Needs * float64(time.Second)))
		}
	case fleet.RollHooks:
		for i, hook := range s.roll.Hooks {
			if i >= passed(h) {
				left += hook.Expected()
			}
		}
		left = since(left) + s.recovery() + back
	case fleet.RollHealth:
		left = since(s.recovery()) + back
	case fleet.RollRestoring:
		if d, there := s.Fleet.Runs[h.Restore]; there && d.Outlook != nil {
			left = max(d.Outlook.End.Sub(s.Now), 0)
		} else {
			left = since(back)
		}
	}
	return s.Now.Add(left)
}
