package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/precopy"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
)

// over adds a migration that finished so long before t0.
func over(s *fleet.Snapshot, id, vm string, phase precopy.Phase, ago time.Duration, change ...func(*precopy.Migration)) {
	m := add(s, id, vm, "h1", "h2", phase)
	at := t0.Add(-ago)
	m.Revision, m.Finished, m.Started = int64(len(s.Migrations)), &at, &at
	m.Born = m.Revision
	for _, f := range change {
		f(&m.Migration)
	}
	s.Migrations[id] = m
}

func TestRetired(t *testing.T) {
	byHand := func(m *precopy.Migration) { m.ReasonCode = precopy.ResolvedByHand }
	for _, c := range []struct {
		name string
		made func(*fleet.Snapshot)
		want []string
	}{
		{"nothing", func(*fleet.Snapshot) {}, nil},
		{"a VM's last one", func(s *fleet.Snapshot) { over(s, "m1", "a", precopy.Done, time.Hour) }, nil},
		{"a VM's last one, long ago", func(s *fleet.Snapshot) { over(s, "m1", "a", precopy.Done, 8*24*time.Hour) }, []string{"m1"}},
		{"those before the last, oldest first", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Hour)
			over(s, "m2", "a", precopy.Failed, 50*time.Minute)
			over(s, "m3", "a", precopy.Done, 40*time.Minute)
		}, []string{"m1", "m2"}},
		{"the last that moved it stays beside the last", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Hour)
			over(s, "m2", "a", precopy.Done, 50*time.Minute)
			over(s, "m3", "a", precopy.Aborted, 40*time.Minute)
			over(s, "m4", "a", precopy.Refused, 30*time.Minute)
		}, []string{"m1", "m3"}},
		{"one that has just ended", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, 20*time.Second)
			over(s, "m2", "a", precopy.Done, 10*time.Second)
		}, nil},
		{"an unfinished one does not count as the last", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Hour)
			add(s, "m2", "a", "h1", "h2", precopy.Copying)
		}, nil},
		{"each VM for itself", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Hour)
			over(s, "m2", "b", precopy.Done, time.Minute)
		}, nil},
		{"an earlier one, written to later", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Minute)
			over(s, "m2", "a", precopy.Done, 40*time.Minute)
			over(s, "m3", "a", precopy.Done, time.Hour)
		}, []string{"m2"}},
		{"closed by a person, not tidied up after", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, time.Hour, byHand)
			over(s, "m2", "a", precopy.Done, 50*time.Minute, byHand, func(m *precopy.Migration) { m.Tidied = true })
			over(s, "m3", "a", precopy.Done, 40*time.Minute)
		}, []string{"m2"}},
		{"without a time of its end", func(s *fleet.Snapshot) {
			over(s, "m1", "a", precopy.Done, 0, func(m *precopy.Migration) { m.Finished, m.Created = nil, t0.Add(-2*time.Hour) })
			over(s, "m2", "a", precopy.Done, 0, func(m *precopy.Migration) { m.Finished, m.Created = nil, t0.Add(-time.Hour) })
		}, []string{"m1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot()
			c.made(s)
			var got []string
			for _, m := range Retired(s, t0) {
				got = append(got, m.ID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// shelf is a store of which only the history is of interest.
type shelf struct {
	snap *fleet.Snapshot
	past []string
	err  error
}

func (s *shelf) Snapshot() *fleet.Snapshot { return s.snap }
func (s *shelf) Changed() <-chan struct{}  { return nil }

func (s *shelf) Update(context.Context, Write) (precopy.Stored, error)     { return precopy.Stored{}, nil }
func (s *shelf) BindHost(ctx context.Context, name, libvirt string) error  { return nil }
func (s *shelf) Share(context.Context, []budget.Write) (int, int64, error) { return 0, 0, nil }
func (s *shelf) Prune(context.Context) error                               { return nil }

func (s *shelf) Retire(_ context.Context, m precopy.Stored) error {
	if s.err == nil {
		s.past = append(s.past, m.ID)
		delete(s.snap.Migrations, m.ID)
	}
	return s.err
}

// The loop puts away what is over, and learns from that write too that it is deposed.
func TestLoopRetires(t *testing.T) {
	for _, c := range []struct {
		err, want error
		past      []string
	}{
		{nil, nil, []string{"m1"}},
		{precopy.ErrConflict, nil, nil},
		{precopy.ErrFenced, precopy.ErrFenced, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{snap: snapshot(), err: c.err}
			for n, id := range []string{"m1", "m2"} {
				over(s.snap, id, "a", precopy.Done, 0, func(m *precopy.Migration) { m.Finished = new(time.Now().Add(time.Duration(n))) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := NewLoop(Config{State: s, Orders: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
			if !errors.Is(err, c.want) || !cmp.Equal(s.past, c.past) {
				t.Errorf("write gives %v: ended with %v, put away %v; want %v, %v", c.err, err, s.past, c.want, c.past)
			}
		})
	}
}

// A backlog, as after an upgrade, is put away in portions: the pass must not wait for it.
func TestLoopRetiresInPortions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{snap: snapshot()}
		for i := range 2 * retireAtOnce {
			over(s.snap, fmt.Sprintf("m%04d", i), "a", precopy.Done, 0, func(m *precopy.Migration) {
				m.Finished = new(time.Now().Add(time.Duration(i) - time.Hour))
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		if err := NewLoop(Config{State: s, Orders: s, Log: slog.New(slog.DiscardHandler)}).Run(ctx); err != nil {
			t.Error(err)
		}
		if n := len(s.past); n != retireAtOnce || s.past[0] != "m0000" {
			t.Errorf("%d in the first round, want the oldest %d", n, retireAtOnce)
		}
	})
}
