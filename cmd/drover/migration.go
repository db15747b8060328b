package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// recent is how long a finished migration stays in the list.
const recent = 24 * time.Hour

func migrationCommand() *cli.Command {
	return &cli.Command{
		Name: "migration", Usage: "migrations under way and past: list, follow, cancel",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "unfinished migrations, and those finished in the last 24 hours",
				Flags: []cli.Flag{
					watchFlag(),
					toggle("all", "all finished ones too that are not in the history yet", "a"),
				},
				Action: takes(0, 0, "", listing(listMigrations)),
			},
			{
				Name: "show", Usage: "the record of one migration", ArgsUsage: "ID|VM",
				Description: "A VM's name stands for its unfinished migration, else for its last one.",
				Flags:       []cli.Flag{watchFlag()}, Action: takes(1, 1, "ID or VM", listing(showMigration)),
			},
			{
				Name: "watch", Usage: "follow one migration to its end, or all that are under way", ArgsUsage: "[ID|VM]",
				Description: "Exit status as of migrate --wait: 0 done, 1 failed, 3 done though cancelled.",
				Action:      takes(0, 1, "", watchMigration),
			},
			cancelCommand(),
			resolveCommand(),
		},
	}
}

func listMigrations(ctx context.Context, s *session) (any, func() out.Table, error) {
	all, err := s.ListMigrations(ctx)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	shown := []precopy.Migration{}
	for _, m := range all {
		if !s.cli.Bool("all") && m.Finished != nil && now.Sub(*m.Finished) > recent {
			continue
		}
		shown = append(shown, m.Migration)
	}
	slices.SortFunc(shown, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	return shown, func() out.Table {
		t := out.Table{
			Head: []string{"ID", "VM", "FROM", "TO", "PHASE", "TIME", "PAUSE"},
			None: "no migrations",
		}
		for _, m := range shown {
			t.Add(m.ID, m.Domain, m.Source, m.Target, phaseText(m), out.Span(lasted(m, now)), pauseText(m))
		}
		return t
	}, nil
}

func phaseText(m precopy.Migration) string {
	if m.Cancel != nil && !m.Phase.Final() {
		return string(m.Phase) + "*" // cancel requested
	}
	return string(m.Phase)
}

// lasted is how long the migration has taken, from the request to its end or now.
func lasted(m precopy.Migration, now time.Time) time.Duration {
	if m.Finished != nil {
		now = *m.Finished
	}
	return max(now.Sub(m.Created), 0)
}

func pauseText(m precopy.Migration) string {
	switch {
	case m.Outcome == nil || m.Phase != precopy.Done:
		return ""
	case !m.Outcome.PauseKnown:
		return "not known"
	}
	return fmt.Sprintf("%d ms", m.Outcome.PauseMS)
}

// findMigration resolves an ID, a part of one that is unique (its end tells migrations apart better
// than its beginning), or a VM.
func findMigration(ctx context.Context, s *session, word string) (precopy.Stored, error) {
	if len(word) == 36 {
		m, err := s.GetMigration(ctx, strings.ToLower(word))
		if err == nil || !isNotFound(err) {
			return m, err
		}
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return precopy.Stored{}, err
	}
	if m, ok := newestOf(snap, word); ok {
		return m, nil
	}
	var found []precopy.Stored
	for id, m := range snap.Migrations {
		if len(word) >= 4 && (strings.HasPrefix(id, word) || strings.HasSuffix(id, word)) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return precopy.Stored{}, fmt.Errorf("no migration %q, and no VM of that name has one (drover migration list shows them)", word)
	}
	return precopy.Stored{}, fmt.Errorf("%q means %d migrations: give the whole ID", word, len(found))
}

// newestOf returns the VM's newest migration; an unfinished one is always the newest.
func newestOf(snap *fleet.Snapshot, word string) (precopy.Stored, bool) {
	_, name, byHost := strings.Cut(word, "/")
	if !byHost {
		name = word
	}
	uuid := ""
	if d, err := findVM(snap, word); err == nil {
		uuid = string(d.Facts.ID)
	}
	var best precopy.Stored
	for _, m := range snap.Migrations {
		mine := uuid != "" && string(m.UUID) == uuid || uuid == "" && (m.Domain == name || string(m.UUID) == word)
		if mine && m.ID > best.ID {
			best = m
		}
	}
	return best, best.ID != ""
}

func showMigration(ctx context.Context, s *session) (any, func() out.Table, error) {
	m, err := findMigration(ctx, s, s.word())
	if err != nil {
		return nil, nil, err
	}
	return m.Migration, func() out.Table { return migrationTable(m.Migration) }, nil
}

func migrationTable(m precopy.Migration) out.Table {
	var t out.Table
	t.Add("Migration:", m.ID)
	t.Add("VM:", fmt.Sprintf("%s (%s)", m.Domain, m.UUID))
	t.Add("From, to:", fmt.Sprintf("%s, %s", m.Source, orDash(m.Target)))
	t.Add("Phase:", joinNotes(string(m.Phase), m.Reason))
	if m.ReasonCode != "" {
		t.Add("Reason code:", m.ReasonCode)
	}
	if m.Error != "" {
		t.Add("Error:", m.Error)
	}
	t.Add("Asked for:", fmt.Sprintf("%s by %s", stamp(m.Created), m.RequestedBy))
	if c := m.Cancel; c != nil {
		t.Add("Cancelled:", joinNotes(fmt.Sprintf("%s by %s", stamp(c.At), c.By), c.Reason))
	}
	if m.Started != nil {
		t.Add("Started:", stamp(*m.Started))
	}
	if m.Finished != nil {
		t.Add("Finished:", stamp(*m.Finished))
	}
	t.Add("Promise:", promiseText(m.Policy))
	if f := m.Forecast; f != nil {
		t.Add("Forecast:", fmt.Sprintf("%.1f s, %s, pause %d ms", f.Seconds, f.Bytes, f.PauseMS))
	}
	if o := m.Outcome; o != nil {
		pause := "pause not known"
		if o.PauseKnown {
			pause = fmt.Sprintf("pause %d ms", o.PauseMS)
		}
		t.Add("Outcome:", fmt.Sprintf("%.1f s, %s, %s, %d rounds, throttled at most %d %%, %s",
			o.Seconds, o.Bytes, pause, o.Rounds, o.ThrottleMaxPercent, o.Strategy))
	}
	for _, a := range m.Attempts {
		t.Add(fmt.Sprintf("Attempt %d:", a.Number), joinNotes(a.Strategy, "since "+stamp(a.Started), a.Result))
	}
	for _, n := range m.Notes {
		t.Add("Note:", n)
	}
	return t
}

func promiseText(p precopy.Policy) string {
	text := fmt.Sprintf("pause at most %d ms", p.MaxPauseMS)
	if p.MaxPauseCeilingMS > p.MaxPauseMS {
		text += fmt.Sprintf(" (up to %d ms if there is no other way)", p.MaxPauseCeilingMS)
	}
	text += fmt.Sprintf(", slowdown at most %.0f %%", p.MaxSlowdown*100)
	if p.BudgetSeconds > 0 {
		text += fmt.Sprintf(", done within %.4g s", p.BudgetSeconds)
	}
	if !p.Encrypt {
		text += ", NOT encrypted"
	}
	return text
}

// watchMigration follows one migration, or lists all that are under way again and again.
func watchMigration(c *cli.Context) error {
	if c.Args().Present() {
		return long(func(ctx context.Context, s *session) error {
			rctx, cancel := context.WithTimeout(ctx, storeTimeout(c))
			defer cancel()
			m, err := findMigration(rctx, s, s.word())
			if err != nil {
				return err
			}
			return s.follow(ctx, m)
		})(c)
	}
	return watching(listMigrations)(c)
}
