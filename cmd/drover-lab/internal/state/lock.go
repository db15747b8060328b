package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const lockFile = "lock"

// lockRetry is how often a busy lock is tried again; flock itself cannot be given up on a context's end.
const lockRetry = 20 * time.Millisecond

// Lock makes the lab's state directory and waits until this process alone may change the lab. The kernel gives the
// lock back when its holder dies. Call the returned function once to release it.
func (s *Store) Lock(ctx context.Context) (func(), error) {
	path := filepath.Join(s.root, lockFile)
	for {
		f, err := s.tryLock(path)
		if err == nil && f != nil {
			return func() { f.Close() }, nil
		}
		if err != nil {
			return nil, fmt.Errorf("lock lab %s: %w", s.name, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock lab %s: another command is changing it: %w", s.name, context.Cause(ctx))
		case <-time.After(lockRetry):
		}
	}
}

// tryLock returns nil without error when somebody else holds the lock, or removed the file meanwhile.
func (s *Store) tryLock(path string) (*os.File, error) {
	err := os.MkdirAll(s.root, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // another lab's end took the directory above away in between
	} else if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	// `down` removes the file while holding its lock: a lock on a removed file protects nothing.
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, nil
	}
	return f, nil
}
