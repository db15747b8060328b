package throttle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// keeper stands by to give the originals back should this process die.
type keeper interface {
	// hold returns once somebody stands by, until as many calls of release as of hold.
	hold() error
	release()
	// check returns ErrUnguarded while nobody does.
	check() error
}

// guard keeps a watchdog alive while anything is throttled. One serves all domains; there is none
// while nothing is throttled. Methods may be called from several goroutines.
type guard struct {
	executable string
	args       []string
	order      order
	log        *slog.Logger

	// life is held while a watchdog is started or let go, so that there are never two.
	life    sync.Mutex
	holders int
	stop    chan struct{} // closed to let the watchdog go
	stopped chan struct{} // closed when keep has returned

	mu    sync.Mutex
	child *child // nil while there is none
}

// order is what a watchdog is told through its pipe.
type order struct {
	Dir   string  `json:"dir"`
	Owner process `json:"owner"`
}

const (
	// armTimeout bounds a watchdog's start: on a busy host a process needs some time.
	armTimeout = 10 * time.Second
	// rearmPause is how long to wait before a watchdog is started again.
	rearmPause = time.Second
	// armed is what a watchdog says once it is ready.
	armed = "armed\n"
)

// hold implements keeper.
func (g *guard) hold() error {
	g.life.Lock()
	defer g.life.Unlock()
	if g.holders == 0 {
		c, err := g.launch()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnguarded, err)
		}
		g.setChild(c)
		g.stop, g.stopped = make(chan struct{}), make(chan struct{})
		go g.keep(c, g.stop, g.stopped)
	}
	g.holders++
	return nil
}

// release implements keeper; the last one waits until the watchdog is gone.
func (g *guard) release() {
	g.life.Lock()
	defer g.life.Unlock()
	if g.holders--; g.holders > 0 {
		return
	}
	close(g.stop)
	<-g.stopped
	g.setChild(nil)
}

// check implements keeper: a watchdog that died is not yet replaced.
func (g *guard) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.child == nil {
		return ErrUnguarded
	}
	return nil
}

// keep replaces the watchdog whenever it dies, until stop is closed.
func (g *guard) keep(c *child, stop, stopped chan struct{}) {
	defer close(stopped)
	for {
		select {
		case <-stop:
			c.dismiss()
			return
		case <-c.dead:
		}
		g.setChild(nil)
		c.dismiss()
		g.log.Warn("the throttle's watchdog died and is started again", "err", c.err)
		for c = nil; c == nil; {
			select {
			case <-stop:
				return
			case <-time.After(rearmPause):
			}
			next, err := g.launch()
			if err != nil {
				g.log.Error("no watchdog for the throttle", "err", err)
			}
			c = next
		}
		g.setChild(c)
	}
}

func (g *guard) setChild(c *child) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.child = c
}

// child is one watchdog process.
type child struct {
	pipe *os.File      // the end whose closing sets it off
	dead chan struct{} // closed when it ended
	err  error         // why, once dead is closed
	cmd  *exec.Cmd
}

// launch starts a watchdog and waits until it is armed.
func (g *guard) launch() (*child, error) {
	// Both ends close on exec, so no other child of ours keeps the pipe open after our death.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("throttle watchdog: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(g.executable, g.args...)
	cmd.Args[0] = os.Args[0] // for people who look at the processes
	cmd.Stdin, cmd.Stderr, cmd.Dir = r, os.Stderr, "/"
	// It sleeps all its life: one thread's worth of allocator, and nothing of our environment.
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=10"}
	// Signals to our process group or terminal are not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("throttle watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("throttle watchdog: %w", err)
	}
	c := &child{pipe: w, dead: make(chan struct{}), cmd: cmd}
	if err := c.brief(g.order, answer); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = w.Close()
		return nil, fmt.Errorf("throttle watchdog: %w", err)
	}
	go func() {
		defer close(c.dead)
		c.err = cmd.Wait()
	}()
	return c, nil
}

// brief sends the order and waits for the answer.
func (c *child) brief(o order, answer io.Reader) error {
	late := time.AfterFunc(armTimeout, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	if err := json.NewEncoder(c.pipe).Encode(o); err != nil {
		return err
	}
	line, err := bufio.NewReader(answer).ReadString('\n')
	if line != armed {
		return errors.Join(fmt.Errorf("it is not armed but says %q", line), err)
	}
	return nil
}

// dismiss closes the pipe and waits for the end. What is still in the spool it gives back.
func (c *child) dismiss() {
	_ = c.pipe.Close()
	<-c.dead
}
