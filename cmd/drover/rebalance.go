package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/auto"
	"drover/scheduler/balance"
	"drover/scheduler/fleet"
)

const rebalanceHelp = `Makes a plan for the fleet as it is now, as drover plan does, and has the scheduler carry it out: each move
when its turn comes and if it still fits then. It stops when what is left would not even the fleet out any
more, because loads have changed. VMs that the policy lets move only when somebody asks for them
(automatic: false) stay, and so do those that have moved lately; drover plan --explain says of each why.
Pauses and windows are for what nobody asked for, and do not stop it; drover run cancel does.

On a terminal it asks before it begins, unless --yes is given. The plan is kept, with what it was made
from: drover plan list, drover plan --replay.

Exit status: 0 done (without --wait: begun), or nothing is worth moving; 1 failed, 3 some VMs stay.`

func rebalanceCommand() *cli.Command {
	return &cli.Command{
		Name: "rebalance", Usage: "even the fleet out now; approve or reject what the scheduler proposes", Description: rebalanceHelp,
		Flags: append(planBounds(),
			&cli.StringFlag{Name: "deadline", Usage: "only what can be done within a `TIME` from now such as 2h, or by 15:00, or 2026-01-31T15:00:00Z", DefaultText: "no bound"},
			&cli.StringFlag{Name: "plan", Usage: "carry out this kept `PLAN` instead of making one"},
			toggle("dry-run", "only show the plan", "n"),
			&cli.IntFlag{Name: "max-parallel", Usage: "at most `N` VMs leave one host at once", DefaultText: "the scheduler's limit"},
			&cli.StringFlag{Name: "reason", Usage: "why, for others to read"},
			toggle("wait", "show the progress and return at the end", "w"),
			yesFlag("do not ask"),
		),
		Action:      takes(0, 0, "", long(rebalance)),
		Subcommands: []*cli.Command{approveCommand(), rejectCommand()},
	}
}

// planBounds are options of every plan.
func planBounds() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-moves", Usage: "at most `N` moves", DefaultText: "no bound"},
		&cli.Float64Flag{Name: "max-gib", Usage: "at most `N` GiB of memory in all moves together", DefaultText: "no bound"},
	}
}

// livePlan is a plan for the fleet as it is.
type livePlan struct {
	problem *balance.Problem
	plan    *balance.Plan
	remarks []string
}

func (l livePlan) moves() []fleet.PlanMove {
	used := usage(l.problem)
	return auto.MovesOf(l.problem, l.plan, func(m balance.Move) string { return planReason(l.problem, m, used) })
}

// planLive makes a plan from a snapshot by the options given.
func (s *session) planLive(snap *fleet.Snapshot, now time.Time) (livePlan, error) {
	options, err := planOptions(s.cli, now)
	if err != nil {
		return livePlan{}, err
	}
	hosts := s.cli.StringSlice("host")
	if len(hosts) > 0 && options.Mode != balance.Drain {
		return livePlan{}, cliargs.Usagef(s.cli, "--host goes with --mode drain")
	}
	l := livePlan{}
	if l.problem, _, l.remarks, err = auto.Live(snap, hosts, now); err != nil {
		return l, err
	}
	l.plan, err = balance.Make(l.problem, options)
	return l, usageIf(s.cli, err, balance.ErrOptions)
}

// mostGiB is more memory than any fleet moves by one plan.
const mostGiB = 1e9

// planOptions are the planner's options as the command line gives them.
func planOptions(c *cli.Context, now time.Time) (balance.Options, error) {
	if n := c.Int("max-moves"); c.IsSet("max-moves") && n < 1 {
		return balance.Options{}, cliargs.Usagef(c, "--max-moves %d: want 1 or more", n)
	}
	// The comparison is written so that NaN fails too.
	if n := c.Float64("max-gib"); c.IsSet("max-gib") && !(n > 0 && n <= mostGiB) {
		return balance.Options{}, cliargs.Usagef(c, "--max-gib %v: want more than 0, and %.0f at most", n, mostGiB)
	}
	o := balance.Options{
		Mode: balance.Mode(c.String("mode")), Objective: balance.Objective(c.String("objective")), Until: c.Float64("until"),
		MaxMoves: c.Int("max-moves"), MaxBytes: hypervisor.Bytes(c.Float64("max-gib") * float64(hypervisor.GiB)),
		Seed: c.Uint64("seed"), Evaluations: c.Int("evaluations"), Explain: c.Bool("explain"),
	}
	if word := c.String("deadline"); word != "" {
		if d, err := time.ParseDuration(word); err == nil && d > 0 {
			o.MaxTime = d // the same whatever the time
			return o, nil
		}
		at, err := parseDeadline(word, now)
		if err != nil {
			return o, cliargs.Usagef(c, "%w", err)
		}
		o.MaxTime = at.Sub(now)
	}
	return o, nil
}

