// Package hooks runs the commands that a host's settings allow, under names by which records ask for them:
// what is in the store never is a command line.
//
// A hook NAME is the executable file NAME in the hooks directory. It is run only if nobody but root, or the
// user that this program runs as, can change the file or the directory. It gets no arguments and no standard
// input; what it is about stands in variables that begin with DROVER_. A hook that takes longer than it may is
// sent TERM, with all processes of its group, and after a pause KILL.
package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"drover/precopy"
)

const (
	// defaultGrace is the pause between TERM and KILL unless the call says otherwise.
	defaultGrace = 10 * time.Second
	// maxTimeout bounds what a record may ask for.
	maxTimeout = 24 * time.Hour
	// tail is how much of the end of a hook's output is kept.
	tail = 4096
	// kept is for how many attempts results are remembered.
	kept = 64
)

// ErrNotAllowed: there is no such hook here, or others than root could change it.
var ErrNotAllowed = errors.New("not an allowed hook")

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName reports whether a hook may be called so.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("hook %q: want lower-case letters, digits, dots and dashes, at most 63", name)
	}
	return nil
}

// Dir is a hooks directory. An attempt that is asked for again gets the result of the first time, as long as
// this process remembers it. Safe for concurrent use.
type Dir struct {
	path string

	mu       sync.Mutex
	attempts map[string]*attempt
	order    []string // of attempts, oldest first
}

type attempt struct {
	done   chan struct{}
	result precopy.HookResult
}

// Open returns the hooks of a directory, which may be made later; an empty path allows none.
func Open(path string) *Dir { return &Dir{path: path, attempts: map[string]*attempt{}} }

// Run carries a call out, and returns when it is over. When ctx ends first the hook goes on to its own end or
// its time limit, and the result says that it was not waited for.
func (d *Dir) Run(ctx context.Context, c precopy.HookCall) precopy.HookResult {
	d.mu.Lock()
	a, known := d.attempts[c.Attempt]
	if !known || c.Attempt == "" {
		a = &attempt{done: make(chan struct{})}
		d.remember(c.Attempt, a)
		go func() {
			a.result = d.run(c)
			close(a.done)
		}()
	}
	d.mu.Unlock()
	select {
	case <-a.done:
		return a.result
	case <-ctx.Done():
		return precopy.HookResult{Exit: -1, Lost: true, Error: "it was not waited for: " + ctx.Err().Error()}
	}
}

// remember keeps an attempt and forgets the oldest that is over; d.mu is held.
func (d *Dir) remember(id string, a *attempt) {
	if id == "" {
		return
	}
	d.attempts[id] = a
	d.order = append(d.order, id)
	if len(d.order) <= kept {
		return
	}
	for i, old := range d.order {
		select {
		case <-d.attempts[old].done:
			delete(d.attempts, old)
			d.order = slices.Delete(d.order, i, i+1)
			return
		default:
		}
	}
}

func (d *Dir) run(c precopy.HookCall) precopy.HookResult {
	began := time.Now()
	path, err := d.find(c.Name)
	if err != nil {
		return precopy.HookResult{Exit: -1, Error: err.Error()}
	}
	timeout, grace := c.Timeout, c.Grace
	if timeout <= 0 || timeout > maxTimeout {
		return precopy.HookResult{Exit: -1, Error: fmt.Sprintf("a time limit of %s: want more than 0, at most %s", timeout, maxTimeout)}
	}
	if grace <= 0 {
		grace = defaultGrace
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = environment(c.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &ending{}
	cmd.Stdout, cmd.Stderr = out, out
	group := func(s syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, s) }
	cmd.Cancel = func() error { return group(syscall.SIGTERM) }
	cmd.WaitDelay = grace // then it is killed, and its output no longer waited for
	err = cmd.Run()
	timedOut := ctx.Err() != nil
	if timedOut && cmd.Process != nil {
		_ = group(syscall.SIGKILL) // what the hook has left behind
	}
	r := precopy.HookResult{Exit: -1, TimedOut: timedOut, Seconds: time.Since(began).Seconds(), Output: out.String()}
	if cmd.ProcessState != nil {
		r.Exit = cmd.ProcessState.ExitCode()
	}
	switch {
	case timedOut:
		r.Error = fmt.Sprintf("it took longer than %s and was stopped", timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		r.Error = "" // it has ended; something that it left behind still holds its output
	case err != nil:
		r.Error = err.Error()
	}
	return r
}

// find returns the hook's file, if it is one that may be run.
func (d *Dir) find(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if d.path == "" {
		return "", fmt.Errorf("%w: %s: this host has no hooks (hooks-dir)", ErrNotAllowed, name)
	}
	path := filepath.Join(d.path, name)
	for _, p := range []string{d.path, path} {
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("%w: there is no %s", ErrNotAllowed, p)
		case err != nil:
			return "", fmt.Errorf("%w: %w", ErrNotAllowed, err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return "", fmt.Errorf("%w: %s belongs to user %d: want root", ErrNotAllowed, p, st.Uid)
		}
		if info.Mode().Perm()&0o022 != 0 {
			return "", fmt.Errorf("%w: others may write to %s: chmod go-w", ErrNotAllowed, p)
		}
		if p == path && (!info.Mode().IsRegular() || info.Mode().Perm()&0o100 == 0) {
			return "", fmt.Errorf("%w: %s is no executable file", ErrNotAllowed, p)
		}
	}
	return path, nil
}

// environment is what hooks get: a few variables of this process, and those of the call that are drover's.
func environment(extra map[string]string) []string {
	out := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=" + os.Getenv("HOME")}
	for k, v := range extra {
		if strings.HasPrefix(k, "DROVER_") && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00") {
			out = append(out, k+"="+v)
		}
	}
	return out
}

// ending keeps the end of what is written to it.
type ending struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (e *ending) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf = append(e.buf, p...)
	if n := len(e.buf); n > 2*tail {
		e.buf = append(e.buf[:0], e.buf[n-tail:]...)
	}
	return len(p), nil
}

// String is the end, as text without control characters that a terminal would obey.
func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.buf[max(0, len(e.buf)-tail):]
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(bytes.TrimRight(b, "\n")), "?"))
	return text
}
