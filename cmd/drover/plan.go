package main

import (
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/balance"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "which VMs to move where, and why; moves nothing",
		Description: "Reads the planner's input, as \"drover snapshot\" writes it, and shows the plan.\n" +
			"The same input and options give the same plan.\n\n" +
			"Exit status 3 when VMs that were to move can't.",
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
	v := planViewOf(p, plan)
	return f.Print(c.App.Writer, v, v.table)
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

// planView is the answer; its names are a contract with outside tools.
type planView struct {
	Moves   []planMove      `json:"moves"`
	Before  balance.Metrics `json:"before"`
	After   balance.Metrics `json:"after"`
	Blocked []planBlocked   `json:"blocked"`
}

type planMove struct {
	VM       string       `json:"vm"`
	From     string       `json:"from"`
	To       string       `json:"to"`
	Wave     int          `json:"wave"`
	After    []int        `json:"after,omitempty"`
	Reason   string       `json:"reason"`
	MemMiB   float64      `json:"mem_mib"`
	Forecast planForecast `json:"forecast"`
}

type planForecast struct {
	Seconds float64          `json:"seconds"`
	Bytes   hypervisor.Bytes `json:"bytes"`
	PauseMS int64            `json:"pause_ms"`
}

type planBlocked struct {
	VM     string `json:"vm"`
	Reason string `json:"reason"`
}

func planViewOf(p *balance.Problem, plan *balance.Plan) planView {
	v := planView{Moves: []planMove{}, Before: plan.Before, After: plan.After, Blocked: []planBlocked{}}
	for _, m := range plan.Moves {
		vm := &p.VMs[m.VM]
		v.Moves = append(v.Moves, planMove{
			VM: vm.Name, From: p.Hosts[m.From].Name, To: p.Hosts[m.To].Name, Wave: m.Wave, After: m.After,
			Reason: string(m.Cause), MemMiB: mib(vm.Memory),
			Forecast: planForecast{Seconds: m.Price.Duration.Seconds(), Bytes: m.Price.Bytes, PauseMS: m.Price.Pause.Milliseconds()},
		})
	}
	return v
}

func (v planView) table() out.Table {
	t := out.Table{Head: []string{"VM", "FROM", "TO", "WAVE"}, None: "nothing is worth moving"}
	for _, m := range v.Moves {
		t.Add(m.VM, m.From, m.To, fmt.Sprint(m.Wave))
	}
	return t
}
