package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/store"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "finished migrations, newest last, with what they cost",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: 50, Usage: "at most `N`, the newest"},
			&cli.StringFlag{Name: "vm", Usage: "only those of the `VM` with that name or UUID"},
		},
		Action: takes(0, 0, "", limited(listing(listHistory))),
	}
}

// listHistory joins what the scheduler has moved to the history with what is still among the
// migrations; an ID sorts by age.
func listHistory(ctx context.Context, s *session) (any, func() out.Table, error) {
	limit, vm := s.cli.Int("limit"), s.cli.String("vm")
	from := limit
	if vm != "" {
		from = store.DefaultRetention().HistoryKeep // its own may be far back
	}
	// In this order: what goes to the history in between is in both.
	present, err := s.ListMigrations(ctx)
	if err != nil {
		return nil, nil, err
	}
	old, err := s.History(ctx, from)
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
		if vm == "" || m.Domain == vm || string(m.UUID) == strings.ToLower(vm) {
			list = append(list, m)
		}
	}
	if vm != "" && len(list) == 0 {
		// Nothing is the right answer only about a VM that there is.
		snap, err := s.snapshot(ctx)
		if err != nil {
			return nil, nil, err
		}
		if x := indexOf(snap); len(snap.FindVM(vm)) == 0 && len(x.goneAs(vm)) == 0 {
			return nil, nil, fmt.Errorf("no VM is called %q, and no finished migration is of one", vm)
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
