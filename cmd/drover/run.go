package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/kv"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "drains, restores and other runs: list, follow, change, cancel",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "runs under way, and those of the last 24 hours",
				Flags: []cli.Flag{watchFlag(), toggle("all", "those that ended before too", "a")}, Action: takes(0, 0, "", listing(listRuns)),
			},
			{
				Name: "show", Usage: "the record of one run", ArgsUsage: "RUN|HOST",
				Description: "A run is named by its ID or a part of it, or by its host: its unfinished run, else the last one.",
				Flags:       []cli.Flag{watchFlag()}, Action: takes(1, 1, "RUN or HOST", listing(showRun)),
			},
			{
				Name: "watch", Usage: "follow one run to its end", ArgsUsage: "RUN|HOST",
				Description: "Exit status 0 when all is done, 1 when it was refused, 3 when some VMs stay.",
				Action:      takes(1, 1, "RUN or HOST", long(watchRun)),
			},
			{
				Name: "set", Usage: "change a run under way", ArgsUsage: "RUN|HOST",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "max-parallel", Usage: "at most `N` VMs leave one host at once; 0 for the scheduler's limit"},
					&cli.StringFlag{Name: "deadline", Usage: "another `TIME` by which it must end, as in host drain"},
					&cli.StringSliceFlag{Name: "skip", Usage: "leave this `VM` where it is; may stand again"},
				},
				Action: takes(1, 1, "RUN or HOST", quick(setRun)),
			},
			{
				Name: "cancel", Usage: "stop a run; every VM stays on the host that it runs on", ArgsUsage: "RUN|HOST",
				Description: "Nothing new is started. What was not begun is withdrawn, what is under way finishes, or is\n" +
					"aborted with --abort. The hosts stay closed unless --uncordon says otherwise; what was moved is brought\n" +
					"back by drover host restore.",
				Flags: []cli.Flag{
					toggle("abort", "stop what is under way too"),
					toggle("uncordon", "open the hosts again"),
					&cli.StringFlag{Name: "reason", Usage: "why, for the record"},
					toggle("wait", "return when nothing of it is under way", "w"),
				},
				Action: takes(1, 1, "RUN or HOST", long(cancelRun)),
			},
		},
	}
}

func listRuns(ctx context.Context, s *session) (any, func() out.Table, error) {
	rows, err := s.Runs().List(ctx)
	if err != nil {
		return nil, nil, err
	}
	pause, err := s.paused(ctx)
	if err != nil {
		return nil, nil, err
	}
	now, shown := time.Now(), []fleet.Run{}
	for _, r := range rows {
		if s.cli.Bool("all") || r.Value.Finished == nil || now.Sub(*r.Value.Finished) < recent {
			shown = append(shown, r.Value)
		}
	}
	return shown, func() out.Table {
		s.notePause(pause)
		t := out.Table{Head: []string{"ID", "KIND", "HOSTS", "PHASE", "MOVED", "LEFT", "STAY", "END", "BY"}, None: "no runs"}
		for _, r := range shown {
			c := count(r)
			t.Add(r.ID, string(r.Kind), strings.Join(r.Hosts, " "), runPhase(r), fmt.Sprint(c.moved), fmt.Sprint(c.left), fmt.Sprint(c.stay), runEnd(r), r.RequestedBy)
		}
		return t
	}, nil
}

// counts are a run's moves by what became of them. VMs under way are among those left.
type counts struct{ moved, left, under, stay int }

func count(r fleet.Run) counts {
	var c counts
	for _, m := range r.Moves {
		switch m.State {
		case fleet.MoveMoved:
			c.moved++
		case fleet.MoveStays:
			c.stay++
		case fleet.MoveAsked:
			c.left++
			c.under++
		case fleet.MovePlanned:
			c.left++
		}
	}
	return c
}

func runPhase(r fleet.Run) string {
	if r.Cancel != nil && !r.Phase.Final() {
		return string(r.Phase) + "*" // cancel requested
	}
	return string(r.Phase)
}

func runEnd(r fleet.Run) string {
	switch {
	case r.Finished != nil:
		return stamp(*r.Finished)
	case r.Outlook != nil:
		return "by " + stamp(r.Outlook.End) + lateText(r)
	}
	return ""
}

