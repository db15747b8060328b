// Package hypervisor holds the facts about KVM hosts and their domains, in drover's own units, and
// the loop that reports them.
//
// Everything above this package speaks its words; libvirt's own units (MiB/s, KiB, milliseconds,
// pages per second) stop at the adapters below it:
//
//   - hypervisor/kvm is the adapter for libvirt, cgo, as is a page of hypervisor/throttle, and nothing else in drover;
//   - hypervisor/qmp reads, on demand, what libvirt hides, through libvirt's QEMU monitor;
//   - hypervisor/throttle slows guests by their CPU quota, and hypervisor/sockets keeps the queue of their
//     streams short: Linux's own interfaces, beside libvirt;
//   - hypervisor/sim is the same contract in virtual time, for tests and simulated fleets.
//
// The rooms: units.go (Bytes, BytesPerSecond, Cores), host.go (HostFacts, HostLoad), domain.go
// (DomainFacts, DomainLoad, Sighting), migrate.go (MigrateSpec, JobStats, Event), preflight.go
// (Blocker, Inspection, TargetQuestion), errors.go (Error, Class), reporter.go (Reporter).
//
// Values are plain data, safe to copy, and never written to after they were handed over.
package hypervisor
