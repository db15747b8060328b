package precopy

import (
	"cmp"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// Schema is the version of the record that this program writes. Unknown fields of newer ones survive
// a read and write-back.
const Schema = 1

// Migration is the durable record of carrying out one move: what was asked, by whom, what was
// ordered, and what really happened. The names of the fields are a contract with outside tools.
type Migration struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"` // UUID version 7: sorts by age
	// Domain is the name at the time of the request, UUID the identity.
	Domain string              `json:"domain"`
	UUID   hypervisor.DomainID `json:"uuid"`
	Source string              `json:"source"`
	Target string              `json:"target"` // empty until one was chosen
	Phase  Phase               `json:"phase"`
	// Reason says in one line why the migration exists, or why it stands where it stands.
	Reason string `json:"reason,omitempty"`
	// ReasonCode is the stable word behind Reason for a refusal, failure or abort.
	ReasonCode  string     `json:"reason_code,omitempty"`
	RequestedBy string     `json:"requested_by"`
	Created     time.Time  `json:"created"`
	Started     *time.Time `json:"started,omitempty"`  // the libvirt call
	Finished    *time.Time `json:"finished,omitempty"` // a final phase
	Policy      Policy     `json:"policy"`
	Forecast    *Forecast  `json:"forecast,omitempty"`
	Outcome     *Outcome   `json:"outcome,omitempty"`
	Error       string     `json:"error,omitempty"`

	// Cancel is a request to stop; the phase says what became of it.
	Cancel *Cancel `json:"cancel,omitempty"`
	// Order is what the leader told the source's agent; nil until queued.
	Order    *Order    `json:"order,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`
	// Agent is the run of the source's agent that claimed the order. Only that one may call libvirt.
	Agent string `json:"agent,omitempty"`
	// Autostart is the domain's flag before the move: cleared on the source before the libvirt call,
	// restored there on failure, set on the target after success (AutostartSet then).
	Autostart    bool `json:"autostart,omitempty"`
	AutostartSet bool `json:"autostart_set,omitempty"`
	// Persistent says that the domain had a definition when the libvirt call was made, which comes to
	// the target with it: that the target has none proves then that the guest never ran there.
	Persistent bool `json:"persistent,omitempty"`
	// CopyStorage asks for the domain's non-shared disks to be copied too.
	CopyStorage bool `json:"copy_storage,omitempty"`
	// Tidied says that the source's agent has looked at a record that was resolved by hand, and has
	// tidied up as far as the hosts bore it out.
	Tidied bool `json:"tidied,omitempty"`
	// BeforeHook and AfterHook are what became of the hooks that the policy names.
	BeforeHook *HookResult `json:"before_hook,omitempty"`
	AfterHook  *HookResult `json:"after_hook,omitempty"`
	// EndRevision is the store's revision at which the final phase was written, where something was added to
	// the record after it.
	EndRevision int64 `json:"end_revision,omitempty"`
	// Run is the run (drain, rebalance) that this belongs to, if any.
	Run string `json:"run,omitempty"`
	// Notes are remarks on an outcome that is not what was asked, such as "cancelled too late".
	Notes []string `json:"notes,omitempty"`
}

// Policy is the intent that this migration was started under.
type Policy struct {
	Class string `json:"class,omitempty"`
	// MaxPauseMS is the promised pause; MaxPauseCeilingMS how far the controller may go when there
	// is no other way. Milliseconds.
	MaxPauseMS        int64 `json:"max_pause_ms"`
	MaxPauseCeilingMS int64 `json:"max_pause_ceiling_ms"`
	// MaxSlowdown is the share of guest work that may be lost over the migration's time, 0 to 1.
	MaxSlowdown float64 `json:"max_slowdown"`
	// BudgetSeconds is how long the migration may take; 0 lets it be computed from the bandwidth.
	BudgetSeconds float64 `json:"budget_seconds,omitempty"`
	PostCopy      bool    `json:"post_copy,omitempty"`
	Encrypt       bool    `json:"encrypt"`
	Priority      int     `json:"priority,omitempty"`
	// BeforeHook and AfterHook name commands that the agents' settings allow: the one runs on the source
	// before the migration, the other where the guest is after it. Each may take HookSeconds; a migration
	// whose first one fails is not begun if HookRequired.
	BeforeHook   string  `json:"before_hook,omitempty"`
	AfterHook    string  `json:"after_hook,omitempty"`
	HookSeconds  float64 `json:"hook_seconds,omitempty"`
	HookRequired bool    `json:"hook_required,omitempty"`
	// Tuning names a fixed policy of another manager (tune.FixedNames) instead of drover's own
	// controller: for comparisons, which keep no promise.
	Tuning string `json:"tuning,omitempty"`
}

// DefaultPolicy is the intent when nobody stated one.
func DefaultPolicy() Policy {
	return Policy{MaxPauseMS: 150, MaxPauseCeilingMS: 900, MaxSlowdown: 0.3, Encrypt: true}
}

// MaxPause returns the promised pause.
func (p Policy) MaxPause() time.Duration { return time.Duration(p.MaxPauseMS) * time.Millisecond }

// MaxPauseCeiling returns the pause that is never to be exceeded; at least MaxPause.
func (p Policy) MaxPauseCeiling() time.Duration {
	return time.Duration(max(p.MaxPauseCeilingMS, p.MaxPauseMS)) * time.Millisecond
}

