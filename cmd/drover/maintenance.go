package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
	"drover/scheduler/rolling"
)

const maintenanceHelp = `Takes hosts out of service and back, one or some at a time: empties a host, runs hooks on it, waits
until it is healthy, opens it again, and goes on with the next. FILE says which hosts and what to do;
options count above it, and --hosts stands for a file.

Before anything is changed the whole roll is planned, and refused if a VM can't move, if the rest
could not lose any one host at some time (--headroom 0 does without that), or if a host fits no window.
VMs are put on hosts that are done or not in the roll, so that they move once.

Hooks are named here and defined where they run: a file of that name in hooks-dir of the scheduler's
or the agent's settings (NAME or NAME@control, NAME@agent).

At the first failure no further host is begun, and the run stops: maintenance resume has it go on.
drover run list, show, watch, set and cancel work on it.

Exit status: 0 all hosts are done (without --wait: it has begun), 1 refused, or stopped before any
host was done, 3 stopped or cancelled after some were.`

func maintenanceCommand() *cli.Command {
	return &cli.Command{
		Name: "maintenance", Usage: "take hosts out of service and back, some at a time",
		Subcommands: []*cli.Command{
			{
				Name: "run", Usage: "begin a rolling maintenance", ArgsUsage: "[FILE]", Description: maintenanceHelp,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "hosts", Usage: "the `HOSTS`, with commas"},
					toggle("dry-run", "only show the calendar, the moves, and what is in the way", "n"),
					&cli.IntFlag{Name: "parallel", Usage: "at most `N` hosts out of service at once", DefaultText: "1"},
					&cli.IntFlag{Name: "max-parallel", Usage: "at most `N` VMs leave one host at once", DefaultText: "2"},
					toggle("listed", "keep the hosts' order; else those with least to move go first"),
					toggle("canary", "do the first host alone"),
					toggle("approve", "wait for drover maintenance approve after the first host"),
					toggle("return", "bring each host's VMs back when it is done"),
					&cli.IntFlag{Name: "headroom", Usage: "the rest must be able to lose `N` hosts at any time: 1, or 0", DefaultText: "1"},
					&cli.StringSliceFlag{Name: "hook", Usage: "run `NAME[@control|@agent]` on each empty host; may stand again, in order"},
					&cli.StringFlag{Name: "hook-timeout", Usage: "how long each hook may take: a `TIME` such as 30m", DefaultText: "10m"},
					&cli.StringFlag{Name: "healthy-within", Usage: "how long a host may take to be healthy after its hooks: a `TIME`", DefaultText: "15m"},
					&cli.StringFlag{Name: "on-blocked", Usage: "what to do about a host that can't be emptied when its turn comes: `WHAT` fail (stop) or wait", DefaultText: "fail"},
					&cli.StringFlag{Name: "deadline", Usage: "when all must be done: a `TIME` from now such as 8h, or 06:00, or 2026-01-31T06:00:00Z"},
					&cli.StringFlag{Name: "reason", Usage: "why, for others to read"},
					toggle("wait", "show the progress and return at the end", "w"),
				},
				Action: takes(0, 1, "", long(runMaintenance)),
			},
			{
				Name: "approve", Usage: "have a roll go on after its first host", ArgsUsage: "RUN|HOST",
				Action: takes(1, 1, "RUN or HOST", quick(approveMaintenance)),
			},
			{
				Name: "resume", Usage: "have a stopped roll go on, from where it stopped", ArgsUsage: "RUN|HOST",
				Description: "The host that failed is tried again from the step that failed: a hook that failed runs again, those\n" +
					"before it do not. With --skip it is left out; it stays closed until drover host restore opens it.",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "skip", Usage: "leave this `HOST` out; may stand again"},
					toggle("wait", "show the progress and return at the end", "w"),
				},
				Action: takes(1, 1, "RUN or HOST", long(resumeMaintenance)),
			},
		},
	}
}

