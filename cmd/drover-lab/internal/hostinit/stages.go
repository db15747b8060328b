package hostinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// SelfExe is the running program, even if its file was replaced or deleted since. It must be opened before the host
// mounts its own /proc.
const SelfExe = "/proc/self/exe"

// Main is the hidden command that a host's first process runs. It returns only with an error.
func Main(ctx context.Context, log *slog.Logger) error {
	if os.Getpid() != 1 {
		return errors.New("host-init: is started by `drover-lab up`, not by hand")
	}
	if text, ok := os.LookupEnv(configEnv); ok {
		return stage2(ctx, log, text)
	}
	return stage1()
}

func stage1() error {
	// The cgroup namespace and the exec below belong to one thread.
	runtime.LockOSThread()
	pipe := os.NewFile(fdConfig, "config")
	text, err := io.ReadAll(pipe)
	if err != nil {
		return fmt.Errorf("host-init: configuration: %w", err)
	}
	if err := pipe.Close(); err != nil {
		return fmt.Errorf("host-init: configuration: %w", err)
	}
	if len(text) == 0 {
		return errors.New("host-init: whoever started this host is gone")
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("host-init: cgroup namespace: %w", err)
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", configEnv + "=" + string(text)}
	err = unix.Exec(SelfExe, os.Args, env)
	return fmt.Errorf("host-init: second stage: %w", err)
}

func stage2(ctx context.Context, log *slog.Logger, text string) error {
	unix.CloseOnExec(fdSocket)
	unix.CloseOnExec(fdReady)
	report := os.NewFile(fdReady, "ready")
	s, l, err := prepare(log, text)
	word := ready{}
	if err != nil {
		word.Error = err.Error()
	}
	if werr := errors.Join(json.NewEncoder(report).Encode(word), report.Close()); werr != nil && err == nil {
		// Nobody waits for this host any more: it must not stay.
		err = fmt.Errorf("host-init: report: %w", werr)
	}
	if err != nil {
		return err
	}
	return s.run(ctx, l)
}

func prepare(log *slog.Logger, text string) (*supervisor, net.Listener, error) {
	if err := os.Unsetenv(configEnv); err != nil {
		return nil, nil, err
	}
	var cfg Config
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&cfg); err != nil {
		return nil, nil, fmt.Errorf("host-init: configuration: %w", err)
	}
	if err := setup(cfg); err != nil {
		return nil, nil, fmt.Errorf("host-init: %w", err)
	}
	sock := os.NewFile(fdSocket, "control")
	l, err := net.FileListener(sock)
	if err := errors.Join(err, sock.Close()); err != nil {
		return nil, nil, fmt.Errorf("host-init: control socket: %w", err)
	}
	s := newSupervisor(log, cfg.LogDir)
	for _, d := range cfg.Daemons {
		if err := s.spawn(d); err != nil {
			return nil, nil, fmt.Errorf("host-init: %w", err)
		}
	}
	return s, l, nil
}
