package drain

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// Foresee is what is to be expected of moving a domain to a host, and what speaks against it, if anything
// does. A pause above 0 stands for the one that its policy promises.
type Foresee func(d fleet.Domain, target string, pause time.Duration) (forecast.Forecast, *hypervisor.Blocker)

// Input is everything that a step depends on.
type Input struct {
	Run   fleet.StoredRun
	Fleet *fleet.Snapshot
	Now   time.Time
	// Outgoing and Incoming are the streams at once that a host has; a run may allow more outgoing ones.
	Outgoing, Incoming int
	// Ahead says that the next VMs to leave a host are asked for while others are being sent, so that they can be
	// prepared meanwhile.
	Ahead   bool
	Foresee Foresee
}

// Request is one thing to do for a run. Exactly one of its fields is set.
type Request struct {
	Cordon *Cordon
	Create *precopy.Migration
	// Abort asks the agent to stop a migration that is under way.
	Abort *Abort
	// ShutDown asks a guest to shut down.
	ShutDown *ShutDown
}

// Cordon sets, or takes away, one holder's cordon on a host.
type Cordon struct {
	Host   string
	Cordon fleet.Cordon
	Off    bool
}

// ShutDown is a wish that a guest shut down, from inside. It may be asked more than once.
type ShutDown struct {
	Run, VM string
	UUID    hypervisor.DomainID
	Host    string
}

// Abort is a wish that a migration stop.
type Abort struct {
	Old    precopy.Stored
	Cancel precopy.Cancel
}

const (
	// maxTries is how often a VM is tried before it is given up, unless the run waits.
	maxTries = 3
	// firstPause is the pause after a failed try, doubled with each until lastPause.
	firstPause = 2 * time.Second
	lastPause  = 2 * time.Minute
	// keptTries bounds the record of a run that waits for long.
	keptTries = 5
	// priority is how much more urgent a run's migration is than others of its VM's class.
	priority = 50
)

// step is one step being taken.
type step struct {
	Input
	r        fleet.Run // as it is next
	requests []Request
	where    whereabouts
}

// Step takes an unfinished run one step on. Requests follow from the run as given: they may be carried out at once.
func Step(in Input) (fleet.Run, []Request) {
	s := &step{Input: in, r: in.Run.Run}
	s.r.Moves, s.r.Blocked = slices.Clone(in.Run.Moves), slices.Clone(in.Run.Blocked)
	if s.r.Moves == nil {
		s.r.Moves = []fleet.RunMove{}
	}
	s.where = locate(in.Fleet, s.concerned())
	s.obey()
	switch {
	case s.r.Phase == fleet.RunRequested && s.r.Cancel != nil && !s.opened():
		// The cancel came between its first cordon and the write that it runs.
	case s.r.Phase == fleet.RunRequested && s.r.Cancel != nil:
		s.end(fleet.RunCancelled, "cancelled by "+s.r.Cancel.By+" before it began")
	case s.r.Phase == fleet.RunRequested:
		s.start()
	default:
		s.run()
	}
	s.look()
	return s.r, s.requests
}

// obey has a run cancelled whose maintenance is, or is over.
func (s *step) obey() {
	parent, there := s.Fleet.Runs[s.r.Parent]
	switch {
	case s.r.Parent == "" || !there:
	case s.r.Cancel != nil && parent.Cancel != nil:
		s.r.Cancel = s.r.Cancel.With(parent.Cancel.Abort, parent.Cancel.Uncordon)
	case s.r.Cancel != nil:
	case parent.Cancel != nil:
		c := *parent.Cancel
		s.r.Cancel = &c
	case parent.Phase.Final():
		s.r.Cancel = &fleet.RunCancel{By: parent.RequestedBy, At: s.Now, Reason: "its maintenance is over"}
	}
}

