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
			toggle("accuracy", "how well the completed ones were forecast, and what became of what was promised; of the newest 1000 if --limit does not say"),
			&cli.StringFlag{Name: "vm", Usage: "only those of the `VM` with that name or UUID"},
		},
		Description: "With --accuracy each row is the forecasts that rested on as much (drover vm check says on what), and all.\n" +
			"DURATION and SENT are by how much they were off, either way, in half of the cases and in nine of ten;\n" +
			"IN RANGE is how many took a time within the range that was given. KEPT kept all that was promised;\n" +
			"CEILING paused the guest for longer than promised, within the ceiling; BROKEN broke a promise.",
		Action: takes(0, 0, "", limited(func(c *cli.Context) error {
			if c.Bool("accuracy") {
				return listing(showAccuracy)(c)
			}
			return listing(listHistory)(c)
		})),
	}
}

// finishedOnes joins what the scheduler has moved to the history with what is still among the
// migrations, oldest first, at most limit; an ID sorts by age.
func finishedOnes(ctx context.Context, s *session, limit int) ([]precopy.Migration, error) {
	vm := s.cli.String("vm")
	from := limit
	if vm != "" {
		from = store.DefaultRetention().HistoryKeep // its own may be far back
	}
	// In this order: what goes to the history in between is in both.
	present, err := s.ListMigrations(ctx)
	if err != nil {
		return nil, err
	}
	old, err := s.History(ctx, from)
	if err != nil {
		return nil, err
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
			return nil, err
		}
		if x := indexOf(snap); len(snap.FindVM(vm)) == 0 && len(x.goneAs(vm)) == 0 {
			return nil, fmt.Errorf("no VM is called %q, and no finished migration is of one", vm)
		}
	}
	slices.SortFunc(list, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	return list[max(0, len(list)-limit):], nil
}

func listHistory(ctx context.Context, s *session) (any, func() out.Table, error) {
	list, err := finishedOnes(ctx, s, s.cli.Int("limit"))
	if err != nil {
		return nil, nil, err
	}
	return list, func() out.Table {
		t := out.Table{
			Head: []string{"ID", "FINISHED", "VM", "FROM", "TO", "PHASE", "SECONDS", "SENT", "PAUSE", "BY"},
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
			t.Add(m.ID, finished, m.Domain, m.Source, m.Target, string(m.Phase), seconds, sent, pauseText(m), out.Shorten(m.RequestedBy, 20))
		}
		return t
	}, nil
}
