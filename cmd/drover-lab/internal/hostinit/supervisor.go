package hostinit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
	"time"
)

// restartDelay is how long a dead daemon stays down, as with systemd's RestartSec=1.
const restartDelay = time.Second

// killDelay is how long a daemon may take to end after SIGTERM.
const killDelay = 5 * time.Second

// Errors of requests; they survive the socket by their codes.
var (
	// ErrUnknown says that there is no daemon of that name.
	ErrUnknown = errors.New("no such daemon")
	// ErrRunning says that a daemon of that name exists already.
	ErrRunning = errors.New("a daemon of that name exists")
	// ErrNotRunning says that the daemon is there but down at the moment.
	ErrNotRunning = errors.New("daemon is not running")
)

// daemon is a supervised process and what became of it. All fields are guarded by the supervisor's mutex.
type daemon struct {
	spec     Daemon
	pid      int // 0 while down
	restarts int
	exit     string
	stopping bool // do not start it again
	quick    bool // start it again at once, and do not count it
	ended    chan struct{}
}

// supervisor starts daemons, reaps them and every orphan of the host, and starts them again.
type supervisor struct {
	log    *slog.Logger
	logDir string

	mu      sync.Mutex // guards daemons; held from fork until the pid is recorded, so that no exit is missed
	daemons map[string]*daemon
	wake    chan struct{} // something was started: there is a child to wait for
}

func newSupervisor(log *slog.Logger, logDir string) *supervisor {
	return &supervisor{log: log, logDir: logDir, daemons: map[string]*daemon{}, wake: make(chan struct{}, 1)}
}

func (s *supervisor) logPath(name string) string { return filepath.Join(s.logDir, name+".log") }

func (s *supervisor) spawn(spec Daemon) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.daemons[spec.Name]; ok {
		return fmt.Errorf("spawn %s: %w", spec.Name, ErrRunning)
	}
	d := &daemon{spec: spec}
	if err := s.start(d); err != nil {
		return err
	}
	s.daemons[spec.Name] = d
	return nil
}

// start runs with the mutex held.
func (s *supervisor) start(d *daemon) error {
	out, err := os.OpenFile(s.logPath(d.spec.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("spawn %s: %w", d.spec.Name, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("spawn %s: %w", d.spec.Name, err)
	}
	defer null.Close()
	dir := d.spec.Dir
	if dir == "" {
		dir = "/"
	}
	env := d.spec.Env
	if env == nil {
		env = os.Environ()
	}
	// Not os/exec: its Wait would compete with the reaper for the exit status.
	pid, err := syscall.ForkExec(d.spec.Argv[0], d.spec.Argv, &syscall.ProcAttr{
		Dir: dir, Env: env,
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("spawn %s: %s: %w", d.spec.Name, d.spec.Argv[0], err)
	}
	d.pid, d.quick, d.ended = pid, false, make(chan struct{})
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// reap collects every child that ends, for ever.
func (s *supervisor) reap() {
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, syscall.SIGCHLD)
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			// An orphan arrives without notice, but its end sends the signal.
			select {
			case <-s.wake:
			case <-sigchld:
			}
		case err == nil:
			s.exited(pid, ws)
		}
	}
}

func (s *supervisor) exited(pid int, ws syscall.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.daemons {
		if d.pid != pid {
			continue
		}
		d.pid, d.exit = 0, describe(ws)
		close(d.ended)
		s.log.Info("daemon ended", "daemon", d.spec.Name, "exit", d.exit)
		switch {
		case d.stopping:
		case d.quick:
			s.again(d)
		case d.spec.Restart:
			time.AfterFunc(restartDelay, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if !d.stopping && d.pid == 0 {
					d.restarts++
					s.again(d)
				}
			})
		}
		return
	}
}

// again starts a daemon that was running before; with the mutex held.
func (s *supervisor) again(d *daemon) {
	if err := s.start(d); err != nil {
		d.exit = err.Error()
		s.log.Error("daemon does not start again", "daemon", d.spec.Name, "err", err)
	}
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return fmt.Sprintf("exit %d", ws.ExitStatus())
}

// signal sends sig to the daemon's process alone, not to what it started.
func (s *supervisor) signal(name string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.running(name)
	if err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return syscall.Kill(d.pid, sig)
}

// restart ends the daemon's process and starts it again as soon as it is gone; one that is down is just started.
func (s *supervisor) restart(name string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.daemons[name]
	if !ok {
		return fmt.Errorf("restart %s: %w", name, ErrUnknown)
	}
	if d.pid == 0 {
		return s.start(d)
	}
	d.quick = true
	return syscall.Kill(d.pid, sig)
}

// unspawn ends the daemon and what it left in its session's process group, and forgets it.
func (s *supervisor) unspawn(name string) error {
	s.mu.Lock()
	d, ok := s.daemons[name]
	if !ok {
		s.mu.Unlock()
		return fmt.Errorf("unspawn %s: %w", name, ErrUnknown)
	}
	d.stopping = true
	pid, ended := d.pid, d.ended
	if pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	s.mu.Unlock()
	if pid != 0 {
		select {
		case <-ended:
		case <-time.After(killDelay):
			_ = syscall.Kill(pid, syscall.SIGKILL)
			<-ended
		}
		// Setsid made it the leader of a group of the same number, which lives as long as a member does.
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.daemons, name)
	return nil
}

// running runs with the mutex held.
func (s *supervisor) running(name string) (*daemon, error) {
	d, ok := s.daemons[name]
	if !ok {
		return nil, ErrUnknown
	}
	if d.pid == 0 {
		return nil, ErrNotRunning
	}
	return d, nil
}

func (s *supervisor) list() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for name, d := range s.daemons {
		all = append(all, Status{
			Name: name, PID: d.pid, Running: d.pid != 0, Restart: d.spec.Restart, Restarts: d.restarts,
			Exit: d.exit, Argv: d.spec.Argv, Log: s.logPath(name),
		})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}
