// Package app is drover-lab's command line.
//
// Every command but sim takes --lab. Answers go to standard output, everything else to standard error. Exit codes: 0 done,
// 1 failed, 2 wrong usage; `exec` passes the command's own code on and uses 125 for failures of drover-lab itself.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/host"
	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/state"
	"drover/cmd/internal/cliargs"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	exitExec   = 125
	// exitNotFound is what a shell says of a command that is not there.
	exitNotFound = 127
)

// errUsage marks errors in how a command was called.
var errUsage = errors.New("usage")

// errNotRoot says why nothing here works for other users.
var errNotRoot = errors.New("hosts are made of namespaces and control groups: run this as root")

func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

// exitError carries an exit code without a message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// Main runs one command and returns the exit code.
func Main(args []string) int {
	if len(args) > 1 && args[1] == "host-init" {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		fmt.Fprintln(os.Stderr, hostinit.Main(context.Background(), log))
		return exitFailed
	}
	if len(args) > 1 && args[1] == hostinit.InHost {
		err := hostinit.RunInHost(args[2:])
		fmt.Fprintln(os.Stderr, "drover-lab:", err)
		return exitNotFound
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a := newApp(os.Stdout, os.Stderr)
	err := run(ctx, a, args)
	var code exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	// One line, also when several things failed.
	fmt.Fprintln(os.Stderr, "drover-lab:", strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}

// foreign says after how many arguments of a command the rest is somebody else's command line.
var foreign = map[string]int{"exec": 1, "spawn": 2, "run": 0}

// run lets flags stand wherever the user wrote them.
func run(ctx context.Context, a *cli.App, args []string) error {
	args, err := cliargs.Arrange(a, args, foreign)
	if err != nil {
		return usagef("%v", err)
	}
	return a.RunContext(ctx, args)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	a := &cli.App{
		Name:           "drover-lab",
		Usage:          "run real libvirt hosts side by side on this machine, or simulated fleets",
		HideVersion:    true,
		Writer:         stdout,
		ErrWriter:      stderr,
		ExitErrHandler: func(*cli.Context, error) {}, // Main decides
		OnUsageError:   usageError,
		Action:         noCommand,
	}
	for _, group := range [][]*cli.Command{labCommands(), runCommands(), guestCommands(), probeCommands(), faultCommands(), trafficCommands(), droverCommands(), simCommands()} {
		a.Commands = append(a.Commands, group...)
	}
	complete(a.Commands)
	return a
}

// noCommand runs when no command was given, or none that is known.
func noCommand(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("no such command: %s", c.Args().First())
	}
	return cli.ShowSubcommandHelp(c)
}

func usageError(_ *cli.Context, err error, _ bool) error { return usagef("%v", err) }

// complete gives every command what all have.
func complete(cmds []*cli.Command) {
	for _, c := range cmds {
		c.OnUsageError = usageError
		if len(c.Subcommands) > 0 {
			c.Action = noCommand
			complete(c.Subcommands)
			continue
		}
		if c.Name == "sim" {
			continue // no lab
		}
		c.Flags = append(c.Flags,
			&cli.StringFlag{Name: "lab", Value: "lab", EnvVars: []string{"DROVER_LAB"}, Usage: "the lab's `NAME`; several can be up side by side"},
			&cli.BoolFlag{Name: "verbose", Usage: "say what is done"},
		)
	}
}

var outputFlag = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}

// lab is what every command works on.
type lab struct {
	store *state.Store
	hosts *host.Manager
	log   *slog.Logger
	out   io.Writer
	json  bool
}

func open(c *cli.Context) (*lab, error) {
	store, err := state.Open(c.String("lab"))
	if err != nil {
		return nil, usagef("%v", err)
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	level := slog.LevelWarn
	if c.Bool("verbose") {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	l := &lab{store: store, hosts: host.NewManager(store, log), log: log, out: c.App.Writer}
	switch o := c.String("output"); o {
	case "json":
		l.json = true
	case "table", "":
	default:
		return nil, usagef("output %q: want table or json", o)
	}
	return l, nil
}

// openUp is open for commands that need a lab that is up.
func openUp(c *cli.Context) (*lab, state.Lab, error) {
	l, err := open(c)
	if err != nil {
		return nil, state.Lab{}, err
	}
	rec, err := l.store.Up()
	return l, rec, err
}

// args returns exactly n arguments.
func args(c *cli.Context, names ...string) ([]string, error) {
	if c.Args().Len() != len(names) {
		return nil, usagef("%s: want %v, got %q", c.Command.HelpName, names, c.Args().Slice())
	}
	return c.Args().Slice(), nil
}
