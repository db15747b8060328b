package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/store"
)

const forgetHelp = `Removes what the fleet knows about a host that is gone for good, and frees its name for another
machine. It must have no living agent and no unfinished migration. What runs there is not touched.`

func forgetCommand() *cli.Command {
	return &cli.Command{
		Name: "forget", Usage: "remove a host that never returns", ArgsUsage: "HOST", Description: forgetHelp,
		Flags:  []cli.Flag{yesFlag("needed: the host is gone for good")},
		Action: takes(1, 1, "HOST", quick(forgetHost)),
	}
}

func forgetHost(ctx context.Context, s *session) error {
	name := s.word()
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	h, err := findHost(snap, name)
	if err != nil {
		return err
	}
	seen := ""
	if v := viewHost(indexOf(snap), h); len(v.LastSeen) > 0 {
		seen = "last seen there: " + strings.Join(v.LastSeen, ", ")
	}
	if !s.cli.Bool("yes") {
		return cliargs.Usagef(s.cli, "make sure that %s is gone for good, then add --yes%s", name, prefixed("; ", seen))
	}
	for _, m := range snap.Unfinished() {
		if m.Source == name || m.Target == name {
			return fmt.Errorf("migration %s of %s between %s and %s is not over (%s): drover migration cancel, or resolve",
				m.ID, m.Domain, m.Source, orDash(m.Target), m.Phase)
		}
	}
	switch err := s.ForgetHost(ctx, name); {
	case errors.Is(err, store.ErrConflict):
		return fmt.Errorf("%s has a living agent: stop drover-agent there first", name)
	case err != nil:
		return err
	}
	s.record(ctx, "host-forgotten", name, seen)
	s.note("%s is forgotten%s", name, prefixed("; ", seen))
	return nil
}

// prefixed returns nothing for nothing.
func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
