package drain

import (
	"slices"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

const (
	// around is what a move takes besides its forecast: questions to both hosts, the order, the claim; and
	// prepared what of it is left where all that was done while another was being sent.
	around   = 2 * time.Second
	prepared = 300 * time.Millisecond
	// usable is the share of a link that memory gets: headers come to it.
	usable = 0.9
)

// expected is how long a move takes by its forecast.
func (s *step) expected(m fleet.RunMove) time.Duration {
	d := time.Duration(m.Seconds * float64(time.Second))
	if s.Ahead {
		return prepared + d
	}
	return around + d
}

// sent are the moves under way that have a lane of their host to themselves, and since when; the others that were
// asked for wait for one of these, prepared or not.
func (s *step) sent(moves []fleet.RunMove, lanes int) map[int]time.Time {
	type asked struct {
		i     int
		since time.Time
		held  bool
	}
	var list []asked
	ended := map[string]time.Time{}
	for i, m := range moves {
		switch {
		case m.State == fleet.MoveMoved && m.Ended != nil && m.Ended.After(ended[m.From]):
			ended[m.From] = *m.Ended
		case m.State == fleet.MoveAsked && m.Began != nil:
			a := asked{i: i, since: *m.Began}
			if mg := s.Fleet.Migrations[m.Migration]; mg.Phase.Holds() && mg.Order != nil {
				a.held = true
				if at := mg.Order.IssuedAt; at.After(a.since) {
					a.since = at
				}
			}
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b asked) int {
		if a.held != b.held {
			return map[bool]int{true: -1, false: 1}[a.held]
		}
		return a.since.Compare(b.since)
	})
	out, used := map[int]time.Time{}, map[string]int{}
	for _, a := range list {
		from := moves[a.i].From
		if used[from]++; used[from] > lanes {
			continue
		}
		if end := ended[from]; lanes == 1 && end.After(a.since) {
			a.since = end // it was prepared before
		}
		out[a.i] = a.since
	}
	return out
}

// queue is the moves that are left of a run as they will be made: each begins when a stream is free at both its
// hosts and those that it waits for are over.
type queue struct {
	moves    []fleet.RunMove
	out, in  map[string]int
	pace     float64
	expected func(fleet.RunMove) time.Duration
	lanes    int
	incoming int
	under    []int // indexes of those under way
	ends     map[int]time.Duration
	waits    []int
}

// rest is how long the moves take that are left, of those that can be made, at the pace: played through with as
// many at once as are allowed, and no shorter than their bytes take on any link.
func (s *step) rest(moves []fleet.RunMove, lanes int, pace float64) time.Duration {
	q := queue{
		pace: pace, expected: s.expected,
		moves: moves, out: map[string]int{}, in: map[string]int{}, lanes: lanes, incoming: max(s.Incoming, 1),
		ends: map[int]time.Duration{},
	}
	sent, under := map[string]hypervisor.Bytes{}, s.sent(moves, lanes)
	var next []int // asked for: before those that are not
	for i, m := range moves {
		if m.State.Final() || m.State == fleet.MoveShutting || m.To == "" && s.isBlocked(m.UUID) {
			continue
		}
		bytes := m.Bytes
		since, going := under[i]
		switch {
		case going:
			t := q.takes(m)
			left := max(t-s.Now.Sub(since), t/10)
			bytes = hypervisor.Bytes(float64(bytes) * float64(left) / float64(t))
			q.start(i, 0, left)
		case m.State == fleet.MoveAsked:
			next = append(next, i)
		default:
			q.waits = append(q.waits, i)
		}
		sent["from "+m.From] += bytes
		sent["to "+m.To] += bytes
	}
	q.waits = append(next, q.waits...)
	out := q.play()
	for _, m := range moves {
		for _, way := range [2][2]string{{"from ", m.From}, {"to ", m.To}} {
			if n := sent[way[0]+way[1]]; n > 0 && way[1] != "" {
				out = max(out, time.Duration(pace*float64(hypervisor.BytesPerSecond(usable*float64(s.link(way[1]))).Time(n))))
			}
		}
	}
	return out
}

func (q *queue) takes(m fleet.RunMove) time.Duration {
	return time.Duration(q.pace * float64(q.expected(m)))
}

func (q *queue) start(i int, now, takes time.Duration) {
	m := q.moves[i]
	q.out[m.From]++
	q.in[m.To]++
	q.under = append(q.under, i)
	q.ends[i] = now + takes
}

// play returns when the last move is over.
func (q *queue) play() time.Duration {
	now := time.Duration(0)
	for {
		q.fill(now)
		if len(q.under) == 0 {
			return now
		}
		first := 0
		for k, i := range q.under {
			if q.ends[i] < q.ends[q.under[first]] {
				first = k
			}
		}
		i := q.under[first]
		q.under = append(q.under[:first], q.under[first+1:]...)
		now = q.ends[i]
		q.out[q.moves[i].From]--
		q.in[q.moves[i].To]--
	}
}

// fill begins what can begin now. Where moves wait for each other, which the planner does not do, the first goes.
func (q *queue) fill(now time.Duration) {
	waits := q.waits[:0]
	for k, i := range q.waits {
		m := q.moves[i]
		stuck := len(q.under) == 0 && len(waits) == k && k == len(q.waits)-1
		if !stuck && (!q.ready(m, now) || q.out[m.From] >= q.lanes || m.To != "" && q.in[m.To] >= q.incoming) {
			waits = append(waits, i)
			continue
		}
		q.start(i, now, q.takes(m))
	}
	q.waits = waits
}

// ready reports whether what the move waits for is over.
func (q *queue) ready(m fleet.RunMove, now time.Duration) bool {
	for _, a := range m.After {
		if q.moves[a].State.Final() {
			continue
		}
		if end, begun := q.ends[a]; !begun || end > now {
			return false
		}
	}
	return true
}

func (s *step) link(host string) hypervisor.BytesPerSecond {
	if h := s.Fleet.Hosts[host]; h != nil && h.Capacity().Bandwidth > 0 {
		return h.Capacity().Bandwidth
	}
	return unknownLink
}
