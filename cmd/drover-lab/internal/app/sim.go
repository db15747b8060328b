package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/test/sim"
	"drover/test/sim/load"
	"drover/test/sim/scenario"
)

func simCommands() []*cli.Command {
	return []*cli.Command{{
		Name:      "sim",
		Usage:     "run a simulated fleet in virtual time, and say what became of it",
		ArgsUsage: "[FILE]",
		Description: "With a FILE, plays that scenario: package drover/test/sim/scenario says what it may hold, and\n" +
			"test/sim/scenario/testdata has some. An \"assert\" that does not hold is an error.\n" +
			"Without one, makes a fleet by the flags, lets the hours pass with automatic moves, and evaluates. The same\n" +
			"flags give the same figures. It needs no root and touches nothing.",
		Action: simulate,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "hosts", Value: 20, Usage: "`N` hosts of 32 cores and 256 GiB with 10 Gbit/s"},
			&cli.IntFlag{Name: "vms", Value: 400, Usage: "`N` guests"},
			&cli.Float64Flag{Name: "hours", Value: 6, Usage: "how long, in `H` virtual hours"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "another `S` makes another fleet"},
			&cli.StringFlag{Name: "load", Value: "mixed", Usage: strings.Join(load.Kinds(), ", ") + ", or a trace's `FILE`: CSV, gzipped or not, per cent (per mille, if it has a column cores) every five minutes"},
			&cli.Float64Flag{Name: "fill", Value: 0.6, Usage: "the `SHARE` of the hosts' memory that guests take"},
			&cli.IntFlag{Name: "uneven", Usage: "put a third of the guests on every `N`th host only"},
			&cli.IntFlag{Name: "roll", Usage: "drain the first `N` hosts, one after the other, and open each again"},
			&cli.StringFlag{Name: "level", Value: "full", Usage: "automatic moves: manual or full"},
			&cli.StringFlag{Name: "rule", Value: "drover", Usage: "how many migrations run at once: " + strings.Join(slices.Sorted(maps.Keys(scenario.Rules())), ", ")},
			outputFlag,
		},
	}}
}

func simulate(c *cli.Context) error {
	if o := c.String("output"); o != "table" && o != "json" {
		return usagef("output %q: want table or json", o)
	}
	began := time.Now()
	var p *scenario.Player
	var err error
	switch c.Args().Len() {
	case 0:
		p, err = generated(c)
	case 1:
		p, err = played(c, c.Args().First())
	default:
		return usagef("sim: want one FILE at most, got %q", c.Args().Slice())
	}
	if err != nil {
		return err
	}
	r := p.World().Report(0)
	fmt.Fprintf(c.App.ErrWriter, "%s of %d hosts with %d guests in %.1f s\n", r.To.Round(time.Second), r.Hosts, r.Guests, time.Since(began).Seconds())
	if c.String("output") == "json" {
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprint(c.App.Writer, scenario.Text(r))
	return nil
}

// played plays a scenario from a file.
func played(c *cli.Context, file string) (*scenario.Player, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usagef("%v", err)
	}
	defer f.Close()
	list, err := scenario.Read(file, f)
	if err != nil {
		return nil, err
	}
	p := scenario.New()
	for _, cmd := range list {
		out, err := p.Do(cmd)
		switch {
		case err != nil:
			return nil, err
		case cmd.Name == "assert" && out != "ok":
			return nil, fmt.Errorf("%s: does not hold: %s", cmd.Pos, out)
		case cmd.Name == "assert":
			fmt.Fprintf(c.App.ErrWriter, "%s: ok\n", cmd.Pos)
		case out != "":
			fmt.Fprintf(c.App.ErrWriter, "%s:\n%s", cmd.Pos, out)
		}
	}
	if p.World() == nil {
		return nil, fmt.Errorf("%s: makes no fleet", file)
	}
	return p, nil
}

// generated makes the scenario that the flags stand for, and plays it.
func generated(c *cli.Context) (*scenario.Player, error) {
	hours := c.Float64("hours")
	if c.Int("hosts") < 1 || c.Int("vms") < 0 || !(hours > 0 && hours <= 24*366) {
		return nil, usagef("sim: want hosts, guests, and up to a year of hours")
	}
	source := "load=" + c.String("load")
	if !slices.Contains(load.Kinds(), c.String("load")) {
		source = "trace=" + c.String("load")
	}
	span := time.Duration(hours * float64(time.Hour))
	lines := []string{
		fmt.Sprintf("seed %d", c.Uint64("seed")), "auto level=" + c.String("level"), "rule " + c.String("rule"),
		fmt.Sprintf("fleet hosts=%d vms=%d fill=%g uneven=%d %s", c.Int("hosts"), c.Int("vms"), c.Float64("fill"), c.Int("uneven"), source),
	}
	p := scenario.New()
	for _, line := range lines {
		if _, err := p.Do(scenario.Parse("sim", line)); err != nil {
			return nil, usagef("%v", err)
		}
	}
	if n := c.Int("roll"); n > 0 {
		w := p.World()
		w.After(time.Minute, func() { roll(w, w.Hosts()[:min(n, len(w.Hosts()))]) })
	}
	p.World().Run(span)
	return p, nil
}

// roll drains hosts one after the other; each is opened again when it is empty.
func roll(w *sim.World, hosts []*sim.Host) {
	if len(hosts) == 0 {
		return
	}
	id := w.Drain(hosts[0].Name)
	var look func()
	look = func() {
		if !w.RunRecord(id).Phase.Final() {
			w.After(time.Second, look)
			return
		}
		w.Open(hosts[0].Name)
		roll(w, hosts[1:])
	}
	look()
}
