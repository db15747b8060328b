package precopy

import (
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

// Order is the leader's order to the source's agent.
type Order struct {
	PeerURI    string `json:"peer_uri"`
	MigrateURI string `json:"migrate_uri,omitempty"`
	// TLSName is the name to expect in the target's certificate.
	TLSName   string                    `json:"tls_name,omitempty"`
	Bandwidth hypervisor.BytesPerSecond `json:"bandwidth"`
	// Need is the least bandwidth by which the promise was expected to be kept, 0 when that was not known;
	// Share what the stream begins with, 0 for all of Bandwidth.
	Need  hypervisor.BytesPerSecond `json:"need,omitempty"`
	Share hypervisor.BytesPerSecond `json:"share,omitempty"`
	// Domain and Load are what the source reported of the domain when it was ordered: the target keeps its
	// memory free also while the source does not report, and once it has moved they say what came to the
	// target until that reports it.
	Domain *hypervisor.DomainFacts `json:"domain,omitempty"`
	Load   *hypervisor.DomainLoad  `json:"load,omitempty"`
	// IssuedAt and NotAfter are when the order was given and when it lapses unless claimed, by the
	// leader's clock. Old orders are never carried out. Orders of older leaders have no IssuedAt.
	IssuedAt time.Time `json:"issued_at,omitzero"`
	NotAfter time.Time `json:"not_after"`
	// ClockOffset is the source's clock minus the leader's, in nanoseconds, as the leader saw it by the
	// source's reports; it is too small by the time that a report takes.
	ClockOffset time.Duration `json:"clock_offset,omitempty"`
	// Leader and Fence say who ordered: the election key's holder and create revision.
	Leader string `json:"leader"`
	Fence  int64  `json:"fence"`
	// Strategy is how the stream is to be sent, Prior what the controller is told of the domain.
	Strategy hypervisor.Strategy `json:"strategy,omitzero"`
	Prior    *forecast.Prior     `json:"prior,omitempty"`
}

// Expired reports whether the order is too old to be carried out. Two witnesses are heard, and either
// is enough. One is this host's clock, less its offset from the leader's, against NotAfter: alone it
// knows of the time before this agent saw the order. The other is the time since the agent saw it,
// which no step of a clock touches if both times have monotonic readings. seenAt is zero when that is
// not known, as after a restart.
func (o Order) Expired(seenAt, now time.Time, offset time.Duration) bool {
	if now.Add(-offset).After(o.NotAfter) {
		return true
	}
	return !seenAt.IsZero() && !o.IssuedAt.IsZero() && now.Sub(seenAt) > o.NotAfter.Sub(o.IssuedAt)
}
