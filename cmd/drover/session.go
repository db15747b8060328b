package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/conf"
	"drover/cmd/internal/out"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/etcd"
	"drover/store/kv"
)

// watchEvery is how often --watch reads the store again.
const watchEvery = 2 * time.Second

// defaultTimeout is how long a command may talk to the store unless --timeout says otherwise.
const defaultTimeout = 10 * time.Second

// session is one command's connection to the store.
type session struct {
	*store.Store
	client *etcd.Client
	cli    *cli.Context
	format out.Format
	actor  string
	asked  string // the migration that this command has asked for
}

// action is a command that needs the store.
type action func(ctx context.Context, s *session) error

// quick runs a command that only reads or writes a few records: --timeout bounds all of it.
func quick(do action) cli.ActionFunc {
	return func(c *cli.Context) error {
		ctx, cancel := context.WithTimeout(c.Context, storeTimeout(c))
		defer cancel()
		return withStore(ctx, c, do)
	}
}

// long runs a command that may wait as long as what it waits for takes.
func long(do action) cli.ActionFunc {
	return func(c *cli.Context) error { return withStore(c.Context, c, do) }
}

func withStore(ctx context.Context, c *cli.Context, do action) error {
	format, err := format(c)
	if err != nil {
		return err
	}
	if d := storeTimeout(c); d <= 0 {
		return cliargs.Usagef(c, "--timeout %v: want more than 0", d)
	}
	var settings conf.Client
	if err := conf.Load(conf.FlagsAndEnvironment(c), &settings); err != nil {
		return err
	}
	client, err := etcd.Open(etcd.Config{
		Endpoints: settings.Endpoints, CA: settings.CA, Cert: settings.Cert, Key: settings.Key,
		Insecure: settings.Insecure, RequestTimeout: min(storeTimeout(c)/2, 5*time.Second),
	})
	if err != nil {
		return usageIf(c, err, etcd.ErrConfig)
	}
	s := &session{Store: store.New(client), client: client, cli: c, format: format, actor: actor(c)}
	err = do(ctx, s)
	if cerr := errors.Join(s.Close(), client.Close()); err == nil {
		err = cerr
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && c.Context.Err() == nil:
		return fmt.Errorf("no answer within %s (--timeout): %w", storeTimeout(c), err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; start etcd there, or name another by --etcd-endpoints", err)
	}
	return err
}

// storeTimeout is how long a command may talk to the store: the global --timeout. A command that has a
// --timeout of its own means something else by it.
func storeTimeout(c *cli.Context) time.Duration {
	for _, f := range c.Command.Flags {
		if f.Names()[0] == "timeout" {
			return defaultTimeout
		}
	}
	return c.Duration("timeout")
}

// usageIf turns an error of the given kind into wrong usage, which exits with 2.
func usageIf(c *cli.Context, err, kind error) error {
	if errors.Is(err, kind) {
		return &cliargs.UsageError{Command: c.Command.HelpName, Err: err}
	}
	return err
}

func format(c *cli.Context) (out.Format, error) {
	f, err := out.ParseFormat(c.String("output"))
	if err != nil {
		return "", cliargs.Usagef(c, "%w", err)
	}
	return f, nil
}

// actor is who is recorded as having asked: --as, else the login behind sudo, else the user.
func actor(c *cli.Context) string {
	if as := c.String("as"); as != "" {
		return as
	}
	name := os.Getenv("SUDO_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		} else {
			name = fmt.Sprint("uid", os.Getuid())
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// snapshot reads the fleet as it is: a move that is done counts before the next report says so.
func (s *session) snapshot(ctx context.Context) (*fleet.Snapshot, error) {
	snap, err := s.ReadSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	return fleet.Settle(snap), nil
}

// answer writes value to stdout as --output wants.
func (s *session) answer(value any, table func() out.Table) error {
	return s.format.Print(s.cli.App.Writer, value, table)
}

// note tells a person something that is not the answer.
func (s *session) note(format string, args ...any) {
	fmt.Fprintf(s.cli.App.ErrWriter, format+"\n", args...)
}

// record adds to the audit what was done. That it is done stands even if this fails.
func (s *session) record(ctx context.Context, kind, subject, text string) {
	err := s.Record(ctx, store.Event{Actor: s.actor, Kind: kind, Subject: subject, Text: text})
	if err != nil {
		s.note("drover: done, but not noted in the events: %v", err)
	}
}

// stderr is where progress is drawn.
func (s *session) stderr() io.Writer { return s.cli.App.ErrWriter }

// view reads what a command shows; table makes its form for people.
type view func(ctx context.Context, s *session) (value any, table func() out.Table, err error)

// listing is a command that prints its view, once or, with --watch, again and again.
func listing(show view) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Bool("watch") {
			return watching(show)(c)
		}
		return quick(func(ctx context.Context, s *session) error {
			value, table, err := show(ctx, s)
			if err != nil {
				return err
			}
			return s.answer(value, table)
		})(c)
	}
}

// watching is a command that prints its view until it is interrupted or the view is over ([out.ErrOver]).
// While the store is away it says so and goes on.
func watching(show view) cli.ActionFunc {
	return long(func(ctx context.Context, s *session) error {
		away := false
		return out.Watch(ctx, s.cli.App.Writer, watchEvery, func(ctx context.Context, w io.Writer) error {
			ctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
			defer cancel()
			value, table, err := show(ctx, s)
			switch {
			case errors.Is(err, kv.ErrUnavailable) && !away:
				away = true
				s.note("drover: %v; waiting for it", err)
				return nil
			case errors.Is(err, kv.ErrUnavailable):
				return nil
			case err != nil && !errors.Is(err, out.ErrOver):
				return err
			}
			away = false
			return cmp.Or(s.format.Print(w, value, table), err)
		})
	})
}

// takes checks that there are between low and high arguments (high < 0: any number) before the command
// does anything. want names them in the message otherwise.
func takes(low, high int, want string, do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		switch n := c.NArg(); {
		case n < low:
			return cliargs.Usagef(c, "%s is missing", want)
		case high >= 0 && n > high:
			return cliargs.Usagef(c, "unexpected argument %q", c.Args().Get(high))
		}
		return do(c)
	}
}

// word is the command's first argument.
func (s *session) word() string { return s.cli.Args().First() }
