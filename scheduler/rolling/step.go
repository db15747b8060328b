package rolling

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"drover/precopy"
	"drover/scheduler/calendar"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
)

// Input is everything that a step depends on.
type Input struct {
	Run   fleet.StoredRun
	Fleet *fleet.Snapshot
	Now   time.Time
	// Outgoing and Incoming are the streams at once that a host has.
	Outgoing, Incoming int
	// Ahead says that the next VMs to leave a host are prepared while others are being sent.
	Ahead   bool
	Foresee drain.Foresee
	// Hooks are the attempts that this leader has begun: the result, or nil while it runs.
	Hooks map[string]*precopy.HookResult
}

// Request is one thing to do for a roll. Exactly one of its fields is set.
type Request struct {
	// Start makes a run's record, unless it is there.
	Start  *fleet.Run
	Cordon *drain.Cordon
	Hook   *HookOrder
}

// HookOrder has a hook run: on the host, or on this control host if On says so.
type HookOrder struct {
	Host string
	On   fleet.HookPlace
	Call precopy.HookCall
}

// streams is how many VMs leave a host at once unless the run says otherwise: while one is set up, or has its
// last rounds, the other's memory fills the link.
const streams = 2

// blockedAgain is after how long it is looked again whether a host may begin that could not.
const blockedAgain = 30 * time.Second

// step is one step being taken.
type step struct {
	Input
	r        fleet.Run
	roll     *fleet.Roll // r's
	cal      *calendar.Calendar
	requests []Request
	changed  bool // a host has begun or ended
}

func newStep(in Input) *step {
	s := &step{Input: in, r: in.Run.Run}
	roll := fleet.Roll{}
	if s.r.Roll != nil {
		roll = *s.r.Roll
	}
	roll.Rolled = slices.Clone(roll.Rolled)
	for i := range roll.Rolled {
		roll.Rolled[i].Hooks = slices.Clone(roll.Rolled[i].Hooks)
	}
	s.r.Roll, s.roll = &roll, &roll
	if s.r.Moves == nil {
		s.r.Moves = []fleet.RunMove{}
	}
	s.cal, _ = calendar.New(calendar.Spec{})
	if cal, err := calendarOf(&roll); err == nil {
		s.cal = cal
	}
	return s
}

// Step takes an unfinished roll one step on. Requests follow from the run as given: they may be carried out at
// once.
func Step(in Input) (fleet.Run, []Request) {
	s := newStep(in)
	switch {
	case s.r.Phase == fleet.RunRequested && s.r.Cancel != nil:
		s.end(fleet.RunCancelled, "cancelled by "+s.r.Cancel.By+" before it began")
	case s.r.Phase == fleet.RunRequested:
		return s.start(), nil
	case s.r.Phase == fleet.RunStopped && s.r.Cancel == nil:
		return in.Run.Run, nil
	default:
		s.run()
	}
	s.look()
	return s.r, s.requests
}

// start lets a roll begin that is planned and has nothing in its way, or refuses it. One without a plan is
// planned.
func (s *step) start() fleet.Run {
	if why := s.faults(); why != "" {
		s.end(fleet.RunRefused, why)
		return s.r
	}
	if len(s.roll.Rolled) == 0 {
		planned := Plan(s.Input, nil)
		if planned.Phase == fleet.RunRefused {
			return planned
		}
		if n := len(planned.Blocked); n > 0 && s.r.OnBlocked != fleet.BlockedWait {
			planned.Outlook = nil
			s.r = planned
			s.r.Moves = []fleet.RunMove{}
			s.end(fleet.RunRefused, fmt.Sprintf("%d in the way; nothing was changed", n))
			return s.r
		}
		s.r, s.roll = planned, planned.Roll
		s.r.Moves, s.r.Blocked = []fleet.RunMove{}, nil
	}
	s.r.Phase, s.r.Started, s.r.Reason = fleet.RunRunning, &s.Now, ""
	s.changed = true
	s.look()
	return s.r
}

