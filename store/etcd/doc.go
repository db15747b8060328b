// Package etcd is [kv.KV] on a real etcd cluster (3.4.25 or newer, 3.5.8 or newer in that line),
// through etcd's own client.
//
// [Open] checks the configuration and the certificates and does not touch the network, so that an
// agent can start while the store is away; [Client.Ping] is for programs that want to know at once.
//
// Every call ends within [Config.RequestTimeout], or earlier with its context. While no member can be
// reached, calls wait for one until then: a restart of etcd that is shorter than that goes unnoticed.
// After a failure, [Client.diagnose] dials each endpoint by itself, because gRPC keeps the cause of a
// failed connection only as text.
//
// Writes are never sent twice. A write that was handed to a connection and got no answer gives
// [kv.ErrMaybeApplied]; one that never found a connection gives [kv.ErrUnavailable] and was not
// applied.
package etcd
