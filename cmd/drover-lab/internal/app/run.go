package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/state"
)

func runCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "exec", Usage: "run a command in a host (or in control) as if logged in there", ArgsUsage: "HOST [--] COMMAND...", Action: execIn,
			Description: "Environment, working directory and standard streams are kept, the exit code is passed on;\n" +
				"125 means that drover-lab itself failed. The command dies with drover-lab.",
		},
		{
			Name: "spawn", Usage: "start a supervised daemon in a host; it dies with its host", ArgsUsage: "HOST NAME -- COMMAND...", Action: spawn,
			Flags: []cli.Flag{&cli.BoolFlag{Name: "restart", Usage: "start it again a second after it dies"}},
		},
		{
			Name: "signal", Usage: "send a signal to a daemon's process (libvirtd is one too)", ArgsUsage: "HOST NAME SIGNAL", Action: signalDaemon,
		},
		{
			Name: "unspawn", Usage: "end a daemon: SIGTERM, after 5 s SIGKILL", ArgsUsage: "HOST NAME", Action: unspawn,
		},
		{
			Name: "ps", Usage: "list the daemons of one host or all", ArgsUsage: "[HOST]", Action: ps,
			Flags: []cli.Flag{outputFlag},
		},
	}
}

func execIn(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return execFailed(c, err)
	}
	if c.Args().Len() < 2 {
		return usagef("exec: want a host and a command")
	}
	code, err := l.hosts.Exec(c.Context, c.Args().First(), c.Args().Tail())
	if err != nil {
		return execFailed(c, err)
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// execFailed tells failures of exec itself from those of the command.
func execFailed(c *cli.Context, err error) error {
	fmt.Fprintln(c.App.ErrWriter, "drover-lab:", err)
	return exitError(exitExec)
}

func spawn(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	if c.Args().Len() < 3 {
		return usagef("spawn: want a host, a name and a command")
	}
	host, name, argv := c.Args().Get(0), c.Args().Get(1), c.Args().Slice()[2:]
	if err := state.CheckName("daemon", name); err != nil {
		return usagef("%v", err)
	}
	cl, err := l.hosts.Client(host)
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("spawn %s: %w", name, err)
	}
	if !strings.HasPrefix(path, "/") {
		path = dir + "/" + path
	}
	argv[0] = path
	return cl.Spawn(c.Context, hostinit.Daemon{Name: name, Argv: argv, Env: os.Environ(), Dir: dir, Restart: c.Bool("restart")})
}

func signalDaemon(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST", "NAME", "SIGNAL")
	if err != nil {
		return err
	}
	sig, err := parseSignal(a[2])
	if err != nil {
		return err
	}
	cl, err := l.hosts.Client(a[0])
	if err != nil {
		return err
	}
	return cl.Signal(c.Context, a[1], sig)
}

// parseSignal reads "KILL", "SIGKILL", "kill" or "9".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, usagef("signal %q: want a name such as TERM, or a number", s)
}

func unspawn(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST", "NAME")
	if err != nil {
		return err
	}
	cl, err := l.hosts.Client(a[0])
	if err != nil {
		return err
	}
	return cl.Unspawn(c.Context, a[1])
}

// psRow is one daemon of `ps`.
type psRow struct {
	Host string `json:"host"`
	hostinit.Status
}

func ps(c *cli.Context) error {
	l, rec, err := openUp(c)
	if err != nil {
		return err
	}
	names := append([]string{state.Control}, rec.Hosts...)
	if c.Args().Len() == 1 {
		names = c.Args().Slice()
	} else if c.Args().Len() > 1 {
		return usagef("ps: want at most one host")
	}
	rows := []psRow{}
	var errs []error
	for _, n := range names {
		cl, err := l.hosts.Client(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ds, err := cl.List(c.Context)
		errs = append(errs, err)
		for _, d := range ds {
			rows = append(rows, psRow{Host: n, Status: d})
		}
	}
	err = errors.Join(errs...)
	if len(names) > 1 {
		err = nil // a host that is down has no daemons
	}
	if l.json {
		return errors.Join(l.printJSON(rows), err)
	}
	table := [][]string{{"HOST", "NAME", "PID", "RESTARTS", "LAST EXIT", "COMMAND"}}
	for _, r := range rows {
		pid := "-"
		if r.Running {
			pid = strconv.Itoa(r.PID)
		}
		table = append(table, []string{r.Host, r.Name, pid, strconv.Itoa(r.Restarts), r.Exit, strings.Join(r.Argv, " ")})
	}
	return errors.Join(l.printTable(table...), err)
}
