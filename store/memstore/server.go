// Package memstore is the store's contract in memory: revisions, leases, transactions, watches and
// compaction as etcd has them, with faults on demand. It keeps to the time of testing/synctest when
// run inside a bubble, and is deterministic there.
//
// [New] makes a server; [Server.Client] gives one program's view of it, with its own connection: the
// faults ([Client.Partition], [Client.FailTxns]) hit one client only, as they do in life.
package memstore

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"drover/store/kv"
)

// errDuplicate is what etcd answers too: a defect of the caller's.
var errDuplicate = errors.New("a key is touched by more than one operation of the transaction")

// revision is what one transaction (or the end of one lease) changed.
type revision struct {
	rev    int64
	events []kv.Event
}

// leaseState is a lease as the server sees it.
type leaseState struct {
	ttl   time.Duration
	keys  map[string]bool
	timer *time.Timer
}

// Server is one store. It is safe for concurrent use.
type Server struct {
	mu        sync.Mutex
	keys      map[string]kv.Entry
	rev       int64
	compacted int64
	history   []revision // all revisions after compacted that changed something
	leases    map[kv.LeaseID]*leaseState
	lastLease kv.LeaseID
	late      []func()
	changed   chan struct{} // closed and replaced at every change
}

// New returns an empty store at revision 1, as a new etcd is.
func New() *Server {
	return &Server{
		keys:    map[string]kv.Entry{},
		rev:     1,
		leases:  map[kv.LeaseID]*leaseState{},
		changed: make(chan struct{}),
	}
}

// Close stops the clocks of all leases. Close the clients first.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		l.timer.Stop()
	}
}

// Compact forgets all history: every watcher that is behind gets a Reset.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = s.rev
	s.history = nil
}

// Revision returns the present revision.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// ExpireLease ends a lease now, as if its time to live had passed.
func (s *Server) ExpireLease(id kv.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLease(id)
}

// list returns the entries under the prefix in key order. The caller holds mu.
func (s *Server) list(prefix string) []kv.Entry {
	var out []kv.Entry
	for k, e := range s.keys {
		if strings.HasPrefix(k, prefix) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b kv.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// holds evaluates one condition. The caller holds mu.
func (s *Server) holds(c kv.Cond) bool {
	e, ok := s.keys[c.Key]
	switch c.Kind {
	case kv.Absent:
		return !ok
	case kv.Exists:
		return ok
	case kv.ModIs:
		return e.Mod == c.Number // 0 for a key that does not exist, as in etcd
	case kv.CreateIs:
		return e.Create == c.Number
	}
	return false
}

// txn is one transaction. The caller holds mu.
func (s *Server) txn(conds []kv.Cond, ops []kv.Op) (bool, int64, error) {
	if err := check(conds, ops); err != nil {
		return false, 0, err
	}
	for _, c := range conds {
		if !s.holds(c) {
			return false, s.rev, nil
		}
	}
	for _, op := range ops {
		if !op.Delete && op.Lease != 0 && s.leases[op.Lease] == nil {
			return false, 0, kv.ErrLeaseLost
		}
	}
	var events []kv.Event
	for _, op := range ops {
		events = append(events, s.apply(op, s.rev+1)...)
	}
	s.commit(events)
	return true, s.rev, nil
}

// check refuses what etcd would refuse before it looks at any key.
func check(conds []kv.Cond, ops []kv.Op) error {
	size := 0
	for i, op := range ops {
		if op.Key == "" {
			return errors.New("empty key")
		}
		size += len(op.Key) + len(op.Value)
		for _, other := range ops[:i] {
			if op.Delete && other.Delete {
				continue
			}
			if op.Key == other.Key {
				return fmt.Errorf("%w: %s", errDuplicate, op.Key)
			}
		}
	}
	if size > kv.MaxValue || len(ops) > kv.MaxOps || len(conds) > kv.MaxOps {
		return kv.ErrTooLarge
	}
	return nil
}

// apply carries out one operation at the revision. The caller holds mu.
func (s *Server) apply(op kv.Op, rev int64) []kv.Event {
	if op.Delete {
		return s.remove([]string{op.Key}, rev)
	}
	old, ok := s.keys[op.Key]
	e := kv.Entry{Key: op.Key, Value: slices.Clone(op.Value), Create: rev, Mod: rev, Lease: op.Lease}
	if ok {
		e.Create = old.Create
		s.detach(old)
	}
	s.keys[op.Key] = e
	if op.Lease != 0 {
		s.leases[op.Lease].keys[op.Key] = true
	}
	return []kv.Event{{Entry: e}}
}

// remove deletes those of the keys that exist. The caller holds mu.
func (s *Server) remove(keys []string, rev int64) []kv.Event {
	var events []kv.Event
	for _, k := range keys {
		old, ok := s.keys[k]
		if !ok {
			continue
		}
		s.detach(old)
		delete(s.keys, k)
		events = append(events, kv.Event{Deleted: true, Entry: kv.Entry{Key: k, Mod: rev}})
	}
	return events
}

func (s *Server) detach(e kv.Entry) {
	if l := s.leases[e.Lease]; l != nil {
		delete(l.keys, e.Key)
	}
}

// commit makes the events the next revision; none are no revision. The caller holds mu.
func (s *Server) commit(events []kv.Event) {
	if len(events) == 0 {
		return
	}
	s.rev++
	s.history = append(s.history, revision{rev: s.rev, events: events})
	close(s.changed)
	s.changed = make(chan struct{})
}

// flushLate applies what was sent by clients that gave up waiting. The caller holds mu.
func (s *Server) flushLate() {
	late := s.late
	s.late = nil
	for _, f := range late {
		f()
	}
}

// grant makes a lease. The caller holds mu.
func (s *Server) grant(ttl time.Duration) kv.LeaseID {
	s.lastLease++
	id := s.lastLease
	l := &leaseState{ttl: ttl, keys: map[string]bool{}}
	l.timer = time.AfterFunc(ttl, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.leases[id] == l {
			s.endLease(id)
		}
	})
	s.leases[id] = l
	return id
}

// renew restarts a lease's time; it reports whether the lease still lives. The caller holds mu.
func (s *Server) renew(id kv.LeaseID) bool {
	l := s.leases[id]
	if l == nil {
		return false
	}
	l.timer.Reset(l.ttl)
	return true
}

// endLease deletes a lease and its keys, in one revision. The caller holds mu.
func (s *Server) endLease(id kv.LeaseID) {
	l := s.leases[id]
	if l == nil {
		return
	}
	l.timer.Stop()
	events := s.remove(slices.Sorted(maps.Keys(l.keys)), s.rev+1)
	delete(s.leases, id)
	s.commit(events)
}

// since returns what changed under the prefix after pos, or the whole state as a Reset when that
// history is gone. The caller holds mu.
func (s *Server) since(prefix string, pos int64, reset bool) kv.Batch {
	b := kv.Batch{Rev: s.rev}
	if reset || pos < s.compacted {
		b.Reset = true
		for _, e := range s.list(prefix) {
			b.Events = append(b.Events, kv.Event{Entry: e})
		}
		return b
	}
	first, _ := slices.BinarySearchFunc(s.history, pos+1, func(r revision, rev int64) int {
		return cmp.Compare(r.rev, rev)
	})
	for _, r := range s.history[first:] {
		for _, ev := range r.events {
			if strings.HasPrefix(ev.Entry.Key, prefix) {
				b.Events = append(b.Events, ev)
			}
		}
	}
	return b
}
