package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/hypervisor"
	"drover/scheduler/fleet"
)

func cancelRun(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	row, err := findRun(rctx, s, s.word())
	if err != nil {
		return err
	}
	row, err = s.Runs().Update(rctx, nil, row.ID, func(r *fleet.Run) error {
		if r.Phase.Final() {
			return fmt.Errorf("run %s is over already: %s (drover host restore opens its hosts)", r.ID, r.Phase)
		}
		now := time.Now().UTC()
		cancel := fleet.RunCancel{By: s.actor, At: now, Reason: s.cli.String("reason")}
		if r.Cancel != nil {
			cancel = *r.Cancel // once more, for more than before
		}
		r.Cancel = cancel.With(s.cli.Bool("abort"), s.cli.Bool("uncordon"))
		if r.Phase == fleet.RunRequested { // no scheduler has looked at it
			r.Phase, r.Finished, r.Reason = fleet.RunCancelled, &now, "cancelled by "+s.actor+" before it began"
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.record(rctx, "run-cancelled", row.ID, s.cli.String("reason"))
	c := count(row.Value)
	s.note("%s of %s: cancel requested; %s", row.Value.Kind, runHosts(row.Value), cancelText(row.Value, c))
	if !s.cli.Bool("wait") {
		return nil
	}
	for !row.Value.Phase.Final() {
		select {
		case <-ctx.Done():
			return cli.Exit("stopped waiting; the run ends by itself", cliargs.ExitFailed)
		case <-time.After(pollSlow):
		}
		if row, err = s.Runs().Get(ctx, row.ID); err != nil {
			return err
		}
	}
	s.note("%s: %s, %d moved", row.ID, row.Value.Phase, count(row.Value).moved)
	return nil
}

func cancelText(r fleet.Run, c counts) string {
	what := "finishes"
	if r.Cancel.Abort {
		what = "is stopped"
	}
	return fmt.Sprintf("%d moved, %d stay, %d under way %s", c.moved, c.left-c.under+c.stay, c.under, what)
}

func setRun(ctx context.Context, s *session) error {
	row, err := findRun(ctx, s, s.word())
	if err != nil {
		return err
	}
	change, err := s.runChange(row.Value)
	if err != nil {
		return err
	}
	row, err = s.Runs().Update(ctx, nil, row.ID, func(r *fleet.Run) error {
		if r.Phase.Final() {
			return fmt.Errorf("run %s is over already: %s", r.ID, r.Phase)
		}
		change(r)
		return nil
	})
	if err != nil {
		return err
	}
	s.record(ctx, "run-changed", row.ID, strings.Join(s.cli.LocalFlagNames(), ", "))
	s.note("run %s is changed", row.ID)
	return nil
}

// runChange is what the options of run set ask for.
func (s *session) runChange(r fleet.Run) (func(*fleet.Run), error) {
	var deadline *time.Time
	if word := s.cli.String("deadline"); word != "" {
		at, err := parseDeadline(word, time.Now())
		if err != nil {
			return nil, cliargs.Usagef(s.cli, "%w", err)
		}
		deadline = &at
	}
	var skip []hypervisor.DomainID
	for _, word := range s.cli.StringSlice("skip") {
		i := slices.IndexFunc(r.Moves, func(m fleet.RunMove) bool { return m.VM == word || string(m.UUID) == word })
		if i < 0 {
			return nil, fmt.Errorf("run %s moves no VM %q", r.ID, word)
		}
		skip = append(skip, r.Moves[i].UUID)
	}
	parallel := s.cli.Int("max-parallel")
	if parallel < 0 || deadline == nil && len(skip) == 0 && !s.cli.IsSet("max-parallel") {
		return nil, cliargs.Usagef(s.cli, "want --max-parallel N, --deadline TIME or --skip VM")
	}
	return func(r *fleet.Run) {
		if deadline != nil {
			r.Deadline = deadline
		}
		if s.cli.IsSet("max-parallel") {
			r.MaxParallel = parallel
		}
		for _, id := range skip {
			if !slices.Contains(r.Skip, id) {
				r.Skip = append(r.Skip, id)
			}
		}
	}, nil
}
