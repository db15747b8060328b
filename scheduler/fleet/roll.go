package fleet

import (
	"time"

	"drover/precopy"
	"drover/scheduler/calendar"
	"drover/scheduler/policy"
)

// Roll is what a maintenance run has beside its hosts: what is done with each of them, and how far each is.
type Roll struct {
	// Parallel is how many hosts are out of service at once; 1 unless given.
	Parallel int `json:"parallel,omitempty"`
	// Listed keeps the hosts in the order in which they were given; else drover chooses it.
	Listed bool `json:"listed,omitempty"`
	// Canary has the first host done alone; with Approve the others wait for a person's word after it.
	Canary   bool      `json:"canary,omitempty"`
	Approve  bool      `json:"approve,omitempty"`
	Approved *Approval `json:"approved,omitempty"`
	// Return brings each host's VMs back when it is done; else they stay where they landed.
	Return bool `json:"return,omitempty"`
	// Headroom is how many hosts the rest must be able to lose at every instant: 1, or 0 for no such rule.
	Headroom int `json:"headroom"`
	// Hooks are run on each empty host, in order; then it is waited for.
	Hooks   []Hook        `json:"hooks,omitempty"`
	Healthy Healthy       `json:"healthy,omitzero"`
	Spec    calendar.Spec `json:"calendar,omitzero"` // when hosts may be out of service

	// Rolled are the hosts in the order in which they are done; empty until the plan is made.
	Rolled []RolledHost `json:"rolled,omitempty"`
	// Moves is how many moves were forecast, of so many VMs.
	Moves int `json:"moves,omitempty"`
	VMs   int `json:"vms,omitempty"`
	// NotBefore is when it is looked again whether the next host may begin, by the leader's clock.
	NotBefore *time.Time `json:"not_before,omitempty"`
	// Resumes counts how often a person had a stopped roll go on.
	Resumes int `json:"resumes,omitempty"`
}

// Approval is a person's word.
type Approval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// HookPlace is where a hook runs.
type HookPlace string

// The places.
const (
	OnControl HookPlace = "control" // on the control host whose scheduler leads
	OnAgent   HookPlace = "agent"   // on the host itself
)

// Hook names a command; what it is stands in the settings of where it runs, and nowhere else.
type Hook struct {
	Name string    `json:"name"`
	On   HookPlace `json:"runs_on"`
	// Timeout is how long it may take: then it is sent TERM, and after Grace KILL.
	Timeout policy.Duration `json:"timeout"`
	Grace   policy.Duration `json:"grace,omitempty"`
	// Takes is how long it is expected to take, for forecasts; Timeout unless given.
	Takes policy.Duration `json:"takes,omitempty"`
	// Away says that the hook may take the host down: that its agent goes is a success.
	Away bool `json:"away,omitempty"`
}

// Expected is how long a hook is expected to take.
func (h Hook) Expected() time.Duration {
	if h.Takes > 0 {
		return time.Duration(h.Takes)
	}
	return time.Duration(h.Timeout)
}

// Healthy is what a host must be before it takes VMs again. Its agent's report must be newer than the hooks
// in any case.
type Healthy struct {
	// Within is how long that may take; Takes how long it is expected to.
	Within policy.Duration `json:"within,omitempty"`
	Takes  policy.Duration `json:"takes,omitempty"`
	// Restarted wants the host's agent to have started anew since the host was empty, as after a reboot.
	Restarted bool `json:"restarted,omitempty"`
	// Libvirt is the least version of libvirt, such as 11.3.0.
	Libvirt string `json:"libvirt,omitempty"`
	// Probe is a hook that says so by ending with 0; it is run until it does.
	Probe *Hook `json:"probe,omitempty"`
}

// RollState is where one host of a roll stands.
type RollState string

// The states. Rolled, skipped and failed are final, the last until a person has the roll go on.
const (
	RollWaiting   RollState = "waiting"
	RollDraining  RollState = "draining"
	RollHooks     RollState = "hooks"     // it is empty; the hooks are run
	RollHealth    RollState = "health"    // the hooks are done; it is waited for
	RollRestoring RollState = "restoring" // it is opened, and VMs are brought back if so asked
	RollRolled    RollState = "done"
	RollSkipped   RollState = "skipped"
	RollFailed    RollState = "failed"
)

// Active reports whether the host is out of service for the roll, or about to be.
func (s RollState) Active() bool {
	return s == RollDraining || s == RollHooks || s == RollHealth || s == RollRestoring
}

// RolledHost is one host's part in a roll.
type RolledHost struct {
	Host  string    `json:"host"`
	State RollState `json:"state"`
	// Reason says why it stands where it stands; At is the state in which a failed one did.
	Reason string    `json:"reason,omitempty"`
	At     RollState `json:"at,omitempty"`
	// Start, End and Latest are forecasts: when it begins and ends, and the latest start with which it and
	// those after it still end in time. Nil Latest: nothing sets an end.
	Start  time.Time  `json:"start,omitzero"`
	End    time.Time  `json:"end,omitzero"`
	Latest *time.Time `json:"latest,omitempty"`
	// Needs is how long it is expected to take, in seconds; Moves and Bytes what its drain is to move.
	Needs float64    `json:"needs,omitempty"`
	Moves int        `json:"moves,omitempty"`
	Began *time.Time `json:"began,omitempty"`
	Ended *time.Time `json:"ended,omitempty"`
	// Since is when it came to its present state, by the leader's clock.
	Since *time.Time `json:"since,omitempty"`
	// Drain and Restore are the runs that empty and open it; their IDs stand here before they are made.
	Drain   string `json:"drain,omitempty"`
	Restore string `json:"restore,omitempty"`
	// Instance is the agent that the host had when it was empty. Emptied is the store's revision when the
	// hooks were done: only later reports count.
	Instance string    `json:"instance,omitempty"`
	Emptied  int64     `json:"emptied,omitempty"`
	Hooks    []HookRun `json:"hooks,omitempty"`
}

// HookRun is one attempt of a hook. It is noted before it begins, and may run twice if a leader dies.
type HookRun struct {
	Name    string              `json:"name"`
	Attempt string              `json:"attempt"` // the same for both, if it runs twice
	Probe   bool                `json:"probe,omitempty"`
	Began   time.Time           `json:"began"`
	Result  *precopy.HookResult `json:"result,omitempty"`
}