func runMaintenance(ctx context.Context, s *session) error {
	run, err := s.newMaintenance()
	if err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return err
	}
	for _, name := range run.Hosts {
		if _, err := findHost(snap, name); err != nil {
			return err
		}
	}
	in := s.stepInput(snap, run, nil)
	plan := rolling.Plan(rolling.Input{
		Run: in.Run, Fleet: snap, Now: in.Now, Outgoing: in.Outgoing, Incoming: in.Incoming, Ahead: in.Ahead, Foresee: in.Foresee,
	}, func(q []drain.Question) [][]hypervisor.Blocker { return askAll(ctx, s, q) })
	if err := ctx.Err(); err != nil {
		return err
	}
	if plan.Phase == fleet.RunRefused {
		return fmt.Errorf("%s; nothing was changed", plan.Reason)
	}
	if s.cli.Bool("dry-run") || len(plan.Blocked) > 0 {
		if err := s.showCalendar(plan); err != nil {
			return err
		}
	}
	switch n := len(plan.Blocked); {
	case n > 0:
		return cli.Exit(fmt.Sprintf("%s in the way; nothing was changed", plural(n, "thing")), cliargs.ExitFailed)
	case s.cli.Bool("dry-run"):
		return nil
	}
	run.Roll = plan.Roll
	return s.begin(ctx, run)
}

// newMaintenance is what the file and the command line say.
func (s *session) newMaintenance() (fleet.Run, error) {
	run, err := s.newRun(fleet.RunMaintenance)
	if err != nil {
		return run, err
	}
	var file rollFile
	if path := s.cli.Args().First(); path != "" {
		if file, err = readRollFile(path); err != nil {
			return run, &cliargs.UsageError{Command: s.cli.Command.HelpName, Err: err}
		}
	}
	if err := file.override(s.cli); err != nil {
		return run, cliargs.Usagef(s.cli, "%w", err)
	}
	if err := file.into(&run); err != nil {
		return run, cliargs.Usagef(s.cli, "%w", err)
	}
	return run, nil
}

// showCalendar prints what a roll would come to: what is in the way first, then when each host begins and ends.
func (s *session) showCalendar(r fleet.Run) error {
	return s.answer(r, func() out.Table {
		t := out.Table{Head: []string{"HOST", "START", "END", "LATEST START", "VMS", "NOTE"}, None: "no hosts"}
		for _, b := range r.Blocked {
			note := blockerText(hypervisor.Blocker{Code: b.Code, Detail: b.Detail, Remedy: b.Remedy})
			if b.VM != "" {
				note = b.VM + ": " + note
			}
			t.Add(b.Host, "BLOCKED", "", "", "", note)
		}
		for i, h := range r.Roll.Rolled {
			latest, note := "", ""
			if h.Latest != nil {
				latest = stamp(*h.Latest)
			}
			switch {
			case i == 0 && r.Roll.Canary && r.Roll.Approve:
				note = "canary, then a person's approval"
			case i == 0 && r.Roll.Canary:
				note = "canary"
			}
			t.Add(h.Host, stamp(h.Start), stamp(h.End), latest, fmt.Sprint(h.Moves), note)
		}
		if n := len(r.Roll.Rolled); n > 0 && len(r.Blocked) == 0 && r.Outlook != nil {
			s.note("%s of %s on %s; done by %s, as far as the forecasts are right", plural(r.Roll.Moves, "move"), plural(r.Roll.VMs, "VM"), plural(n, "host"), stamp(r.Outlook.End))
			if l := r.Roll.Rolled[0].Latest; l != nil {
				s.note("latest start: %s", stamp(*l))
			}
		}
		return t
	})
}

func approveMaintenance(ctx context.Context, s *session) error {
	row, err := findRun(ctx, s, s.word())
	if err != nil {
		return err
	}
	_, err = s.Runs().Update(ctx, nil, row.ID, func(r *fleet.Run) error {
		switch {
		case r.Phase.Final():
			return fmt.Errorf("run %s is over already: %s", r.ID, r.Phase)
		case r.Roll == nil || !r.Roll.Approve:
			return fmt.Errorf("run %s waits for no approval", r.ID)
		case r.Roll.Approved != nil:
			return fmt.Errorf("run %s was approved by %s", r.ID, r.Roll.Approved.By)
		}
		roll := *r.Roll
		roll.Approved = &fleet.Approval{By: s.actor, At: time.Now().UTC()}
		r.Roll = &roll
		return nil
	})
	if err != nil {
		return err
	}
	s.record(ctx, "run-approved", row.ID, "")
	s.note("run %s is approved", row.ID)
	return nil
}

