package throttle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drover/hypervisor"
)

// The test program is also the watchdog, and the process that throttles and is killed for it.
const (
	roleWatchdog = "test-watchdog"
	roleHolder   = "test-holder"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case roleWatchdog:
			os.Exit(exitOf(testWatchdog(os.Args[2])))
		case roleHolder:
			os.Exit(exitOf(testHolder(os.Args[2:])))
		}
	}
	goleak.VerifyTestMain(m)
}

func exitOf(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func testWatchdog(proc string) error {
	if proc == realKernel.proc {
		return Watch(os.Stdin, os.Stdout, slog.Default())
	}
	ignoreSignals()
	return watch(kernel{proc: proc, write: writeFile}, os.Stdin, os.Stdout, slog.New(slog.DiscardHandler))
}

// testHolder throttles as args say (where /proc is, the spool, the domain, the share), says so and its
// pid, then waits to be killed or for the end of its input.
func testHolder(args []string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	share, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	th, err := New(Config{
		Dir: args[1], Watchdog: []string{roleWatchdog, args[0]},
		Logger: slog.New(slog.DiscardHandler), kernel: &kernel{proc: args[0], write: writeFile}, metronomes: noMetronomes,
	})
	if err != nil {
		return err
	}
	x, err := th.Begin(context.Background(), hypervisor.DomainID(args[2]), "web")
	if err != nil {
		return err
	}
	if err := set(x, share); err != nil {
		return err
	}
	fmt.Println("throttled by", os.Getpid())
	_, _ = io.Copy(io.Discard, in)
	return x.End()
}

func (tr *tree) guard(t testing.TB) *guard {
	t.Helper()
	self, _, err := tr.kernel.identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &guard{
		executable: "/proc/self/exe", args: []string{roleWatchdog, tr.kernel.proc},
		order: order{Dir: filepath.Join(tr.root, "spool"), Owner: self}, log: slog.New(slog.DiscardHandler),
	}
}

// holder starts a process that throttles the tree's domain and returns when it has.
func (tr *tree) holder(t testing.TB) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", roleHolder, tr.kernel.proc, filepath.Join(tr.root, "spool"), string(guestID), "0.25")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	// It has to be known to the tree's kernel.
	tr.start(cmd.Process.Pid, "holder", 500)
	if _, err := io.WriteString(stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if !strings.HasPrefix(line, "throttled") {
		t.Fatalf("holder says %q, %v", line, err)
	}
	return cmd, stdin
}

func within(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func TestKilledHolder(t *testing.T) {
	versions(t, func(t *testing.T, v2 bool) {
		tr := newTree(t, func(tr *tree) { tr.v2 = v2; tr.leaf = Bandwidth{80 * ms, 100 * ms} })
		cmd, _ := tr.holder(t)
		if got, want := tr.read(1), (Bandwidth{5 * ms, 20 * ms}); got != want {
			t.Fatalf("vCPU 1 has %v, want %v", got, want)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second, "the originals are back", func() bool { return tr.has(0, tr.leaf) && tr.has(1, tr.leaf) })
		within(t, time.Second, "the spool is empty", func() bool { return len(tr.spooled()) == 0 })
		_ = cmd.Wait()
	})
}

func TestOrderlyHolder(t *testing.T) {
	tr := newTree(t, nil)
	cmd, stdin := tr.holder(t)
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := tr.read(0); got != tr.leaf || len(tr.spooled()) != 0 {
		t.Errorf("vCPU 0 has %v, spool %v", got, tr.spooled())
	}
}

func TestGuardReplacesWatchdog(t *testing.T) {
	tr := newTree(t, nil)
	g := tr.guard(t)
	for range 2 { // one watchdog for both
		if err := g.hold(); err != nil {
			t.Fatal(err)
		}
	}
	pid := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.child == nil {
			return 0
		}
		return g.child.cmd.Process.Pid
	}
	first := pid()
	// What ends services and sessions does not end it.
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(first, s); err != nil {
			t.Fatal(err)
		}
	}
	if sid, err := sessionOf(first); err != nil || sid != first {
		t.Errorf("its session is %d, %v, want its own", sid, err)
	}
	time.Sleep(50 * time.Millisecond)
	if got := pid(); got != first || g.check() != nil {
		t.Fatalf("watchdog %d after signals, want %d", got, first)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "the death is noticed", func() bool { return errors.Is(g.check(), ErrUnguarded) })
	within(t, rearmPause+armTimeout, "another stands by", func() bool { return g.check() == nil })
	second := pid()
	g.release()
	if g.check() != nil {
		t.Error("let go while it is held")
	}
	g.release()
	if err := syscall.Kill(second, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the watchdog is still there: %v", err)
	}
}

func TestGuardThatCannotStart(t *testing.T) {
	tr := newTree(t, nil)
	g := tr.guard(t)
	g.executable = "/bin/true" // ends without a word
	wantError(t, "hold", g.hold(), ErrUnguarded)
	g.executable = filepath.Join(tr.root, "nothing")
	wantError(t, "hold", g.hold(), ErrUnguarded)
	wantError(t, "check", g.check(), ErrUnguarded)
	g.executable = "/proc/self/exe"
	if err := g.hold(); err != nil {
		t.Errorf("after faults: %v", err)
	}
	g.release()
}

func TestWatchWithoutOrder(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if watch(realKernel, strings.NewReader("nonsense\n"), w, slog.Default()) == nil {
		t.Error("nonsense is taken for an order")
	}
	_ = w.Close()
}

func sessionOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return strconv.Atoi(fields[3])
}
