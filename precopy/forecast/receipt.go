package forecast

import (
	"time"

	"drover/hypervisor"
	"drover/precopy/model"
)

// Receipt is what one attempt to migrate a domain has shown, whether it completed or was given up.
// Zero fields are not known.
type Receipt struct {
	ID       string    `json:"id"` // of the migration
	At       time.Time `json:"at"` // when it ended
	Strategy string    `json:"strategy"`
	Done     bool      `json:"done"`
	Encrypt  bool      `json:"encrypt,omitempty"`
	// Memory is what there was to look at in the first pass, FirstPass what was sent of it.
	Memory    hypervisor.Bytes `json:"memory"`
	FirstPass hypervisor.Bytes `json:"first_pass,omitempty"`
	// Bandwidth is the cap, Achieved what the stream carried while it was not idle.
	Bandwidth hypervisor.BytesPerSecond `json:"bandwidth"`
	Achieved  hypervisor.BytesPerSecond `json:"achieved,omitempty"`
	// Growth is how the guest at full speed dirties memory. It is known after a second pass only.
	Growth model.Growth `json:"growth,omitzero"`
	// Ratio is the bytes sent for each byte dirtied after the first pass.
	Ratio float64 `json:"ratio,omitempty"`
	// Setup is the time before the first byte, Switchover what the pause had besides sending.
	Setup      time.Duration    `json:"setup,omitempty"`
	Switchover time.Duration    `json:"switchover,omitempty"`
	Seconds    float64          `json:"seconds"`
	Bytes      hypervisor.Bytes `json:"bytes"`
	PauseMS    int64            `json:"pause_ms,omitempty"` // known for Done only
	Rounds     int              `json:"rounds"`
	// Slowdown is the share of guest work lost to throttling over Seconds, LeastShare the least share
	// of its CPU use that the guest was left at any time (1 when it was never throttled).
	Slowdown   float64 `json:"slowdown,omitempty"`
	LeastShare float64 `json:"least_share,omitempty"`
	// Limit is the downtime limit in force at the end.
	Limit time.Duration `json:"limit,omitempty"`
}

// Keep is how many receipts a profile holds.
const Keep = 8

// Profile is what is known of one domain from its earlier migrations, oldest first.
type Profile struct {
	Schema   int                 `json:"schema"`
	UUID     hypervisor.DomainID `json:"uuid"`
	Receipts []Receipt           `json:"receipts"`
}

// Prior is what the convergence controller is told of the domain at the start.
type Prior struct {
	Growth model.Growth `json:"growth,omitzero"`
	// Ratio is the bytes sent for each byte dirtied, by the strategy chosen.
	Ratio float64 `json:"ratio,omitempty"`
	// Limit and LeastShare are what the last completed migration ended with.
	Limit      time.Duration `json:"limit,omitempty"`
	LeastShare float64       `json:"least_share,omitempty"`
	Receipts   int           `json:"receipts,omitempty"`
}
