package fleet

import (
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
)

// RunKind is what a run is for.
type RunKind string

// The kinds.
const (
	RunDrain     RunKind = "drain"     // empty hosts, and keep them closed
	RunRestore   RunKind = "restore"   // open hosts again, and bring back what drains took away
	RunRebalance RunKind = "rebalance" // moves that stand in the record from the start
	// RunMaintenance takes hosts out of service and back, some at a time, by drains and restores of its own.
	RunMaintenance RunKind = "maintenance"
)

// RunPhase is where a run stands.
type RunPhase string

// The phases. Done, Partial, Refused and Cancelled are final.
const (
	RunRequested RunPhase = "requested" // asked for; the leader has not looked at it yet
	RunRunning   RunPhase = "running"
	RunStopped   RunPhase = "stopped"   // a maintenance met a failure: a person has it go on, or cancels it
	RunDone      RunPhase = "done"      // all that was asked
	RunPartial   RunPhase = "partial"   // over; some VMs stay, with the reason in Blocked
	RunRefused   RunPhase = "refused"   // never started, nothing was changed
	RunCancelled RunPhase = "cancelled" // by a person; what was under way has ended
)

// Final reports whether the run is over.
func (p RunPhase) Final() bool {
	return p == RunDone || p == RunPartial || p == RunRefused || p == RunCancelled
}

// OnBlocked is what a run does about VMs that can't move.
type OnBlocked string

// What a run may do.
const (
	BlockedFail OnBlocked = "fail" // refuse to start
	BlockedSkip OnBlocked = "skip" // leave them where they are
	BlockedWait OnBlocked = "wait" // look again, until the deadline if there is one
)

// Run is the durable record of several moves for one purpose: who asked for what, what was planned, how far
// it is. The names of the fields are a contract with outside tools.
type Run struct {
	Schema int      `json:"schema"`
	ID     string   `json:"id"` // UUID version 7: sorts by age
	Kind   RunKind  `json:"kind"`
	Phase  RunPhase `json:"phase"`
	// Reason says in one line why the run stands where it stands.
	Reason string `json:"reason,omitempty"`
	// Hosts are those that a drain empties, or a restore fills.
	Hosts       []string `json:"hosts,omitempty"`
	RequestedBy string   `json:"requested_by"`
	Purpose     string   `json:"purpose,omitempty"` // as who asked says
	// By the clock of who wrote it.
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Deadline *time.Time `json:"deadline,omitempty"`
	// MaxParallel is how many VMs may leave one host at once; 0 is as many as the scheduler allows.
	MaxParallel int       `json:"max_parallel,omitempty"`
	OnBlocked   OnBlocked `json:"on_blocked,omitempty"`
	// Only limits a restore to these VMs, by UUID; Skip are VMs that stay where they are.
	Only []hypervisor.DomainID `json:"only,omitempty"`
	Skip []hypervisor.DomainID `json:"skip,omitempty"`
	// None makes a restore open the hosts and bring nothing back.
	None bool `json:"none,omitempty"`
	// Parent is the maintenance run that this one belongs to, if any.
	Parent string `json:"parent,omitempty"`
	// Avoid are hosts that take a drain's VMs only if no others can, the last ones sooner: they are to be
	// drained themselves, the first ones soonest.
	Avoid []string `json:"avoid,omitempty"`
	// Headroom above 0 has a drain put VMs only where the fleet could still lose any one host.
	Headroom int `json:"headroom,omitempty"`
	// Roll is what a maintenance does with each of its hosts.
	Roll *Roll `json:"roll,omitempty"`
	// ShutDown lets a drain ask guests to shut down whose VMs can't move, once all others have gone.
	ShutDown bool `json:"shutdown_blocked,omitempty"`

	Cancel  *RunCancel   `json:"cancel,omitempty"`
	Moves   []RunMove    `json:"moves"`
	Blocked []RunBlocked `json:"blocked,omitempty"`
	Outlook *Outlook     `json:"outlook,omitempty"`
	// Forecasts are the ends that the outlook has told, as it told them, oldest first: what was said can be
	// held against what came. Of very many only some are kept, the first always.
	Forecasts []RunForecast `json:"forecasts,omitempty"`
	// Pace is, once it is done, how long it took over what its moves were expected to, for later forecasts.
	Pace float64 `json:"pace,omitempty"`
}

// RunHolder begins the names of runs as holders of cordons.
const RunHolder = "run/"

// Holder is whose cordon the run sets.
func (r Run) Holder() string { return RunHolder + r.ID }

// RunCancel is a request to stop a run.
type RunCancel struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// Abort stops what is under way too; else it is let finish.
	Abort bool `json:"abort,omitempty"`
	// Uncordon opens the hosts again.
	Uncordon bool `json:"uncordon,omitempty"`
}

// With is the cancel that asks for more than before: who asked first, and when, stays.
func (c RunCancel) With(abort, uncordon bool) *RunCancel {
	c.Abort, c.Uncordon = c.Abort || abort, c.Uncordon || uncordon
	return &c
}

// MoveState is where a move of a run stands.
type MoveState string