// faults says why a roll can't be done at all; "" if it can.
func (s *step) faults() string {
	switch {
	case len(s.r.Hosts) == 0:
		return "it names no hosts"
	case s.roll.Parallel < 0 || s.roll.Headroom < 0 || s.roll.Headroom > 1:
		return "parallel: want 1 or more; headroom: want 0 or 1"
	}
	if _, err := calendarOf(s.roll); err != nil {
		return err.Error()
	}
	for _, name := range s.r.Hosts {
		if s.Fleet.Hosts[name] == nil {
			return "no host is called " + name
		}
		for _, other := range s.Fleet.UnfinishedRuns() {
			first := other.Phase != fleet.RunRequested || other.ID < s.r.ID
			if other.ID != s.r.ID && first && other.Kind == fleet.RunMaintenance && slices.Contains(other.Hosts, name) {
				return fmt.Sprintf("%s is part of maintenance %s already (drover run cancel %s)", name, other.ID, other.ID)
			}
		}
	}
	return ""
}

func (s *step) parallel() int { return max(s.roll.Parallel, 1) }

func (s *step) end(phase fleet.RunPhase, reason string) {
	s.r.Phase, s.r.Reason, s.r.Finished = phase, reason, &s.Now
}

func (s *step) request(r Request) { s.requests = append(s.requests, r) }

// run takes a roll on that has begun.
func (s *step) run() {
	for i := range s.roll.Rolled {
		if s.roll.Rolled[i].State.Active() {
			s.advance(&s.roll.Rolled[i])
		}
	}
	if s.r.Cancel != nil {
		s.stop()
		return
	}
	under, failed, left := 0, []string{}, 0
	for _, h := range s.roll.Rolled {
		switch {
		case h.State.Active():
			under++
		case h.State == fleet.RollFailed:
			failed = append(failed, h.Host)
		case h.State == fleet.RollWaiting:
			left++
		}
	}
	switch {
	case len(failed) > 0 && under > 0:
		s.r.Reason = fmt.Sprintf("%s failed; waiting for %d under way", strings.Join(failed, ", "), under)
	case len(failed) > 0:
		s.halt()
	case left == 0 && under == 0:
		s.finish()
	case left > 0:
		s.next(under)
	default:
		s.r.Reason = ""
	}
}

// finish ends a roll all of whose hosts are done, or were left out.
func (s *step) finish() {
	var skipped []string
	for _, h := range s.roll.Rolled {
		if h.State == fleet.RollSkipped {
			skipped = append(skipped, h.Host)
		}
	}
	if n := len(skipped); n > 0 {
		s.end(fleet.RunPartial, fmt.Sprintf("%d hosts done, %d left out: %s", len(s.roll.Rolled)-n, n, strings.Join(skipped, ", ")))
		return
	}
	s.end(fleet.RunDone, fmt.Sprintf("%d hosts done", len(s.roll.Rolled)))
}

// halt stops a roll at a failure, and says what is in what state, and how to go on.
func (s *step) halt() {
	by := map[fleet.RollState][]string{}
	var texts []string
	for _, h := range s.roll.Rolled {
		by[h.State] = append(by[h.State], h.Host)
		if h.State == fleet.RollFailed {
			texts = append(texts, fmt.Sprintf("%s (%s): %s", h.Host, h.At, h.Reason))
		}
	}
	for _, part := range []struct {
		state fleet.RollState
		text  string
	}{{fleet.RollRolled, "done"}, {fleet.RollSkipped, "left out"}, {fleet.RollWaiting, "not begun"}} {
		if names := by[part.state]; len(names) > 0 {
			texts = append(texts, part.text+": "+strings.Join(names, ", "))
		}
	}
	texts = append(texts, fmt.Sprintf("go on: drover maintenance resume %s (or with --skip %s)", s.r.ID, by[fleet.RollFailed][0]))
	s.r.Phase, s.r.Reason = fleet.RunStopped, strings.Join(texts, "; ")
}