// concerned are the hosts that a run has to look at in every step; a plan looks at all.
func (s *step) concerned() []string {
	if s.r.Phase == fleet.RunRequested {
		return nil
	}
	out := slices.Clone(s.r.Hosts)
	for _, m := range s.r.Moves {
		if !m.State.Final() {
			out = append(out, m.From)
		}
	}
	return out
}

// Same reports whether a run that a step gave says nothing new: nothing at all, or only an outlook that is
// much the same. It need not be written then.
func Same(a, b fleet.Run) bool {
	near := alike(a.Outlook, b.Outlook)
	a.Outlook, b.Outlook = nil, nil
	a.Blocked, b.Blocked = noneIsNil(a.Blocked), noneIsNil(b.Blocked)
	return near && reflect.DeepEqual(a, b)
}

func noneIsNil(list []fleet.RunBlocked) []fleet.RunBlocked {
	if len(list) == 0 {
		return nil
	}
	return list
}

func (s *step) end(phase fleet.RunPhase, reason string) {
	s.r.Phase, s.r.Reason, s.r.Finished = phase, reason, &s.Now
}

// start plans a run and lets it begin, or refuses it.
func (s *step) start() {
	switch s.r.Kind {
	case fleet.RunDrain:
		if why := s.closed(); why != "" {
			s.end(fleet.RunRefused, why)
			return
		}
		s.gather()
		s.plan()
		if n := len(s.r.Blocked); n > 0 && !s.r.ShutDown && s.r.OnBlocked != fleet.BlockedSkip && s.r.OnBlocked != fleet.BlockedWait {
			s.end(fleet.RunRefused, fmt.Sprintf("%d of %d VMs can't move; nothing was changed", n, len(s.r.Moves)))
			for i := range s.r.Moves {
				s.r.Moves[i].State = fleet.MoveStays
			}
			return
		}
	case fleet.RunRestore:
		if why := s.mayOpen(); why != "" {
			s.end(fleet.RunRefused, why)
			return
		}
		s.recall()
	case fleet.RunRebalance:
	default:
		s.end(fleet.RunRefused, fmt.Sprintf("this scheduler knows no runs of kind %q", s.r.Kind))
		return
	}
	s.r.Phase, s.r.Started, s.r.Reason = fleet.RunRunning, &s.Now, ""
}

// closed says why a drain can't begin now; "" if it can.
func (s *step) closed() string {
	for _, name := range s.r.Hosts {
		h := s.Fleet.Hosts[name]
		if h == nil {
			return "no host is called " + name
		}
		if other := s.Fleet.Closing(name); other != nil && other.ID != s.r.ID && (other.Phase == fleet.RunRunning || other.ID < s.r.ID) {
			return fmt.Sprintf("%s is being drained already, by run %s", name, other.ID)
		}
		if b := feasible.Up(s.Fleet, h); b != nil && s.r.OnBlocked != fleet.BlockedWait {
			return fmt.Sprintf("what runs on %s is not known: %s (%s)", name, b.Detail, b.Remedy)
		}
	}
	return ""
}

// run takes a running one on.
func (s *step) run() {
	s.follow()
	if s.r.Cancel != nil {
		s.stop()
		return
	}
	if !s.ready() {
		return
	}
	if s.r.Kind == fleet.RunDrain {
		s.gather()
	}
	s.drop()
	if s.r.Kind == fleet.RunDrain {
		s.reopen()
		s.plan()
	}
	s.ask()
	s.shutDown()
	s.finish()
}

// ready asks for the cordons that the run needs as they are not yet, and reports whether none is missing.
// It asks for those of a drain that is over only once, at its start.
func (s *step) ready() bool {
	ready := true
	switch s.r.Kind {
	case fleet.RunDrain:
		for _, name := range s.r.Hosts {
			h := s.Fleet.Hosts[name]
			if h == nil || holds(h, s.r.Holder()) {
				continue
			}
			ready = false
			s.request(Request{Cordon: &Cordon{Host: name, Cordon: fleet.Cordon{
				Holder: s.r.Holder(), By: s.r.RequestedBy, At: s.Now, Reason: s.r.Purpose,
			}}})
		}
	case fleet.RunRestore:
		for _, c := range s.stale() {
			ready = false
			s.request(Request{Cordon: &c})
		}
	}
	return ready
}