func resumeMaintenance(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	row, err := findRun(rctx, s, s.word())
	if err != nil {
		return err
	}
	skip := s.cli.StringSlice("skip")
	row, err = s.Runs().Update(rctx, nil, row.ID, func(r *fleet.Run) error {
		if r.Kind != fleet.RunMaintenance {
			return fmt.Errorf("run %s is a %s: only a maintenance can be resumed", r.ID, r.Kind)
		}
		return rolling.Resume(r, skip, time.Now().UTC())
	})
	if err != nil {
		return err
	}
	s.record(rctx, "run-resumed", row.ID, strings.Join(skip, " "))
	s.note("run %s goes on", row.ID)
	if s.cli.Bool("wait") {
		return s.followRun(ctx, row)
	}
	return nil
}

// rolledCount is how many of a maintenance's hosts are done.
func rolledCount(r fleet.Run) int {
	n := 0
	for _, h := range r.Roll.Rolled {
		if h.State == fleet.RollRolled {
			n++
		}
	}
	return n
}

// rolledTexts is a line about each host of a maintenance.
func rolledTexts(r fleet.Run) []string {
	var lines []string
	for _, h := range r.Roll.Rolled {
		text := fmt.Sprintf("%s: %s", h.Host, h.State)
		if h.State == fleet.RollFailed {
			text += " (" + string(h.At) + ")"
		}
		switch {
		case h.State == fleet.RollWaiting && !h.Start.IsZero():
			text = joinNotes(text, "begins "+stamp(h.Start)+", ends "+stamp(h.End))
		case h.Ended != nil && h.Began != nil:
			text = joinNotes(text, "took "+out.Span(h.Ended.Sub(*h.Began)))
		}
		lines = append(lines, joinNotes(text, h.Reason))
		for _, run := range h.Hooks {
			lines = append(lines, h.Host+": hook "+hookText(run))
		}
	}
	return lines
}

func hookText(h fleet.HookRun) string {
	if h.Result == nil {
		return h.Name + ": since " + stamp(h.Began)
	}
	text := fmt.Sprintf("%s: exit status %d after %s", h.Name, h.Result.Exit, out.Span(time.Duration(h.Result.Seconds*float64(time.Second))))
	lines := strings.Split(strings.TrimSpace(h.Result.Output), "\n")
	return joinNotes(text, h.Result.Error, out.Shorten(out.Clean(lines[len(lines)-1]), 120))
}

// rollText is the one line about a maintenance under way.
func rollText(r fleet.Run) string {
	text := fmt.Sprintf("maintenance: %d of %s done", rolledCount(r), plural(len(r.Roll.Rolled), "host"))
	for _, h := range r.Roll.Rolled {
		if h.State.Active() {
			text += fmt.Sprintf(", %s: %s", h.Host, joinNotes(string(h.State), h.Reason))
		}
	}
	if r.Outlook != nil && r.Outlook.Left > 0 {
		text += ", done by " + stamp(r.Outlook.End) + lateText(r)
	}
	return joinNotes(text, r.Reason)
}

// endedRoll prints the answer about a maintenance that is over, or has stopped; the error gives the exit status.
func (s *session) endedRoll(r fleet.Run) error {
	done := rolledCount(r)
	switch {
	case r.Phase == fleet.RunDone:
		if s.format != out.AsTable {
			return nil
		}
		_, err := fmt.Fprintf(s.cli.App.Writer, "maintenance is done: %s in %s\n", plural(done, "host"), out.Span(r.Finished.Sub(r.Created)))
		return err
	case r.Phase == fleet.RunPartial, done > 0 && r.Phase != fleet.RunRefused:
		return cli.Exit(fmt.Sprintf("maintenance %s: %s", r.Phase, r.Reason), cliargs.ExitPartial)
	}
	return cli.Exit(fmt.Sprintf("maintenance %s: %s", r.Phase, r.Reason), cliargs.ExitFailed)
}