func showLivePlan(ctx context.Context, s *session) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	l, err := s.planLive(snap, time.Now())
	if err != nil {
		return err
	}
	for _, r := range l.remarks {
		s.note("drover: %s", out.Clean(r))
	}
	return answerPlan(s.cli, s.format, l.problem, l.plan)
}

func rebalance(ctx context.Context, s *session) error {
	if s.actor == auto.Scheduler {
		return cliargs.Usagef(s.cli, "--as %s is the scheduler's own name", s.actor)
	}
	run, err := s.newRun(fleet.RunRebalance)
	if err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return err
	}
	plan := fleet.Plan{Schema: auto.Schema, ID: run.ID, Created: run.Created, By: s.actor, Reason: "rebalance" + prefixed(": ", run.Purpose)}
	if word := s.cli.String("plan"); word != "" {
		if s.cli.IsSet("max-moves") || s.cli.IsSet("max-gib") {
			return cliargs.Usagef(s.cli, "--plan has its moves: --max-moves and --max-gib are for a new one")
		}
		all, err := s.storedPlans(rctx)
		if err != nil {
			return err
		}
		kept, err := findPlan(all, word)
		if err != nil {
			return err
		}
		if kept.Run != "" {
			return fmt.Errorf("plan %s was carried out, or is being: drover run show %s", kept.ID, kept.Run)
		}
		plan.Moves, plan.Reason = kept.Moves, "as plan "+kept.ID+" says"+prefixed(": ", run.Purpose)
	} else {
		l, err := s.planLive(snap, run.Created)
		if err != nil {
			return err
		}
		for _, r := range l.remarks {
			s.note("drover: %s", out.Clean(r))
		}
		plan.Moves = l.moves()
		if s.cli.Bool("dry-run") || len(plan.Moves) == 0 {
			return answerPlan(s.cli, s.format, l.problem, l.plan)
		}
	}
	for _, m := range plan.Moves {
		s.note("%s", out.Clean(planMoveText(m)))
	}
	if s.cli.Bool("dry-run") {
		return nil
	}
	if ok, err := s.agreed(fmt.Sprintf("Move %s?", plural(len(plan.Moves), "VM"))); err != nil || !ok {
		return err
	}
	return s.carryOut(ctx, snap, plan, run)
}

// agreed asks on a terminal, unless --yes says that nobody wants to be asked.
func (s *session) agreed(question string) (bool, error) {
	if _, terminal := out.Terminal(s.stderr()); !terminal || !out.IsTerminal(s.cli.App.Reader) || s.cli.Bool("yes") {
		return true, nil
	}
	fmt.Fprintf(s.stderr(), "%s [y/N] ", question)
	line, err := bufio.NewReader(s.cli.App.Reader).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return true, nil
	}
	s.note("nothing was begun")
	return false, errors.Join(err, cli.Exit("", cliargs.ExitFailed))
}

// carryOut writes a person's plan and its run, with what the plan was made from.
func (s *session) carryOut(ctx context.Context, snap *fleet.Snapshot, plan fleet.Plan, run fleet.Run) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	input, err := auto.Freeze(snap, nil, run.Created)
	if err == nil {
		err = s.SaveInput(rctx, nil, plan.ID, input)
	}
	if err != nil {
		s.note("drover: what the plan is made from is not kept: %v", err)
	}
	plan.Expires, plan.Approved, plan.Run = run.Created.Add(personsPlan), &fleet.Act{By: s.actor, At: run.Created}, run.ID
	deadline, parallel := run.Deadline, run.MaxParallel
	purpose := run.Purpose
	run = auto.RunOf(plan, run.Created)
	run.Deadline, run.MaxParallel, run.Purpose = deadline, parallel, purpose
	if err := s.PutPlan(rctx, nil, 0, plan, &run); err != nil {
		return err
	}
	s.record(rctx, "run-requested", run.ID, joinNotes(string(run.Kind)+", "+plural(len(run.Moves), "move"), purpose))
	row, err := s.Runs().Get(rctx, run.ID)
	if err != nil {
		return err
	}
	return s.begun(ctx, row)
}

// personsPlan is how long a person's plan is said to hold; its run goes by its own deadline.
const personsPlan = 24 * time.Hour
