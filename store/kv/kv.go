// Package kv is the small part of etcd's contract that drover stands on: revisions, leases,
// compare-and-set transactions and watches. store/etcd implements it on a real cluster,
// store/memstore in memory with the same rules and injected faults; store/storetest holds the one
// suite that both pass.
//
// Every method is safe for concurrent use and returns when its context ends. A write whose context
// ended or whose connection broke may or may not have been applied: the error then wraps
// [ErrMaybeApplied], and only reading again tells.
package kv

import (
	"context"
	"errors"
	"time"
)

// Errors that callers branch on.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrUnavailable: no member of the store answered in time; nothing was read or written.
	ErrUnavailable = errors.New("store is not reachable")
	// ErrMaybeApplied: the answer to a write was lost.
	ErrMaybeApplied = errors.New("store did not answer: the write may or may not have been applied")
	// ErrNoSpace: the store is over its quota and takes no writes.
	ErrNoSpace = errors.New("store is full (etcd NOSPACE alarm)")
	// ErrDenied: the client's certificate or role does not allow the call.
	ErrDenied = errors.New("store denies access")
	// ErrLeaseLost: the lease expired or was revoked.
	ErrLeaseLost = errors.New("lease is lost")
	// ErrTooLarge: the value or transaction is over the store's request limit.
	ErrTooLarge = errors.New("value is too large for the store")
)

// Limits that every implementation keeps, and checks before it sends: they are etcd's defaults.
const (
	// MaxValue is the greatest size of a value and of all values of a transaction together, in bytes.
	MaxValue = 1400 << 10
	// MaxOps is the greatest number of conditions, and of operations, in one transaction.
	MaxOps = 128
)

// Pulse is how often a quiet watch is asked whether it still lives. A watcher that got no batch for
// several of them is cut off from the store.
const Pulse = 5 * time.Second

// LeaseID names a lease; 0 is none.
type LeaseID int64

// Entry is one key as of one revision.
type Entry struct {
	Key    string
	Value  []byte
	Create int64 // revision in which the key was created; the fence of elections and sessions
	Mod    int64 // revision of the last change; what compare-and-set compares
	Lease  LeaseID
}

// Cond is one condition of a transaction, about one key.
type Cond struct {
	Key    string
	Kind   CondKind
	Number int64 // for ModIs, CreateIs
}

// CondKind is the kind of a condition.
type CondKind int

// The conditions.
const (
	Absent CondKind = iota + 1
	Exists
	ModIs
	CreateIs
)

// Op is one write of a transaction: a put, or a delete.
type Op struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
}

// Put writes a value.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// PutLeased writes a value that vanishes with its lease.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Key: key, Value: value, Lease: lease}
}

// Delete removes a key; none is no error.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// IfAbsent, IfExists, IfMod and IfCreate build conditions.
func IfAbsent(key string) Cond            { return Cond{Key: key, Kind: Absent} }
func IfExists(key string) Cond            { return Cond{Key: key, Kind: Exists} }
func IfMod(key string, rev int64) Cond    { return Cond{Key: key, Kind: ModIs, Number: rev} }
func IfCreate(key string, rev int64) Cond { return Cond{Key: key, Kind: CreateIs, Number: rev} }

// Event is one change of one key. For a delete, Entry holds the key, and Mod the delete's revision.
type Event struct {
	Deleted bool
	Entry   Entry
}

// Batch is what a watch delivers: events of one or more whole revisions, in order.
//
// A batch without events says only that the watch lives and has delivered everything up to Rev; one
// comes at least every few [Pulse] while nothing changes and the store answers.
type Batch struct {
	// Reset says that history was lost (the first batch, compaction, a long cut): Events hold the
	// whole present state as of Rev, and whatever the watcher knew before is void.
	Reset  bool
	Events []Event
	Rev    int64 // every change up to and including Rev is now delivered
}

// Lease is a lease that is being kept alive.
type Lease interface {
	ID() LeaseID
	// Done is closed once the lease is known to be lost, or can no longer be known to live: when
	// its time to live has passed without an answer of the store.
	Done() <-chan struct{}
	// Revoke ends the lease and deletes its keys.
	Revoke(ctx context.Context) error
}

// KV is the store.
type KV interface {
	// Get reads one key, linearizably. ErrNotFound when it does not exist.
	Get(ctx context.Context, key string) (Entry, error)
	// List reads all keys with the prefix, in key order, all as of the one revision it returns.
	List(ctx context.Context, prefix string) ([]Entry, int64, error)
	// Last reads the last n keys with the prefix, in falling key order: what comes newest when keys
	// begin with a time.
	Last(ctx context.Context, prefix string, n int) ([]Entry, error)
	// Txn applies all ops if all conditions hold, or nothing. It returns whether they held, and the
	// revision. A lease in an op that no longer exists gives ErrLeaseLost. No key may be touched by
	// more than one op.
	Txn(ctx context.Context, conds []Cond, ops []Op) (held bool, rev int64, err error)
	// Watch delivers first the present state under the prefix (a Reset), then every change, until
	// ctx ends, when the channel is closed. It survives compaction, member loss and reconnects.
	Watch(ctx context.Context, prefix string) <-chan Batch
	// Grant makes a lease and keeps it alive until ctx ends or Revoke; ctx's end does not revoke it.
	// The time to live is rounded up to whole seconds.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// Close ends all watches and lets leases run out.
	Close() error
}
