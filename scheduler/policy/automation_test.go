package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAutomationFaults(t *testing.T) {
	_, err := Parse([]byte(`automation:
  level: max
  mark: 5%
  horizon: 1m
  hold: 25h
  slot: 1s
  plan_expiry: 1m
  min_gain: 0
  max_moves: 20000
  max_gib: 0
  at_once: -1
  pace: 3
  windows: [{name: a, cron: "0 25 * * *", duration: 1h}, {name: b, cron: "0 1 * * *", duration: 1h, zone: Mars}]
  blackouts: [{name: a, at: soon, duration: 1}]
`))
	if err == nil {
		t.Fatal("no faults")
	}
	want := []string{
		"automation.pace: unknown key: there are at_once, blackouts, hold, horizon, level, mark, max_gib, max_moves, min_gain, plan_expiry, slot, windows",
		"automation.blackouts[1].duration: want text; put numbers, true, false, yes and no in quotes",
		`automation.level: "max": want manual, partial or full`,
		"automation.mark: 5%: want 10% to 100%",
		"automation.horizon: 1m: want 10m to 48h",
		"automation.hold: 25h: want 0s to 24h",
		"automation.slot: 1s: want 10s to 1h",
		"automation.plan_expiry: 1m: want 5m to 720h",
		"automation.min_gain: 0: want 1 to 1000000",
		"automation.max_moves: 20000: want 1 to 10000",
		"automation.max_gib: 0: want 1 to 1000000",
		"automation.at_once: -1: want 1 to 1000",
		`automation.windows[1].cron: "0 25 * * *": `,
		`automation.windows[2].zone: "Mars" is not known: want a name such as Europe/Berlin, or UTC`,
		`automation.blackouts[1].name: there is another one called "a"`,
		`automation.blackouts[1].duration: "": want a time from 1m to 8784h, such as 4h`,
		`automation.blackouts[1].at: "soon": want a date and a time such as 2026-11-28T22:00`,
	}
	got := strings.Split(err.Error(), "\n")
	for i, line := range got {
		if cron := "automation.windows[1].cron: \"0 25 * * *\": "; strings.HasPrefix(line, cron) {
			got[i] = cron // the parser's words follow
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestDiffAutomation(t *testing.T) {
	a := parsed(t, `automation:
  level: partial
  hold: 10m
  windows: [{name: night, cron: "0 1 * * *", duration: 4h, zone: Europe/Berlin}]
`)
	b := parsed(t, `automation:
  level: full
  mark: 80%
  windows: [{name: night, cron: "0 2 * * *", duration: 4h, zone: Europe/Berlin}]
  blackouts: [{name: fair, at: "2026-12-24T10:00", duration: 8h}]
`)
	want := []Change{
		{What: "automation", Field: "level", Old: "partial", New: "full"},
		{What: "automation", Field: "mark", New: "80%"},
		{What: "automation", Field: "window night", Old: "0 1 * * * for 4h, Europe/Berlin", New: "0 2 * * * for 4h, Europe/Berlin"},
		{What: "automation", Field: "blackout fair", New: "2026-12-24T10:00 for 8h, UTC"},
		{What: "automation", Field: "hold", Old: "10m"},
	}
	if diff := cmp.Diff(want, Diff(*a, *b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := Diff(*a, *a); diff != nil {
		t.Errorf("with itself: %v", diff)
	}
}
