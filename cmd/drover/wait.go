package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/store/kv"
)

const (
	// pollFast and pollSlow are how often a wait reads what it waits for: fast for an answer that is due at
	// once, else at the pace of the progress.
	pollFast = 100 * time.Millisecond
	pollSlow = 500 * time.Millisecond
	// noLeader is how long a request may stand without any leader before it is withdrawn; an election
	// takes less.
	noLeader = 2 * time.Second
)

// errNoScheduler: a request was withdrawn because nobody is there to decide it.
var errNoScheduler = errors.New("no scheduler is running: start one (drover scheduler run) and try again; nothing was changed")

// follow shows a migration's progress on stderr until it is over.
func (s *session) follow(ctx context.Context, m precopy.Stored) error {
	bar := out.NewProgress(s.stderr())
	foretold := m.Phase.Started()
	m, err := s.until(ctx, m, func(m precopy.Migration) bool {
		if !foretold && m.Forecast != nil {
			foretold = true
			s.foretell(m)
		}
		return m.Phase.Final()
	}, bar)
	bar.Close()
	if err != nil {
		return s.interrupted(ctx, m, err)
	}
	return s.ended(m.Migration)
}

// until reads the record, whenever it changes and at least at the pace of the progress, until stop says so, drawing on bar unless it is nil. It returns the newest
// record read, also with an error. While the store is away it waits: the migration goes on without.
func (s *session) until(ctx context.Context, m precopy.Stored, stop func(precopy.Migration) bool, bar *out.Progress) (precopy.Stored, error) {
	away := false
	var unled time.Time // since when nobody leads
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news := s.MigrationNews(wctx, m.ID)
	for {
		now := time.Now()
		switch {
		case stop(m.Migration):
			if bar != nil {
				bar.Show(now, m.Migration, nil)
			}
			return m, nil
		case m.ID != s.asked || m.Phase != precopy.Requested || m.ReasonCode == waiting || away || s.led(ctx):
			// What others have asked for, and what a scheduler has queued, waits for the next scheduler.
			unled = time.Time{}
		case unled.IsZero():
			unled = now
		case now.Sub(unled) > noLeader:
			if err := s.withdraw(ctx, m); err != nil {
				return m, err
			}
		}
		if bar != nil {
			bar.Show(now, m.Migration, s.progress(ctx, m))
		}
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case _, more := <-news:
			if !more {
				news = nil // the reads go on
			}
		case <-time.After(pollSlow):
		}
		next, err := s.GetMigration(ctx, m.ID)
		switch {
		case err == nil:
			if away {
				s.note("drover: the store answers again")
			}
			m, away = next, false
		case ctx.Err() != nil:
			return m, ctx.Err()
		case !errors.Is(err, kv.ErrUnavailable):
			return m, err
		case !away:
			away = true
			s.note("drover: %v; waiting for it, a running migration goes on", err)
		}
	}
}

// progress returns the volatile part, nil when there is none or it can't be had.
func (s *session) progress(ctx context.Context, m precopy.Stored) *precopy.Progress {
	if !m.Phase.Started() {
		return nil
	}
	p, err := s.GetProgress(ctx, m.ID)
	if err != nil {
		return nil
	}
	return p
}

// led reports whether somebody will decide, as far as the store can say.
func (s *session) led(ctx context.Context) bool {
	leader, err := s.Leader(ctx)
	return err != nil || leader != nil
}

// withdraw ends a request that nobody is there to decide. A scheduler that took it up in between wins:
// the record's revision is compared.
func (s *session) withdraw(ctx context.Context, m precopy.Stored) error {
	now := time.Now().UTC()
	gone := m.Migration
	gone.Phase, gone.Finished = precopy.Aborted, &now
	gone.ReasonCode, gone.Reason = "no-scheduler", "withdrawn: no scheduler was running"
	_, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, m, gone)
	switch {
	case err == nil:
		return errNoScheduler
	case errors.Is(err, precopy.ErrConflict):
		return nil
	}
	return fmt.Errorf("withdraw the request: %w (drover migration cancel %s)", err, m.ID)
}

// interrupted says what goes on after a wait that ended before the migration did.
func (s *session) interrupted(ctx context.Context, m precopy.Stored, err error) error {
	if ctx.Err() == nil {
		return err
	}
	why := "stopped waiting"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		why = "waited long enough (--timeout)"
	}
	return cli.Exit(fmt.Sprintf("%s; the migration of %s goes on (%s). Follow it: drover migration watch %s  Stop it: drover migration cancel %s",
		why, m.Domain, m.Phase, m.ID, m.ID), cliargs.ExitFailed)
}

func isNotFound(err error) bool { return errors.Is(err, kv.ErrNotFound) }
