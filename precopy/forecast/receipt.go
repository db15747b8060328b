package forecast

import (
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
)

// UsedPostCopy ends the name of the strategy of a migration that post-copy ended: its time and pause are
// those of another way to migrate.
const UsedPostCopy = "+postcopy"

// Receipt is what one attempt to migrate a domain has shown, whether it completed or was given up.
// Zero fields are not known.
type Receipt struct {
	ID       string    `json:"id"` // of the migration
	At       time.Time `json:"at"` // when it ended
	Strategy string    `json:"strategy"`
	Done     bool      `json:"done"`
	// Code is the stable word for why an attempt that is not Done was given up.
	Code    string `json:"code,omitempty"`
	Encrypt bool   `json:"encrypt,omitempty"`
	// Memory is what there was to look at in the first pass, FirstPass what was sent of it, FirstWhole what
	// that was before compression: all but the pages of zeros.
	Memory     hypervisor.Bytes `json:"memory"`
	FirstPass  hypervisor.Bytes `json:"first_pass,omitempty"`
	FirstWhole hypervisor.Bytes `json:"first_whole,omitempty"`
	// Bandwidth is the cap, Achieved what the stream carried while it was not idle.
	Bandwidth hypervisor.BytesPerSecond `json:"bandwidth"`
	Achieved  hypervisor.BytesPerSecond `json:"achieved,omitempty"`
	// Growth is how the guest at full speed dirties memory. It is known after a second pass only.
	Growth model.Growth `json:"growth,omitzero"`
	// PassError is by how much, relative (of logarithms), what a pass left to send was not what the model
	// made of the passes before it: the median of those that the guest ran through at full speed.
	PassError float64 `json:"pass_error,omitempty"`
	// Ratio is the bytes sent for each byte dirtied after the first pass.
	Ratio float64 `json:"ratio,omitempty"`
	// Setup is the time before the first byte, Sending what of the pause was to be expected for the sending
	// of the rest, by what was seen before it.
	Setup   time.Duration    `json:"setup,omitempty"`
	Sending time.Duration    `json:"sending,omitempty"`
	Seconds float64          `json:"seconds"`
	Bytes   hypervisor.Bytes `json:"bytes"`
	PauseMS int64            `json:"pause_ms,omitempty"` // known for Done only
	Rounds  int              `json:"rounds"`
	// Slowdown is the share of guest work lost to throttling over Seconds, LeastShare the least share
	// of its CPU use that the guest was left at any time (1 when it was never throttled).
	Slowdown   float64 `json:"slowdown,omitempty"`
	LeastShare float64 `json:"least_share,omitempty"`
	// FloorShare is the least share that it could have been left with silences within the Intent; 0 where it could not be
	// slowed, or that is not known.
	FloorShare float64 `json:"floor_share,omitempty"`
	// Waited is the time by which it took longer for sending less than Bandwidth by order: others were on the
	// links. It is not in Seconds.
	Waited time.Duration `json:"waited,omitempty"`
	// Limit is the downtime limit in force at the end.
	Limit time.Duration `json:"limit,omitempty"`

	// The rest is what held when it was ordered: the intent, what Basis says, and whether disks were
	// copied too, which are in Seconds and Bytes.
	Intent      Intent `json:"intent,omitzero"`
	Basis       Basis  `json:"basis,omitzero"`
	CopyStorage bool   `json:"copy_storage,omitempty"`
}

// switchover is what the pause had besides sending; false when the receipt does not tell. What was to be expected for the
// sending is a guess; that it took no longer than the limit is not: of a long pause under a long limit nobody knows.
func (r Receipt) switchover() (time.Duration, bool) {
	if !r.Done || r.PauseMS <= 0 || r.Sending <= 0 || r.CopyStorage || strings.HasSuffix(r.Strategy, UsedPostCopy) {
		return 0, false
	}
	pause := time.Duration(r.PauseMS) * time.Millisecond
	took := max(pause-r.Sending, leastSwitchover)
	if r.Limit > 0 && took > guessedSwitchover {
		took = min(took, pause-r.Limit)
	}
	return took, took >= leastSwitchover
}

// firstWhole is what the first pass had to send, uncompressed; 0 when the receipt does not tell.
func (r *Receipt) firstWhole() hypervisor.Bytes {
	if r.FirstWhole == 0 && r.Strategy != zstd {
		return r.FirstPass
	}
	return r.FirstWhole
}

