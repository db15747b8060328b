// Package store gives drover's records their place, their form and their rules in the key-value
// store: sessions of agents, hosts, migrations, leadership, questions and answers, and the fleet's
// picture.
//
// It stands on [kv.KV], so everything here works the same on etcd (store/etcd, or store/embed inside
// the scheduler) and in memory (store/memstore). keys.go is the layout, codec.go and merge.go the form
// of values, the other files one kind of record each.
//
// The rules:
//
//   - Every change of a record compares the revision that it was read at. A change by a leader or by
//     an agent's session also names its [Fence], the key whose existence says that the writer is
//     still what it was. Who lost it gets [ErrFenced], and nothing was written.
//   - A lost answer is looked into: the record is read again, and only when that fails too does the
//     caller get [kv.ErrMaybeApplied].
//   - Fields that this program does not know survive a read and write-back, at every depth.
//   - One unfinished migration per domain: active/UUID comes and goes in the transactions that create
//     and finish the record.
//
// A [Store] is safe for concurrent use. Time is this process's own; nothing compares two clocks.
package store
