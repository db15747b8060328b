package precopy

import (
	"testing"
	"time"

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
	if goOn(&s, m); tune.New(s).Strategy() != again || TunerFor(m, 1<<30).Strategy() != again {
		t.Errorf("the second attempt goes on with %+v, want %+v", s.Strategy, again)
	}
}

// A migration has one budget, however many attempts it takes; the clock of each begins anew. The limit that is in force may
// be below the one that it began with.
func TestGoesOnWithWhatIsLeft(t *testing.T) {
	began := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	m := Migration{Order: &Order{}, Policy: Policy{BudgetSeconds: 60}, Started: &began}
	for _, tc := range []struct {
		number int
		after  time.Duration
		want   time.Duration
	}{{1, time.Second, 60 * time.Second}, {2, 20 * time.Second, 40 * time.Second}, {2, 2 * time.Minute, time.Second}} {
		m.Attempts = []Attempt{{Number: tc.number, Started: began.Add(tc.after), DowntimeMS: 50, LimitMS: 20, LostSeconds: 1.5}}
		s := startOf(m, 1<<30)
		if goOn(&s, m); s.Budget != tc.want || s.Limit != 20*time.Millisecond || s.Lost != 1500*time.Millisecond {
			t.Errorf("attempt %d, begun after %s: a budget of %s, want %s; limit %s, lost %s", tc.number, tc.after, s.Budget, tc.want, s.Limit, s.Lost)
		}
	}
}
