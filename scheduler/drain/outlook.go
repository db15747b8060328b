package drain

import (
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

const (
	// around is what a move takes besides its forecast, until the run has shown better: questions to both
	// hosts, the order, the claim.
	around = 2 * time.Second
	// mostLanes is the largest parallelism that is suggested.
	mostLanes = 4
	// longerPause is the pause that is suggested where a longer one helps.
	longerPause = time.Second
	// worthwhile is the share of the time left that a suggestion must save.
	worthwhile = 0.05
	// atOnce bounds suggestions that name VMs.
	atOnce = 3
)

// look brings the run's outlook up to date.
func (s *step) look() {
	if s.r.Phase != fleet.RunRunning {
		s.r.Outlook = nil
		return
	}
	o := &fleet.Outlook{At: s.Now, Pace: pace(s.r.Moves)}
	for _, m := range s.r.Moves {
		if !m.State.Final() {
			o.Left++
		}
	}
	o.End = s.Now.Add(s.rest(s.r.Moves, s.lanes(), o.Pace).Round(time.Second))
	if d := s.r.Deadline; d != nil && o.End.After(*d) {
		o.Late = true
		o.Options = s.options(o)
	}
	s.r.Outlook = o
}

// alike reports whether two outlooks say much the same: a difference of a tenth of the time left, or less
// than ten seconds.
func alike(a, b *fleet.Outlook) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Late != b.Late || a.Left != b.Left {
		return false
	}
	least := max(10*time.Second, b.End.Sub(b.At)/10)
	return b.End.Sub(a.End).Abs() <= least
}

// expected is how long a move takes by its forecast.
func expected(m fleet.RunMove) time.Duration {
	return around + time.Duration(m.Seconds*float64(time.Second))
}

// pace is what moves have taken over what they were to; 1 counts as one more of them, so that the first says
// only half.
func pace(moves []fleet.RunMove) float64 {
	var real, said time.Duration
	n := 0
	for _, m := range moves {
		if t, known := took(m); known && m.State == fleet.MoveMoved {
			real += t
			said += expected(m)
			n++
		}
	}
	if n == 0 {
		return 1
	}
	mean := said / time.Duration(n)
	return float64(real+mean) / float64(said+mean)
}

// rest is how long the moves take that are left, of those that can be made.
func (s *step) rest(moves []fleet.RunMove, lanes int, pace float64) time.Duration {
	type end struct {
		sum, longest time.Duration
		bytes        hypervisor.Bytes
	}
	from, to := map[string]end{}, map[string]time.Duration{}
	for _, m := range moves {
		if m.State.Final() || m.To == "" && s.isBlocked(m.UUID) {
			continue
		}
		t := time.Duration(pace * float64(expected(m)))
		bytes := m.Bytes
		if m.State == fleet.MoveAsked && m.Began != nil {
			left := max(t-s.Now.Sub(*m.Began), t/10)
			bytes = hypervisor.Bytes(float64(bytes) * float64(left) / float64(t))
			t = left
		}
		e := from[m.From]
		e.sum, e.longest, e.bytes = e.sum+t, max(e.longest, t), e.bytes+bytes
		from[m.From] = e
		to[m.To] += t
	}
	var out time.Duration
	for name, e := range from {
		out = max(out, e.sum/time.Duration(lanes), e.longest, s.link(name).Time(e.bytes))
	}
	for _, t := range to {
		out = max(out, t/time.Duration(max(s.Incoming, 1)))
	}
	return out
}

func (s *step) link(host string) hypervisor.BytesPerSecond {
	if h := s.Fleet.Hosts[host]; h != nil && h.Capacity().Bandwidth > 0 {
		return h.Capacity().Bandwidth
	}
	return unknownLink
}

// options are what could be traded for time, the least intrusive first.
func (s *step) options(o *fleet.Outlook) []fleet.Option {
	now := o.End.Sub(s.Now)
	saves := func(d time.Duration) bool { return float64(now-d) > worthwhile*float64(now) }
	by := func(d time.Duration) string { return "empty by " + s.Now.Add(d).UTC().Format("15:04:05 MST") }
	var out []fleet.Option
	for n := s.lanes() + 1; n <= mostLanes; n++ {
		if d := s.rest(s.r.Moves, n, o.Pace); saves(d) {
			out = append(out, fleet.Option{
				Effect:  fmt.Sprintf("%d at once from each host: %s", n, by(d)),
				Command: fmt.Sprintf("drover run set %s --max-parallel %d", s.r.ID, n),
			})
			break
		}
	}
	longest := s.longest()
	for _, i := range longest[:min(len(longest), atOnce)] {
		m := s.r.Moves[i]
		d, there := s.where.domain[m.UUID]
		if !there || m.To == "" {
			continue
		}
		f, _ := s.Foresee(d, m.To, longerPause)
		moves := slices.Clone(s.r.Moves)
		moves[i].Seconds, moves[i].Bytes = f.Duration.Seconds(), f.Bytes
		if rest := s.rest(moves, s.lanes(), o.Pace); f.Converges && saves(rest) {
			out = append(out, fleet.Option{
				Effect:  fmt.Sprintf("a pause of up to %s for %s: %s", longerPause, m.VM, by(rest)),
				Command: fmt.Sprintf("drover vm set %s --override max_pause=%s", m.VM, longerPause),
			})
		}
	}
	moves, command, names := slices.Clone(s.r.Moves), "drover run set "+s.r.ID, ""
	for _, i := range longest[:min(len(longest), atOnce)] {
		moves[i].State = fleet.MoveStays
		command += " --skip " + moves[i].VM
		names += " " + moves[i].VM
		if rest := s.rest(moves, s.lanes(), o.Pace); !s.Now.Add(rest).After(*s.r.Deadline) {
			out = append(out, fleet.Option{Effect: fmt.Sprintf("leave%s there: the others are gone by %s", names, s.Now.Add(rest).UTC().Format("15:04:05 MST")), Command: command})
			break
		}
	}
	return append(out, fleet.Option{
		Effect: "more time", Command: fmt.Sprintf("drover run set %s --deadline %s", s.r.ID, o.End.Add(now/5).UTC().Format(time.RFC3339)),
	})
}

// longest are the moves that have not begun, the longest first.
func (s *step) longest() []int {
	var out []int
	for i, m := range s.r.Moves {
		if m.State == fleet.MovePlanned {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int { return int(expected(s.r.Moves[b]) - expected(s.r.Moves[a])) })
	return out
}
