package precopy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"drover/hypervisor"
)

// memStore is the store as agents see it: compare-and-set records, the one-unfinished-migration key,
// watches, sessions, questions; and it can be away.
type memStore struct {
	mu        sync.Mutex
	rev       int64
	records   map[string]Stored
	active    map[hypervisor.DomainID]string
	watchers  []*watcher
	away      chan struct{} // not nil while away; closed when it returns
	illegal   []string
	progress  []Progress
	answering map[string]answerer
	listing   []string            // hosts that have reported the domain
	hosts     map[string]*session // who holds a host's name
	history   []Phase
}

// answerer answers a question put to a host's agent.
type answerer func(context.Context, Question) (Answer, error)

var errAway = errors.New("store: no answer")

func newMemStore() *memStore {
	return &memStore{
		records: map[string]Stored{}, active: map[hypervisor.DomainID]string{},
		answering: map[string]answerer{}, hosts: map[string]*session{},
	}
}

// copied is a deep copy, as a trip through the store makes one.
func copied(m Migration) Migration {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	var out Migration
	if err := json.Unmarshal(data, &out); err != nil {
		panic(err)
	}
	return out
}

func (s *memStore) create(m Migration) Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[m.UUID] != "" {
		panic("two unfinished migrations of one domain")
	}
	s.active[m.UUID] = m.ID
	return s.put(m)
}

func (s *memStore) put(m Migration) Stored {
	s.rev++
	rec := Stored{Migration: copied(m), Revision: s.rev}
	if n := len(s.history); n == 0 || s.history[n-1] != m.Phase {
		s.history = append(s.history, m.Phase)
	}
	s.records[m.ID] = rec
	if m.Phase.Final() && s.active[m.UUID] == m.ID {
		delete(s.active, m.UUID)
	}
	for _, w := range s.watchers {
		w.offer(rec)
	}
	return Stored{Migration: copied(m), Revision: s.rev}
}

// write is the compare-and-set.
func (s *memStore) write(actor Actor, old Stored, m Migration) (Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, ok := s.records[m.ID]
	if !ok || now.Past || now.Revision != old.Revision {
		return Stored{}, fmt.Errorf("store: %s: %w", m.ID, ErrConflict)
	}
	if err := CheckTransition(now.Phase, m.Phase, actor); err != nil {
		s.illegal = append(s.illegal, err.Error())
		return Stored{}, err
	}
	return s.put(m), nil
}

// retire moves a record to the history.
func (s *memStore) retire(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	rec := s.records[id]
	rec.Revision, rec.Past = s.rev, true
	s.records[id] = rec
}

// edit changes a record as somebody else (the leader, the command line) would.
func (s *memStore) edit(id string, actor Actor, change func(*Migration)) error {
	s.mu.Lock()
	old := s.records[id]
	s.mu.Unlock()
	m := copied(old.Migration)
	change(&m)
	_, err := s.write(actor, old, m)
	return err
}

func (s *memStore) get(id string) Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.records[id]
	rec.Migration = copied(rec.Migration)
	return rec
}

// phases are all that were written, of whichever migration.
func (s *memStore) phases() []Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history)
}

// progresses is how many readings were written.
func (s *memStore) progresses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.progress)
}

// settled reports whether the record is final, and the target has taken the autostart flag over.
func (s *memStore) settled(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.records[id]
	return rec.Phase.Final() && (rec.Phase != Done || !rec.Autostart || rec.AutostartSet)
}

func (s *memStore) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == nil {
		s.away = make(chan struct{})
	}
}

func (s *memStore) comeBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		close(s.away)
		s.away = nil
	}
}

func (s *memStore) awayNow() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// reach is one round trip; it fails after a while when the store is away.
func (s *memStore) reach(ctx context.Context) error {
	if !sleep(ctx, time.Millisecond) {
		return ctx.Err()
	}
	if s.awayNow() == nil {
		return nil
	}
	if !sleep(ctx, 500*time.Millisecond) {
		return ctx.Err()
	}
	return errAway
}

