package calendar

import "time"

// A time on the wall is a time.Time in UTC whose fields are what the clock shows in some zone. Unlike
// instants in a zone, times on the wall have neither gaps nor repeats.

// wallOf is what the clock shows in the zone at the instant t.
func wallOf(t time.Time, zone *time.Location) time.Time {
	_, offset := t.In(zone).Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// instantOf is when the clock in the zone first shows the time, or jumps over it. It never falls as the
// time on the wall rises.
func instantOf(wall time.Time, zone *time.Location) time.Time {
	y, mo, d := wall.Date()
	// time.Date gives an instant near the right one, on either side of a change of the clock.
	near := time.Date(y, mo, d, wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := near.ZoneBounds()
	var first time.Time
	for _, in := range []time.Time{start.Add(-time.Second), near, end} {
		_, offset := in.In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if wallOf(at, zone).Equal(wall) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first
	}
	for _, change := range []time.Time{start, end} {
		if !change.IsZero() && !wall.Before(wallOf(change.Add(-time.Second), zone)) && !wall.After(wallOf(change, zone)) {
			return change.UTC()
		}
	}
	return near.UTC()
}
