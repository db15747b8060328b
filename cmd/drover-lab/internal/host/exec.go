package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"drover/cmd/drover-lab/internal/cgroup"
	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
)

// LocalURI is a host's own libvirtd, seen from inside.
const LocalURI = "qemu:///system"

// URI is how others in the lab reach a host's libvirtd.
func URI(host string) string { return "qemu+tls://" + host + "/system" }

// Running returns the record of a host that runs: [state.ErrNotFound] when the lab has none of that name,
// [ErrDown] when it was killed.
func (m *Manager) Running(name string) (state.Host, error) {
	h, err := m.store.Host(name)
	if err != nil {
		return h, err
	}
	if !h.Init.Alive() {
		return h, fmt.Errorf("host %s: %w", name, ErrDown)
	}
	return h, nil
}

// Client returns the host's control client; see [Manager.Running] for errors.
func (m *Manager) Client(name string) (*hostinit.Client, error) {
	if _, err := m.Running(name); err != nil {
		return nil, err
	}
	return hostinit.NewClient(m.store.Socket(name)), nil
}

// Exec runs a command in the host with this process's standard streams, environment and, where the host has it,
// working directory, and returns its exit code. Signals that this process gets are passed on; the command dies with
// this process.
func (m *Manager) Exec(ctx context.Context, name string, argv []string) (int, error) {
	h, err := m.Running(name)
	if err != nil {
		return 0, err
	}
	if err := m.joinGroups(name, os.Getpid()); err != nil {
		return 0, fmt.Errorf("exec in %s: %w", name, err)
	}
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	code := 0
	err = netns.Do(h.Init.PID, netns.All, func() error {
		cmd := exec.Command(hostinit.SelfExe, append([]string{hostinit.InHost, "--"}, argv...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if cmd.Dir = wd; !isDir(wd) {
			cmd.Dir = "/"
		}
		code, err = runForwarding(ctx, cmd)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", name, err)
	}
	return code, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// runForwarding runs cmd, passes signals on and returns the exit code a shell would show.
func runForwarding(ctx context.Context, cmd *exec.Cmd) (int, error) {
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	if term.IsTerminal(int(os.Stdin.Fd())) {
		// The terminal sends these to the command as well, which must not get them twice. Taken and dropped, because
		// the command would inherit that they are ignored.
		dropped := make(chan os.Signal, 1)
		signal.Notify(dropped, syscall.SIGINT, syscall.SIGQUIT)
		defer signal.Stop(dropped)
	} else {
		signal.Notify(sigs, syscall.SIGINT, syscall.SIGQUIT)
	}
	defer signal.Stop(sigs)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-sigs:
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, errors.Join(err, ctx.Err())
}

// joinGroups makes a process count as the host's.
func (m *Manager) joinGroups(name string, pid int) error {
	groups, err := cgroup.Detect()
	if err != nil {
		return err
	}
	return groups.Move(m.store.Name(), name, pid)
}

// CommandError is a command in a host that failed.
type CommandError struct {
	Host   string
	Argv   []string
	Stderr string
	Err    error
}

// Error names the host and what the command said.
func (e *CommandError) Error() string {
	what := strings.TrimSpace(e.Stderr)
	if what == "" {
		what = e.Err.Error()
	}
	return fmt.Sprintf("%s on %s: %s", e.Argv[0], e.Host, strings.ReplaceAll(what, "\n", " "))
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Output runs a command in the host and returns its standard output. It is killed when ctx ends.
func (m *Manager) Output(ctx context.Context, name string, argv ...string) (string, error) {
	h, err := m.Running(name)
	if err != nil {
		return "", err
	}
	var stdout, stderr strings.Builder
	err = netns.Do(h.Init.PID, netns.All, func() error {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &stdout, &stderr
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		return cmd.Run()
	})
	if err != nil {
		return "", &CommandError{Host: name, Argv: argv, Stderr: stderr.String(), Err: errors.Join(err, ctx.Err())}
	}
	return stdout.String(), nil
}

// Virsh runs virsh in the host, quietly, and returns its standard output.
func (m *Manager) Virsh(ctx context.Context, name string, args ...string) (string, error) {
	return m.Output(ctx, name, append([]string{"virsh", "-q"}, args...)...)
}
