// Package precopy carries out one live migration at a time, honestly.
//
// A [Migration] is the durable record of carrying out one move. It goes through the phases of
// phase.go, each change of which has exactly one kind of writer. The [Worker] runs on the source
// host: it claims orders, drives the hypervisor, tunes through precopy/tune, and writes outcomes;
// resolve.go is the pure table by which an unknown outcome is resolved from what both hosts say.
//
// When an agent is away, the leader calls its migration unknown and leaves it at that. The source's
// agent resolves it when it is back, from the evidence of both hosts; that of a host which never
// returns can't be had, so then a person does ("drover migration resolve"), who has looked.
//
// The rooms: migration.go and order.go (the record), phase.go (the state machine), resolve.go (evidence to
// verdict), worker.go (claims and adopts), drive.go (one migration from claim to outcome), again.go
// (another attempt with another strategy), postcopy.go
// (the switch to post-copy, from which there is no way back, and what goes on when it breaks), spool.go
// (outcomes kept on local disk until the store has them), vmhook.go (commands around a migration, which never
// keep it from ending); precopy/model is the arithmetic of
// rounds, precopy/tune the convergence controller, precopy/forecast what is to be expected before the
// start; intent.go is what the record says of that, and whether the promise was kept.
//
// Nothing here knows etcd or libvirt: the interfaces it needs are declared here ([Migrator],
// [Queue]) and implemented by store and by hypervisor/kvm or hypervisor/sim.
package precopy
