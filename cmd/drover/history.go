package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/precopy"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "finished migrations, newest last, with what they cost",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 50, Usage: "at most this many"},
			&cli.StringFlag{Name: "vm", Usage: "only those of this VM `NAME`"},
		},
		Action: takes(0, 0, "", listing(listHistory)),
	}
}

// listHistory joins what the scheduler has moved to the history with what is still among the
// migrations; an ID sorts by age.
func listHistory(ctx context.Context, s *session) (any, func() out.Table, error) {
	limit := max(s.cli.Int("limit"), 1)
	old, err := s.History(ctx, limit)
	if err != nil {
		return nil, nil, err
	}
	present, err := s.ListMigrations(ctx)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]precopy.Migration{}
	for _, m := range old {
		byID[m.ID] = m
	}
	for _, m := range present {
		if m.Phase.Final() {
			byID[m.ID] = m.Migration
		}
	}
	list := []precopy.Migration{}
	for _, m := range byID {
		if vm := s.cli.String("vm"); vm == "" || m.Domain == vm || string(m.UUID) == vm {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	list = list[max(0, len(list)-limit):]
	return list, func() out.Table {
		t := out.Table{
			Head: []string{"FINISHED", "VM", "FROM", "TO", "PHASE", "SECONDS", "SENT", "PAUSE", "BY"},
			None: "no finished migrations",
		}
		for _, m := range list {
			finished, seconds, sent := "", "", ""
			if m.Finished != nil {
				finished = stamp(*m.Finished)
			}
			if o := m.Outcome; o != nil {
				seconds, sent = fmt.Sprintf("%.1f", o.Seconds), o.Bytes.String()
			}
			t.Add(finished, m.Domain, m.Source, m.Target, string(m.Phase), seconds, sent, pauseText(m), out.Shorten(m.RequestedBy, 20))
		}
		return t
	}, nil
}
