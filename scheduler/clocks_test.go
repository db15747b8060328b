package scheduler

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
)

// However late reports come: the offset is found to within the fastest of the last ones, and a clock
// that is set is found so again after a few.
func TestClocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := clocks{}
		s := snapshot(host("h1", hypervisor.GiB))
		h := s.Hosts["h1"]
		for range 2 {
			offset := time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "offset"))
			fastest := time.Hour
			for range clockReports {
				took := time.Duration(rapid.Int64Range(0, 3e9).Draw(t, "took"))
				fastest = min(fastest, took)
				h.LoadRevision++
				h.LoadSeen = h.LoadSeen.Add(5 * time.Second)
				h.Load.At = h.LoadSeen.Add(offset - took)
				c.look(s)
				c.look(s) // the same report once more
			}
			if got, want := c.offsets()["h1"], offset-fastest; got != want {
				t.Fatalf("offset %s, want %s", got, want)
			}
		}
		delete(s.Hosts, "h1")
		c.look(s)
		if len(c.offsets()) != 0 {
			t.Fatal("a forgotten host is remembered")
		}
	})
}

// A clock that is off is told once, when it is sure, and again only after it was right in between.
func TestClockNews(t *testing.T) {
	c := clocks{}
	s := snapshot(host("h1", hypervisor.GiB))
	h := s.Hosts["h1"]
	told := 0
	report := func(n int, offset time.Duration) int {
		told = 0
		for range n {
			h.LoadRevision++
			h.LoadSeen = h.LoadSeen.Add(5 * time.Second)
			h.Load.At = h.LoadSeen.Add(offset)
			c.look(s)
			if off, is := c.news()["h1"]; is {
				told++
				if off != offset {
					t.Errorf("told %s, want %s", off, offset)
				}
			}
		}
		return told
	}
	for i, step := range []struct {
		reports int
		offset  time.Duration
		want    int
	}{
		{clockReports - 1, -time.Minute, 0}, // may be the reports' slowness
		{1, -time.Minute, 1},
		{20, -time.Minute, 0},
		{20, -time.Second, 0},
		{20, time.Hour, 1},
		{20, 0, 0},
		{20, time.Hour, 1},
	} {
		if got := report(step.reports, step.offset); got != step.want {
			t.Errorf("step %d: told %d times, want %d", i, got, step.want)
		}
	}
}
