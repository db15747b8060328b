package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/conf"
	"drover/cmd/internal/out"
)

const appDescription = `drover moves running virtual machines between KVM hosts.

Every command reads and writes the store (etcd) that agents and scheduler share; say where it is
with --etcd-endpoints or DROVER_ETCD_ENDPOINTS. Options may stand before or after arguments.
A VM is named by its name if that is unique, by HOST/NAME, or by its UUID.

Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 partly done.`

// newApp returns the command line. stdout is for answers only, stderr for everything else.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "drover",
		Usage:                "live migration for KVM hosts",
		Description:          appDescription,
		Version:              version(),
		Reader:               stdin,
		Writer:               stdout,
		ErrWriter:            stderr,
		EnableBashCompletion: true,
		HideVersion:          true, // "drover version" says more
		Flags:                globalFlags(),
		Commands: []*cli.Command{
			hostCommand(), vmCommand(), migrateCommand(), migrationCommand(), runCommand(), maintenanceCommand(),
			linkCommand(), topCommand(), policyCommand(), historyCommand(), eventsCommand(), snapshotCommand(), planCommand(),
			rebalanceCommand(), pauseCommand(), resumeCommand(),
			schedulerCommand(), storeCommand(), pkiCommand(),
			completionCommand(), versionCommand(),
		},
	}
}

func globalFlags() []cli.Flag {
	return append(conf.Flags(&conf.Client{}),
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", DefaultText: "table", Usage: "`FORMAT` of the answer: table, json or yaml"},
		&cli.DurationFlag{Name: "timeout", Value: defaultTimeout, Usage: "give up on the store after this long"},
		&cli.StringFlag{Name: "as", DefaultText: "USER@HOST", Usage: "`NAME` to record as the one who asks"},
	)
}

// toggle is a flag that is off unless given, which the help need not say.
func toggle(name, usage string, aliases ...string) cli.Flag {
	return &cli.BoolFlag{Name: name, Aliases: aliases, Usage: usage, DisableDefaultText: true}
}

func watchFlag() cli.Flag {
	return toggle("watch", "go on until Ctrl-C: redraw on a terminal, else print what changed", "w")
}

func yesFlag(usage string) cli.Flag {
	return toggle("yes", usage, "y")
}

// printer returns a function that writes an answer to stdout as --output wants.
func printer(c *cli.Context) (func(value any, table func() out.Table) error, error) {
	format, err := format(c)
	if err != nil {
		return nil, err
	}
	return func(value any, table func() out.Table) error {
		return format.Print(c.App.Writer, value, table)
	}, nil
}
