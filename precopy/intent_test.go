package precopy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy/forecast"
)

func TestPromise(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *Migration)
		want   Promise
		judged bool
		says   string // to people
	}{
		{"kept", func(*Migration) {}, PromiseKept, true, ""},
		{"beyond the promise, within the ceiling", func(m *Migration) { m.Outcome.PauseMS = 151 }, PromiseCeiling, true, "a pause of at most 150ms was promised, and 900ms if there is no other way"},
		{"beyond the ceiling", func(m *Migration) { m.Outcome.PauseMS = 901 }, PromiseBroken, true, "PROMISE NOT KEPT: a pause of at most 900ms was promised"},
		{"slowed too much", func(m *Migration) { m.Outcome.Slowdown = 0.31 }, PromiseBroken, true, "PROMISE NOT KEPT: the guest was slowed by 31 %, at most 30 % was promised"},
		{"slowed as much as allowed, read at intervals", func(m *Migration) { m.Outcome.Slowdown = 0.303 }, PromiseKept, true, ""},
		{"too late", func(m *Migration) { m.Policy.BudgetSeconds = 9 }, PromiseBroken, true, "PROMISE NOT KEPT: it was to take at most 9s"},
		{"the pause is lost", func(m *Migration) { m.Outcome.PauseKnown = false }, PromiseUnknown, true, ""},
		{"too late, the pause is lost", func(m *Migration) { m.Outcome.PauseKnown, m.Policy.BudgetSeconds = false, 9 }, PromiseBroken, true, "PROMISE NOT KEPT: it was to take at most 9s"},
		{"not done", func(m *Migration) { m.Phase, m.Outcome.PauseMS = Aborted, 2000 }, "", false, ""},
		{"no outcome", func(m *Migration) { m.Outcome = nil }, "", false, ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := Migration{Phase: Done, Policy: DefaultPolicy(), Outcome: &Outcome{Seconds: 10, PauseMS: 150, PauseKnown: true}}
			tc.change(&m)
			got, judged := m.Promise()
			if got != tc.want || judged != tc.judged {
				t.Errorf("promise %q, judged %v; want %q, %v", got, judged, tc.want, tc.judged)
			}
			if says := m.Unkept(); says != tc.says {
				t.Errorf("%q, want %q", says, tc.says)
			}
			if m.Policy.Tuning = "default"; m.Unkept() != "" {
				t.Errorf("another manager's policy has promised something: %q", m.Unkept())
			}
		})
	}
}

// What is learned of a migration has what it was ordered under, whatever the agent wrote.
func TestReceiptOfAMigration(t *testing.T) {
	basis := forecast.Basis{Resident: 300 * hypervisor.MiB, Dirty: &hypervisor.DirtySample{Rate: 1 << 20, Window: time.Second}}
	m := Migration{
		ID: "m1", Phase: Aborted, ReasonCode: "not-converging", Policy: DefaultPolicy(), CopyStorage: true,
		Forecast: &Forecast{Basis: basis}, Outcome: &Outcome{Receipt: &forecast.Receipt{ID: "other", Rounds: 7, Done: true}},
	}
	got, ok := m.Receipt()
	want := forecast.Receipt{
		ID: "m1", Rounds: 7, Code: "not-converging", Encrypt: true, CopyStorage: true, Basis: basis,
		Intent: forecast.Intent{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3},
	}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("receipt, %v (-want +got):\n%s", ok, diff)
	}
	for name, change := range map[string]func(*Migration){
		"unfinished": func(m *Migration) { m.Phase = Copying }, "no outcome": func(m *Migration) { m.Outcome = nil },
		"another manager's policy": func(m *Migration) { m.Policy.Tuning = "nova" },
	} {
		other := m
		change(&other)
		if _, ok := other.Receipt(); ok {
			t.Errorf("%s: there is a receipt", name)
		}
	}
}

// TestSilence says how long a guest may be silent for being slowed: the ceiling on a pause is no matter.
func TestSilence(t *testing.T) {
	for _, ceiling := range []int64{0, 150, 900} {
		if s := (Policy{MaxPauseMS: 150, MaxPauseCeilingMS: ceiling}).Silence(); s != 49500*time.Microsecond {
			t.Errorf("150 ms within %d: %s", ceiling, s)
		}
	}
}
