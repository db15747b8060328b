package hostinit

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve runs a supervisor in this process as a host's first process would, and returns a client of it.
func serve(t *testing.T) (*Client, string) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := newSupervisor(slog.New(slog.NewTextHandler(io.Discard, nil)), dir)
	go func() { _ = s.run(t.Context(), l) }()
	t.Cleanup(func() { l.Close() })
	return NewClient(socket), dir
}

func status(t *testing.T, c *Client, name string) Status {
	t.Helper()
	all, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Name == name {
			return d
		}
	}
	return Status{}
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// All of it is one test: the reaper takes every child of the process, so there can be one at a time.
func TestSupervisor(t *testing.T) {
	c, dir := serve(t)
	t.Run("once", func(t *testing.T) { testOnce(t, c, dir) })
	t.Run("restart", func(t *testing.T) { testRestart(t, c) })
	t.Run("unspawn", func(t *testing.T) { testUnspawn(t, c, dir) })
}

func sh(name, script string, restart bool) Daemon {
	return Daemon{Name: name, Argv: []string{"/bin/sh", "-c", script}, Env: []string{"WORD=hello"}, Restart: restart}
}

func testOnce(t *testing.T, c *Client, dir string) {
	ctx := t.Context()
	if err := c.Spawn(ctx, sh("once", "echo $WORD; echo err >&2; exit 3", false)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "daemon ends", func() bool { return status(t, c, "once").Exit == "exit 3" })
	if data, _ := os.ReadFile(filepath.Join(dir, "once.log")); string(data) != "hello\nerr\n" {
		t.Errorf("log holds %q, want both streams", data)
	}
	if err := c.Signal(ctx, "once", syscall.SIGTERM); !errors.Is(err, ErrNotRunning) {
		t.Errorf("signal to a daemon that ended: got %v, want ErrNotRunning", err)
	}
}

func testRestart(t *testing.T, c *Client) {
	ctx := t.Context()
	if err := c.Spawn(ctx, sh("keep", "exec sleep 100", true)); err != nil {
		t.Fatal(err)
	}
	if err := c.Spawn(ctx, sh("keep", "true", false)); !errors.Is(err, ErrRunning) {
		t.Errorf("second spawn of one name: got %v, want ErrRunning", err)
	}
	first, killed := status(t, c, "keep").PID, time.Now()
	if err := c.Signal(ctx, "keep", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "daemon is started again", func() bool { d := status(t, c, "keep"); return d.Running && d.PID != first })
	if d := time.Since(killed); d < restartDelay {
		t.Errorf("started again after %v, want %v at least", d, restartDelay)
	}
	if d := status(t, c, "keep"); d.Restarts != 1 || !strings.Contains(d.Exit, "killed") {
		t.Errorf("after a kill: %+v, want one restart and the signal", d)
	}

	second, asked := status(t, c, "keep").PID, time.Now()
	if err := c.Restart(ctx, "keep", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "daemon is restarted", func() bool { d := status(t, c, "keep"); return d.Running && d.PID != second })
	if d := time.Since(asked); d > restartDelay/2 {
		t.Errorf("an asked-for restart took %v: it must not wait", d)
	}
}

func testUnspawn(t *testing.T, c *Client, dir string) {
	ctx := t.Context()
	// A child that the daemon left behind goes with it.
	if err := c.Spawn(ctx, sh("parent", "sleep 100 & echo $!; wait", false)); err != nil {
		t.Fatal(err)
	}
	var child string
	eventually(t, "child is started", func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, "parent.log"))
		child = strings.TrimSpace(string(data))
		return child != ""
	})
	for _, name := range []string{"parent", "keep", "once"} {
		if err := c.Unspawn(ctx, name); err != nil {
			t.Errorf("unspawn %s: %v", name, err)
		}
	}
	eventually(t, "child ends", func() bool { _, err := os.Stat("/proc/" + child); return err != nil })
	if all, err := c.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("after unspawn: %v, %v, want nothing", all, err)
	}
	if err := c.Unspawn(ctx, "keep"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unspawn of an unknown daemon: got %v, want ErrUnknown", err)
	}
	if err := c.Spawn(ctx, Daemon{Name: "bad", Argv: []string{"/nonexistent"}}); err == nil || status(t, c, "bad").Name != "" {
		t.Errorf("spawn of a missing program: %v, and it is listed: %+v", err, status(t, c, "bad"))
	}
}

func TestRunInHostRefusesHands(t *testing.T) {
	for _, args := range [][]string{nil, {"--"}, {"true"}, {"x", "--", "true"}} {
		if err := RunInHost(args); err == nil {
			t.Errorf("RunInHost(%q): want an error", args)
		}
	}
}