// session is one agent's view: a Queue under a lease.
type session struct {
	s    *memStore
	host string

	mu    sync.Mutex
	alive bool
}

// register takes the host's name over, as an agent does at its start.
func (s *memStore) register(host string) *session {
	n := &session{s: s, host: host, alive: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.hosts[host]; old != nil {
		old.setAlive(false)
	}
	s.hosts[host] = n
	return n
}

func (q *session) setAlive(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.alive = on
}

func (q *session) isAlive() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.alive
}

// renew makes a lapsed session live again, unless another agent has the name by now.
func (q *session) renew() {
	q.s.mu.Lock()
	mine := q.s.hosts[q.host] == q
	q.s.mu.Unlock()
	if mine {
		q.setAlive(true)
	}
}

func (q *session) Get(ctx context.Context, id string) (Stored, error) {
	if err := q.s.reach(ctx); err != nil {
		return Stored{}, err
	}
	rec := q.s.get(id)
	if rec.Revision == 0 {
		return Stored{}, fmt.Errorf("store: %s: %w", id, ErrConflict)
	}
	return rec, nil
}

func (q *session) Begin(ctx context.Context, old Stored, m Migration) (Stored, error) {
	if err := q.s.reach(ctx); err != nil {
		return Stored{}, err
	}
	if !q.isAlive() {
		return Stored{}, fmt.Errorf("store: %s: %w", m.ID, ErrFenced)
	}
	return q.s.write(ActorSource, old, m)
}

func (q *session) Update(ctx context.Context, old Stored, m Migration) (Stored, error) {
	if err := q.s.reach(ctx); err != nil {
		return Stored{}, err
	}
	return q.s.write(ActorSource, old, m)
}

func (q *session) Progress(ctx context.Context, p Progress) error {
	if err := q.s.reach(ctx); err != nil {
		return err
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	q.s.progress = append(q.s.progress, p)
	return nil
}

func (q *session) Ask(ctx context.Context, host string, question Question) (Answer, error) {
	if err := q.s.reach(ctx); err != nil {
		return Answer{}, err
	}
	q.s.mu.Lock()
	answer := q.s.answering[host]
	q.s.mu.Unlock()
	if answer == nil {
		<-ctx.Done() // no agent there: nobody answers
		return Answer{}, fmt.Errorf("store: ask %s: %w", host, ctx.Err())
	}
	return answer(ctx, question)
}

func (q *session) Listing(ctx context.Context, _ hypervisor.DomainID) (listing, others []string, err error) {
	if err := q.s.reach(ctx); err != nil {
		return nil, nil, err
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for host := range q.s.answering {
		if !slices.Contains(q.s.listing, host) {
			others = append(others, host)
		}
	}
	return q.s.listing, others, nil
}

// setAnswering says how the host's agent answers; nil is not at all.
func (s *memStore) setAnswering(host string, a answerer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answering[host] = a
}

// watcher is one Watch.
type watcher struct {
	host string
	mu   sync.Mutex
	todo []Stored
	news chan struct{}
}

func (w *watcher) offer(rec Stored) {
	if rec.Source != w.host && rec.Target != w.host {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.todo = append(w.todo, Stored{Migration: copied(rec.Migration), Revision: rec.Revision})
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (q *session) Watch(ctx context.Context) <-chan Update {
	out := make(chan Update)
	w := &watcher{host: q.host, news: make(chan struct{}, 1)}
	q.s.mu.Lock()
	for _, rec := range q.s.records {
		w.offer(rec)
	}
	q.s.watchers = append(q.s.watchers, w)
	q.s.mu.Unlock()
	go func() {
		defer close(out)
		first := true
		for {
			if back := q.s.awayNow(); back != nil {
				select {
				case <-back:
				case <-ctx.Done():
					return
				}
				continue
			}
			w.mu.Lock()
			u := Update{Reset: first, Records: w.todo}
			w.todo = nil
			w.mu.Unlock()
			if first || len(u.Records) > 0 {
				select {
				case out <- u:
				case <-ctx.Done():
					return
				}
				first = false
			}
			select {
			case <-w.news:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