// Outcome is what really happened, as libvirt's statistics of the completed job say.
type Outcome struct {
	Seconds float64          `json:"seconds"` // of the libvirt job, set-up and switchover included
	Bytes   hypervisor.Bytes `json:"bytes"`
	PauseMS int64            `json:"pause_ms"`
	// PauseKnown is false when the completed statistics were lost and PauseMS means nothing.
	PauseKnown         bool   `json:"pause_known"`
	Rounds             int    `json:"rounds"`
	ThrottleMaxPercent int    `json:"throttle_max_percent"`
	Strategy           string `json:"strategy"`
	// Slowdown is the share of guest work lost to being slowed, over the migration's time.
	Slowdown float64 `json:"slowdown,omitempty"`
	// Receipt is what the migration has shown of the domain, for later forecasts.
	Receipt *forecast.Receipt `json:"receipt,omitempty"`
}

// Cancel is a request to stop a migration.
type Cancel struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Attempt is one libvirt migration within the record: a restart with another strategy is another.
type Attempt struct {
	Number   int    `json:"number"`
	Strategy string `json:"strategy"`
	// Stream is the same in full, for whoever has to go on with the attempt: that it may end in post-copy too.
	Stream     *hypervisor.Strategy `json:"stream,omitempty"`
	Started    time.Time            `json:"started"`
	Ended      *time.Time           `json:"ended,omitempty"`
	DowntimeMS int64                `json:"downtime_ms"` // the first downtime limit
	// LimitMS is the downtime limit set last, if it was changed; LostSeconds the guest work lost to
	// being slowed by then.
	LimitMS     int64   `json:"limit_ms,omitempty"`
	LostSeconds float64 `json:"lost_seconds,omitempty"`
	// Agent is the instance that made the libvirt call.
	Agent string `json:"agent"`
	// Adopted is true once another instance of the agent took the running attempt over.
	Adopted bool   `json:"adopted,omitempty"`
	Result  string `json:"result,omitempty"`
	// Bytes is what an attempt had sent that was ended for the sake of another.
	Bytes hypervisor.Bytes `json:"bytes,omitempty"`
	// PostCopy is when post-copy was asked for, written before the hypervisor is: from then on the guest may
	// run on the target with part of its memory still on the source, and nothing may end the attempt.
	// PostCopyBroken is since when its stream is broken; nil while it is not.
	PostCopy       *time.Time `json:"post_copy,omitempty"`
	PostCopyBroken *time.Time `json:"post_copy_broken,omitempty"`
	// GaveUp is set when the convergence controller asked for the attempt's end.
	GaveUp *GivingUp `json:"gave_up,omitempty"`
}

// GivingUp is why the convergence controller gave an attempt up: the stable word, and the sentence.
type GivingUp struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// attempt returns the last attempt; the zero one if there was none.
func (m Migration) attempt() Attempt {
	if n := len(m.Attempts); n > 0 {
		return m.Attempts[n-1]
	}
	return Attempt{}
}

// changeAttempt changes the last attempt, if there is one, in a copy of the list.
func (m *Migration) changeAttempt(change func(*Attempt)) {
	if n := len(m.Attempts); n > 0 {
		m.Attempts = append([]Attempt(nil), m.Attempts...)
		change(&m.Attempts[n-1])
	}
}

// Split reports whether the guest's memory may be on both hosts, as it is in post-copy: it is lost then
// if either of them is switched off.
func (m Migration) Split() bool {
	return !m.Phase.Final() && (m.Phase == Postcopy || m.attempt().PostCopy != nil)
}

// gaveUp returns why the last attempt was given up, nil if it was not.
func (m Migration) gaveUp() *GivingUp {
	return m.attempt().GaveUp
}

// Progress is the volatile part, written at most every 2 s under the agent's lease.
type Progress struct {
	ID        string                    `json:"id"`
	At        time.Time                 `json:"at"`
	Elapsed   time.Duration             `json:"elapsed"`
	Total     hypervisor.Bytes          `json:"total"`
	Processed hypervisor.Bytes          `json:"processed"`
	Remaining hypervisor.Bytes          `json:"remaining"`
	Rate      hypervisor.BytesPerSecond `json:"rate"`
	DirtyRate hypervisor.BytesPerSecond `json:"dirty_rate"`
	Round     int                       `json:"round"`
	Downtime  time.Duration             `json:"downtime"` // the limit in force
	Throttle  int                       `json:"throttle"` // percent
	// ETA is the time still needed; negative when it does not converge at present.
	ETA time.Duration `json:"eta"`
	// Cap is the bandwidth limit in force, Serial that of the share which it keeps to, 0 for none. A limit of
	// 0 is not known.
	Cap    hypervisor.BytesPerSecond `json:"cap,omitempty"`
	Serial int64                     `json:"serial,omitempty"`
	// Achieved is what was sent over the last second or so.
	Achieved hypervisor.BytesPerSecond `json:"achieved,omitempty"`
	// Need is the least bandwidth by which it would end within the intent, by what its passes have shown; 0
	// when that is not known. Near says that it is about to switch over.
	Need hypervisor.BytesPerSecond `json:"need,omitempty"`
	Near bool                      `json:"near,omitempty"`
	// Why says in words what decides the pace, and what the controller last did.
	Why string `json:"why,omitempty"`
}

// Stored is a record as the store holds it: the revision to compare with, and the raw text, so that
// fields that this program does not know survive a write-back.
type Stored struct {
	Migration
	Revision int64 `json:"-"`
	// Born is the revision at which the record was made, 0 where nobody asked for it.
	Born int64  `json:"-"`
	Raw  []byte `json:"-"`
	// Past says that the record was moved to the history: it can't be changed any more.
	Past bool `json:"-"`
}

// EndedAt is the store's revision at which the record came to its final phase.
func (s Stored) EndedAt() int64 { return cmp.Or(s.EndRevision, s.Revision) }
