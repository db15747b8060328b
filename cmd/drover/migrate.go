package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
)

const migrateHelp = `Moves a running VM to another host while it runs. The scheduler checks, chooses the host unless
--to names it, and orders; the agent of the VM's host carries it out. Whatever fails, the VM goes on
running where it was.

Without --wait the command returns once the move is ordered and prints the migration's ID; the
migration goes on by itself, as it does after Ctrl-C.

A promise is kept or the migration ends without effect: --max-pause is a bound, not a wish. What the
flags leave open is as the VM's policy says (drover policy check VM): where nobody set one, a pause of
150 ms, and up to 900 ms when there is no other way.`

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name: "migrate", Usage: "move a running VM to another host", ArgsUsage: "VM", Description: migrateHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", DefaultText: "the scheduler's choice", Usage: "the `HOST` to move to"},
			&cli.StringFlag{Name: "class", DefaultText: "the VM's", Usage: "`NAME` of the policy class to move it by"},
			&cli.DurationFlag{Name: "max-pause", DefaultText: "the class's", Usage: "longest pause of the guest, such as 150ms"},
			&cli.DurationFlag{Name: "deadline", DefaultText: "the class's, or reckoned from size and link", Usage: "abort when not done after this long, such as 10m"},
			&cli.StringFlag{Name: "max-slowdown", DefaultText: "the class's", Usage: "share of its work that the guest may lose, such as 30%"},
			// For the comparison benchmark, hence not in the help: it gives up the promise.
			&cli.StringFlag{Name: "tuning", Hidden: true, Usage: "tune as another manager's fixed policy of that `NAME`"},
			toggle("copy-storage", "copy disks that are not shared too; without it such VMs are refused"),
			toggle("dry-run", "only check whether it could move; change nothing", "n"),
			toggle("wait", "show the progress and return at the end", "w"),
			&cli.DurationFlag{Name: "timeout", DefaultText: "never; 1m for the decision", Usage: "stop waiting after this long; the migration goes on"},
		},
		Action: takes(1, 1, "VM", migrate),
	}
}

// waiting is the reason code of a request that the scheduler took up but can't order yet.
const waiting = "waiting"

// decideTimeout is how long the scheduler may take to decide when --timeout says nothing: asking both
// hosts about a few candidates takes a fraction of it.
const decideTimeout = time.Minute

func migrate(c *cli.Context) error {
	wish, err := wishOf(c)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return long(func(ctx context.Context, s *session) error {
			if err := s.showPromise(ctx, wish); err != nil {
				return err
			}
			return checkVM(ctx, s, wish)
		})(c)
	}
	return long(func(ctx context.Context, s *session) error {
		stored, err := s.request(ctx, wish)
		if err != nil {
			return err
		}
		if c.Bool("wait") {
			if d := c.Duration("timeout"); d > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, d)
				defer cancel()
			}
			return s.follow(ctx, stored)
		}
		return s.ordered(ctx, stored)
	})(c)
}

