package calendar

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func made(t *testing.T, s Spec) *Calendar {
	t.Helper()
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// occurrences lists "ID start end" of what begins after from and before to.
func occurrences(c *Calendar, from, to time.Time) []string {
	var out []string
	for {
		o, ok := c.Next(from)
		if !ok || !o.Start.Before(to) {
			return out
		}
		out = append(out, fmt.Sprintf("%s %s %s", o.ID, o.Start.Format("02T15:04"), o.End.Format("02T15:04")))
		from = o.Start
	}
}

// TestClockChanges: starts and ends are in UTC.
func TestClockChanges(t *testing.T) {
	tests := []struct {
		name     string
		window   Window
		from, to string
		want     []string
	}{
		{
			"spring, in the gap: at the change",
			Window{Name: "w", Cron: "30 2 * * *", Duration: "1h", Zone: "America/New_York"},
			"2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z",
			[]string{"w@2026-03-08T02:30 08T07:00 08T08:00", "w@2026-03-09T02:30 09T06:30 09T07:30"},
		},
		{
			"spring, those in the gap and at its end are one",
			Window{Name: "w", Cron: "*/30 * * * *", Duration: "10m", Zone: "America/New_York"},
			"2026-03-08T06:00:00Z", "2026-03-08T08:00:00Z",
			[]string{"w@2026-03-08T01:30 08T06:30 08T06:40", "w@2026-03-08T02:00 08T07:00 08T07:10", "w@2026-03-08T03:30 08T07:30 08T07:40"},
		},
		{
			"autumn, the hour that comes twice: the first",
			Window{Name: "w", Cron: "30 1 * * *", Duration: "2h", Zone: "America/New_York"},
			"2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z",
			[]string{"w@2026-11-01T01:30 01T05:30 01T07:30", "w@2026-11-02T01:30 02T06:30 02T08:30"},
		},
		{
			"autumn, from within the second pass",
			Window{Name: "w", Cron: "30 1 * * *", Duration: "2h", Zone: "America/New_York"},
			"2026-11-01T06:10:00Z", "2026-11-02T12:00:00Z",
			[]string{"w@2026-11-02T01:30 02T06:30 02T08:30"},
		},
		{
			"a change of half an hour",
			Window{Name: "w", Cron: "15 2 * * *", Duration: "30m", Zone: "Australia/Lord_Howe"},
			"2026-10-02T18:00:00Z", "2026-10-04T18:00:00Z",
			[]string{"w@2026-10-04T02:15 03T15:30 03T16:00", "w@2026-10-05T02:15 04T15:15 04T15:45"},
		},
		{
			"midnight that does not exist",
			Window{Name: "w", Cron: "0 0 * * *", Duration: "1h", Zone: "Africa/Cairo"},
			"2026-04-22T23:00:00Z", "2026-04-24T23:00:00Z",
			[]string{"w@2026-04-24T00:00 23T22:00 23T23:00", "w@2026-04-25T00:00 24T21:00 24T22:00"},
		},
		{
			"longer than its period: cut at the next",
			Window{Name: "w", Cron: "0 */2 * * *", Duration: "3h"},
			"2026-01-01T01:00:00Z", "2026-01-01T05:00:00Z",
			[]string{"w@2026-01-01T02:00 01T02:00 01T04:00", "w@2026-01-01T04:00 01T04:00 01T06:00"},
		},
		{
			"once",
			Window{Name: "w", At: "2026-11-28T22:00", Duration: "6h", Zone: "Europe/Berlin"},
			"2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z",
			[]string{"w@2026-11-28T22:00 28T21:00 29T03:00"},
		},
		{
			"first Sunday",
			Window{Name: "w", Cron: "0 4 * * SUN#1", Duration: "1h"},
			"2026-11-02T00:00:00Z", "2027-01-01T00:00:00Z",
			[]string{"w@2026-12-06T04:00 06T04:00 06T05:00"},
		},
		{
			"leap day, over a century that has none",
			Window{Name: "w", Cron: "0 4 29 2 *", Duration: "1h"},
			"2096-03-01T00:00:00Z", "2105-01-01T00:00:00Z",
			[]string{"w@2104-02-29T04:00 29T04:00 29T05:00"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := made(t, Spec{Windows: []Window{tc.window}})
			if diff := cmp.Diff(tc.want, occurrences(c, at(t, tc.from), at(t, tc.to))); diff != "" {
				t.Errorf("occurrences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAt(t *testing.T) {
	c := made(t, Spec{
		Windows: []Window{
			{Name: "nightly", Cron: "0 1 * * *", Duration: "4h"},
			{Name: "late", At: "2026-05-02T04:00", Duration: "2h"},
		},
		Blackouts: []Window{
			{Name: "backup", Cron: "0 3 * * *", Duration: "30m"},
			{Name: "fair", At: "2026-05-03T00:00", Duration: "50h"},
		},
	})
	tests := []struct {
		when, opens string
		want        Verdict
	}{
		{"2026-05-01T00:59:59Z", "2026-05-01T01:00:00Z", Verdict{
			Until: at(t, "2026-05-01T01:00:00Z"), Reason: "no window is open: nightly is the next, at 2026-05-01 01:00 UTC",
		}},
		{"2026-05-01T01:00:00Z", "2026-05-01T01:00:00Z", Verdict{
			Allowed: true, Until: at(t, "2026-05-01T03:00:00Z"), Reason: "window nightly until 2026-05-01 05:00 UTC",
		}},
		{"2026-05-01T03:29:59Z", "2026-05-01T03:30:00Z", Verdict{
			Until: at(t, "2026-05-01T03:30:00Z"), Reason: "blackout backup until 2026-05-01 03:30 UTC",
		}},
		{"2026-05-01T05:00:00Z", "2026-05-02T01:00:00Z", Verdict{
			Until: at(t, "2026-05-02T01:00:00Z"), Reason: "no window is open: nightly is the next, at 2026-05-02 01:00 UTC",
		}},
		// Two windows are open: the one that ends last counts.
		{"2026-05-02T04:30:00Z", "2026-05-02T04:30:00Z", Verdict{
			Allowed: true, Until: at(t, "2026-05-02T06:00:00Z"), Reason: "window late until 2026-05-02 06:00 UTC",
		}},
		// A blackout over several windows, with another blackout in it.
		{"2026-05-03T00:00:00Z", "2026-05-05T02:00:00Z", Verdict{
			Until: at(t, "2026-05-05T02:00:00Z"), Reason: "blackout fair until 2026-05-05 02:00 UTC",
		}},
	}
	for _, tc := range tests {
		t.Run(tc.when, func(t *testing.T) {
			got := c.At(at(t, tc.when))
			got.Occurrence = Occurrence{}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("At (-want +got):\n%s", diff)
			}
			if o, ok := c.Opens(at(t, tc.when)); !ok || !o.Equal(at(t, tc.opens)) {
				t.Errorf("Opens = %s, %t, want %s", o, ok, tc.opens)
			}
		})
	}
}

// Every day's name is one that a window may have.
func TestDaysOfTheWeek(t *testing.T) {
	for i, day := range []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "sun-thu", "THU#2"} {
		c, err := New(Spec{Windows: []Window{{Name: "w", Cron: "0 1 * * " + day, Duration: "1h"}}})
		if err != nil {
			t.Errorf("%s: %v", day, err)
			continue
		}
		o, ok := c.Next(time.Date(2026, 3, 7, 12, 0, 0, 0, time.UTC)) // a Saturday
		if want := time.Weekday(i); !ok || i < 7 && o.Start.Weekday() != want || i == 8 && o.Start.Day() != 12 {
			t.Errorf("%s: %v %v", day, o.Start, o.Start.Weekday())
		}
	}
}

func TestWithoutWindows(t *testing.T) {
	now := at(t, "2026-05-01T00:00:00Z")
	if v := made(t, Spec{}).At(now); !v.Allowed || !v.Until.IsZero() {
		t.Errorf("an empty calendar says %+v, want allowed for ever", v)
	}
	over := made(t, Spec{Windows: []Window{{Name: "w", At: "2020-01-01T00:00", Duration: "1h"}}})
	if v := over.At(now); v.Allowed || !v.Until.IsZero() {
		t.Errorf("a calendar that is over says %+v, want forbidden for ever", v)
	}
	if o, ok := over.Opens(now); ok {
		t.Errorf("a calendar that is over opens at %s", o)
	}
	never := made(t, Spec{Blackouts: []Window{{Name: "b", Cron: "* * * * *", Duration: "1m"}}})
	if o, ok := never.Opens(now); ok {
		t.Errorf("a calendar that is always black opens at %s", o)
	}
}

func TestFaults(t *testing.T) {
	good := Window{Name: "w", Cron: "0 1 * * *", Duration: "1h"}
	with := func(change func(*Window)) Spec {
		w := good
		change(&w)
		return Spec{Windows: []Window{w}}
	}
	tests := []struct {
		name  string
		spec  Spec
		paths []string
	}{
		{"good", with(func(*Window) {}), nil},
		{"no name", with(func(w *Window) { w.Name = "" }), []string{"windows[1].name"}},
		{"a name with a slash", with(func(w *Window) { w.Name = "a/b" }), []string{"windows[1].name"}},
		{"one name twice", Spec{Windows: []Window{good}, Blackouts: []Window{good}}, []string{"blackouts[1].name"}},
		{"no duration", with(func(w *Window) { w.Duration = "" }), []string{"windows[1].duration"}},
		{"a duration without its unit", with(func(w *Window) { w.Duration = "90" }), []string{"windows[1].duration"}},
		{"negative", with(func(w *Window) { w.Duration = "-1h" }), []string{"windows[1].duration"}},
		{"too short", with(func(w *Window) { w.Duration = "59s" }), []string{"windows[1].duration"}},
		{"too long", with(func(w *Window) { w.Duration = "9000h" }), []string{"windows[1].duration"}},
		{"unknown zone", with(func(w *Window) { w.Zone = "Europe/Nowhere" }), []string{"windows[1].zone"}},
		{"the machine's zone", with(func(w *Window) { w.Zone = "Local" }), []string{"windows[1].zone"}},
		{"a path for a zone", with(func(w *Window) { w.Zone = "../etc/passwd" }), []string{"windows[1].zone"}},
		{"neither", with(func(w *Window) { w.Cron = "" }), []string{"windows[1]"}},
		{"both", with(func(w *Window) { w.At = "2026-01-01T00:00" }), []string{"windows[1]"}},
		{"four fields", with(func(w *Window) { w.Cron = "0 1 * *" }), []string{"windows[1].cron"}},
		{"every", with(func(w *Window) { w.Cron = "@every 5m" }), []string{"windows[1].cron"}},
		{"a zone in the expression", with(func(w *Window) { w.Cron = "TZ=UTC 1 * * *" }), []string{"windows[1].cron"}},
		{"no such hour", with(func(w *Window) { w.Cron = "0 24 * * *" }), []string{"windows[1].cron"}},
		{"no such day", with(func(w *Window) { w.Cron = "0 0 30 2 *" }), []string{"windows[1].cron"}},
		{"both kinds of day", with(func(w *Window) { w.Cron = "0 0 1-7 * SUN" }), []string{"windows[1].cron"}},
		{"a date without its time", with(func(w *Window) { w.Cron, w.At = "", "2026-01-01" }), []string{"windows[1].at"}},
		{"a date that is none", with(func(w *Window) { w.Cron, w.At = "", "2026-02-30T00:00" }), []string{"windows[1].at"}},
		{
			"everything at once",
			Spec{Blackouts: []Window{good, {Zone: "x", Cron: "x"}}},
			[]string{"blackouts[2].name", "blackouts[2].duration", "blackouts[2].zone", "blackouts[2].cron"},
		},
		{"too many", Spec{Windows: make([]Window, maxWindows+1)}, []string{"windows"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.spec)
			var faults Faults
			var got []string
			if errors.As(err, &faults) {
				for _, f := range faults {
					got = append(got, f.Path)
				}
			}
			if diff := cmp.Diff(tc.paths, got); diff != "" {
				t.Errorf("paths (-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

// zones are those whose clocks do unusual things, with two that do the usual and one that does nothing.
var zones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Africa/Casablanca",
	"America/Sao_Paulo", "Antarctica/Troll", "Asia/Gaza", "Asia/Kathmandu", "Asia/Tehran", "Europe/Dublin",
	"America/St_Johns", "America/Nuuk", "Pacific/Apia", "Pacific/Chatham", "America/Caracas", "Asia/Pyongyang",
}

func drawWindow(t *rapid.T, name string) Window {
	field := func(label string, lo, hi int, named ...string) string {
		n := rapid.IntRange(lo, hi)
		return rapid.OneOf(
			rapid.SampledFrom(append(named, "*")),
			rapid.Map(n, func(n int) string { return fmt.Sprint(n) }),
			rapid.Map(rapid.IntRange(1, max(1, hi/2)), func(n int) string { return fmt.Sprintf("*/%d", n) }),
			rapid.Custom(func(t *rapid.T) string {
				a, b := n.Draw(t, "from"), n.Draw(t, "to")
				return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
			}),
		).Draw(t, label)
	}
	day, weekday := "*", "*"
	if rapid.Bool().Draw(t, "by weekday") {
		weekday = field("weekday", 0, 6, "MON-FRI", "SUN#1", "FRI#L")
	} else {
		day = field("day", 1, 31, "L", "15W")
	}
	w := Window{
		Name:     name,
		Cron:     strings.Join([]string{field("minute", 0, 59), field("hour", 0, 23), day, field("month", 1, 12), weekday}, " "),
		Duration: fmt.Sprintf("%dm", rapid.IntRange(1, 3000).Draw(t, "minutes")),
		Zone:     rapid.SampledFrom(zones).Draw(t, "zone"),
	}
	return w
}

func drawCalendar(t *rapid.T, windows int) *Calendar {
	var s Spec
	for i := range windows {
		s.Windows = append(s.Windows, drawWindow(t, fmt.Sprintf("w%d", i)))
	}
	c, err := New(s)
	if err != nil {
		t.Skip(err) // such as 31 February
	}
	return c
}

func drawTime(t *rapid.T) time.Time {
	// 2010 has the years in which zones above skipped a day or changed their minds.
	return time.Unix(rapid.Int64Range(1262304000, 1893456000).Draw(t, "time"), rapid.Int64Range(0, 999999999).Draw(t, "ns"))
}

// TestOccurrences walks over three years of a window: starts rise, no two spans overlap, no ID comes twice,
// and whoever asks from elsewhere is told the same.
func TestOccurrences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCalendar(t, 1)
		from := drawTime(t)
		end, seen := from.AddDate(3, 0, 0), map[string]bool{}
		halves := time.Duration(rapid.IntRange(0, 2).Draw(t, "where in a span to ask"))
		var before Occurrence
		now := from
		for range 1200 { // three years of every day
			o, ok := c.Next(now)
			if !ok || o.Start.After(end) {
				break
			}
			if !o.Start.After(now) {
				t.Fatalf("Next(%s) begins at %s, not after", now, o.Start)
			}
			if before.ID != "" && before.End.After(o.Start) {
				t.Fatalf("%+v overlaps %+v", before, o)
			}
			if !o.End.After(o.Start) || o.End.Sub(o.Start) > c.windows[0].length {
				t.Fatalf("%+v does not last as it should", o)
			}
			if seen[o.ID] {
				t.Fatalf("%s comes twice", o.ID)
			}
			seen[o.ID] = true
			within := o.Start.Add((o.End.Sub(o.Start) - 1) / 2 * halves)
			if v := c.At(within); !v.Allowed || v.Occurrence != o {
				t.Fatalf("At(%s) = %+v, want %+v", within, v, o)
			}
			ask := now.Add((o.Start.Sub(now) - 1) / 2 * halves)
			if p, ok := c.Next(ask); !ok || p != o {
				t.Fatalf("Next(%s) = %+v, want %+v", ask, p, o)
			}
			if now.After(from) && !before.End.Equal(o.Start) {
				if v := c.At(before.End.Add(o.Start.Sub(before.End) / 2)); v.Allowed || !v.Until.Equal(o.Start) {
					t.Fatalf("between %+v and %+v: %+v", before, o, v)
				}
			}
			before, now = o, o.Start
		}
	})
}

// TestNextRises: of two times the later one's Next is not before the earlier one's, nor is Opens.
func TestNextRises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCalendar(t, 2)
		a := drawTime(t)
		b := a.Add(time.Duration(rapid.Int64Range(0, int64(50*time.Hour)).Draw(t, "later")))
		na, oka := c.Next(a)
		nb, okb := c.Next(b)
		if okb && (!oka || nb.Start.Before(na.Start)) {
			t.Fatalf("Next(%s) = %+v, Next(%s) = %+v", a, na, b, nb)
		}
		oa, oka := c.Opens(a)
		ob, okb := c.Opens(b)
		if okb && (!oka || ob.Before(oa)) {
			t.Fatalf("Opens(%s) = %s, Opens(%s) = %s", a, oa, b, ob)
		}
		if oka && (oa.Before(a) || !c.At(oa).Allowed) {
			t.Fatalf("Opens(%s) = %s, which is not allowed", a, oa)
		}
	})
}

// TestInstantOf: it never falls, and where the clock shows the time at all, it does so then, for the first
// time.
func TestInstantOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		// Near a change of the clock, if there is one.
		near := drawTime(t).Truncate(time.Second)
		if _, end := near.In(zone).ZoneBounds(); !end.IsZero() {
			near = end
		}
		minutes := rapid.IntRange(-200, 200)
		wall := wallOf(near.Add(time.Duration(minutes.Draw(t, "instant"))*time.Minute), zone)
		got := instantOf(wall, zone)
		if !wallOf(got, zone).Equal(wall) {
			t.Fatalf("%s shows %s, want %s", got, wallOf(got, zone), wall)
		}
		for back := time.Minute; back < 27*time.Hour; back += time.Minute {
			if wallOf(got.Add(-back), zone).Equal(wall) {
				t.Fatalf("%s showed %s before %s", got.Add(-back), wall, got)
			}
		}
		later := wall.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "wall")) * time.Minute)
		if next := instantOf(later, zone); next.Before(got) {
			t.Fatalf("%s is at %s, and %s at %s", wall, got, later, next)
		}
	})
}

