package store

import (
	"context"
	"fmt"
	"time"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

// Leadership is the right to plan and to order, as long as it lasts. It is safe for concurrent use.
type Leadership struct {
	lease kv.Lease
	fence Fence
	done  <-chan struct{}
	end   context.CancelFunc
}

// The pauses between attempts to lead that fail: from the first, doubled, to the last.
const (
	campaignFirst = 100 * time.Millisecond
	campaignLast  = 5 * time.Second
)

// Campaign waits until this process leads, and then leads until ctx ends or Resign. The time to live
// is how long the others wait for a leader that died. What is in the way is logged when it begins and
// when it becomes something else.
func (s *Store) Campaign(ctx context.Context, identity string, ttl time.Duration) (*Leadership, error) {
	const op = "campaign"
	life, end := context.WithCancel(ctx)
	l := &Leadership{end: end}
	trouble := ""
	for pause := campaignFirst; ; {
		if err := s.vacant(life); err != nil {
			end()
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		elected, err := s.stand(life, l, identity, ttl)
		if elected {
			l.done = s.hold(life, l.lease, l.fence)
			return l, nil
		}
		if l.lease != nil {
			revoke(l.lease)
		}
		if ctx.Err() != nil {
			end()
			return nil, fmt.Errorf("%s: %w", op, ctx.Err())
		}
		if err == nil { // another one was faster
			trouble, pause = "", campaignFirst
		} else if now := err.Error(); now != trouble {
			trouble = now
			s.log.Warn("campaign for leadership goes on", "err", err)
		}
		if err := rest(life, pause); err != nil {
			end()
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		pause = min(2*pause, campaignLast)
	}
}

// vacant returns once nobody leads.
func (s *Store) vacant(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b := range s.kv.Watch(ctx, leaderKey) {
		led := !b.Reset
		for _, e := range b.Events {
			if e.Entry.Key == leaderKey {
				led = !e.Deleted
			}
		}
		if !led {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watch ended: %w", kv.ErrUnavailable)
}

// stand is one attempt to make the leader key.
func (s *Store) stand(ctx context.Context, l *Leadership, identity string, ttl time.Duration) (bool, error) {
	l.lease = nil
	value, err := encode(leaderRecord{Schema, fleet.LeaderInfo{Identity: identity, Since: time.Now().UTC()}})
	if err != nil {
		return false, err
	}
	lease, err := s.kv.Grant(ctx, ttl)
	if err != nil {
		return false, err
	}
	l.lease = lease
	elected := false
	err = decide(ctx, "stand for leadership", func(doubt bool) (bool, error) {
		if doubt {
			e, ok, err := s.get(ctx, leaderKey)
			if err != nil {
				return false, err
			}
			if ok {
				elected = e.Lease == lease.ID()
				l.fence = Fence{Key: leaderKey, Create: e.Create}
				return true, nil
			}
		}
		held, rev, err := s.kv.Txn(ctx, []kv.Cond{kv.IfAbsent(leaderKey)}, []kv.Op{kv.PutLeased(leaderKey, value, lease.ID())})
		if err != nil {
			return false, err
		}
		if !held && doubt {
			// It may be this process's own earlier attempt that stands in the way: look again.
			return false, fmt.Errorf("%w", kv.ErrMaybeApplied)
		}
		elected = held
		l.fence = Fence{Key: leaderKey, Create: rev}
		return true, nil
	})
	return elected, err
}

// leaderRecord is the value of the leader key.
type leaderRecord struct {
	Schema int `json:"schema"`
	fleet.LeaderInfo
}

func revoke(l kv.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	_ = l.Revoke(ctx) // it runs out by itself otherwise
}

// Fence entitles the leader's writes. Its Create is the leader's number in records.
func (l *Leadership) Fence() Fence { return l.fence }

// Done is closed once leadership is lost, or can no longer be known to last.
func (l *Leadership) Done() <-chan struct{} { return l.done }

// Resign ends the leadership, so that another can take over at once. Done is closed.
func (l *Leadership) Resign(ctx context.Context) error {
	err := l.lease.Revoke(ctx)
	<-l.done
	l.end()
	if err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}

// Leader says who leads; nil when nobody does.
func (s *Store) Leader(ctx context.Context) (*fleet.LeaderInfo, error) {
	e, ok, err := s.get(ctx, leaderKey)
	if err != nil {
		return nil, fmt.Errorf("leader: %w", err)
	}
	if !ok {
		return nil, nil
	}
	l, err := decodeLeader(e)
	if err != nil {
		return nil, fmt.Errorf("leader: %w", err)
	}
	return l, nil
}

func decodeLeader(e kv.Entry) (*fleet.LeaderInfo, error) {
	var r leaderRecord
	if err := decode(e.Value, &r); err != nil {
		return nil, err
	}
	r.Fence = e.Create
	return &r.LeaderInfo, nil
}
