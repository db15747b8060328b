package netns

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Net is the network namespace alone; All is everything a host has of its own except its cgroup namespace.
const (
	Net = unix.CLONE_NEWNET
	All = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
)

// ErrGone says that the process whose namespaces were to be entered does not exist any more.
var ErrGone = errors.New("host is not running")

// Do runs fn on a thread that is in the given namespaces of process pid. Children that fn starts are there too,
// in the pid namespace as well. The thread is not used again. Whoever uses Do must keep the main thread locked to the
// main goroutine, or the process's own /proc/self may change.
func Do(pid, flags int, fn func() error) error {
	errc := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime then ends the thread with the goroutine.
		runtime.LockOSThread()
		errc <- do(pid, flags, fn)
	}()
	return <-errc
}

func do(pid, flags int, fn func() error) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("enter namespaces of %d: %w", pid, errors.Join(ErrGone, err))
	}
	defer unix.Close(fd)
	// Threads share root and working directory; a mount namespace can only be entered by one that does not.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter namespaces of %d: unshare: %w", pid, err)
	}
	if err := unix.Setns(fd, flags); err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = errors.Join(ErrGone, err)
		}
		return fmt.Errorf("enter namespaces of %d: %w", pid, err)
	}
	return fn()
}
