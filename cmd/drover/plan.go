package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/scheduler/balance"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "which VMs to move where, and why; moves nothing",
		Description: planHelp,
		Flags: append(planBounds(),
			&cli.StringFlag{Name: "from", Usage: "the planner's input instead of the fleet: a `FILE`, or - for stdin"},
			&cli.StringFlag{Name: "mode", Value: string(balance.Balance), Usage: "what for: `MODE` balance, consolidate or drain"},
			&cli.StringSliceFlag{Name: "host", Usage: "with --mode drain: the `HOST` to empty; may be given several times"},
			&cli.StringFlag{Name: "deadline", Usage: "only what can be done within this `TIME`, such as 10m", DefaultText: "no bound"},
			&cli.StringFlag{Name: "objective", Value: string(balance.Contention), Usage: "what counts: `NAME` contention, or score (how even, as Ganeti's hbal reckons)"},
			&cli.Float64Flag{Name: "until", Usage: "with --objective score: the cheapest plan that reaches this `SCORE`", DefaultText: "as good as is worth it"},
			&cli.Uint64Flag{Name: "seed", Usage: "another `SEED` for the search", Hidden: true},
			&cli.IntFlag{Name: "evaluations", Usage: "budget of the search", Hidden: true},
			toggle("explain", "say of each move what else was looked at, and of each VM that stays why"),
			&cli.StringFlag{Name: "replay", Usage: "make this kept `PLAN` again, from what it was made from, and compare"},
			&cli.StringFlag{Name: "policy", Usage: "with --replay: by the policy in this `FILE`", DefaultText: "the policy of then"},
		),
		Action:      takes(0, 0, "", makePlan),
		Subcommands: planVerbs(),
	}
}

const planHelp = `Plans for the fleet as it is now, or for the planner's input in a file, as drover snapshot writes it, and
shows the plan; drover rebalance carries one out. The same input and options give the same plan. Of the
fleet, VMs that move only when somebody asks for them stay, and those that have moved lately, unless
they must move; a drain moves these too. drover plan list shows the plans that are kept.

Exit status 3 when VMs that were to move can't, or --until is not reached.`

// makePlan plans from a file, from a kept plan's input, or for the fleet as it is.
func makePlan(c *cli.Context) error {
	if err := usagePlan(c); err != nil {
		return err
	}
	switch {
	case c.String("from") != "":
		return showPlan(c)
	case c.String("replay") != "":
		return quick(replayPlan)(c)
	}
	return quick(showLivePlan)(c)
}

func showPlan(c *cli.Context) error {
	f, err := format(c)
	if err != nil {
		return err
	}
	options, err := planOptions(c, time.Now())
	if err != nil {
		return err
	}
	p, err := planProblem(c)
	if err != nil {
		return err
	}
	plan, err := balance.Make(p, options)
	if err != nil {
		return usageIf(c, err, balance.ErrOptions)
	}
	return answerPlan(c, f, p, plan)
}

// answerPlan prints a plan; the error gives the exit status.
func answerPlan(c *cli.Context, f out.Format, p *balance.Problem, plan *balance.Plan) error {
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
		left = append(left, fmt.Sprintf("%s that had to move can't", plural(n, "VM")))
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
