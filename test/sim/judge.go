package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/signal"
)

// judge sees what really happens: it looks at guests and hosts, not at records.
type judge struct {
	samples []sample
	moves   []move
	pauses  []pause
	ends    []precopy.Stored
	narrow  []string // when N+1 was not kept, and why
	checked int
	killed  int
}

// sample is the fleet at one moment.
type sample struct {
	at      time.Duration
	balance float64 // the fullest host's CPU over the mean of all
	over    int     // hosts that are asked for more than 90 % of their cores
	asked   float64 // of all hosts' cores, by all
}

type move struct {
	at       time.Duration
	guest    *Guest
	from, to *Host
}

type pause struct {
	at   time.Duration
	took time.Duration
	run  string
	over bool // beyond the ceiling
}

func (j *judge) moved(w *World, g *Guest, from *Host) {
	j.moves = append(j.moves, move{w.now, g, from, g.Host})
	j.changed(w)
}

func (j *judge) paused(at time.Duration, r *Running) {
	m := r.w.store.migrations[r.ID]
	took := r.pause()
	j.pauses = append(j.pauses, pause{at, took, m.Run, took > m.Policy.MaxPauseCeiling()})
}

func (j *judge) over(_ *World, m precopy.Stored) { j.ends = append(j.ends, m) }

// sample looks at the fleet, at intervals.
func (w *World) sample() {
	w.After(w.Timing.Sample, w.sample)
	s := sample{at: w.now}
	most, asked, cores := 0.0, 0.0, 0.0
	for _, name := range w.names {
		h := w.hosts[name]
		if !h.on {
			continue
		}
		a := float64(h.Asked(w.now))
		if a > 0.9*float64(h.Cores) {
			s.over++
		}
		asked += a
		cores += float64(h.Cores)
		if !h.Cordoned() {
			most = max(most, a/float64(h.Cores))
		}
	}
	if cores > 0 {
		s.asked = asked / cores
	}
	if s.asked > 0 {
		s.balance = most / s.asked
	}
	w.judge.samples = append(w.judge.samples, s)
}

// changed checks that the guests of any one host could be started again on the others, were it to die now.
func (j *judge) changed(w *World) {
	j.checked++
	if why := w.narrow(); why != "" {
		j.narrow = append(j.narrow, fmt.Sprintf("%s: %s", w.now, why))
	}
}

// narrow names a host whose guests would not fit on the others that are up and open; "" when there is none.
func (w *World) narrow() string {
	type room struct {
		h    *Host
		free hypervisor.Bytes
	}
	var open []room
	sum := hypervisor.Bytes(0)
	for _, name := range w.names {
		if h := w.hosts[name]; h.on && !h.Cordoned() {
			free := max(h.Memory-h.Reserved-h.committed, 0)
			open = append(open, room{h, free})
			sum += free
		}
	}
	for _, name := range w.names {
		h := w.hosts[name]
		if len(h.guests) == 0 {
			continue
		}
		var need, largest, usable hypervisor.Bytes
		for _, g := range h.guests {
			need += g.Memory.Total
			largest = max(largest, g.Memory.Total)
		}
		for _, r := range open {
			if r.h != h {
				usable += max(r.free-largest, 0)
			}
		}
		if need <= usable {
			continue // whatever the order
		}
		// The largest first, each where most is free.
		left := make([]hypervisor.Bytes, 0, len(open))
		for _, r := range open {
			if r.h != h {
				left = append(left, r.free)
			}
		}
		guests := slices.Clone(h.Guests())
		slices.SortStableFunc(guests, func(a, b *Guest) int { return cmp.Compare(b.Memory.Total, a.Memory.Total) })
		for _, g := range guests {
			at, most := -1, hypervisor.Bytes(-1)
			for i, f := range left {
				if f > most {
					at, most = i, f
				}
			}
			if at < 0 || most < g.Memory.Total {
				return fmt.Sprintf("%s of %s would fit nowhere", g.Name, h.Name)
			}
			left[at] -= g.Memory.Total
		}
	}
	return ""
}

// Report is what became of a fleet from some time on.
type Report struct {
	From, To      time.Duration
	Hosts, Guests int
	// Moves are guests that changed hosts, Again those of them that moved before in this time, Returns those
	// that came back to a host that they left less than a day before.
	Moves, Again, Returns int
	// Failed are migrations that were begun and moved nothing, Refused those that were never begun.
	Failed, Refused int
	Bytes           hypervisor.Bytes
	// LastMove is when the last one ended, 0 when there was none.
	LastMove time.Duration
	// Thrash is the part of the moved memory that need not have moved: 1 - D/M, where M is the memory of all
	// moves together, and D that of the guests, once each, which are on another host in the end than they were
	// on in the beginning. It is 0 when each guest that moved did so once, 1 when all are back, and grows with
	// each detour. Swaps are no thrash.
	Thrash float64
	// WorstPause and MedianPause are of completed migrations; Over is how many were paused beyond the ceiling
	// of their policy.
	WorstPause, MedianPause time.Duration
	Over                    int
	// Balance is the CPU asked for on the fullest open host over the mean of all, in the mean and in the end;
	// Overloaded the host-minutes in which more than 90 % of a host's cores was asked for.
	Balance, FinalBalance float64
	Overloaded            int
	// Narrow is how often, of Checked times that something changed, the guests of some host would not have fit
	// on the others; NarrowFirst says when that was first, and why.
	Narrow, Checked int
	NarrowFirst     string
	// Lost are guests that run nowhere though no host died with them, Doubled those that two hosts have; Killed
	// died with their hosts.
	Lost, Doubled, Killed int
	// Wrongs are writes that no protocol allows.
	Wrongs []string
	Writes map[string]int
}