// Intent is what a migration is held to. Its meaning is that of precopy.Policy.
type Intent struct {
	MaxPause time.Duration `json:"max_pause,omitempty"`
	// Ceiling is how far the pause may go when there is no other way.
	Ceiling     time.Duration `json:"ceiling,omitempty"`
	MaxSlowdown float64       `json:"max_slowdown,omitempty"`
	// Budget is how long it may take; 0 computes it from memory and bandwidth.
	Budget   time.Duration `json:"budget,omitempty"`
	PostCopy bool          `json:"post_copy,omitempty"`
}

// Basis is what was seen of the running domain when a forecast was made.
type Basis struct {
	// Resident is what the domain held of its host's memory.
	Resident hypervisor.Bytes `json:"resident,omitempty"`
	// Dirty is what the newest dirty-rate samples over a short window say; nil when none was taken.
	Dirty *hypervisor.DirtySample `json:"dirty,omitempty"`
	// DirtyAge is how old it was.
	DirtyAge time.Duration `json:"dirty_age,omitempty"`
}

// Keep is how many receipts a profile holds.
const Keep = 8

// Profile is what is known of one domain from its earlier migrations, oldest first.
type Profile struct {
	Schema   int                 `json:"schema"`
	UUID     hypervisor.DomainID `json:"uuid"`
	Receipts []Receipt           `json:"receipts"`
	// Seen is when a host was last known to report the domain, to a day.
	Seen time.Time `json:"seen,omitzero"`
}

// Learn returns the profile with the receipts that it has not, of which the newest Keep stay, and
// whether that is another profile. A migration's ID sorts by age, and has one receipt.
func (p Profile) Learn(receipts ...Receipt) (Profile, bool) {
	before := p.Receipts
	p.Receipts = slices.Clone(before)
	for _, r := range receipts {
		at, known := slices.BinarySearchFunc(p.Receipts, r.ID, func(have Receipt, id string) int {
			return strings.Compare(have.ID, id)
		})
		if !known {
			p.Receipts = slices.Insert(p.Receipts, at, r)
		}
	}
	p.Receipts = p.Receipts[max(0, len(p.Receipts)-Keep):]
	same := slices.EqualFunc(before, p.Receipts, func(a, b Receipt) bool { return a.ID == b.ID })
	return p, !same
}

// Prior is what the convergence controller is told of the domain at the start.
type Prior struct {
	Growth model.Growth `json:"growth,omitzero"`
	// Samples are what the growth was taken from where that was no migration.
	Samples []model.Sample `json:"samples,omitempty"`
	// Ratio is the bytes sent for each byte dirtied, by the strategy chosen.
	Ratio float64 `json:"ratio,omitempty"`
	// Limit is what the last completed migration ended with.
	Limit    time.Duration `json:"limit,omitempty"`
	Receipts int           `json:"receipts,omitempty"`
	// Ended says that one of them was completed, by pre-copy alone.
	Ended bool `json:"ended,omitempty"`
	// GaveUp says that the last of them was given up for want of a way to end it.
	GaveUp bool `json:"gave_up,omitempty"`
	// Switchover is the most that the last pauses had besides sending; 0 is not known.
	Switchover time.Duration `json:"switchover,omitempty"`
	// Lean is how many times as much of its work the guest may lose as it would be worth otherwise where it would converge by
	// itself too ([WorthSlowing]): more where migrations before say that it is slowed, less where they say that it is not. What
	// they say is surer than a pass or two, which near the margin would decide one way this time and the other the next. 0 is 1.
	Lean float64 `json:"lean,omitempty"`
	// First is the bytes sent for each byte in a first pass by the strategy chosen; 0 is 1.
	First float64 `json:"first,omitempty"`
	// Others are the other strategies that both hosts can do.
	Others []Option `json:"others,omitempty"`
}

// Option is a strategy with the bytes that it sends for each byte, in the first pass and for what is
// dirtied after it: assumed, or known where receipts of the domain have tried it.
type Option struct {
	Strategy hypervisor.Strategy `json:"strategy,omitzero"`
	First    float64             `json:"first"`
	Ratio    float64             `json:"ratio"`
	Tried    bool                `json:"tried,omitempty"`
}
