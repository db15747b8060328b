package precopy

import (
	"testing"

	"drover/hypervisor"
	"drover/precopy/tune"
)

// Whoever goes on with an attempt goes by how that was begun, which is not what was ordered once there were two.
func TestGoesOnAsBegun(t *testing.T) {
	again := hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 64 << 20, PostCopy: true}
	ordered := hypervisor.Strategy{Compression: "zstd", Connections: 2}
	m := Migration{Order: &Order{Strategy: ordered}, Policy: Policy{PostCopy: true}}
	if got := TunerFor(m, 1<<30).Strategy(); got != ordered {
		t.Errorf("before it began: %+v, want %+v", got, ordered)
	}
	m.Attempts = []Attempt{{Number: 1, Stream: &ordered}, {Number: 2, Stream: &again}}
	s := startOf(m, 1<<30)
	if goOn(&s, m.attempt()); tune.New(s).Strategy() != again || TunerFor(m, 1<<30).Strategy() != again {
		t.Errorf("the second attempt goes on with %+v, want %+v", s.Strategy, again)
	}
}
