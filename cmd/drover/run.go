package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
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
type counts struct{ moved, left, under, stay, off int }

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
		case fleet.MoveOff:
			c.off++
		case fleet.MovePlanned, fleet.MoveShutting:
			c.left++
		}
	}
	return c
}

func runPhase(r fleet.Run) string {
	if r.Roll != nil {
		return fmt.Sprintf("%s %d/%d", phaseMark(r), rolledCount(r), len(r.Hosts))
	}
	return phaseMark(r)
}

func phaseMark(r fleet.Run) string {
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
		case slices.Contains(r.Value.Hosts, word) && r.Value.Parent == "" && (byHost == nil || byHost.Value.Phase.Final() || !r.Value.Phase.Final()):
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
	if told := r.Forecasts; len(told) > 0 {
		text := fmt.Sprintf("by %s, at %s", stamp(told[0].End), stamp(told[0].At))
		if off, known := r.Told(0.1); known && r.Phase == fleet.RunDone {
			text += fmt.Sprintf("; after a tenth off by %+.0f %%", 100*off)
		}
		t.Add("Told first:", text)
	}
	if o := r.Outlook; o != nil {
		for _, p := range o.Options {
			t.Add("Option:", p.Effect+": "+p.Command)
		}
	}
	for _, b := range r.Blocked {
		what := "Stays:"
		if isShut(r, b) {
			what = "Shut down:"
		}
		t.Add(what, b.VM+" on "+b.Host+": "+blockedText(b))
	}
	if r.Roll != nil {
		for _, text := range rolledTexts(r) {
			t.Add("Host:", text)
		}
	}
	for _, m := range r.Moves {
		text := fmt.Sprintf("%s from %s to %s: %s", m.VM, m.From, orDash(m.To), m.State)
		if m.Cause != string(r.Kind) {
			text += " (" + m.Cause + ")"
		}
		if m.State == fleet.MoveMoved && m.PauseMS > 0 {
			text += fmt.Sprintf(", pause %d ms", m.PauseMS)
		}
		why := m.Reason
		if n := len(m.Tries); n > 0 {
			text += " after " + plural(n, "attempt") + " that moved nothing"
			why = cmp.Or(why, m.Tries[n-1].Reason)
		}
		t.Add("Move:", joinNotes(text, why))
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
		if text := runText(r); text != said && !r.Phase.Final() && r.Phase != fleet.RunStopped {
			said = text
			s.note("%s", out.Clean(text))
		}
		if now := r.Outlook != nil && r.Outlook.Late; now != late {
			late = now
			s.showOptions(r)
		}
		if r.Phase.Final() || r.Phase == fleet.RunStopped {
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
	if r.Roll != nil {
		return rollText(r)
	}
	c := count(r)
	text := fmt.Sprintf("%s of %s: %d of %d moved", r.Kind, runHosts(r), c.moved, c.moved+c.left+c.stay+c.off)
	var under []string
	for _, m := range r.Moves {
		if m.State == fleet.MoveAsked {
			under = append(under, m.VM+" to "+m.To)
		}
	}
	if len(under) > 0 {
		text += ", under way: " + out.Shorten(strings.Join(under, ", "), 200)
	}
	var shutting []string
	for _, m := range r.Moves {
		if m.State == fleet.MoveShutting && m.Began != nil {
			shutting = append(shutting, m.VM)
		}
	}
	if len(shutting) > 0 {
		text += ", asked to shut down: " + out.Shorten(strings.Join(shutting, ", "), 200)
	}
	if n := tried(r); n > 0 {
		text += fmt.Sprintf(", %s that moved nothing (drover run show %s)", plural(n, "attempt"), r.ID)
	}
	if len(r.Blocked) > 0 {
		text += fmt.Sprintf(", %d blocked (drover run show %s)", len(r.Blocked), r.ID)
	}
	if r.Outlook != nil && r.Outlook.Left > len(r.Blocked) {
		text += ", done by " + stamp(r.Outlook.End) + lateText(r)
	}
	return joinNotes(text, r.Reason)
}

// tried is how many attempts moved nothing.
func tried(r fleet.Run) int {
	n := 0
	for _, m := range r.Moves {
		n += len(m.Tries)
	}
	return n
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
	if r.Roll != nil {
		return s.endedRoll(r)
	}
	c, hosts := count(r), runHosts(r)
	switch r.Phase {
	case fleet.RunDone:
		if s.format != out.AsTable {
			return nil
		}
		text := fmt.Sprintf("%s of %s is done: %s moved in %s", r.Kind, hosts, plural(c.moved, "VM"), out.Span(r.Finished.Sub(r.Created)))
		if longest := slices.MaxFunc(append(r.Moves, fleet.RunMove{}), func(a, b fleet.RunMove) int { return cmp.Compare(a.PauseMS, b.PauseMS) }); longest.PauseMS > 0 {
			text += fmt.Sprintf(", longest pause %d ms (%s)", longest.PauseMS, longest.VM)
		}
		if c.off > 0 {
			text += fmt.Sprintf(", %s shut down", plural(c.off, "guest"))
		}
		_, err := fmt.Fprintln(s.cli.App.Writer, text)
		return err
	case fleet.RunPartial:
		for _, b := range r.Blocked {
			s.note("%s stays on %s: %s", b.VM, b.Host, out.Clean(blockedText(b)))
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
