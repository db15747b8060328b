package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/hypervisor"
	"drover/scheduler/balance"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "which VMs to move where, and why; moves nothing",
		Description: "Reads the planner's input, as \"drover snapshot\" writes it, and shows the plan.\n" +
			"The same input and options give the same plan.\n\n" +
			"Exit status 3 when VMs that were to move can't, or --until is not reached.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "the planner's input: a `FILE`, or - for stdin"},
			&cli.StringFlag{Name: "mode", Value: string(balance.Balance), Usage: "what for: `MODE` balance, consolidate or drain"},
			&cli.StringSliceFlag{Name: "host", Usage: "with --mode drain: the `HOST` to empty; may be given several times"},
			&cli.IntFlag{Name: "max-moves", Usage: "at most `N` moves", DefaultText: "no bound"},
			&cli.Float64Flag{Name: "max-gib", Usage: "at most `N` GiB of memory in all moves together", DefaultText: "no bound"},
			&cli.DurationFlag{Name: "deadline", Usage: "only what can be done within this `TIME`", DefaultText: "no bound"},
			&cli.StringFlag{Name: "objective", Value: string(balance.Contention), Usage: "what counts: `NAME` contention, or score (how even, as Ganeti's hbal reckons)"},
			&cli.Float64Flag{Name: "until", Usage: "with --objective score: the cheapest plan that reaches this `SCORE`", DefaultText: "as good as is worth it"},
			&cli.Uint64Flag{Name: "seed", Usage: "another `SEED` for the search", Hidden: true},
			&cli.IntFlag{Name: "evaluations", Usage: "budget of the search", Hidden: true},
			toggle("explain", "say of each move what else was looked at, and of each VM that stays why"),
		},
		Action: takes(0, 0, "", showPlan),
	}
}

func showPlan(c *cli.Context) error {
	f, err := format(c)
	if err != nil {
		return err
	}
	p, err := planProblem(c)
	if err != nil {
		return err
	}
	plan, err := balance.Make(p, balance.Options{
		Mode: balance.Mode(c.String("mode")), Objective: balance.Objective(c.String("objective")), Until: c.Float64("until"),
		MaxMoves: c.Int("max-moves"), MaxBytes: hypervisor.Bytes(c.Float64("max-gib") * float64(hypervisor.GiB)),
		MaxTime: c.Duration("deadline"), Seed: c.Uint64("seed"), Evaluations: c.Int("evaluations"), Explain: c.Bool("explain"),
	})
	if err != nil {
		return usageIf(c, err, balance.ErrOptions)
	}
	v := planViewOf(p, plan, c.Bool("explain"))
	v.unit = "core-seconds"
	if c.String("objective") == string(balance.Score) {
		v.unit = "GiB"
	}
	v.bounded = c.IsSet("max-moves") || c.IsSet("max-gib") || c.IsSet("deadline")
	if err := f.Print(c.App.Writer, v, v.table); err != nil {
		return err
	}
	var left []string
	if n := len(v.Blocked); n > 0 {
		left = append(left, fmt.Sprintf("%d VMs that were to move can't", n))
	}
	if u := c.Float64("until"); u > 0 && plan.After.Score > u {
		left = append(left, fmt.Sprintf("a score of %.5f is the least found, %.5f was asked for", plan.After.Score, u))
	}
	if len(left) > 0 {
		return cli.Exit(strings.Join(left, "; "), cliargs.ExitPartial)
	}
	return nil
}

// planProblem reads the file that --from names.
func planProblem(c *cli.Context) (*balance.Problem, error) {
	name := c.String("from")
	if name == "" {
		return nil, cliargs.Usagef(c, "--from FILE is missing")
	}
	var r io.Reader = c.App.Reader
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		r = file
	}
	in, err := balance.ReadInput(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if hosts := c.StringSlice("host"); len(hosts) > 0 {
		if c.String("mode") != string(balance.Drain) {
			return nil, cliargs.Usagef(c, "--host goes with --mode drain")
		}
		in.Drain = hosts
	}
	p, err := in.Problem()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}