func holds(h *fleet.Host, holder string) bool {
	return slices.ContainsFunc(h.Record.Cordons, func(c fleet.Cordon) bool { return c.Holder == holder })
}

func (s *step) request(r Request) { s.requests = append(s.requests, r) }

// stop winds a cancelled run up: what was not begun, the scheduler withdraws ([Over]).
func (s *step) stop() {
	under := 0
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		switch {
		case m.State == fleet.MoveShutting && m.Began != nil:
			m.State, m.Reason = fleet.MoveStays, "the run was cancelled after its guest was asked to shut down"
		case m.State == fleet.MovePlanned, m.State == fleet.MoveShutting:
			m.State, m.Reason = fleet.MoveStays, "the run was cancelled"
		}
		if m.State != fleet.MoveAsked {
			continue
		}
		under++
		if mg := s.Fleet.Migrations[m.Migration]; s.r.Cancel.Abort && mg.Phase.Started() && mg.Cancel == nil {
			s.request(Request{Abort: &Abort{Old: mg, Cancel: precopy.Cancel{
				By: s.r.Cancel.By, At: s.Now, Reason: "its run was cancelled",
			}}})
		}
	}
	if under > 0 {
		s.r.Reason = fmt.Sprintf("cancelled by %s; waiting for %d under way", s.r.Cancel.By, under)
		return
	}
	if !s.r.Cancel.Uncordon || s.opened() {
		s.end(fleet.RunCancelled, "cancelled by "+s.r.Cancel.By)
	}
}

// opened opens the hosts that the run has closed; true once there is none.
func (s *step) opened() bool {
	open := true
	for _, name := range s.r.Hosts {
		if h := s.Fleet.Hosts[name]; h != nil && holds(h, s.r.Holder()) {
			open = false
			s.request(Request{Cordon: &Cordon{Host: name, Cordon: fleet.Cordon{Holder: s.r.Holder()}, Off: true}})
		}
	}
	return open
}

// Over reports whether a migration belongs to a run that wants no more moves: one that has not begun then
// never does.
func Over(s *fleet.Snapshot, m precopy.Migration) bool {
	if m.Run == "" {
		return false
	}
	r, there := s.Runs[m.Run]
	return !there || r.Phase.Final() || r.Cancel != nil
}

// lanes is how many VMs may leave one host at once.
func (s *step) lanes() int {
	if s.r.MaxParallel > 0 {
		return s.r.MaxParallel
	}
	return max(s.Outgoing, 1)
}

// ahead is how many moves beyond those that may be sent at once are asked for: one that is prepared, and one
// that can be as soon as that one is sent.
const ahead = 2

// ask begins moves whose turn it is: their IDs are noted, and asked for when that is written.
func (s *step) ask() {
	out, in := map[string]int{}, map[string]int{}
	under := map[hypervisor.DomainID]bool{}
	lanes := s.lanes()
	if s.Ahead {
		lanes += ahead
	}
	for _, m := range s.r.Moves {
		if m.State == fleet.MoveAsked {
			out[m.From]++
			in[m.To]++
			under[m.UUID] = true
		}
	}
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if m.State != fleet.MovePlanned || m.To == "" || under[m.UUID] || m.NotBefore != nil && s.Now.Before(*m.NotBefore) {
			continue
		}
		if !s.turn(i) || out[m.From] >= lanes || in[m.To] >= max(s.Incoming, 1) || s.where.moving[m.UUID] != "" || s.where.at[m.UUID] != m.From {
			continue
		}
		if s.r.Kind == fleet.RunRestore {
			if b := s.splits(i); b != nil && !s.begun(m.Group) {
				s.giveUp(i, *b)
				continue
			}
			if b := s.overload(i); b != nil {
				s.fault(i, fleet.RunTry{To: m.To, Code: string(b.Code), Reason: b.Detail})
				continue
			}
		}
		out[m.From]++
		in[m.To]++
		under[m.UUID] = true
		m.State, m.Began, m.Ended, m.NotBefore, m.Reason = fleet.MoveAsked, &s.Now, nil, nil, ""
		m.Migration = migrationID(s.r.ID, i, len(m.Tries), s.Now)
	}
}

