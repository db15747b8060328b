package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// historyBytes is how much of the file before the probe is read for the usual work rate: about ten seconds.
const historyBytes = 4096

// wakeEvery bounds how long a silent guest keeps the probe from noticing that it should stop.
const wakeEvery = 100

// Options choose what a probe looks at.
type Options struct {
	// Since is a mark: what the guest said from there on is counted too. Negative for nothing but the present.
	Since int64
}

// Mark returns the present end of a serial file.
func Mark(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	return info.Size(), nil
}

// Run watches the serial file until ctx ends, which is the normal end, and reports what it saw.
func Run(ctx context.Context, path string, opts Options) (Report, error) {
	r, err := run(ctx, path, opts)
	if err != nil {
		return r, fmt.Errorf("probe: %w", err)
	}
	return r, nil
}

// atOnce lets this goroutine run whenever it wants to, if the machine allows, until the returned function is called:
// a stamp that waits for a busy CPU makes the guest's silence longer than it was.
func atOnce() (undo func()) {
	runtime.LockOSThread()
	if unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0) == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}
}

func run(ctx context.Context, path string, opts Options) (Report, error) {
	defer atOnce()()
	f, err := os.Open(path)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return Report{}, fmt.Errorf("inotify: %w", err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, path, unix.IN_MODIFY); err != nil {
		return Report{}, fmt.Errorf("inotify: %w", err)
	}
	a, mark, err := begin(f, opts)
	if err != nil {
		return Report{}, err
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		if err := wait(watch, buf); err != nil {
			return Report{}, err
		}
		at := time.Now()
		n, err := f.ReadAt(buf, mark)
		if err != nil && !errors.Is(err, io.EOF) {
			return Report{}, err
		}
		a.Grow(at, buf[:n])
		mark += int64(n)
	}
	r := a.Report(time.Now())
	r.Mark = mark
	return r, nil
}

// begin reads what is needed of the file's past, and returns where its present begins.
func begin(f *os.File, opts Options) (*Analysis, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := info.Size()
	since := opts.Since
	if since < 0 || since > size {
		since = size
	}
	from := min(since, max(0, size-historyBytes))
	history := make([]byte, size-from)
	if _, err := f.ReadAt(history, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return NewAnalysis(time.Now(), history, int(since-from)), size, nil
}

// wait returns when the file grew, or a little later than never.
func wait(watch int, buf []byte) error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(watch), Events: unix.POLLIN}}, wakeEvery)
	if n > 0 {
		// The events themselves say nothing new; taking them rearms the watch.
		_, err = unix.Read(watch, buf)
	}
	if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("inotify: %w", err)
	}
	return nil
}