// Report judges what has happened from a time on.
func (w *World) Report(from time.Duration) Report {
	j := w.judge
	r := Report{
		From: from, To: w.now, Hosts: len(w.hosts), Guests: len(w.guests), Killed: j.killed, Wrongs: w.store.wrongs,
		Writes: w.Writes(), Narrow: len(j.narrow), Checked: j.checked,
	}
	if len(j.narrow) > 0 {
		r.NarrowFirst = j.narrow[0]
	}
	r.Lost, r.Doubled = w.whereabouts()
	type departure struct {
		host string
		at   time.Duration
	}
	left := map[hypervisor.DomainID][]departure{}
	first := map[hypervisor.DomainID]*Host{}
	var moved, displaced hypervisor.Bytes
	for _, m := range j.moves {
		if m.at >= from {
			r.Moves++
			moved += m.guest.Memory.Total
			r.LastMove = m.at
			if first[m.guest.ID] == nil {
				first[m.guest.ID] = m.from
			} else {
				r.Again++
			}
			for _, d := range left[m.guest.ID] {
				if d.host == m.to.Name && m.at-d.at < signal.NoReturn {
					r.Returns++
					break
				}
			}
		}
		left[m.guest.ID] = append(left[m.guest.ID], departure{m.from.Name, m.at})
	}
	for id, h := range first {
		if g := w.byID[id]; g.Host != h {
			displaced += g.Memory.Total
		}
	}
	if moved > 0 {
		r.Thrash = 1 - float64(displaced)/float64(moved)
	}
	w.pausesOf(&r)
	sum, n := 0.0, 0
	for _, s := range j.samples {
		if s.at >= from {
			sum += s.balance
			n++
			r.Overloaded += s.over
			r.FinalBalance = s.balance
		}
	}
	if n > 0 {
		r.Balance = sum / float64(n)
	}
	return r
}

func (w *World) pausesOf(r *Report) {
	var pauses []time.Duration
	for _, p := range w.judge.pauses {
		if p.at >= r.From {
			pauses = append(pauses, p.took)
			if p.over {
				r.Over++
			}
		}
	}
	if slices.Sort(pauses); len(pauses) > 0 {
		r.WorstPause, r.MedianPause = pauses[len(pauses)-1], pauses[len(pauses)/2]
	}
	for _, m := range w.judge.ends {
		if m.Finished == nil || m.Finished.Before(w.Start.Add(r.From)) {
			continue
		}
		if m.Outcome != nil {
			r.Bytes += m.Outcome.Bytes
		}
		switch {
		case m.Phase == precopy.Refused || m.Started == nil:
			r.Refused++
		case m.Phase != precopy.Done:
			r.Failed++
		}
	}
}

// whereabouts counts guests that no host has, and such as two have.
func (w *World) whereabouts() (lost, doubled int) {
	on := map[hypervisor.DomainID]int{}
	for _, h := range w.hosts {
		for id := range h.guests {
			on[id]++
		}
	}
	for _, g := range w.guests {
		switch n := on[g.ID]; {
		case n == 0 && g.Host != nil:
			lost++
		case n > 1:
			doubled++
		}
	}
	return lost, doubled
}

// Faults says what is wrong with the world as it is: guests that are nowhere or twice, records that say otherwise
// than the hosts, writes that no protocol allows. Nothing, if all is well.
func (w *World) Faults() []string {
	out := slices.Clone(w.store.wrongs)
	if lost, doubled := w.whereabouts(); lost+doubled > 0 {
		out = append(out, fmt.Sprintf("%d guests are lost, %d doubled", lost, doubled))
	}
	last := map[hypervisor.DomainID]precopy.Stored{}
	open := map[hypervisor.DomainID]int{}
	for _, m := range w.Migrations() {
		if !m.Phase.Final() {
			open[m.UUID]++
		} else if m.Phase == precopy.Done && m.ID > last[m.UUID].ID {
			last[m.UUID] = m
		}
	}
	for _, g := range w.guests {
		if n := open[g.ID]; n > 1 {
			out = append(out, fmt.Sprintf("%s has %d unfinished migrations", g.Name, n))
		}
		if m, moved := last[g.ID]; moved && g.Host != nil && open[g.ID] == 0 && g.Host.Name != m.Target {
			out = append(out, fmt.Sprintf("%s is on %s, its last migration went to %s", g.Name, g.Host.Name, m.Target))
		}
	}
	for _, h := range w.Hosts() {
		if h.on && h.committed > h.Memory-h.Reserved {
			out = append(out, fmt.Sprintf("%s has promised %s of %s", h.Name, h.committed, h.Memory-h.Reserved))
		}
		vcpus := 0
		for _, g := range h.guests {
			vcpus += g.VCPUs
		}
		if h.VCPUs > 0 && vcpus > h.VCPUs {
			out = append(out, fmt.Sprintf("%s has %d vCPUs, it may have %d", h.Name, vcpus, h.VCPUs))
		}
	}
	return out
}
