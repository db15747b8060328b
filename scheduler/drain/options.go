package drain

import (
	"fmt"
	"slices"
	"time"

	"drover/scheduler/fleet"
)

const (
	// mostLanes is the largest parallelism that is suggested.
	mostLanes = 4
	// longerPause is the pause that is suggested where a longer one helps.
	longerPause = time.Second
	// worthwhile is the share of the time left that a suggestion must save.
	worthwhile = 0.05
	// atOnce bounds suggestions that name VMs.
	atOnce = 3
)

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
	slices.SortStableFunc(out, func(a, b int) int { return int(s.expected(s.r.Moves[b]) - s.expected(s.r.Moves[a])) })
	return out
}
