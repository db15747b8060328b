package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const (
	// recent is how long a finished migration stays in the list.
	recent = 24 * time.Hour
	// searchBack is how many migrations of the history are searched for a VM or a part of an ID.
	searchBack = 1000
)

func migrationCommand() *cli.Command {
	return &cli.Command{
		Name: "migration", Usage: "migrations under way and past: list, follow, cancel",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "unfinished migrations, and each VM's last ones of the last 24 hours",
				Description: "Of what has finished, the last that ended and the last that moved the VM are shown: drover history has all.",
				Flags: []cli.Flag{
					watchFlag(),
					toggle("all", "those that finished before too", "a"),
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
				Description: "Of one, the exit status is as of migrate --wait: 0 done, 1 failed, 3 done though cancelled.\n" +
					"Without one, it ends with 0 once no migration is under way.",
				Action: takes(0, 1, "", watchMigration),
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
	return shown, func() out.Table { return migrationsTable(shown, "no migrations") }, nil
}

func migrationsTable(list []precopy.Migration, none string) out.Table {
	t := out.Table{
		Head: []string{"ID", "VM", "FROM", "TO", "PHASE", "TIME", "PAUSE"},
		None: none,
	}
	slices.SortFunc(list, func(a, b precopy.Migration) int { return strings.Compare(a.ID, b.ID) })
	now := time.Now()
	for _, m := range list {
		t.Add(m.ID, m.Domain, m.Source, m.Target, phaseText(m), out.Span(lasted(m, now)), pauseText(m))
	}
	return t
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
	if m, ok, err := newestOf(snap, word); ok || err != nil {
		return m, err
	}
	past, err := s.History(ctx, searchBack)
	if err != nil {
		return precopy.Stored{}, err
	}
	var found []precopy.Stored
	for id, m := range snap.Migrations {
		if isPart(id, word) {
			found = append(found, m)
		}
	}
	for _, m := range foundIn(past, word) {
		if _, there := snap.Migrations[m.ID]; !there { // it went to the history just now
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

// isPart reports whether word is the beginning or the end of an ID, long enough to mean it.
func isPart(id, word string) bool {
	return len(word) >= 4 && (strings.HasPrefix(id, word) || strings.HasSuffix(id, word))
}

// foundIn returns the migrations of the history, newest first, whose ID the word is a part of; else the
// last of the VM with that name or UUID, if there is one.
func foundIn(past []precopy.Migration, word string) []precopy.Stored {
	var byID, byVM []precopy.Stored
	for _, m := range past {
		switch stored := (precopy.Stored{Migration: m, Past: true}); {
		case isPart(m.ID, word):
			byID = append(byID, stored)
		case len(byVM) == 0 && (m.Domain == word || string(m.UUID) == strings.ToLower(word)):
			byVM = append(byVM, stored)
		}
	}
	if len(byID) > 0 {
		return byID
	}
	return byVM
}

// newestOf returns the migration that a VM's name stands for: its unfinished one, else the one that was
// written last. Several VMs of that name are an error, unless the word says which: as HOST/NAME, where the
// migration goes from or to that host if it is not where the VM is seen now, or as UUID.
func newestOf(snap *fleet.Snapshot, word string) (precopy.Stored, bool, error) {
	var best precopy.Stored
	matches := migrationsOf(snap, word)
	if d, err := findVM(snap, word); err == nil {
		id := d.Facts.ID
		if !strings.Contains(word, "/") && strings.ToLower(word) != string(id) {
			// Another VM of that name may have an unfinished one, on a host that is away.
			for _, m := range matches {
				if m.UUID != id && !m.Phase.Final() {
					return best, false, ambiguous(word, matches)
				}
			}
		}
		matches = matches[:0]
		for _, m := range snap.Migrations {
			if m.UUID == id {
				matches = append(matches, m)
			}
		}
	} else if len(snap.FindVM(word)) > 1 {
		return best, false, err
	}
	for _, m := range matches {
		if m.UUID != matches[0].UUID {
			return best, false, ambiguous(word, matches)
		}
		if best.ID == "" || newer(m, best) {
			best = m
		}
	}
	return best, best.ID != "", nil
}

// migrationsOf returns the migrations whose records match a VM's name, HOST/NAME or UUID, in order of ID.
func migrationsOf(snap *fleet.Snapshot, word string) []precopy.Stored {
	host, name, byHost := strings.Cut(word, "/")
	var out []precopy.Stored
	for _, m := range snap.Migrations {
		switch {
		case byHost && m.Domain == name && (m.Source == host || m.Target == host),
			!byHost && (m.Domain == word || string(m.UUID) == strings.ToLower(word)):
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Stored) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// newer prefers the unfinished one, of which a VM has at most one, then the later written: IDs come from
// the clocks of those who asked, which may differ.
func newer(a, b precopy.Stored) bool {
	if a.Phase.Final() != b.Phase.Final() {
		return !a.Phase.Final()
	}
	return a.Revision > b.Revision
}

func ambiguous(word string, found []precopy.Stored) error {
	vms := map[string]bool{}
	for _, m := range found {
		vms[fmt.Sprintf("%s/%s (%s)", m.Source, m.Domain, m.UUID)] = true
	}
	return fmt.Errorf("%q means migrations of more than one VM: say which of %s, or give the migration's ID",
		word, strings.Join(slices.Sorted(maps.Keys(vms)), ", "))
}

func showMigration(ctx context.Context, s *session) (any, func() out.Table, error) {
	m, err := findMigration(ctx, s, s.word())
	if err != nil {
		return nil, nil, err
	}
	if m.Phase.Final() {
		return m.Migration, func() out.Table { return migrationTable(m.Migration) }, nil
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	stream, has := streamOf(snap, m.Migration)
	shown := struct {
		precopy.Migration
		Stream *budget.StreamView `json:"stream,omitempty"`
	}{Migration: m.Migration}
	if has {
		shown.Stream = &stream
	}
	return shown, func() out.Table {
		t := migrationTable(m.Migration)
		if has {
			t.Add("Bandwidth:", streamText(stream))
		}
		return t
	}, nil
}

// stream says in words how the memory went over: "plain" is about its encoding, not its encryption.
func stream(strategy string, encrypted bool) string {
	if strategy == "plain" {
		strategy = "one stream"
	}
	if encrypted {
		return strategy + ", encrypted with TLS"
	}
	return strategy + ", NOT encrypted"
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
	if c := m.Policy.Class; c != "" {
		t.Add("Class:", c)
	}
	t.Add("Promise:", promiseText(m.Policy))
	if f := m.Forecast; f != nil {
		t.Add("Forecast:", joinNotes(expected(*f), f.Beyond, f.Unlikely))
	}
	if o := m.Outcome; o != nil {
		pause := "pause not known"
		if o.PauseKnown {
			pause = fmt.Sprintf("pause %d ms", o.PauseMS)
		}
		slowed := "not slowed"
		if o.ThrottleMaxPercent > 0 {
			slowed = fmt.Sprintf("%.0f %% of its work lost, slowed to %d %% at times", 100*o.Slowdown, 100-o.ThrottleMaxPercent)
		}
		t.Add("Outcome:", fmt.Sprintf("%.1f s, %s, %s, %d rounds, %s, %s",
			o.Seconds, o.Bytes, pause, o.Rounds, slowed, stream(o.Strategy, m.Policy.Encrypt)))
		if unkept := m.Unkept(); unkept != "" {
			t.Add("", unkept)
		}
	}
	for _, a := range m.Attempts {
		t.Add(fmt.Sprintf("Attempt %d:", a.Number), joinNotes(stream(a.Strategy, m.Policy.Encrypt), "since "+stamp(a.Started), a.Result))
	}
	for _, h := range []struct {
		when, name string
		result     *precopy.HookResult
	}{{"before", m.Policy.BeforeHook, m.BeforeHook}, {"after", m.Policy.AfterHook, m.AfterHook}} {
		if h.result != nil {
			t.Add("Hook "+h.when+":", hookText(fleet.HookRun{Name: h.name, Result: h.result}))
		}
	}
	for _, n := range m.Notes {
		t.Add("Note:", n)
	}
	return t
}

// promiseText writes values as the policy's documents do.
func promiseText(p precopy.Policy) string {
	text := "pause at most " + policy.Duration(p.MaxPause()).String()
	if p.MaxPauseCeilingMS > p.MaxPauseMS {
		text += fmt.Sprintf(" (up to %s if there is no other way)", policy.Duration(p.MaxPauseCeiling()))
	}
	text += fmt.Sprintf(", slowdown at most %.4g%%", p.MaxSlowdown*100)
	if p.Tuning != "" {
		text = fmt.Sprintf("none on pause and slowdown (tuned as %s, for comparison)", p.Tuning)
	}
	if p.BudgetSeconds > 0 {
		text += ", done within " + policy.Duration(p.BudgetSeconds*float64(time.Second)).String()
	}
	if p.PostCopy {
		text += ", post-copy allowed"
	}
	if !p.Encrypt {
		text += ", NOT encrypted"
	}
	return text
}

// watchMigration follows one migration, or lists those that were under way since it began, until none is.
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
	followed := map[string]bool{}
	return watching(func(ctx context.Context, s *session) (any, func() out.Table, error) {
		all, err := s.ListMigrations(ctx)
		if err != nil {
			return nil, nil, err
		}
		shown, under := []precopy.Migration{}, 0
		for _, m := range all {
			if !m.Phase.Final() {
				followed[m.ID] = true
				under++
			}
			if followed[m.ID] {
				shown = append(shown, m.Migration)
			}
		}
		if under == 0 {
			err = out.ErrOver
		}
		return shown, func() out.Table { return migrationsTable(shown, "no migration is under way") }, err
	})(c)
}