// lateText is what is to be said of the deadline.
func lateText(r fleet.Run) string {
	switch {
	case r.Deadline == nil:
		return ""
	case r.Outlook != nil && r.Outlook.Late:
		return ", LATE: the deadline is " + stamp(*r.Deadline)
	}
	return ", deadline " + stamp(*r.Deadline)
}

// findRun resolves an ID, a part of one that is unique, or a host.
func findRun(ctx context.Context, s *session, word string) (store.Row[fleet.Run], error) {
	rows, err := s.Runs().List(ctx)
	if err != nil {
		return store.Row[fleet.Run]{}, err
	}
	var byID []store.Row[fleet.Run]
	var byHost *store.Row[fleet.Run]
	for _, r := range rows {
		switch {
		case r.ID == word:
			return r, nil
		case isPart(r.ID, word):
			byID = append(byID, r)
		case slices.Contains(r.Value.Hosts, word) && (byHost == nil || byHost.Value.Phase.Final() || !r.Value.Phase.Final()):
			byHost = &r
		}
	}
	switch {
	case len(byID) == 1:
		return byID[0], nil
	case len(byID) > 1:
		return store.Row[fleet.Run]{}, fmt.Errorf("%q means %d runs: give the whole ID", word, len(byID))
	case byHost != nil:
		return *byHost, nil
	}
	return store.Row[fleet.Run]{}, fmt.Errorf("no run %q, and no host of that name has one (drover run list shows them)", word)
}

func showRun(ctx context.Context, s *session) (any, func() out.Table, error) {
	r, err := findRun(ctx, s, s.word())
	if err != nil {
		return nil, nil, err
	}
	return r.Value, func() out.Table { return runTable(r.Value) }, nil
}

func runTable(r fleet.Run) out.Table {
	var t out.Table
	t.Add("Run:", r.ID)
	t.Add("Kind, hosts:", joinNotes(string(r.Kind), strings.Join(r.Hosts, " ")))
	t.Add("Phase:", joinNotes(runPhase(r), r.Reason))
	t.Add("Asked for:", joinNotes(fmt.Sprintf("%s by %s", stamp(r.Created), r.RequestedBy), r.Purpose))
	if r.Deadline != nil {
		t.Add("Deadline:", stamp(*r.Deadline))
	}
	if c := r.Cancel; c != nil {
		t.Add("Cancelled:", joinNotes(fmt.Sprintf("%s by %s", stamp(c.At), c.By), c.Reason))
	}
	if c := count(r); len(r.Moves) > 0 {
		t.Add("VMs:", fmt.Sprintf("%d moved, %d left (%d under way), %d stay", c.moved, c.left, c.under, c.stay))
	}
	t.Add("End:", runEnd(r))
	if o := r.Outlook; o != nil {
		for _, p := range o.Options {
			t.Add("Option:", p.Effect+": "+p.Command)
		}
	}
	for _, b := range r.Blocked {
		t.Add("Stays:", b.VM+" on "+b.Host+": "+blockerText(hypervisor.Blocker{Code: b.Code, Detail: b.Detail, Remedy: b.Remedy}))
	}
	for _, m := range r.Moves {
		text := fmt.Sprintf("%s from %s to %s: %s", m.VM, m.From, orDash(m.To), m.State)
		if m.Cause != string(r.Kind) {
			text += " (" + m.Cause + ")"
		}
		t.Add("Move:", joinNotes(text, m.Reason))
	}
	return t
}

func watchRun(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	r, err := findRun(rctx, s, s.word())
	if err != nil {
		return err
	}
	return s.followRun(ctx, r)
}

// takenUp waits until a scheduler has looked at a run; without one the request is withdrawn.
func (s *session) takenUp(ctx context.Context, row store.Row[fleet.Run]) (store.Row[fleet.Run], error) {
	ctx, cancel := context.WithTimeout(ctx, decideTimeout)
	defer cancel()
	var unled time.Time
	for row.Value.Phase == fleet.RunRequested {
		switch now := time.Now(); {
		case s.led(ctx):
			unled = time.Time{}
		case unled.IsZero():
			unled = now
		case now.Sub(unled) > noLeader:
			err := s.Runs().Remove(ctx, nil, row.ID, row.Revision)
			if err == nil {
				err = errNoScheduler
			}
			if !errors.Is(err, store.ErrConflict) {
				return row, err
			}
		}
		select {
		case <-ctx.Done():
			return row, fmt.Errorf("the scheduler has not taken run %s up yet (drover run cancel %s): %w", row.ID, row.ID, ctx.Err())
		case <-time.After(pollFast):
		}
		next, err := s.Runs().Get(ctx, row.ID)
		if err != nil {
			return row, err
		}
		row = next
	}
	return row, nil
}

