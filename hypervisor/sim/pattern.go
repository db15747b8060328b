package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"drover/hypervisor"
)

// PatternKind is how a guest writes its memory.
type PatternKind string

// The patterns.
const (
	Idle   PatternKind = ""       // a few pages now and then
	Words  PatternKind = "words"  // one word of a page picked at random
	Pages  PatternKind = "pages"  // the whole of a page picked at random
	Sweep  PatternKind = "sweep"  // whole pages, one after the other, over and over
	Bursts PatternKind = "bursts" // like Pages, for On, then nothing for Off
)

// Pattern is how a guest writes its memory. Rate and WorkingSet are ignored by an idle one.
type Pattern struct {
	Kind PatternKind
	// Rate is in page writes per second at full speed; pages may be written again.
	Rate float64
	// WorkingSet is how much memory the writes go to; 0 is all that is used.
	WorkingSet hypervisor.Bytes
	On, Off    time.Duration // of bursts
}

// idleRate is the page writes per second of an idle guest's kernel, and idleSet their pages.
const (
	idleRate = 40
	idleSet  = 200
)

func (p Pattern) check(c DomainConfig) error {
	switch p.Kind {
	case Idle:
		return nil
	case Words, Pages, Sweep, Bursts:
	default:
		return fmt.Errorf("pattern %q is not known", p.Kind)
	}
	switch {
	case p.Rate < 0 || math.IsNaN(p.Rate) || math.IsInf(p.Rate, 0):
		return fmt.Errorf("pattern: rate %v", p.Rate)
	case p.WorkingSet < 0 || p.WorkingSet > used(c):
		return fmt.Errorf("pattern: working set %s of %s used", p.WorkingSet, used(c))
	case p.Kind == Bursts && (p.On <= 0 || p.Off < 0):
		return fmt.Errorf("pattern: bursts of %s every %s", p.On, p.On+p.Off)
	}
	return nil
}

func used(c DomainConfig) hypervisor.Bytes {
	if c.Used <= 0 || c.Used > c.Memory {
		return c.Memory
	}
	return c.Used
}

// writer turns a pattern into the pages written, piece by piece.
type writer struct {
	Pattern
	pages int // of the working set
	rng   *rand.Rand
	carry float64
	next  int
	clock time.Duration // guest time, for bursts
}

func newWriter(c DomainConfig, seed uint64) *writer {
	w := &writer{Pattern: c.Pattern, rng: rand.New(rand.NewPCG(seed, hash(string(c.ID))))}
	if w.Kind == Idle {
		w.Rate, w.WorkingSet = idleRate, idleSet*pageSize
	}
	if w.WorkingSet <= 0 || w.WorkingSet > used(c) {
		w.WorkingSet = used(c)
	}
	w.pages = max(1, int(w.WorkingSet/pageSize))
	return w
}

// run calls mark for each page written in d of guest time.
func (w *writer) run(d time.Duration, mark func(page int)) {
	active := d
	if w.Kind == Bursts {
		period := w.On + w.Off
		active = w.activeUntil(w.clock+d, period) - w.activeUntil(w.clock, period)
	}
	w.clock += d
	w.carry += w.Rate * active.Seconds()
	n := int(w.carry)
	w.carry -= float64(n)
	if w.Kind == Sweep {
		for range min(n, w.pages) {
			mark(w.next)
			w.next = (w.next + 1) % w.pages
		}
		return
	}
	// Past some multiple of the set nearly all of it is written; more draws change nothing.
	for range min(n, 16*w.pages) {
		mark(w.rng.IntN(w.pages))
	}
}

// activeUntil is how much of [0,t) a bursting guest writes.
func (w *writer) activeUntil(t, period time.Duration) time.Duration {
	return t/period*w.On + min(t%period, w.On)
}

// distinct is the number of different pages that are written within d: what page sampling sees.
func (p Pattern) distinct(c DomainConfig, d time.Duration) float64 {
	w := newWriter(DomainConfig{ID: c.ID, Memory: c.Memory, Used: c.Used, Pattern: p}, 0)
	writes, pages := w.Rate*d.Seconds(), float64(w.pages)
	switch p.Kind {
	case Sweep:
		return min(writes, pages)
	case Bursts:
		writes *= float64(p.On) / float64(p.On+p.Off)
	case Idle, Words, Pages:
	}
	return pages * (1 - math.Exp(-writes/pages))
}

// hash spreads an ID over the seeds (FNV-1a).
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
