package throttle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"
)

const (
	// retryPause and retryFor are how the watchdog insists when the kernel refuses a write.
	retryPause = 100 * time.Millisecond
	retryFor   = 4 * time.Second
)

// Watch is the whole life of the watchdog process: it reads from in for whom it watches, says on out
// that it is armed, waits until in ends, which is when the other process ended, and gives back what
// that one left throttled. It ignores the signals by which services and sessions are ended: what it
// waits for comes soon after. An error means that something may still be throttled.
func Watch(in io.Reader, out io.WriteCloser, log *slog.Logger) error {
	ignoreSignals()
	return watch(realKernel, in, out, log)
}

func ignoreSignals() {
	// A reader of our log that died with the agent must not take us along either.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
}

func watch(k kernel, in io.Reader, out io.WriteCloser, log *slog.Logger) error {
	r := bufio.NewReaderSize(in, 512)
	line, err := r.ReadBytes('\n')
	var o order
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		return fmt.Errorf("throttle watchdog: no order: %w", err)
	}
	if _, err := io.WriteString(out, armed); err != nil {
		return fmt.Errorf("throttle watchdog: %w", err)
	}
	_ = out.Close()
	// Any error is as good a sign as the end.
	_, _ = io.Copy(io.Discard, r)
	var errs error
	for began := time.Now(); time.Since(began) < retryFor; time.Sleep(retryPause) {
		_, errs = recoverSpool(k, spool{dir: o.Dir}, log, func(owner process) bool { return owner == o.Owner })
		if errs == nil {
			return nil
		}
	}
	return errors.Join(errors.New("throttle watchdog: a quota was not given back"), errs)
}
