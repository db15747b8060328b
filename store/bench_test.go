package store

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/store/kv"
)

// fleetBatch is a whole fleet as a Reset.
func fleetBatch(b *testing.B, hosts, domains int) kv.Batch {
	b.Helper()
	batch := kv.Batch{Reset: true, Rev: 1}
	add := func(key string, v any) {
		value, err := encodePacked(v)
		must(b, err)
		batch.Events = append(batch.Events, kv.Event{Entry: kv.Entry{Key: key, Value: value, Mod: 1}})
	}
	for h := range hosts {
		name := fmt.Sprintf("host%04d", h)
		facts, load := hypervisor.HostFacts{Name: name}, hypervisor.HostLoad{CPU: 8}
		for d := range domains {
			id := hypervisor.DomainID(fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", h, d))
			facts.Domains = append(facts.Domains, hypervisor.DomainFacts{ID: id, Name: fmt.Sprintf("vm-%d-%d", h, d), VCPUs: 4, Memory: 8 * hypervisor.GiB})
			load.Domains = append(load.Domains, hypervisor.DomainLoad{ID: id, State: hypervisor.StateRunning, CPU: 0.5, Memory: 6 * hypervisor.GiB})
		}
		add(reportKey(name, partSession), testSession(name, name, "i"))
		add(reportKey(name, partFacts), factsRecord{Schema, facts})
		add(reportKey(name, partLoad), loadRecord{Schema, 0, load})
	}
	return batch
}

// BenchmarkPictureReset reads a fleet of 1,000 hosts and 20,000 domains in, as after a start.
func BenchmarkPictureReset(b *testing.B) {
	batch := fleetBatch(b, 1000, 20)
	for b.Loop() {
		newPicture(slog.New(slog.DiscardHandler)).apply(batch, time.Now())
	}
}

// BenchmarkPictureLoad takes in one host's load and hands out a snapshot, as happens 200 times a second
// in such a fleet.
func BenchmarkPictureLoad(b *testing.B) {
	batch := fleetBatch(b, 1000, 20)
	p := newPicture(slog.New(slog.DiscardHandler))
	p.apply(batch, time.Now())
	one := batch.Events[2]
	for b.Loop() {
		one.Entry.Mod++
		p.apply(kv.Batch{Rev: one.Entry.Mod, Events: []kv.Event{one}}, time.Now())
		p.snapshot(time.Now())
	}
}
