package sim

import (
	"testing"
	"time"

	"drover/hypervisor"

	"pgregory.net/rapid"
)

// TestPagedAgainstSets drives the bitmaps and plain sets through the same writes, syncs and sends.
func TestPagedAgainstSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pages := rapid.IntRange(1, 300).Draw(t, "pages")
		c := DomainConfig{
			ID: "a", Memory: hypervisor.Bytes(pages) * pageSize,
			Used:    hypervisor.Bytes(rapid.IntRange(1, pages).Draw(t, "used")) * pageSize,
			Pattern: Pattern{Kind: Pages, Rate: 1000},
		}
		m := newPaged(c, 1)
		todo, dirty := map[int]bool{}, map[int]bool{}
		for i := range m.n {
			todo[i] = true
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "sync", "send"}).Draw(t, "step") {
			case "write":
				m.w.run(time.Duration(rapid.IntRange(0, 100).Draw(t, "ms"))*time.Millisecond, func(p int) {
					m.dirty.set(p)
					dirty[p] = true
				})
			case "sync":
				added := 0
				for p := range dirty {
					if !todo[p] {
						todo[p] = true
						added++
					}
				}
				clear(dirty)
				if got := m.sync(); got != added {
					t.Fatalf("sync added %d pages, want %d", got, added)
				}
			case "send":
				before := len(todo)
				s := m.send(float64(rapid.IntRange(0, 400).Draw(t, "budget"))*4096, func(bool) hypervisor.Bytes { return pageSize })
				for p := range todo {
					if !m.todo.has(p) {
						delete(todo, p)
					}
				}
				if before-len(todo) != s.normal+s.zero {
					t.Fatalf("%d pages left what is to be sent, %d were sent", before-len(todo), s.normal+s.zero)
				}
			}
			if m.remaining() != len(todo) {
				t.Fatalf("remaining %d, want %d", m.remaining(), len(todo))
			}
			for p := range todo {
				if !m.todo.has(p) {
					t.Fatalf("page %d is not to be sent and was not sent", p)
				}
			}
		}
	})
}

func TestSendPricesZeroPages(t *testing.T) {
	m := newPaged(DomainConfig{ID: "a", Memory: 64 * hypervisor.MiB, Used: 16 * hypervisor.MiB}, 1)
	s := m.send(1e18, func(bool) hypervisor.Bytes { return pageSize })
	if want := int(16 * hypervisor.MiB / pageSize); s.normal != want {
		t.Errorf("sent %d normal pages, want %d", s.normal, want)
	}
	if want := int((48*hypervisor.MiB + firmware) / pageSize); s.zero != want {
		t.Errorf("sent %d zero pages, want %d", s.zero, want)
	}
	if want := float64(17 * hypervisor.MiB); s.cost > want {
		t.Errorf("cost %.0f bytes, want at most %.0f", s.cost, want)
	}
}

func TestPatternsWriteAtTheirRate(t *testing.T) {
	base := DomainConfig{ID: "a", Memory: 64 * hypervisor.MiB}
	for _, tc := range []struct {
		name     string
		pattern  Pattern
		writes   int // in 10 s
		distinct int // at most
	}{
		{"idle", Pattern{}, 10 * idleRate, idleSet},
		{"words", Pattern{Kind: Words, Rate: 500, WorkingSet: 4 * hypervisor.MiB}, 5000, 1024},
		{"pages", Pattern{Kind: Pages, Rate: 700}, 7000, 7000},
		{"sweep", Pattern{Kind: Sweep, Rate: 100}, 1000, 1000},
		{"bursts", Pattern{Kind: Bursts, Rate: 1000, On: time.Second, Off: 3 * time.Second}, 3000, 3000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := base
			c.Pattern = tc.pattern
			w := newWriter(c, 1)
			writes, seen := 0, map[int]bool{}
			for range 1000 {
				w.run(10*time.Millisecond, func(p int) {
					writes++
					seen[p] = true
				})
			}
			if writes < tc.writes-1 || writes > tc.writes+1 {
				t.Errorf("%d writes in 10s, want %d", writes, tc.writes)
			}
			if len(seen) > tc.distinct {
				t.Errorf("%d distinct pages, want at most %d", len(seen), tc.distinct)
			}
			if tc.pattern.Kind == Sweep && len(seen) != tc.distinct {
				t.Errorf("a sweep wrote %d distinct pages, want %d", len(seen), tc.distinct)
			}
		})
	}
}

func TestSetup(t *testing.T) {
	f := New(Config{})
	defer f.Close()
	if _, err := f.AddHost(HostConfig{Name: "a", Memory: hypervisor.GiB, Link: 1e6}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]HostConfig{
		"taken": {Name: "a", Memory: 1, Link: 1}, "unnamed": {Memory: 1, Link: 1},
		"no link": {Name: "b", Memory: 1}, "no memory": {Name: "b", Link: 1},
	} {
		if _, err := f.AddHost(c); err == nil {
			t.Errorf("AddHost %s: no error", name)
		}
	}
	for name, c := range map[string]DomainConfig{
		"no memory":       {ID: "1"},
		"no such pattern": {ID: "1", Memory: hypervisor.MiB, Pattern: Pattern{Kind: "wild"}},
		"set too large":   {ID: "1", Memory: hypervisor.MiB, Pattern: Pattern{Kind: Pages, WorkingSet: hypervisor.GiB}},
		"endless burst":   {ID: "1", Memory: hypervisor.MiB, Pattern: Pattern{Kind: Bursts}},
		"autostart":       {ID: "1", Memory: hypervisor.MiB, Transient: true, Autostart: true},
	} {
		if err := f.AddDomain("a", c); err == nil {
			t.Errorf("AddDomain %s: no error", name)
		}
	}
	if err := f.AddDomain("z", DomainConfig{ID: "1", Memory: hypervisor.MiB}); err == nil {
		t.Error("AddDomain on an unknown host: no error")
	}
}

func BenchmarkGigabytePass(b *testing.B) {
	c := DomainConfig{ID: "a", Memory: hypervisor.GiB, Pattern: Pattern{Kind: Pages, Rate: 9000, WorkingSet: 512 * hypervisor.MiB}}
	for b.Loop() {
		m := newPaged(c, 1)
		for m.remaining() > 0 {
			m.write(tick)
			m.send(500e3, func(bool) hypervisor.Bytes { return pageSize })
		}
	}
}
