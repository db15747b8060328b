package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/kv"
)

const pauseHelp = `Stops automatic moves in the whole fleet until drover resume: no plan is made, none begins, and of a run
under way no further move. What is being copied goes on to its end. What people ask for is not stopped:
migrations, drains, rebalances (drover run cancel stops those).`

func pauseCommand() *cli.Command {
	return &cli.Command{
		Name: "pause", Usage: "stop automatic moves in the whole fleet", Description: pauseHelp,
		Flags:  []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "why, for others to read"}},
		Action: takes(0, 0, "", quick(pauseFleet)),
	}
}

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "let automatic moves go on", Action: takes(0, 0, "", quick(resumeFleet)),
		Description: "Moves of a run that was under way are judged anew, each before it begins.",
	}
}

func pauseFleet(ctx context.Context, s *session) error {
	p := fleet.Pause{Schema: 1, Act: fleet.Act{By: s.actor, At: time.Now().UTC(), Reason: s.cli.String("reason")}}
	_, err := s.Pauses().Replace(ctx, nil, store.PauseID, 0, p)
	if errors.Is(err, store.ErrConflict) {
		row, err := s.Pauses().Get(ctx, store.PauseID)
		if err != nil {
			return err
		}
		s.note("%s already", fleetPauseText(&row.Value))
		return nil
	}
	if err != nil {
		return err
	}
	s.record(ctx, "fleet-paused", "fleet", p.Reason)
	s.note("%s", fleetPauseText(&p))
	return nil
}

func resumeFleet(ctx context.Context, s *session) error {
	row, err := s.Pauses().Get(ctx, store.PauseID)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		s.note("automatic moves are not paused")
		return nil
	case err != nil && !errors.Is(err, store.ErrCorrupt):
		return err
	}
	if err := s.Pauses().Remove(ctx, nil, store.PauseID, row.Revision); err != nil {
		return err
	}
	s.record(ctx, "fleet-resumed", "fleet", "")
	s.note("automatic moves go on")
	return nil
}

// paused reads the pause; nil when there is none.
func (s *session) paused(ctx context.Context) (*fleet.Pause, error) {
	row, err := s.Pauses().Get(ctx, store.PauseID)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, nil
	case errors.Is(err, store.ErrCorrupt):
		return &fleet.Pause{Act: fleet.Act{By: "a record that can't be read"}}, nil
	case err != nil:
		return nil, err
	}
	return &row.Value, nil
}

// fleetPauseText is "automatic moves are paused by ada@desk since ...: reason".
func fleetPauseText(p *fleet.Pause) string {
	text := fmt.Sprintf("automatic moves are paused by %s", p.By)
	if !p.At.IsZero() {
		text += " since " + stamp(p.At)
	}
	return out.Clean(text + prefixed(": ", p.Reason))
}

// notePause says on stderr that automatic moves are paused, if they are and people read the answer.
func (s *session) notePause(p *fleet.Pause) {
	if p != nil && s.format == out.AsTable {
		s.note("%s", fleetPauseText(p))
	}
}
