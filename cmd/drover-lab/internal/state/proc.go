package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that a recorded process does not run any more.
var ErrGone = errors.New("process is gone")

// Proc names one process for ever: pids are used again, a pid with its start time is not (within one boot).
type Proc struct {
	PID int `json:"pid"`
	// Start is the process's start in clock ticks after boot, field 22 of /proc/PID/stat.
	Start uint64 `json:"start"`
}

// FindProc returns the identity of the process that has this pid now; [ErrGone] when there is none.
func FindProc(pid int) (Proc, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Proc{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	start, err := parseStart(data)
	if err != nil {
		return Proc{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return Proc{PID: pid, Start: start}, nil
}

// parseStart takes the start time out of a stat line. The command name may hold blanks and parentheses, so fields are
// counted from the last closing one.
func parseStart(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("stat line without command name")
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, errors.New("stat line is too short")
	}
	if s := fields[0]; len(s) == 1 && (s[0] == 'Z' || s[0] == 'X') {
		return 0, ErrGone
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Alive reports whether that very process still runs; a zombie does not.
func (p Proc) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := FindProc(p.PID)
	return err == nil && now == p
}

// Kill sends SIGKILL to that very process and waits until it has ended, which for the first process of a pid
// namespace means that everything in the namespace has. A process that is gone already is no error.
func (p Proc) Kill(timeout time.Duration) error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("kill %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// Checked after opening: from here on the descriptor can only mean the process that was looked at.
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", p.PID, err)
	}
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("kill %d: still there after %v", p.PID, timeout)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("kill %d: wait: %w", p.PID, err)
		}
	}
}

// bootID changes with every boot of the machine.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // equal to itself: records then simply count as of this boot
	}
	return string(bytes.TrimSpace(data))
}