// next begins the next host if it may.
func (s *step) next(under int) {
	if under >= s.parallel() {
		s.r.Reason = ""
		return
	}
	i := slices.IndexFunc(s.roll.Rolled, func(h fleet.RolledHost) bool { return h.State == fleet.RollWaiting })
	first := s.roll.Rolled[0]
	switch {
	case i > 0 && s.roll.Canary && first.State.Active():
		s.r.Reason = ""
		return
	case i > 0 && s.roll.Approve && s.roll.Approved == nil:
		s.r.Reason = fmt.Sprintf("waiting for approval after %s (drover maintenance approve %s)", first.Host, s.r.ID)
		return
	case s.roll.NotBefore != nil && s.Now.Before(*s.roll.NotBefore):
		return
	}
	s.roll.NotBefore = nil
	h := &s.roll.Rolled[i]
	needs := time.Duration(h.Needs * float64(time.Second))
	at, _, fits := fit(s.cal, s.Now, needs)
	switch end := laterOf(at, s.Now).Add(needs); {
	case !fits:
		s.fail(h, fmt.Sprintf("it takes %s, for which there is no window", needs))
		return
	case s.r.Deadline != nil && end.After(*s.r.Deadline):
		s.fail(h, fmt.Sprintf("not begun: it would be done by %s, after the deadline (drover run set %s --deadline TIME)", stamp(end), s.r.ID))
		return
	case at.After(s.Now):
		s.r.Reason = fmt.Sprintf("waiting: %s takes %s, which fits next at %s", h.Host, needs, stamp(at))
		return
	}
	if why := s.inTheWay(i); why != "" {
		if s.r.OnBlocked != fleet.BlockedWait {
			s.fail(h, why)
			return
		}
		again := s.Now.Add(blockedAgain)
		s.r.Reason, s.roll.NotBefore = "waiting: "+why, &again
		return
	}
	s.to(h, fleet.RollDraining)
	h.Began, h.Drain = &s.Now, childID(s.r.ID, h.Host, "drain", s.Now)
	s.r.Reason = ""
}

// inTheWay says why a host's drain should not begin now, as far as the fleet's picture tells; "" if it may.
func (s *step) inTheWay(i int) string {
	snap := s.Fleet
	for _, h := range s.roll.Rolled {
		if h.State.Active() {
			snap = closed(snap, h.Host, s.r)
		}
	}
	name := s.roll.Rolled[i].Host
	d := drain.Preview(drain.Input{
		Run: fleet.StoredRun{Run: s.drainOf(name, s.waiting(name))}, Fleet: snap, Now: s.Now,
		Outgoing: s.Outgoing, Incoming: s.Incoming, Ahead: s.Ahead, Foresee: s.Foresee,
	}, unasked)
	if d.Phase == fleet.RunRefused {
		return d.Reason
	}
	s.r.Blocked = together(d.Blocked)
	if len(d.Blocked) == 0 {
		s.r.Blocked = nil
		return ""
	}
	b := s.r.Blocked[0]
	if b.VM == "" {
		return b.Detail
	}
	return fmt.Sprintf("%d VMs can't leave %s: %s: %s", len(d.Blocked), name, b.VM, b.Detail)
}

// waiting are the hosts that are not begun, but one, in their order.
func (s *step) waiting(but string) []string {
	var out []string
	for _, h := range s.roll.Rolled {
		if h.State == fleet.RollWaiting && h.Host != but {
			out = append(out, h.Host)
		}
	}
	return out
}

// drainOf is the run that empties a host.
func (s *step) drainOf(name string, later []string) fleet.Run {
	on := s.r.OnBlocked
	if on != fleet.BlockedWait {
		on = fleet.BlockedFail
	}
	parallel := s.r.MaxParallel
	if parallel == 0 {
		parallel = streams
	}
	return fleet.Run{
		Schema: 1, ID: "plan", Kind: fleet.RunDrain, Phase: fleet.RunRequested, Hosts: []string{name}, RequestedBy: s.r.RequestedBy,
		Purpose: s.r.Purpose, Created: s.Now, MaxParallel: parallel, OnBlocked: on, Deadline: nil,
		Parent: s.r.ID, Avoid: later, Headroom: s.roll.Headroom, Moves: []fleet.RunMove{},
	}
}

