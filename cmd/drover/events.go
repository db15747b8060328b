package main

import (
	"context"
	"slices"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/store"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "who did what, newest last",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 50, Usage: "at most this many"},
			watchFlag(),
		},
		Action: takes(0, 0, "", listing(listEvents)),
	}
}

func listEvents(ctx context.Context, s *session) (any, func() out.Table, error) {
	list, err := s.Events(ctx, max(s.cli.Int("limit"), 1))
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
