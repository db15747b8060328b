package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/precopy"
)

func cancelCommand() *cli.Command {
	return &cli.Command{
		Name: "cancel", Usage: "stop a migration; the VM stays where it is", ArgsUsage: "ID|VM",
		Description: "One that has not begun is aborted at once. One that is under way is stopped by its host's\n" +
			"agent; at the very end it may complete all the same, which --wait reports with exit status 3.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "why, for the record"},
			toggle("wait", "return when it is over: 0 when it was stopped, 1 when it failed otherwise, 3 when it was too late", "w"),
		},
		Action: takes(1, 1, "ID or VM", long(cancelMigration)),
	}
}

func cancelMigration(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	m, err := findMigration(rctx, s, s.word())
	if err != nil {
		return err
	}
	m, err = s.requestCancel(rctx, m)
	if err != nil {
		return err
	}
	if m.Phase.Final() {
		s.note("%s: cancelled before it began; the VM stays on %s", m.Domain, m.Source)
		return nil
	}
	s.note("%s: cancel requested (%s)", m.Domain, m.Phase)
	if !s.cli.Bool("wait") {
		return nil
	}
	m, err = s.until(ctx, m, func(m precopy.Migration) bool { return m.Phase.Final() }, nil)
	switch {
	case err != nil:
		return s.interrupted(ctx, m, err)
	case m.Phase == precopy.Done:
		return cli.Exit(fmt.Sprintf("too late to cancel: %s runs on %s", m.Domain, m.Target), cliargs.ExitPartial)
	case m.Phase != precopy.Aborted:
		// It may not have stayed where it was: the guest may have stopped, or a person have judged.
		return cli.Exit(whyNot(m.Migration), cliargs.ExitFailed)
	}
	s.note("%s: %s, it stays on %s", m.Domain, m.Phase, m.Source)
	return nil
}

// requestCancel writes the wish into the record, or ends it when nothing has begun; the compared
// revision decides against an agent that takes the order at the same moment.
func (s *session) requestCancel(ctx context.Context, m precopy.Stored) (precopy.Stored, error) {
	for {
		if m.Phase.Final() {
			return m, fmt.Errorf("migration %s is over already: %s", m.ID, m.Phase)
		}
		if m.Cancel != nil && m.Phase.Started() {
			return m, nil
		}
		now := time.Now().UTC()
		next := m.Migration
		next.Cancel = &precopy.Cancel{By: s.actor, At: now, Reason: s.cli.String("reason")}
		if m.Phase == precopy.Requested || m.Phase == precopy.Queued {
			next.Phase, next.Finished = precopy.Aborted, &now
			next.ReasonCode, next.Reason = "cancelled", "cancelled by "+s.actor+" before it began"
		}
		stored, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, m, next)
		if err == nil {
			s.record(ctx, "migration-cancelled", m.ID, joinNotes(m.Domain, s.cli.String("reason")))
		}
		if !errors.Is(err, precopy.ErrConflict) {
			return stored, err
		}
		if m, err = s.GetMigration(ctx, m.ID); err != nil {
			return m, err
		}
	}
}

const resolveHelp = `Only for a migration in phase unknown whose host never returns. First make sure by yourself that the
VM runs on the host that you name and NOT on the other one (virsh list there, or its power is off):
drover believes you, and a VM that runs twice destroys its disks. The record is then closed; no VM is
started or stopped. Once the source's agent is there it looks at both hosts and, only if they bear you
out, tidies up as after any migration: the definition left on the source is removed if the VM runs on
the target; if it is on the source, its autostart flag is set again and the disk files made for this
migration on the target are removed. Otherwise all is left as it is, and a note in the record says so.`

func resolveCommand() *cli.Command {
	return &cli.Command{
		Name: "resolve", Usage: "close a migration in phase unknown by hand", ArgsUsage: "ID|VM", Description: resolveHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "runs-on", Usage: "the `HOST` that the VM runs on, as you have seen yourself"},
			yesFlag("needed: you have made sure that it runs only there"),
		},
		Action: takes(1, 1, "ID or VM", quick(resolveMigration)),
	}
}

func resolveMigration(ctx context.Context, s *session) error {
	host := s.cli.String("runs-on")
	if host == "" {
		return cliargs.Usagef(s.cli, "--runs-on HOST is missing")
	}
	m, err := findMigration(ctx, s, s.word())
	if err != nil {
		return err
	}
	switch {
	case m.Phase != precopy.Unknown:
		return fmt.Errorf("migration %s is %s: only one in phase unknown can be resolved by hand", m.ID, m.Phase)
	case host != m.Source && host != m.Target:
		return fmt.Errorf("migration %s is from %s to %s: %s has no part in it", m.ID, m.Source, m.Target, host)
	case !s.cli.Bool("yes"):
		return cliargs.Usagef(s.cli, "make sure that %s runs on %s and nowhere else, then add --yes", m.Domain, host)
	}
	now := time.Now().UTC()
	next := m.Migration
	next.Finished, next.ReasonCode = &now, precopy.ResolvedByHand
	next.Reason = fmt.Sprintf("%s says that it runs on %s", s.actor, host)
	next.Phase = precopy.Failed
	if host == m.Target {
		next.Phase = precopy.Done
	}
	if _, err := s.UpdateMigration(ctx, precopy.ActorCLI, nil, m, next); err != nil {
		return err
	}
	s.record(ctx, "migration-resolved", m.ID, joinNotes(m.Domain, next.Reason))
	s.note("migration %s is closed: %s, %s runs on %s", m.ID, next.Phase, m.Domain, host)
	return nil
}
