package hostinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// Launch is a first process in fresh namespaces that waits for its configuration. Call Configure or Abandon once.
type Launch struct {
	// PID is the process as the machine sees it.
	PID int

	cmd    *exec.Cmd
	config *os.File
	ready  *os.File
}

// Start makes the namespaces and their first process, which listens on socket (replaced if there) and logs to logPath.
// It does nothing else, and ends by itself if this process dies before [Launch.Configure].
func Start(socket, logPath string) (*Launch, error) {
	l, err := start(socket, logPath)
	if err != nil {
		return nil, fmt.Errorf("start host: %w", err)
	}
	return l, nil
}

func start(socket, logPath string) (*Launch, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	defer ln.Close()
	sock, err := ln.File()
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cfgR, cfgW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer cfgR.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, cfgW.Close())
	}
	defer readyW.Close()
	// The argument that names no file but shows in ps(1) whose process this is.
	cmd := exec.Command(SelfExe, "host-init", socket)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{cfgR, sock, readyW}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, cfgW.Close(), readyR.Close())
	}
	return &Launch{PID: cmd.Process.Pid, cmd: cmd, config: cfgW, ready: readyR}, nil
}

// Configure hands the configuration over and waits until the host is set up and its daemons are started.
func (l *Launch) Configure(ctx context.Context, cfg Config) error {
	stop := context.AfterFunc(ctx, func() { l.ready.Close() })
	defer stop()
	defer l.ready.Close()
	err := json.NewEncoder(l.config).Encode(cfg)
	if err := errors.Join(err, l.config.Close()); err != nil {
		return fmt.Errorf("configure host %s: %w", cfg.Hostname, err)
	}
	var word ready
	if err := json.NewDecoder(l.ready).Decode(&word); err != nil {
		return fmt.Errorf("configure host %s: its first process ended: %w", cfg.Hostname, errors.Join(err, context.Cause(ctx)))
	}
	if word.Error != "" {
		return fmt.Errorf("configure host %s: %s", cfg.Hostname, word.Error)
	}
	// The process lives on by itself; nobody here will wait for it.
	return l.cmd.Process.Release()
}

// Abandon ends a process that was not configured.
func (l *Launch) Abandon() {
	l.config.Close()
	l.ready.Close()
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait()
}
