package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/kv"
)

// AgentSession is a living agent's hold on its host's name. Everything that it publishes vanishes with
// it. It is safe for concurrent use.
type AgentSession struct {
	s     *Store
	host  string
	lease kv.Lease
	fence Fence
	done  <-chan struct{}
	end   context.CancelFunc
	began time.Time

	mu   sync.Mutex
	seen []byte // what this session last wrote of partSeen
	asOf int64  // the store's revision at the last load's write, or at the session's
	good int64  // what the last load without a problem was as of
}

// Register takes the host's name for this agent until ctx ends or Close. The previous session of the
// same machine is taken over at once, without a moment in which the host has no agent; another
// machine's name gives a [NameTakenError].
func (s *Store) Register(ctx context.Context, session fleet.Session, ttl time.Duration) (*AgentSession, error) {
	if err := checkName("host", session.Host); err != nil {
		return nil, err
	}
	op := "register " + session.Host
	session.Schema = max(session.Schema, Schema)
	value, err := encode(session)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	life, end := context.WithCancel(ctx)
	lease, err := s.kv.Grant(life, ttl)
	if err != nil {
		end()
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	a := &AgentSession{s: s, host: session.Host, lease: lease, end: end}
	a.fence.Key = holderKey(a.host, lease.ID())
	err = decide(ctx, op, func(doubt bool) (bool, error) {
		if doubt {
			if e, ok, err := s.get(ctx, a.fence.Key); err != nil || ok {
				a.fence.Create = e.Create
				return ok, err
			}
		}
		return a.take(ctx, session, value)
	})
	if err != nil {
		end()
		a.revoke()
		return nil, err
	}
	a.asOf, a.began = a.fence.Create, time.Now()
	a.done = s.hold(life, lease, a.fence)
	return a, nil
}

// take is one attempt to become the host's agent.
func (a *AgentSession) take(ctx context.Context, session fleet.Session, value []byte) (bool, error) {
	hk, sk := hostKey(a.host), reportKey(a.host, partSession)
	he, bound, err := a.s.get(ctx, hk)
	if err != nil {
		return false, err
	}
	se, alive, err := a.s.get(ctx, sk)
	if err != nil {
		return false, err
	}
	if alive && se.Lease == a.lease.ID() {
		// An earlier attempt, whose answer was lost, has been carried out late.
		fence, err := a.s.kv.Get(ctx, a.fence.Key)
		a.fence.Create = fence.Create
		return err == nil, err
	}
	if err := mayTake(session, he, bound, se, alive); err != nil {
		return false, err
	}
	ops := []kv.Op{
		kv.PutLeased(sk, value, a.lease.ID()),
		kv.PutLeased(a.fence.Key, value, a.lease.ID()),
		// Reports of the previous session are under its lease, which nobody renews.
		kv.Delete(reportKey(a.host, partFacts)),
		kv.Delete(reportKey(a.host, partLoad)),
		kv.Delete(reportKey(a.host, partLink)),
	}
	if alive {
		ops = append(ops, kv.Delete(holderKey(a.host, se.Lease)))
	}
	held, rev, err := a.s.kv.Txn(ctx, []kv.Cond{unchanged(hk, he, bound), unchanged(sk, se, alive)}, ops)
	a.fence.Create = rev
	return held, err
}

// mayTake decides whose name it is, by the durable binding and by the session that lives.
func mayTake(mine fleet.Session, record kv.Entry, bound bool, session kv.Entry, alive bool) error {
	taken := &NameTakenError{Host: mine.Host, Mine: mine.LibvirtUUID}
	if bound {
		var h fleet.HostRecord
		if err := decode(record.Value, &h); err != nil {
			return err
		}
		taken.BoundTo = h.LibvirtUUID
	}
	if alive {
		var other fleet.Session
		if err := decode(session.Value, &other); err != nil {
			return err
		}
		if other.LibvirtUUID != mine.LibvirtUUID {
			taken.Session = &other
		}
	}
	switch {
	case taken.BoundTo != "" && taken.BoundTo != mine.LibvirtUUID:
		return taken
	case taken.BoundTo == "" && taken.Session != nil:
		taken.BoundTo = taken.Session.LibvirtUUID
		return taken
	}
	// Bound to this machine: a session of another one is there by mistake and has to go.
	return nil
}

// hold returns a channel that closes once a fence no longer stands, as far as this process can know:
// its lease is lost, or its key is gone or was made anew.
func (s *Store) hold(ctx context.Context, lease kv.Lease, f Fence) <-chan struct{} {
	done := make(chan struct{})
	wctx, cancel := context.WithCancel(ctx)
	batches := s.kv.Watch(wctx, f.Key)
	go func() {
		defer close(done)
		defer cancel()
		for {
			select {
			case <-lease.Done():
				return
			case b, ok := <-batches:
				if !ok {
					// ctx or the store has ended; the lease has the last word.
					batches = nil
				} else if !stands(f, b) {
					return
				}
			}
		}
	}()
	return done
}

// stands reports whether the fence stands after a batch of a watch on its key.
func stands(f Fence, b kv.Batch) bool {
	ok := !b.Reset
	for _, e := range b.Events {
		if e.Entry.Key == f.Key {
			ok = !e.Deleted && e.Entry.Create == f.Create
		}
	}
	return ok
}

// Fence entitles this session's writes.
func (a *AgentSession) Fence() Fence { return a.fence }

// Began is when the session was had.
func (a *AgentSession) Began() time.Time { return a.began }

// Host is the name that the session holds.
func (a *AgentSession) Host() string { return a.host }

// Done is closed once the session is lost: its lease ran out, or another start of the agent took over.
func (a *AgentSession) Done() <-chan struct{} { return a.done }

// PublishFacts replaces the host's facts and, if they name other domains than before, what stays of
// them when the session is over. ErrFenced when the session is lost.
func (a *AgentSession) PublishFacts(ctx context.Context, f hypervisor.HostFacts) error {
	seen, err := encodePacked(seenOf(f))
	if err != nil {
		return fmt.Errorf("publish facts of %s: %w", a.host, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var also []kv.Op
	if !bytes.Equal(seen, a.seen) {
		also = []kv.Op{kv.Put(reportKey(a.host, partSeen), seen)}
	}
	if _, err := a.publish(ctx, partFacts, factsRecord{Schema, f}, also...); err != nil {
		return err
	}
	a.seen = seen
	return nil
}

func seenOf(f hypervisor.HostFacts) seenRecord {
	r := seenRecord{Schema: Schema, Domains: make([]fleet.SeenDomain, 0, len(f.Domains))}
	for _, d := range f.Domains {
		r.Domains = append(r.Domains, fleet.SeenDomain{ID: d.ID, Name: d.Name})
	}
	slices.SortFunc(r.Domains, func(a, b fleet.SeenDomain) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.ID), string(b.ID)))
	})
	return r
}

