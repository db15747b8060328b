package signal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"drover/hypervisor"
)

// Memory is the load of all VMs. It is for one goroutine at a time.
type Memory struct {
	series map[hypervisor.DomainID]*Series
	slot   time.Duration
}

// NewMemory knows nothing yet. It averages over slots of that length, 0 for [Slot].
func NewMemory(slot time.Duration) *Memory {
	return &Memory{series: map[hypervisor.DomainID]*Series{}, slot: cmp.Or(slot, Slot)}
}

// Slot is the length of a slot.
func (m *Memory) Slot() time.Duration { return m.slot }

// Sample is one report of one VM.
type Sample struct {
	Domain hypervisor.DomainID
	At     time.Time // when the leader received it, so that one clock counts
	CPU    hypervisor.Cores
	VCPUs  int
}

// Usable reports whether a VM's reported load says what it does by itself: it runs, the figures are fresh, and
// no migration slows it down.
func Usable(l hypervisor.DomainLoad) bool {
	return l.State == hypervisor.StateRunning && l.Problem == "" && !l.Migrating
}

// Observe takes a report.
func (m *Memory) Observe(s Sample) {
	series := m.series[s.Domain]
	if series == nil {
		series = &Series{SlotMS: m.slot.Milliseconds()}
		m.series[s.Domain] = series
	}
	series.Add(s.At, s.CPU, s.VCPUs)
}

// Estimate is the VM's load expected from now on for the horizon; the zero value when it was never seen.
func (m *Memory) Estimate(id hypervisor.DomainID, now time.Time, horizon time.Duration) Estimate {
	if s := m.series[id]; s != nil {
		return s.Estimate(now, horizon)
	}
	return Estimate{}
}

// Forget drops the VMs that were not seen since.
func (m *Memory) Forget(since time.Time) {
	for id, s := range m.series {
		if s.LastMS < since.UnixMilli() {
			delete(m.series, id)
		}
	}
}

// Len is how many VMs are known.
func (m *Memory) Len() int { return len(m.series) }

// Chunks is in how many parts a memory is written down. Of 20,000 VMs each is about 130 KiB, well below what a
// value of the store may be.
const Chunks = 64

// SeriesBytes is the size of a VM in a chunk, in bytes.
var SeriesBytes = binary.Size(entry{})

type entry struct {
	ID     [16]byte
	Series Series
}

// chunkMagic begins a chunk; another layout of Series needs another one.
var chunkMagic = []byte("drover-signal-2\n")

// ErrChunk: what was written down can't be read.
var ErrChunk = errors.New("no chunk of the load's memory")

// Chunk is part n of the memory, to be written down; nil when there is nothing in it. VMs whose IDs are no UUIDs are
// left out.
func (m *Memory) Chunk(n int) []byte {
	var entries []entry
	for id, s := range m.series {
		if u, err := uuid.Parse(string(id)); err == nil && int(u[15])%Chunks == n {
			entries = append(entries, entry{u, *s})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	out, err := binary.Append(slices.Clone(chunkMagic), binary.LittleEndian, entries)
	if err != nil {
		panic("signal: a series has no fixed size: " + err.Error())
	}
	return out
}

// Restore takes in what was written down. VMs that are known better already, from more reports, stay as they are;
// what was averaged over slots of another length is left out.
// After an error, which matches [ErrChunk], nothing was taken in.
func (m *Memory) Restore(chunk []byte) error {
	body, ok := bytes.CutPrefix(chunk, chunkMagic)
	if !ok || len(body)%SeriesBytes != 0 {
		return fmt.Errorf("%w: %d bytes of another form", ErrChunk, len(chunk))
	}
	entries := make([]entry, len(body)/SeriesBytes)
	if _, err := binary.Decode(body, binary.LittleEndian, entries); err != nil {
		return fmt.Errorf("%w: %w", ErrChunk, err)
	}
	for i := range entries {
		if !entries[i].Series.sane() {
			return fmt.Errorf("%w: VM %d of it is damaged", ErrChunk, i+1)
		}
	}
	for _, e := range entries {
		if e.Series.slotMS() != m.slot.Milliseconds() {
			continue
		}
		id := hypervisor.DomainID(uuid.UUID(e.ID).String())
		if known := m.series[id]; known == nil || known.weightAt(e.Series.SlotAt) < e.Series.weightAt(known.SlotAt) {
			m.series[id] = &e.Series
		}
	}
	return nil
}

// sane reports whether all figures are such as Add makes.
func (s *Series) sane() bool {
	ok := s.LastMS > 0 && s.SlotMS >= 0 && s.SlotAt == s.slotOf(s.LastMS) && s.HourAt == hourOf(s.LastMS)
	figures := append([]float32{
		s.SlotSum, s.SlotFor, s.Weight, s.Weight2, s.Mean, s.Var, s.Prev, s.Top, s.HourSum, s.HourFor, s.HourGuess + 1,
		s.ErrDay, s.ErrMean, s.Proven, s.Cov * s.Cov,
	}, s.Bins[:]...)
	figures = append(append(figures, s.Day[:]...), s.Days[:]...)
	for _, f := range figures {
		ok = ok && f >= 0 && f < 1e30 // NaN compares false
	}
	return ok
}
