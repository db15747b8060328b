package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/conf"
	"drover/hypervisor/throttle"
)

// throttleWatchdog is the hidden argument with which the agent runs its own program as the watchdog of
// its throttles. main looks for it before anything else: the watchdog needs none of the agent's
// settings, and stays small.
const throttleWatchdog = "throttle-watchdog"

// throttleDir is where the original CPU quotas of throttled domains are kept.
func throttleDir(s *conf.Agent) string { return filepath.Join(s.SpoolDir, "throttle") }

func watchThrottle() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := throttle.Watch(os.Stdin, os.Stdout, log); err != nil {
		log.Error("throttle watchdog", "err", err)
		return cliargs.ExitFailed
	}
	return cliargs.ExitDone
}

// unthrottleCommand gives back what an agent that is gone left throttled. The service manager runs it
// after each end of the agent, because it may have killed the watchdog too.
func unthrottleCommand(settings *conf.Agent) *cli.Command {
	return &cli.Command{
		Name:  "unthrottle",
		Usage: "give throttled guests their CPU back if the agent that throttled them is gone",
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return cliargs.Usagef(c, "unexpected argument %q", c.Args().First())
			}
			// Settings that no agent would start with must not keep guests throttled.
			if err := conf.Load(conf.FromContext(c), settings); err != nil {
				fmt.Fprintf(c.App.ErrWriter, "drover-agent: settings: %v; going on with the spool directory %s\n", err, settings.SpoolDir)
			}
			r, err := throttle.Recover(throttleDir(settings), slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)))
			if r.Restored+r.Kept > 0 {
				fmt.Fprintf(c.App.Writer, "given back: %d; ended by themselves: %d; left to the running agent: %d\n", r.Restored, r.Ended, r.Kept)
			}
			return err
		},
	}
}
