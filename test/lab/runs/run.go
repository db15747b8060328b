package runs

import (
	"fmt"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// The names of drover's own policy: with the default class, and with one that allows half of the guest's
// work to be lost. All others are fixed policies (tune.FixedNames).
const (
	Own     = "drover"
	OwnHalf = "drover-half"
)

// Moves is how often a guest is moved in a row by drover's own policy: never seen before, with one
// receipt, and with two.
const Moves = 3

// Budget is the finish-by of every run: fixed policies are ended there too.
const Budget = 75 * time.Second

// What every run is held to, in milliseconds: the pause that is promised, and its ceiling.
const (
	MaxPause = 150
	Ceiling  = 900
)

// Run is one migration in the benchmark.
type Run struct {
	Workload string `json:"workload"`
	Rate     string `json:"rate"`
	Policy   string `json:"policy"`
	Number   int    `json:"run"`
	Receipts int    `json:"receipts,omitempty"` // earlier migrations of the same guest
	Flags    string `json:"flags"`              // of the guest
	Platform string `json:"platform"`           // versions of QEMU, libvirt and the guest's program
	Version  string `json:"version,omitempty"`  // of drover; empty for fixed policies

	Phase    precopy.Phase `json:"phase"` // Refused when it was not even ordered
	Code     string        `json:"code,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Seconds  float64       `json:"seconds"` // from the start to the end, as the record has it
	PauseMS  float64       `json:"pause_ms"`
	LostWork float64       `json:"lost_work_seconds"`
	// Mismatches are pages of the guest that are not what it wrote.
	Mismatches int64 `json:"mismatches,omitempty"`

	// What the record says.
	Strategy        string    `json:"strategy,omitempty"`
	MiB             int64     `json:"mib,omitempty"`
	Rounds          int       `json:"rounds,omitempty"`
	Throttle        int       `json:"throttle_max_percent,omitempty"`
	RecordedSeconds float64   `json:"recorded_seconds,omitempty"`
	RecordedPause   int64     `json:"recorded_pause_ms,omitempty"`
	Forecast        *Forecast `json:"forecast,omitempty"`
	// PassError is the receipt's: the median relative error of the model for passes at full speed.
	PassError float64 `json:"pass_error,omitempty"`

	// What else the machine did: the share of its CPU time that was free for work of normal priority, what
	// such work outside of the lab took, and what the machine below kept for itself.
	Idle   float64 `json:"idle_percent"`
	Others float64 `json:"others_percent"`
	Stolen float64 `json:"stolen_percent"`
}

// Forecast is what was expected of a run.
type Forecast struct {
	Seconds    float64 `json:"seconds"`
	PauseMS    int64   `json:"pause_ms"`
	Strategy   string  `json:"strategy"`
	Confidence string  `json:"confidence"`
}

// mostOthers is the share of the machine, in percent, that other work of normal priority may take during a
// run for its figures to count.
const mostOthers = 15

// Disturbed reports whether other work on the machine took so much of it that the run says little: it
// does not count, and is made again.
func (r Run) Disturbed() bool { return r.Others+r.Stolen > mostOthers }

// Undisturbed are the runs that count.
func Undisturbed(all []Run) []Run { return Select(all, func(r Run) bool { return !r.Disturbed() }) }

// Refused is the phase of a run that drover refused to order.
const Refused precopy.Phase = "refused"

// Risky reports whether a policy like that of the run may lose the guest, with that QEMU, when it fails or is
// cancelled: the benchmark moves all guests with TLS.
func (r Run) Risky() bool {
	var major, minor, micro uint32
	if n, _ := fmt.Sscanf(r.Platform, "qemu-%d.%d.%d ", &major, &minor, &micro); n < 2 {
		return false
	}
	return r.Policy == "multifd-zstd" && hypervisor.LosesGuests(major*1_000_000+minor*1_000+micro)
}

// Forbidden reports whether the run's policy does what the default class, which all runs of the benchmark are
// ordered with, does not allow: post-copy.
func (r Run) Forbidden() bool { return r.Policy == "postcopy" }

// Own reports whether drover's own controller drove the run.
func (r Run) Own() bool { return r.Policy == Own || r.Policy == OwnHalf }

// Cell is the workload and the link.
func (r Run) Cell() string { return r.Workload + "@" + r.Rate }

// Name is the policy, and for drover's own how often it had moved the guest before.
func (r Run) Name() string {
	if r.Own() {
		return named(r.Policy, r.Receipts)
	}
	return r.Policy
}

func named(policy string, receipts int) string {
	return fmt.Sprintf("%s (%d receipts)", policy, receipts)
}

// Key is what makes a run the same as another: it is not made again.
func (r Run) Key() string {
	return strings.Join([]string{r.Cell(), r.Policy, fmt.Sprint(r.Number, "/", r.Receipts), r.Flags, r.Platform, r.Version}, "|")
}

// Kept says whether the run kept the promise: the pause within the ceiling, done within the budget.
func (r Run) Kept() bool {
	return r.Phase == precopy.Done && r.PauseMS <= Ceiling && r.Seconds <= Budget.Seconds() && r.Mismatches == 0
}
