package precopy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestOrderExpired(t *testing.T) {
	issued := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // by the leader's clock
	order := Order{IssuedAt: issued, NotAfter: issued.Add(30 * time.Second)}
	old := Order{NotAfter: order.NotAfter} // of a leader that wrote no IssuedAt
	at := func(s int) time.Time { return issued.Add(time.Duration(s) * time.Second) }
	tests := []struct {
		name         string
		order        Order
		seen, now    time.Time
		offset       time.Duration
		wantsExpired bool
	}{
		{"fresh", order, at(1), at(2), 0, false},
		{"at the last moment", order, at(1), at(30), 0, false},
		{"after it", order, at(1), at(31), 0, true},
		{"this clock is a minute ahead, as is known", order, at(61), at(62), time.Minute, false},
		{"a minute ahead, and old", order, at(61), at(91), time.Minute, true},
		{"this clock is behind, as is known: old", order, at(-59), at(-29), -time.Minute, true},
		{"this clock is behind, which nobody knows: its own time tells", order, at(-59), at(-28), 0, true},
		{"seen late, on a start", order, time.Time{}, at(600), 0, true},
		{"seen late, after a cut", order, at(600), at(600), 0, true},
		{"seen at an unknown time, fresh", order, time.Time{}, at(5), 0, false},
		{"no issue time, fresh", old, at(1), at(2), 0, false},
		{"no issue time, old", old, at(1), at(31), 0, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.order.Expired(tc.seen, tc.now, tc.offset); got != tc.wantsExpired {
				t.Errorf("expired: %v, want %v", got, tc.wantsExpired)
			}
		})
	}
}

// However wrong the clock, if its offset is known: an order is carried out exactly within its life.
func TestOrderExpiredWhateverTheClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		second := func(label string, low, high int) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(t, label)) * time.Second
		}
		issued := time.Unix(1_800_000_000, 0)
		o := Order{IssuedAt: issued, NotAfter: issued.Add(second("life", 1, 60))}
		offset, age := second("offset", -7200, 7200), second("age", 0, 120)
		now := issued.Add(age + offset)
		seen := now.Add(-second("seen for", 0, int(age/time.Second)))
		if got, want := o.Expired(seen, now, offset), age > o.NotAfter.Sub(o.IssuedAt); got != want {
			t.Fatalf("expired at the age of %s: %v, want %v", age, got, want)
		}
	})
}

// An order is judged by the leader's clock, whatever this host's says.
func TestOrderByTheLeadersClock(t *testing.T) {
	for _, tc := range []struct {
		name   string
		ahead  time.Duration // this host's clock, as the leader knows
		phase  Phase
		reason string
	}{
		{"ahead by more than the order's life", time.Minute, Done, ""},
		{"ahead by less", 10 * time.Second, Failed, "order-expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, setting{}, func(w *world) {
				now := time.Now()
				if err := w.store.edit(w.id, ActorLeader, func(m *Migration) {
					m.Order.IssuedAt, m.Order.NotAfter = now.Add(-45*time.Second), now.Add(-15*time.Second)
					m.Order.ClockOffset = tc.ahead
				}); err != nil {
					w.t.Fatal(err)
				}
				w.dst.start(kill{})
				w.src.start(kill{})
				if rec := w.awaitFinal(time.Minute); rec.Phase != tc.phase || rec.ReasonCode != tc.reason {
					w.t.Errorf("ended %s %q (%s), want %s %q", rec.Phase, rec.ReasonCode, rec.Reason, tc.phase, tc.reason)
				}
			})
		})
	}
}