// Listing names the hosts whose agents last reported the domain, running or not, also where the agent is away;
// and the others that have a living agent. A host whose report can't be read counts among the former.
func (s *Store) Listing(ctx context.Context, id hypervisor.DomainID) (listing, others []string, err error) {
	entries, _, err := s.kv.List(ctx, reportsPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("which hosts list %s: %w", id, err)
	}
	lists := map[string]bool{}
	for _, e := range entries {
		host, part, _ := strings.Cut(strings.TrimPrefix(e.Key, reportsPrefix), "/")
		switch part {
		case partSession:
			if _, known := lists[host]; !known {
				lists[host] = false
			}
		case partSeen:
			var r seenRecord
			if err := decode(e.Value, &r); err != nil || slices.ContainsFunc(r.Domains, func(d fleet.SeenDomain) bool { return d.ID == id }) {
				lists[host] = true
			}
		}
	}
	for _, host := range slices.Sorted(maps.Keys(lists)) {
		if lists[host] {
			listing = append(listing, host)
		} else {
			others = append(others, host)
		}
	}
	return listing, others, nil
}

// PublishLoad replaces the host's load. A load is taken after the call for the one before has returned,
// so that readers know what it is newer than ([fleet.Host.LoadAsOf]). One with a problem has the domains of
// the last one without. ErrFenced when the session is lost.
func (a *AgentSession) PublishLoad(ctx context.Context, l hypervisor.HostLoad) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	asOf := a.asOf
	if l.Problem != "" {
		asOf = a.good
	}
	revision, err := a.publish(ctx, partLoad, loadRecord{Schema, asOf, l})
	if err == nil {
		a.asOf, a.good = revision, asOf
	}
	return err
}

// Progress overwrites a migration's volatile part. ErrFenced when the session is lost.
func (a *AgentSession) Progress(ctx context.Context, p precopy.Progress) error {
	if err := checkName("migration", p.ID); err != nil {
		return err
	}
	value, err := encode(progressRecord{Schema, p})
	if err != nil {
		return fmt.Errorf("progress of %s: %w", p.ID, err)
	}
	_, err = a.put(ctx, "progress of "+p.ID, progressKey(p.ID), value)
	return err
}

// The stored forms of what has no schema field of its own.
type (
	factsRecord struct {
		Schema int `json:"schema"`
		hypervisor.HostFacts
	}
	seenRecord struct {
		Schema  int                `json:"schema"`
		Domains []fleet.SeenDomain `json:"domains"`
	}
	loadRecord struct {
		Schema int   `json:"schema"`
		AsOf   int64 `json:"as_of"`
		hypervisor.HostLoad
	}
	progressRecord struct {
		Schema int `json:"schema"`
		precopy.Progress
	}
)

func (a *AgentSession) publish(ctx context.Context, part string, v any, also ...kv.Op) (revision int64, err error) {
	op := "publish " + part + " of " + a.host
	value, err := encodePacked(v)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", op, err)
	}
	return a.put(ctx, op, reportKey(a.host, part), value, also...)
}

// put overwrites a leased key, and does the rest along with it. An answer that got lost is no concern:
// the next report follows.
func (a *AgentSession) put(ctx context.Context, op, key string, value []byte, also ...kv.Op) (revision int64, err error) {
	held, revision, err := a.s.kv.Txn(ctx, []kv.Cond{a.fence.cond()}, append(also, kv.PutLeased(key, value, a.lease.ID())))
	switch {
	case errors.Is(err, kv.ErrLeaseLost):
		return 0, fmt.Errorf("%s: %w: %w", op, ErrFenced, err)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", op, err)
	case !held:
		return 0, fmt.Errorf("%s: %w", op, ErrFenced)
	}
	return revision, nil
}

// Close ends the session: the host has no agent from then on, or once the lease has run out when the
// store can't be reached. Done is closed.
func (a *AgentSession) Close(ctx context.Context) error {
	err := a.lease.Revoke(ctx)
	<-a.done
	a.end()
	return err
}

// revoke gives back the lease of a session that never came to be.
func (a *AgentSession) revoke() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	_ = a.lease.Revoke(ctx) // it runs out by itself otherwise
}
