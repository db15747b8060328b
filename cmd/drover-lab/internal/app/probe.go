package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/check"
	"drover/cmd/drover-lab/internal/probe"
)

func probeCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "probe", Usage: "watch a guest from outside until interrupted, then say what a user would have felt", ArgsUsage: "GUEST", Action: probeGuest,
			Description: "Start it in the background, migrate, send it SIGINT or SIGTERM, read its answer.\n" +
				"--mark prints the present end of the guest's output at once; a probe with --since MARK counts\n" +
				"mismatches, reboots and duplicates from there on, so that nothing between two probes goes unseen.",
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "for", Usage: "stop by itself after this time"},
				&cli.Int64Flag{Name: "since", Value: -1, Usage: "also count what was said since this `MARK`"},
				&cli.BoolFlag{Name: "mark", Usage: "print the present mark and end"},
				outputFlag,
			},
		},
		{
			Name: "check", Usage: "list what no guest explains: domains, QEMUs, control groups, files; exit 1 if there is any",
			Action: checkLab, Flags: []cli.Flag{outputFlag},
		},
	}
}

// verifyFor is long enough for ten lines of counters.
const verifyFor = 1200 * time.Millisecond

func probeGuest(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "GUEST")
	if err != nil {
		return err
	}
	r, err := l.guests().Record(a[0])
	if err != nil {
		return err
	}
	if c.Bool("mark") {
		mark, err := probe.Mark(r.Serial)
		if err != nil {
			return err
		}
		if l.json {
			return l.printJSON(map[string]int64{"mark": mark})
		}
		_, err = fmt.Fprintln(l.out, mark)
		return err
	}
	ctx := c.Context
	if d := c.Duration("for"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	rep, err := probe.Run(ctx, r.Serial, probe.Options{Since: c.Int64("since")})
	if err != nil {
		return err
	}
	rep.Guest = a[0]
	return l.printReport(rep)
}

func guestVerify(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "NAME")
	if err != nil {
		return err
	}
	r, err := l.guests().Record(a[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, verifyFor)
	defer cancel()
	// From the beginning: the guest's whole life counts. Its first boot is not a reboot.
	rep, err := probe.Run(ctx, r.Serial, probe.Options{Since: 0})
	if err != nil {
		return err
	}
	rep.Guest, rep.Reboots = a[0], max(0, rep.Reboots-1)
	if err := l.printReport(rep); err != nil {
		return err
	}
	if !rep.Intact() {
		return fmt.Errorf("guest %s: %s", a[0], verdict(rep))
	}
	return nil
}

func verdict(r probe.Report) string {
	switch {
	case r.Panicked:
		return "its kernel panicked"
	case r.Mismatches > 0:
		return "memory is corrupt"
	case r.DiskErrors > 0:
		return "its disk lost writes"
	case r.Duplicates > 0:
		return "two copies ran"
	case r.Reboots > 0:
		return "it rebooted"
	case !r.Alive:
		return "silent"
	}
	return "alive and intact"
}

func (l *lab) printReport(r probe.Report) error {
	if l.json {
		return l.printJSON(r)
	}
	return l.printTable(
		[]string{"guest", r.Guest + ": " + verdict(r)},
		[]string{"watched", fmt.Sprintf("%.1f s, %d beats", r.Seconds, r.Beats)},
		[]string{"longest silence", fmt.Sprintf("%.1f ms, %.1f s in, at %s", r.SilenceMS, r.SilenceAfter, r.SilenceAt.Format("15:04:05.000"))},
		[]string{"work lost", fmt.Sprintf("%.2f s of %.1f s at %.0f pages/s", r.WorkLost, r.WorkOver, r.WorkRate)},
		[]string{"mismatches", fmt.Sprintf("%d (%d since boot), disk errors %d", r.Mismatches, r.MismatchesTotal, r.DiskErrors)},
		[]string{"mark", fmt.Sprint(r.Mark)},
	)
}

func checkLab(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	if _, err := args(c); err != nil {
		return err
	}
	found, err := check.New(l.store, l.hosts, l.guests()).Find(c.Context)
	if l.json {
		if found == nil {
			found = []check.Leftover{}
		}
		err = errors.Join(l.printJSON(found), err)
	} else if len(found) > 0 {
		rows := [][]string{{"HOST", "KIND", "WHAT", "WHY"}}
		for _, f := range found {
			rows = append(rows, []string{dash(f.Host), string(f.Kind), f.What, f.Why})
		}
		err = errors.Join(l.printTable(rows...), err)
	}
	if err == nil && len(found) > 0 {
		return exitError(exitFailed)
	}
	return err
}