// turn reports whether what a move waits for is done. What will not be done any more makes room no more: the
// move is planned anew.
func (s *step) turn(i int) bool {
	m := &s.r.Moves[i]
	for _, a := range m.After {
		switch s.r.Moves[a].State {
		case fleet.MoveMoved:
		case fleet.MoveStays, fleet.MoveLeft:
			if s.r.Kind == fleet.RunDrain {
				s.anew(m)
				return false
			}
		default:
			return false
		}
	}
	return true
}

// migrationID is a UUID of version 7 that follows from its arguments.
func migrationID(run string, move, try int, now time.Time) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d/%d", run, move, try, now.UnixNano()))
	var id uuid.UUID
	copy(id[:], sum[:])
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id.String()
}

// finish ends a run that has nothing left to do.
func (s *step) finish() {
	late := s.r.Deadline != nil && s.Now.After(*s.r.Deadline)
	moved, off, stay := 0, 0, []string{}
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		if late && s.r.OnBlocked == fleet.BlockedWait && m.State == fleet.MovePlanned && (s.isBlocked(m.UUID) || len(m.Tries) > 0) {
			m.State, m.NotBefore = fleet.MoveStays, nil
			if n := len(m.Tries); n > 0 && !s.isBlocked(m.UUID) {
				s.block(*m, hypervisor.Blocker{Code: hypervisor.BlockerCode(m.Tries[n-1].Code), Detail: m.Tries[n-1].Reason})
			}
			m.Reason = "the deadline came first"
		}
		switch {
		case !m.State.Final():
			return
		case m.State == fleet.MoveMoved:
			moved++
		case m.State == fleet.MoveOff:
			off++
		case m.State == fleet.MoveStays:
			stay = append(stay, m.VM)
		}
	}
	if s.r.Kind == fleet.RunDrain {
		if why := s.notEmpty(); why != "" {
			s.r.Reason = why
			return
		}
	}
	text := fmt.Sprintf("%d moved", moved)
	if off > 0 {
		text += fmt.Sprintf(", %d shut down", off)
	}
	if len(stay) > 0 {
		s.end(fleet.RunPartial, fmt.Sprintf("%s, %d stay: %s", text, len(stay), strings.Join(stay, ", ")))
		return
	}
	s.end(fleet.RunDone, text)
	if all := s.rest(s.whole(), s.lanes(), 1); all > 0 && moved > 0 && s.r.Started != nil {
		s.r.Pace = float64(s.Now.Sub(*s.r.Started)) / float64(all)
	}
}

// notEmpty says what a drain that has nothing to move still waits for.
func (s *step) notEmpty() string {
	for _, name := range s.r.Hosts {
		h := s.Fleet.Hosts[name]
		if h == nil {
			continue
		}
		if b := feasible.Up(s.Fleet, h); b != nil {
			return fmt.Sprintf("waiting: what runs on %s is not known: %s (%s)", name, b.Detail, b.Remedy)
		}
		for id, to := range s.where.moving {
			if to == name {
				return fmt.Sprintf("waiting: VM %s is on its way to %s", id, name)
			}
		}
		for _, id := range s.where.on[name] {
			if s.where.moving[id] != "" {
				return fmt.Sprintf("waiting: VM %s leaves %s by a migration of its own", id, name)
			}
		}
	}
	return ""
}
