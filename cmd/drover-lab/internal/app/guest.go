package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/guest"
	"drover/hypervisor"
)

func guestCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "guest", Usage: "virtual machines that dirty memory in a known way",
			Subcommands: []*cli.Command{
				{
					Name: "start", Usage: "start a guest and wait until its load has begun", ArgsUsage: "NAME", Action: guestStart,
					Flags: []cli.Flag{
						&cli.StringFlag{Name: "host", Value: "kvm1", Usage: "where it starts"},
						&cli.StringFlag{Name: "memory", Value: "256MiB", Usage: "its memory"},
						&cli.IntFlag{Name: "vcpus", Value: 1, Usage: "its virtual CPUs, each with a share of the load"},
						&cli.StringFlag{Name: "wss", Value: "64MiB", Usage: "how much memory it writes to"},
						&cli.IntFlag{Name: "rate", Value: 5000, Usage: "pages it writes to per second"},
						&cli.StringFlag{Name: "pattern", Value: "word", Usage: "word of a random page, whole random page, sweep in order, burst (2 s of 4), idle"},
						&cli.DurationFlag{Name: "beat", Value: guest.DefaultBeat, Usage: "how often it says that it runs, at most 100 ms; longer where many guests share this machine"},
						&cli.StringFlag{Name: "disk", Value: "none", Usage: "none, shared or local (private to its host)"},
						&cli.StringFlag{Name: "disk-size", Value: "16MiB", Usage: "size of the disk"},
						&cli.StringSliceFlag{Name: "prepare", Usage: "`HOST` that gets an empty image for a migration of a local disk"},
						&cli.BoolFlag{Name: "transient", Usage: "no persistent definition"},
						outputFlag,
					},
				},
				{
					Name: "stop", Usage: "end guests wherever they run, undefine them and delete their files", ArgsUsage: "NAME...", Action: guestStop,
					Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "every guest of the lab"}},
				},
				{
					Name: "verify", Usage: "check that a guest lives and lost nothing since it booted; exit 1 otherwise", ArgsUsage: "NAME",
					Action: guestVerify, Flags: []cli.Flag{outputFlag},
				},
				{
					Name: "list", Usage: "list the lab's guests and where they run", Action: guestList, Flags: []cli.Flag{outputFlag},
				},
			},
		},
	}
}

func (l *lab) guests() *guest.Manager { return guest.NewManager(l.store, l.hosts, l.log) }

func guestStart(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "NAME")
	if err != nil {
		return err
	}
	s := guest.Spec{
		Name: a[0], Host: c.String("host"), VCPUs: c.Int("vcpus"), Rate: c.Int("rate"),
		Pattern: guest.Pattern(c.String("pattern")), Disk: guest.DiskKind(c.String("disk")),
		Prepare: c.StringSlice("prepare"), Transient: c.Bool("transient"), Beat: c.Duration("beat"),
	}
	var errs [3]error
	s.Memory, errs[0] = hypervisor.ParseBytes(c.String("memory"))
	s.WSS, errs[1] = hypervisor.ParseBytes(c.String("wss"))
	s.DiskSize, errs[2] = hypervisor.ParseBytes(c.String("disk-size"))
	if err := errors.Join(errs[:]...); err != nil {
		return usagef("%v", err)
	}
	r, err := l.guests().Start(c.Context, s)
	if errors.Is(err, guest.ErrSpec) {
		return usagef("%v", err)
	} else if err != nil {
		return err
	}
	if l.json {
		return l.printJSON(r)
	}
	fmt.Fprintf(l.out, "guest %s (%s) runs on %s, serial port in %s\n", r.Name, r.UUID, r.Host, r.Serial)
	return nil
}

func guestStop(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	if c.Bool("all") {
		if names, err = l.store.GuestNames(); err != nil {
			return err
		}
	} else if len(names) == 0 {
		return usagef("guest stop: want a guest, or --all")
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, l.guests().Stop(c.Context, n))
	}
	return errors.Join(errs...)
}

func guestList(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	if _, err := args(c); err != nil {
		return err
	}
	list, err := l.guests().List(c.Context)
	if l.json {
		if list == nil {
			list = []guest.Status{}
		}
		return errors.Join(l.printJSON(list), err)
	}
	rows := [][]string{{"NAME", "RUNS ON", "DEFINED ON", "MEMORY", "VCPUS", "WORKING SET", "PAGES/S", "PATTERN", "DISK"}}
	for _, g := range list {
		var on []string
		for _, p := range g.RunsOn {
			on = append(on, p.Host+" ("+p.State+")")
		}
		rows = append(rows, []string{
			g.Name, dash(strings.Join(on, ", ")), dash(strings.Join(g.DefinedOn, ",")), g.Memory.String(), fmt.Sprint(g.VCPUs),
			g.WSS.String(), fmt.Sprint(g.Rate), string(g.Pattern), string(g.Disk),
		})
	}
	return errors.Join(l.printTable(rows...), err)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