// request writes the record of a new migration.
func (s *session) request(ctx context.Context, wish wish) (precopy.Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(ctx)
	if err != nil {
		return precopy.Stored{}, err
	}
	d, err := findVM(snap, s.word())
	if err != nil {
		return precopy.Stored{}, err
	}
	to := s.cli.String("to")
	if to == "" && s.cli.IsSet("to") {
		return precopy.Stored{}, cliargs.Usagef(s.cli, "--to \"\": want a host, or leave --to away for the scheduler's choice")
	}
	if to != "" {
		if _, err := findHost(snap, to); err != nil {
			return precopy.Stored{}, err
		}
		if to == d.Host.Name {
			return precopy.Stored{}, fmt.Errorf("%s is on %s already", d.Facts.Name, to)
		}
	}
	promise, _, err := wish.promise(snap, d)
	if err != nil {
		return precopy.Stored{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return precopy.Stored{}, fmt.Errorf("new migration: %w", err)
	}
	stored, err := s.CreateMigration(ctx, precopy.Migration{
		Schema: precopy.Schema, ID: id.String(), Domain: d.Facts.Name, UUID: d.Facts.ID,
		Source: d.Host.Name, Target: to, Phase: precopy.Requested, Reason: "asked for by hand",
		RequestedBy: s.actor, Created: time.Now().UTC(), Policy: promise,
		CopyStorage: s.cli.Bool("copy-storage"),
	})
	var active *store.ActiveError
	if errors.As(err, &active) {
		return precopy.Stored{}, s.underWay(ctx, d, active.ID)
	}
	if err == nil {
		s.asked = stored.ID
		s.record(ctx, "migration-requested", stored.ID, fmt.Sprintf("%s from %s to %s", d.Facts.Name, d.Host.Name, cmp.Or(to, "wherever it fits")))
	}
	return stored, err
}

// underWay says which migration is in the way of another one.
func (s *session) underWay(ctx context.Context, d fleet.Domain, id string) error {
	m, err := s.GetMigration(ctx, id)
	if err != nil {
		return fmt.Errorf("migration %s of %s is already under way", id, d.Facts.Name)
	}
	return fmt.Errorf("migration %s of %s is already under way (%s, asked for by %s): drover migration watch %s",
		id, d.Facts.Name, m.Phase, m.RequestedBy, id)
}

// ordered waits until the scheduler has decided, and prints the ID.
func (s *session) ordered(ctx context.Context, m precopy.Stored) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.cli.Duration("timeout"), decideTimeout))
	defer cancel()
	m, err := s.until(ctx, m, func(m precopy.Migration) bool {
		return m.Phase != precopy.Requested || m.ReasonCode == waiting
	}, nil)
	if err != nil {
		return s.interrupted(ctx, m, err)
	}
	if m.Phase.Final() && m.Phase != precopy.Done {
		return s.ended(m.Migration)
	}
	if s.format != out.AsTable {
		return s.answer(m.Migration, nil)
	}
	switch m.Phase {
	case precopy.Requested:
		// It may be refused yet, as when the host that it waits for stays away.
		s.note("%s has not been ordered yet: %s; follow it: drover migration watch %s", m.Domain, out.Clean(m.Reason), m.ID)
	default:
		s.note("%s moves from %s to %s; follow it: drover migration watch %s", m.Domain, m.Source, m.Target, m.ID)
		s.foretell(m.Migration)
	}
	_, err = fmt.Fprintln(s.cli.App.Writer, m.ID)
	return err
}

// foretell says what is expected of a migration, if anything is.
func (s *session) foretell(m precopy.Migration) {
	if m.Forecast == nil {
		return
	}
	s.note("expected: %s", expected(*m.Forecast))
	if why := m.Forecast.Unlikely; why != "" {
		s.note("%s", why)
	}
}

// ended prints the answer about a migration that is over and returns the error that gives the exit
// status: none for done.
func (s *session) ended(m precopy.Migration) error {
	if s.format != out.AsTable {
		if err := s.answer(m, nil); err != nil {
			return err
		}
	}
	if m.Phase == precopy.Done {
		if s.format == out.AsTable {
			if _, err := fmt.Fprintln(s.cli.App.Writer, summary(m)); err != nil {
				return err
			}
		}
		if m.Cancel != nil {
			return cli.Exit(fmt.Sprintf("too late to cancel: %s runs on %s", m.Domain, m.Target), cliargs.ExitPartial)
		}
		return nil
	}
	return cli.Exit(whyNot(m), cliargs.ExitFailed)
}

// summary is the one line about a migration that is done.
func summary(m precopy.Migration) string {
	text := fmt.Sprintf("%s moved from %s to %s", m.Domain, m.Source, m.Target)
	if o := m.Outcome; o != nil {
		pause := "pause not known"
		if o.PauseKnown {
			pause = fmt.Sprintf("pause %d ms", o.PauseMS)
		}
		text += fmt.Sprintf(" in %.1f s: %s sent, %s, %s", o.Seconds, o.Bytes, pause, plural(o.Rounds, "round"))
	}
	if unkept := m.Unkept(); unkept != "" {
		text += "; " + unkept
	}
	for _, n := range m.Notes {
		text += "; " + n
	}
	return text
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// whyNot is the one line about a migration that moved nothing.
func whyNot(m precopy.Migration) string {
	reason := m.Reason
	// What libvirt says about an abort is only that it was aborted.
	if m.Phase == precopy.Failed && m.Error != reason {
		reason = joinNotes(reason, m.Error)
	}
	if reason == "" {
		reason = fmt.Sprintf("%s stays on %s", m.Domain, m.Source)
	}
	if m.ReasonCode != "" {
		reason += " [" + m.ReasonCode + "]"
	}
	return fmt.Sprintf("migration of %s %s: %s (%s)", m.Domain, m.Phase, out.Clean(reason), m.ID)
}