// followRun says on stderr how a run goes until it is over.
func (s *session) followRun(ctx context.Context, row store.Row[fleet.Run]) error {
	said, late, away := "", false, false
	for {
		r := row.Value
		if text := runText(r); text != said && !r.Phase.Final() {
			said = text
			s.note("%s", out.Clean(text))
		}
		if now := r.Outlook != nil && r.Outlook.Late; now != late {
			late = now
			s.showOptions(r)
		}
		if r.Phase.Final() {
			return s.endedRun(r)
		}
		select {
		case <-ctx.Done():
			return cli.Exit(fmt.Sprintf("stopped waiting; the %s goes on. Follow it: drover run watch %s  Stop it: drover run cancel %s", r.Kind, r.ID, r.ID), cliargs.ExitFailed)
		case <-time.After(pollSlow):
		}
		next, err := s.Runs().Get(ctx, row.ID)
		switch {
		case err == nil:
			row, away = next, false
		case ctx.Err() != nil:
		case !errors.Is(err, kv.ErrUnavailable):
			return err
		case !away:
			away = true
			s.note("drover: %v; waiting for it, what is under way goes on", err)
		}
	}
}

// runHosts are what a run is of.
func runHosts(r fleet.Run) string {
	if len(r.Hosts) == 0 {
		return "the fleet"
	}
	return strings.Join(r.Hosts, ", ")
}

// runText is the one line about a run under way.
func runText(r fleet.Run) string {
	c := count(r)
	text := fmt.Sprintf("%s of %s: %d of %d moved", r.Kind, runHosts(r), c.moved, c.moved+c.left+c.stay)
	var under []string
	for _, m := range r.Moves {
		if m.State == fleet.MoveAsked {
			under = append(under, m.VM+" to "+m.To)
		}
	}
	if len(under) > 0 {
		text += ", under way: " + out.Shorten(strings.Join(under, ", "), 200)
	}
	if len(r.Blocked) > 0 {
		text += fmt.Sprintf(", %d blocked (drover run show %s)", len(r.Blocked), r.ID)
	}
	if r.Outlook != nil && r.Outlook.Left > len(r.Blocked) {
		text += ", done by " + stamp(r.Outlook.End) + lateText(r)
	}
	return joinNotes(text, r.Reason)
}

// showOptions says what a person can do about a run that will be late.
func (s *session) showOptions(r fleet.Run) {
	if r.Outlook == nil || !r.Outlook.Late {
		return
	}
	s.note("it will be late, by %s; what could be traded for time:", out.Span(r.Outlook.End.Sub(*r.Deadline)))
	for _, p := range r.Outlook.Options {
		s.note("   %s: %s", p.Effect, p.Command)
	}
}

// endedRun prints the answer about a run that is over; the error gives the exit status.
func (s *session) endedRun(r fleet.Run) error {
	if s.format != out.AsTable {
		if err := s.answer(r, nil); err != nil {
			return err
		}
	}
	c, hosts := count(r), runHosts(r)
	switch r.Phase {
	case fleet.RunDone:
		if s.format != out.AsTable {
			return nil
		}
		_, err := fmt.Fprintf(s.cli.App.Writer, "%s of %s is done: %s moved in %s\n", r.Kind, hosts, plural(c.moved, "VM"), out.Span(r.Finished.Sub(r.Created)))
		return err
	case fleet.RunPartial:
		for _, b := range r.Blocked {
			s.note("%s stays on %s: %s", b.VM, b.Host, out.Clean(blockerText(hypervisor.Blocker{Code: b.Code, Detail: b.Detail, Remedy: b.Remedy})))
		}
		return cli.Exit(fmt.Sprintf("%s of %s is partly done: %s", r.Kind, hosts, r.Reason), cliargs.ExitPartial)
	case fleet.RunCancelled:
		code := cliargs.ExitFailed
		if c.moved > 0 {
			code = cliargs.ExitPartial
		}
		return cli.Exit(fmt.Sprintf("%s of %s: %s; %d of %d moved", r.Kind, hosts, r.Reason, c.moved, len(r.Moves)), code)
	}
	return cli.Exit(fmt.Sprintf("%s of %s %s: %s", r.Kind, hosts, r.Phase, r.Reason), cliargs.ExitFailed)
}

