// Command drover-agent runs on every KVM host. It reports the host's load to the store under a
// lease, answers questions about it, and carries out the migrations that leave the host: it claims
// orders, drives libvirt, and records what happened.
//
// The rooms: agent.go wires everything in one place, session.go holds the lease and what depends on
// it, queue.go is the store as precopy's Worker sees it, answers.go answers questions, unthrottle.go
// gives throttled guests their CPU back after the agent's end.
package main

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/conf"
	"drover/cmd/internal/logs"
	"drover/cmd/internal/serve"
	"drover/cmd/internal/version"
)

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	if len(args) == 2 && args[1] == throttleWatchdog {
		return watchThrottle()
	}
	settings := conf.DefaultAgent()
	app := &cli.App{
		Name:            "drover-agent",
		Usage:           "reports this KVM host's load and carries out the migrations that leave it",
		Version:         version.Version,
		HideHelpCommand: true,
		Writer:          os.Stdout,
		ErrWriter:       os.Stderr,
		Flags:           append([]cli.Flag{conf.ConfigFlag()}, conf.Flags(settings)...),
		Commands:        []*cli.Command{unthrottleCommand(settings)},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return cliargs.Usagef(c, "unexpected argument %q", c.Args().First())
			}
			if err := conf.Load(conf.FromContext(c), settings); err != nil {
				return err
			}
			log, err := logs.New(os.Stderr, settings.Format, settings.Level)
			if err != nil {
				return err
			}
			ctx, stop := serve.Signals(c.Context)
			defer stop()
			return serveAgent(ctx, settings, log)
		},
	}
	return cliargs.Run(context.Background(), app, args)
}