func FuzzNew(f *testing.F) {
	for _, s := range []string{"0 1 * * *", "*/7 22-2 L * *", "1,2 * 15W,LW 2 ?", "* * * * SUN#5", "TZ= 0 0 0 0", "0 0 31 11 *", "H H * * *", "0 0 L-30 2 *"} {
		f.Add(s, "", "1h", "America/New_York", int64(1762000000))
	}
	f.Add("", "2026-10-25T02:30", "90m", "Europe/Berlin", int64(0))
	f.Fuzz(func(t *testing.T, cron, at, duration, zone string, now int64) {
		spec := Spec{Windows: []Window{{Name: "w", Cron: cron, At: at, Duration: duration, Zone: zone}}}
		c, err := New(spec)
		if err != nil {
			var faults Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("New: %v, want Faults", err)
			}
			for _, f := range faults {
				if !strings.HasPrefix(f.Path, "windows[1]") {
					t.Fatalf("the fault %+v names no field", f)
				}
			}
			return
		}
		when := time.Unix(now%4e9, 0)
		if o, ok := c.Next(when); ok && !o.Start.After(when) {
			t.Fatalf("Next(%s) = %+v", when, o)
		}
		c.At(when)
		if o, ok := c.Opens(when); ok && o.Before(when) {
			t.Fatalf("Opens(%s) = %s", when, o)
		}
	})
}