// The states. Moved, Stays, Left and Off are final.
const (
	MovePlanned MoveState = "planned" // not begun
	MoveAsked   MoveState = "asked"   // its migration is asked for, or under way
	MoveMoved   MoveState = "moved"
	MoveStays   MoveState = "stays" // given up, or somebody wants the VM left alone
	MoveLeft    MoveState = "left"  // nothing to do: it was stopped, or moved by somebody else
	// MoveShutting is a VM that can't move and is to be shut down, as was asked for: once all others have
	// gone; Began is when its guest was asked.
	MoveShutting MoveState = "shutting-down"
	MoveOff      MoveState = "shut-down"
)

// Final reports whether nothing more happens to the move.
func (s MoveState) Final() bool {
	return s == MoveMoved || s == MoveStays || s == MoveLeft || s == MoveOff
}

// RunMove is one VM's part in a run. From is where it is brought back to by a restore.
type RunMove struct {
	VM    string              `json:"vm"`
	UUID  hypervisor.DomainID `json:"uuid"`
	From  string              `json:"from"`
	To    string              `json:"to,omitempty"` // empty until there is a plan
	After []int               `json:"after,omitempty"`
	Cause string              `json:"cause"`
	// Group is a group that has to stay together, which a restore brings back as a whole.
	Group string    `json:"group,omitempty"`
	State MoveState `json:"state"`
	// Reason says why it stands where it stands.
	Reason string `json:"reason,omitempty"`
	// Migration is the record of the last attempt; its ID stands here before the record is made.
	Migration string           `json:"migration,omitempty"`
	Memory    hypervisor.Bytes `json:"memory"`
	// Seconds and Bytes are the forecast.
	Seconds float64          `json:"seconds,omitempty"`
	Bytes   hypervisor.Bytes `json:"bytes,omitempty"`
	// PauseMS is what the guest felt of it when it had moved, as far as that is known.
	PauseMS int64 `json:"pause_ms,omitempty"`
	// Began and Ended are when the last attempt did, NotBefore when the next may, by the leader's clock.
	Began     *time.Time `json:"began,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	Tries     []RunTry   `json:"tries,omitempty"` // that failed
}

// RunTry is one attempt that moved nothing.
type RunTry struct {
	To     string `json:"to"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Unfit says that the hosts refused it for good reason before anything was copied.
	Unfit bool `json:"unfit,omitempty"`
}

// RunBlocked is a VM that can't move for now, why, and what a person can do.
type RunBlocked struct {
	VM     string                 `json:"vm"`
	UUID   hypervisor.DomainID    `json:"uuid,omitempty"`
	Host   string                 `json:"host"`
	Code   hypervisor.BlockerCode `json:"code"`
	Detail string                 `json:"detail"`
	Remedy string                 `json:"remedy,omitempty"`
}

// Outlook is when a run is expected to end, as of At.
type Outlook struct {
	At   time.Time `json:"at"`
	End  time.Time `json:"end"`
	Left int       `json:"left"` // moves to be done
	// Pace is how long the run takes over what its moves are expected to.
	Pace float64 `json:"pace"`
	// Late says that the end is after the deadline; Options are then ways out.
	Late    bool     `json:"late,omitempty"`
	Options []Option `json:"options,omitempty"`
}

// RunForecast is an end that was told.
type RunForecast struct {
	At    time.Time `json:"at"`
	End   time.Time `json:"end"`
	Left  int       `json:"left"` // moves to be done then
	Moved int       `json:"moved,omitempty"`
	Late  bool      `json:"late,omitempty"`
}

// Option is something that a person can trade for time: what it does, and the command.
type Option struct {
	Effect  string `json:"effect"`
	Command string `json:"command"`
}

// StoredRun is a run as the store holds it.
type StoredRun struct {
	Run
	Revision int64 `json:"-"`
}

// UnfinishedRuns returns the runs that are not over, oldest first.
func (s *Snapshot) UnfinishedRuns() []StoredRun {
	var out []StoredRun
	for _, id := range slices.Sorted(maps.Keys(s.Runs)) {
		if r := s.Runs[id]; !r.Phase.Final() {
			out = append(out, r)
		}
	}
	return out
}

// Closing returns the oldest run that empties the host, or is asked to: no VM is to go there, though no cordon
// says so yet. Nil if there is none.
func (s *Snapshot) Closing(host string) *StoredRun {
	var first *StoredRun
	for _, r := range s.Runs {
		if r.Kind == RunDrain && !r.Phase.Final() && r.Cancel == nil && slices.Contains(r.Hosts, host) && (first == nil || r.ID < first.ID) {
			first = &r
		}
	}
	return first
}

// RollOf returns the unfinished maintenance that has the host out of service, nil if none has.
func (s *Snapshot) RollOf(host string) *StoredRun {
	for _, r := range s.Runs {
		if r.Roll != nil && !r.Phase.Final() && slices.ContainsFunc(r.Roll.Rolled, func(h RolledHost) bool { return h.Host == host && h.State.Active() }) {
			return &r
		}
	}
	return nil
}

// DrainOf returns the running run that empties the host, nil if none does: also before its cordon is set.
func (s *Snapshot) DrainOf(host string) *StoredRun {
	var first *StoredRun
	for _, r := range s.Runs {
		if r.Kind == RunDrain && r.Phase == RunRunning && slices.Contains(r.Hosts, host) && (first == nil || r.ID < first.ID) {
			first = &r
		}
	}
	return first
}