// stop winds a cancelled roll up. Its drains and restores end by themselves: they look at their parent. A hook
// that runs is waited for.
func (s *step) stop() {
	var under []string
	for i := range s.roll.Rolled {
		h := &s.roll.Rolled[i]
		if s.busy(h) {
			under = append(under, h.Host)
		}
	}
	if len(under) > 0 {
		s.r.Reason = fmt.Sprintf("cancelled by %s; waiting for what is under way on %s", s.r.Cancel.By, strings.Join(under, ", "))
		return
	}
	closed := false
	if s.r.Cancel.Uncordon {
		for _, h := range s.roll.Rolled {
			closed = s.uncordon(h) || closed
		}
	}
	if !closed {
		s.end(fleet.RunCancelled, "cancelled by "+s.r.Cancel.By)
	}
}

// uncordon asks for the end of the cordons that the host's drains have left; false when there is none.
func (s *step) uncordon(h fleet.RolledHost) bool {
	host := s.Fleet.Hosts[h.Host]
	if host == nil {
		return false
	}
	left := false
	for _, c := range host.Record.Cordons {
		if s.own(c, h.Drain) {
			left = true
			s.request(Request{Cordon: &drain.Cordon{Host: h.Host, Cordon: fleet.Cordon{Holder: c.Holder}, Off: true}})
		}
	}
	return left
}

// own reports whether a cordon is that of the host's present drain, or of an earlier one of this maintenance, which failed.
func (s *step) own(c fleet.Cordon, present string) bool {
	id, isRun := strings.CutPrefix(c.Holder, fleet.RunHolder)
	r, there := s.Fleet.Runs[id]
	return isRun && id != "" && (id == present || there && r.Parent == s.r.ID && r.Phase.Final())
}

func holds(h *fleet.Host, holder string) bool {
	return slices.ContainsFunc(h.Record.Cordons, func(c fleet.Cordon) bool { return c.Holder == holder })
}

// Resume has a stopped roll go on: hosts that failed are tried again from where they failed, or left out.
func Resume(r *fleet.Run, skip []string, now time.Time) error {
	if r.Phase != fleet.RunStopped {
		return fmt.Errorf("run %s is %s: only a stopped maintenance can be resumed", r.ID, r.Phase)
	}
	roll := *r.Roll
	roll.Rolled = slices.Clone(roll.Rolled)
	for _, name := range skip {
		i := slices.IndexFunc(roll.Rolled, func(h fleet.RolledHost) bool { return h.Host == name })
		switch {
		case i < 0:
			return fmt.Errorf("run %s has no host %q", r.ID, name)
		case roll.Rolled[i].State != fleet.RollFailed && roll.Rolled[i].State != fleet.RollWaiting:
			return fmt.Errorf("%s is %s: only hosts that failed or wait can be left out", name, roll.Rolled[i].State)
		}
		roll.Rolled[i].State, roll.Rolled[i].Since, roll.Rolled[i].Ended = fleet.RollSkipped, &now, &now
	}
	for i := range roll.Rolled {
		h := &roll.Rolled[i]
		if h.State != fleet.RollFailed {
			continue
		}
		h.State, h.Reason, h.Since = h.At, "", nil // from when on, the leader's clock says
		switch h.At {
		case fleet.RollDraining:
			h.State, h.Drain = fleet.RollWaiting, ""
		case fleet.RollRestoring:
			h.Restore = ""
		}
		h.At = ""
	}
	roll.NotBefore = nil
	roll.Resumes++
	r.Roll, r.Phase, r.Reason, r.Blocked = &roll, fleet.RunRunning, "", nil
	return nil
}

// childID is a UUID of version 7 that follows from its arguments.
func childID(run, host, what string, now time.Time) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%s/%d", run, host, what, now.UnixNano()))
	var id uuid.UUID
	copy(id[:], sum[:])
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id.String()
}
