package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"drover/precopy"
	"drover/store/kv"
)

// Errors that callers branch on, besides kv's. The first two are precopy's own, so that its worker
// knows them without knowing this package.
var (
	// ErrConflict: the record changed since it was read, or is gone.
	ErrConflict = precopy.ErrConflict
	// ErrFenced: the writer's session or leadership is lost; nothing was written.
	ErrFenced = precopy.ErrFenced
	// ErrNoAgent: no agent holds the host's name.
	ErrNoAgent = errors.New("no agent is alive on the host")
	// ErrNameTaken: another machine has the host's name; see [NameTakenError].
	ErrNameTaken = errors.New("host name is taken by another machine")
	// ErrActive: the domain has an unfinished migration; see [ActiveError].
	ErrActive = errors.New("the domain is being migrated already")
)

// Fence is what entitles a writer: the key that stands for its leadership or session, and the
// revision in which that key was created. Once the key is gone, or made anew by somebody else, writes
// that name the fence fail with [ErrFenced].
type Fence struct {
	Key    string
	Create int64
}

func (f Fence) cond() kv.Cond { return kv.IfCreate(f.Key, f.Create) }

// Store is drover's records in one key-value store.
type Store struct {
	kv  kv.KV
	log *slog.Logger

	// life ends at Close; asks is what the questions of this process share.
	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup
	asks struct {
		sync.Mutex
		lease kv.Lease
	}
}

// Option changes a [Store].
type Option func(*Store)

// WithLogger makes the store report values that it can't read.
func WithLogger(log *slog.Logger) Option { return func(s *Store) { s.log = log } }

// New returns the records in a key-value store. Close it before the latter.
func New(store kv.KV, opts ...Option) *Store {
	s := &Store{kv: store, log: slog.New(slog.DiscardHandler)}
	s.life, s.end = context.WithCancel(context.Background())
	for _, o := range opts {
		o(s)
	}
	return s
}

// Close ends what the store runs in the background; it does not close the key-value store.
func (s *Store) Close() error {
	s.end()
	s.asks.Lock()
	lease := s.asks.lease
	s.asks.lease = nil
	s.asks.Unlock()
	s.wg.Wait()
	if lease == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	// Nothing is lost when this fails: the lease runs out.
	_ = lease.Revoke(ctx)
	return nil
}

// cleanupTime bounds what is done for tidiness only.
const cleanupTime = 2 * time.Second

const (
	// maxRaces is how often a read-modify-write that lost a race is tried again.
	maxRaces = 30
	// maxDoubts is how often an answer may get lost before the caller hears of it.
	maxDoubts = 5
)

// decide repeats f until it is done. f returns false when it lost a race; when the store's answer got
// lost, it is called again with doubt set, and must then find out by reading what became of its write.
func decide(ctx context.Context, op string, f func(doubt bool) (bool, error)) error {
	doubts := 0
	for races := 0; ; {
		done, err := f(doubts > 0)
		switch {
		case done && err == nil:
			return nil
		case err == nil:
			races++
			if races > maxRaces {
				return fmt.Errorf("%s: %w: others keep changing it", op, ErrConflict)
			}
			err = rest(ctx, time.Duration(races)*time.Millisecond)
		case errors.Is(err, kv.ErrMaybeApplied):
			doubts++
			if doubts > maxDoubts {
				return fmt.Errorf("%s: %w", op, err)
			}
			if e := rest(ctx, 20*time.Millisecond<<doubts); e != nil {
				return fmt.Errorf("%s: %w: %w", op, kv.ErrMaybeApplied, e)
			}
			continue
		case doubts > 0 && (errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrNoSpace)):
			// This attempt failed for certain; what became of the former one is still not known.
			return fmt.Errorf("%s: %w: %w", op, kv.ErrMaybeApplied, err)
		default:
			return fmt.Errorf("%s: %w", op, err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
}

// rest waits, or returns the context's error.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get is kv.Get with a missing key as ok == false.
func (s *Store) get(ctx context.Context, key string) (e kv.Entry, ok bool, err error) {
	e, err = s.kv.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return kv.Entry{}, false, nil
	}
	return e, err == nil, err
}

// unchanged is the condition that a key is as it was read: absent, or at its revision.
func unchanged(key string, e kv.Entry, exists bool) kv.Cond {
	if !exists {
		return kv.IfAbsent(key)
	}
	return kv.IfMod(key, e.Mod)
}

// fenced adds the fence's condition, if there is a fence.
func fenced(conds []kv.Cond, fence *Fence) []kv.Cond {
	if fence == nil {
		return conds
	}
	return append(conds, fence.cond())
}

// checkFence returns ErrFenced when the fence no longer stands.
func (s *Store) checkFence(ctx context.Context, fence *Fence) error {
	if fence == nil {
		return nil
	}
	e, ok, err := s.get(ctx, fence.Key)
	if err != nil {
		return err
	}
	if !ok || e.Create != fence.Create {
		return ErrFenced
	}
	return nil
}
