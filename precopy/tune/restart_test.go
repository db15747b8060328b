package tune_test

import (
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/tune"
)

// TestRestart says when an attempt is ended for the sake of another strategy: only where going on would not
// end within the intent, or where the other is known to cost clearly less, and never a second time.
func TestRestart(t *testing.T) {
	xbzrle := func(tried bool, ratio float64) []forecast.Option {
		return []forecast.Option{{Strategy: hypervisor.Strategy{Compression: "xbzrle", XBZRLECache: 512 * mib}, First: 1, Ratio: ratio, Tried: tried}}
	}
	word, hot := matrix[1], matrix[2]
	word.pattern.Rate = 14_000
	for _, tc := range []struct {
		name   string
		guest  workload
		change func(*tune.Start)
		want   bool
	}{
		{"can't end otherwise, a guess", word, func(s *tune.Start) { s.MaxSlowdown, s.Ceiling, s.Prior.Others = 0, s.MaxPause, xbzrle(false, 0.4) }, true},
		{"the guess would not do either", word, func(s *tune.Start) { s.MaxSlowdown, s.Ceiling, s.Prior.Others = 0, s.MaxPause, xbzrle(false, 0.93) }, false},
		{"ends slowed, known to do without", hot, func(s *tune.Start) { s.MaxSlowdown, s.Prior.Others = 0.5, xbzrle(true, 0.1) }, false},
		{"too late for a guess", word, func(s *tune.Start) {
			s.MaxSlowdown, s.Ceiling, s.Budget, s.Prior.Others = 0, s.MaxPause, 20*time.Second, xbzrle(false, 0.4)
		}, false},
		{"was restarted before", word, func(s *tune.Start) {
			s.MaxSlowdown, s.Ceiling, s.Attempts, s.Prior.Others = 0, s.MaxPause, 1, xbzrle(true, 0.1)
		}, false},
		{"no other strategy", word, func(s *tune.Start) { s.MaxSlowdown, s.Ceiling = 0, s.MaxPause }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := intent()
				s.Budget = 75 * time.Second
				tc.change(&s)
				var c *tune.Controller
				e := play(t, tc.guest, mbit400, hypervisor.Strategy{}, func(s tune.Start) tune.Tuner { c = tune.New(s); return c }, s)
				report(t, tc.name, e)
				if got := e.last.Action == tune.Restart; got != tc.want {
					t.Errorf("restarts: %v, want %v", got, tc.want)
				}
				if tc.want && (e.last.Next == nil || e.last.Next.Strategy.Compression != "xbzrle" || e.took > s.Budget/4) {
					t.Errorf("with %+v after %s", e.last.Next, e.took)
				}
			})
		})
	}
}