func cancelRun(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	row, err := findRun(rctx, s, s.word())
	if err != nil {
		return err
	}
	row, err = s.Runs().Update(rctx, nil, row.ID, func(r *fleet.Run) error {
		if r.Phase.Final() {
			return fmt.Errorf("run %s is over already: %s (drover host restore opens its hosts)", r.ID, r.Phase)
		}
		now := time.Now().UTC()
		r.Cancel = &fleet.RunCancel{
			By: s.actor, At: now, Reason: s.cli.String("reason"),
			Abort: s.cli.Bool("abort"), Uncordon: s.cli.Bool("uncordon"),
		}
		if r.Phase == fleet.RunRequested { // no scheduler has looked at it
			r.Phase, r.Finished, r.Reason = fleet.RunCancelled, &now, "cancelled by "+s.actor+" before it began"
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.record(rctx, "run-cancelled", row.ID, s.cli.String("reason"))
	c := count(row.Value)
	s.note("%s of %s: cancel requested; %s", row.Value.Kind, runHosts(row.Value), cancelText(row.Value, c))
	if !s.cli.Bool("wait") {
		return nil
	}
	for !row.Value.Phase.Final() {
		select {
		case <-ctx.Done():
			return cli.Exit("stopped waiting; the run ends by itself", cliargs.ExitFailed)
		case <-time.After(pollSlow):
		}
		if row, err = s.Runs().Get(ctx, row.ID); err != nil {
			return err
		}
	}
	s.note("%s: %s, %d moved", row.ID, row.Value.Phase, count(row.Value).moved)
	return nil
}

func cancelText(r fleet.Run, c counts) string {
	what := "finishes"
	if r.Cancel.Abort {
		what = "is stopped"
	}
	return fmt.Sprintf("%d moved, %d stay, %d under way %s", c.moved, c.left-c.under+c.stay, c.under, what)
}

func setRun(ctx context.Context, s *session) error {
	row, err := findRun(ctx, s, s.word())
	if err != nil {
		return err
	}
	change, err := s.runChange(row.Value)
	if err != nil {
		return err
	}
	row, err = s.Runs().Update(ctx, nil, row.ID, func(r *fleet.Run) error {
		if r.Phase.Final() {
			return fmt.Errorf("run %s is over already: %s", r.ID, r.Phase)
		}
		change(r)
		return nil
	})
	if err != nil {
		return err
	}
	s.record(ctx, "run-changed", row.ID, strings.Join(s.cli.LocalFlagNames(), ", "))
	s.note("run %s is changed", row.ID)
	return nil
}

// runChange is what the options of run set ask for.
func (s *session) runChange(r fleet.Run) (func(*fleet.Run), error) {
	var deadline *time.Time
	if word := s.cli.String("deadline"); word != "" {
		at, err := parseDeadline(word, time.Now())
		if err != nil {
			return nil, cliargs.Usagef(s.cli, "%w", err)
		}
		deadline = &at
	}
	var skip []hypervisor.DomainID
	for _, word := range s.cli.StringSlice("skip") {
		i := slices.IndexFunc(r.Moves, func(m fleet.RunMove) bool { return m.VM == word || string(m.UUID) == word })
		if i < 0 {
			return nil, fmt.Errorf("run %s moves no VM %q", r.ID, word)
		}
		skip = append(skip, r.Moves[i].UUID)
	}
	parallel := s.cli.Int("max-parallel")
	if parallel < 0 || deadline == nil && len(skip) == 0 && !s.cli.IsSet("max-parallel") {
		return nil, cliargs.Usagef(s.cli, "want --max-parallel N, --deadline TIME or --skip VM")
	}
	return func(r *fleet.Run) {
		if deadline != nil {
			r.Deadline = deadline
		}
		if s.cli.IsSet("max-parallel") {
			r.MaxParallel = parallel
		}
		for _, id := range skip {
			if !slices.Contains(r.Skip, id) {
				r.Skip = append(r.Skip, id)
			}
		}
	}, nil
}
