package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler"
	"drover/scheduler/auto"
	"drover/scheduler/signal"
	"drover/test/sim/flow"
)

// Config is what a fleet is made of, besides hosts and guests. The zero value is drover as it comes.
type Config struct {
	Seed uint64
	// Start is what time it is when time begins; zero is a Monday's midnight.
	Start time.Time
	// Rule decides who may move when; nil is drover.
	Rule Rule
	// Auto makes automatic moves; nil makes none.
	Auto *auto.Settings
	// Timing is how long things take that are no copying; zero fields take the defaults.
	Timing Timing
	Hooks  Hooks
}

// Timing is how long things take. The defaults were measured between real hosts, with TLS.
type Timing struct {
	// Write is how long a write to the store takes until whoever watches has it (10 ms), Ask a question
	// to two agents (50 ms).
	Write, Ask time.Duration
	// Connect is how long libvirt's call works before its job is visible (100 ms), Setup until the first
	// page goes (300 ms), Overhead the part of the pause that is not memory (50 ms).
	Connect, Setup, Overhead time.Duration
	// Pass is how soon after a change the leader looks at the fleet (20 ms).
	Pass time.Duration
	// Report is how often agents report (30 s: the real ones report every 5 s).
	Report time.Duration
	// Lease is how long after its end an agent, or a leader, is taken to live (10 s).
	Lease time.Duration
	// Notice is how long the source takes to see that the target is gone (5 s).
	Notice time.Duration
	// Sample is how often the fleet is judged (1 min).
	Sample time.Duration
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Write, 10 * time.Millisecond},
		{&t.Ask, 50 * time.Millisecond},
		{&t.Connect, 100 * time.Millisecond},
		{&t.Setup, 300 * time.Millisecond},
		{&t.Overhead, 50 * time.Millisecond},
		{&t.Pass, 20 * time.Millisecond},
		{&t.Report, 30 * time.Second},
		{&t.Lease, 10 * time.Second},
		{&t.Notice, 5 * time.Second},
		{&t.Sample, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return t
}

// Hooks let what drover grows be tried here. All may be nil.
type Hooks struct {
	// Before is called with what a pass is about to be given.
	Before func(w *World, in *scheduler.Inputs)
	// Effect carries a decision out that the world does not know; false leaves it to the world.
	Effect func(w *World, d scheduler.Decision) bool
	// Poll is called at each of the agents' looks at a migration that copies.
	Poll func(w *World, r *Running)
	// Ended is called with each migration that has ended.
	Ended func(w *World, m precopy.Stored)
}

// World is a fleet in virtual time, with its store, its agents and its leader.
type World struct {
	Config
	// Random is for whoever makes fleets and events; the world itself draws nothing from it.
	Random *rand.Rand

	now    time.Duration
	seq    uint64
	events eventHeap

	hosts   map[string]*Host
	names   []string // of hosts, in order
	guests  []*Guest // as they were added
	byID    map[hypervisor.DomainID]*Guest
	net     flow.Network
	owners  map[*flow.Stream]*Running
	uplinks map[string][2]flow.Link // out and in

	store  *records
	leader *leader
	loads  *signal.Memory // of the last leader that made automatic moves
	judge  *judge
}

// New returns a world without hosts, whose leader is elected when time begins.
func New(c Config) *World {
	c.Timing = c.Timing.withDefaults()
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	}
	if c.Rule == nil {
		c.Rule = Drover{}
	}
	w := &World{
		Config: c, Random: rand.New(rand.NewPCG(c.Seed, 1)), hosts: map[string]*Host{}, byID: map[hypervisor.DomainID]*Guest{},
		owners: map[*flow.Stream]*Running{}, uplinks: map[string][2]flow.Link{}, store: newRecords(), judge: &judge{},
	}
	w.After(0, w.elect)
	w.After(0, w.sample)
	return w
}

// AddUplink says what a rack's link to the others carries, each way; a rack that has none has no limit. It comes
// before migrations.
func (w *World) AddUplink(rack string, capacity hypervisor.BytesPerSecond) error {
	if _, there := w.uplinks[rack]; there || capacity <= 0 {
		return fmt.Errorf("add an uplink of %s to rack %q: it has one, or nothing would pass", capacity, rack)
	}
	w.uplinks[rack] = [2]flow.Link{w.net.AddLink(float64(capacity)), w.net.AddLink(float64(capacity))}
	return nil
}

// Idle reports whether nothing is under way: no migration, no run.
func (w *World) Idle() bool {
	if len(w.store.active) > 0 {
		return false
	}
	for _, r := range w.store.runs {
		if !r.Phase.Final() {
			return false
		}
	}
	return true
}

// Now is the time since the beginning, Time the time of day.
func (w *World) Now() time.Duration { return w.now }

// Time is what the clocks of all hosts show.
func (w *World) Time() time.Time { return w.Start.Add(w.now) }

// After does something after a while. What is due at the same time is done in the order in which it was asked for.
func (w *World) After(d time.Duration, do func()) *Event {
	w.seq++
	e := &Event{at: w.now + max(d, 0), seq: w.seq, do: do}
	heap.Push(&w.events, e)
	return e
}

// At does something at a time since the beginning.
func (w *World) At(t time.Duration, do func()) *Event { return w.After(t-w.now, do) }

// Run lets time pass.
func (w *World) Run(d time.Duration) { w.runTo(w.now+d, nil) }

// Until lets time pass until the condition holds, which is looked at after each event, for so long at most. It
// reports whether it holds.
func (w *World) Until(limit time.Duration, holds func() bool) bool {
	return holds() || w.runTo(w.now+limit, holds)
}

func (w *World) runTo(end time.Duration, holds func() bool) bool {
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(*Event)
		if e.off {
			continue
		}
		w.now = e.at
		e.do()
		if holds != nil && holds() {
			return true
		}
	}
	w.now = end
	return false
}

// Event is something that will be done.
type Event struct {
	at  time.Duration
	seq uint64
	do  func()
	off bool
}

// Stop makes it not happen; a nil event, or one that has, is none.
func (e *Event) Stop() {
	if e != nil {
		e.off = true
	}
}

type eventHeap []*Event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(*Event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
