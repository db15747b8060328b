package main

import (
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/store"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "who did what, newest last",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 50, Usage: "at most `N`, the newest"},
			watchFlag(),
		},
		Action: takes(0, 0, "", limited(listing(listEvents))),
	}
}

// limited refuses a --limit that asks for nothing.
func limited(do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if n := c.Int("limit"); n < 1 {
			return cliargs.Usagef(c, "--limit %d: want at least 1", n)
		}
		return do(c)
	}
}

func listEvents(ctx context.Context, s *session) (any, func() out.Table, error) {
	list, err := s.Events(ctx, s.cli.Int("limit"))
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(list)
	if list == nil {
		list = []store.Event{}
	}
	return list, func() out.Table {
		t := out.Table{Head: []string{"AT", "WHO", "WHAT", "SUBJECT", "TEXT"}, None: "no events"}
		for _, e := range list {
			t.Add(stamp(e.At), out.Shorten(e.Actor, 20), e.Kind, e.Subject, e.Text)
		}
		return t
	}, nil
}
