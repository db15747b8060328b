package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drover/hypervisor"
)

const (
	// every is how often the streams are looked at, and watched the least time over which their rate is measured.
	every   = 300 * time.Millisecond
	watched = every
	// streamAtLeast is what a connection must have carried to be taken for a stream: a console's may have
	// an end at a port of the range by chance.
	streamAtLeast = 4 << 20
)

// ErrNotFound: no QEMU process on this host runs the domain, or none that can be told from others.
var ErrNotFound = errors.New("the domain's QEMU process is not found")

// Keeper keeps the queue in front of the link short for the streams of one domain that leaves this host. It
// is used by one goroutine.
type Keeper struct {
	id    hypervisor.DomainID
	ports Ports
	proc  string // /proc
	list  func(Ports) ([]Conn, error)
	set   func(pid, fd int, cookie uint64, size hypervisor.Bytes) error

	pid     int
	looked  time.Time
	streams map[uint64]*stream
	short   bool
	failed  error // for good
}

type stream struct {
	acked  uint64
	at     time.Time
	buffer hypervisor.Bytes
}

// NewKeeper returns the keeper of a domain's streams, which go to these ports of other hosts.
func NewKeeper(id hypervisor.DomainID, ports Ports) *Keeper {
	return &Keeper{id: id, ports: ports, proc: "/proc", list: List, set: setBuffer, streams: map[uint64]*stream{}}
}

// Keep looks at the streams if it has not just done so, and sets their buffers where that is worth it. It
// reports whether all of the streams that there are have a short queue. Call it as often as the job is looked at.
// An error of the kernel's refusal is returned once: nothing more is tried after that.
func (k *Keeper) Keep(now time.Time) (bool, error) {
	if k.failed != nil || now.Sub(k.looked) < every {
		return k.short, nil
	}
	k.looked = now
	short, err := k.look(now)
	k.short = short && err == nil
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
		k.failed = err
	}
	return k.short, err
}

func (k *Keeper) look(now time.Time) (bool, error) {
	all, err := k.list(k.ports)
	if err != nil {
		return false, err
	}
	fds, err := k.sockets()
	if err != nil {
		return false, err
	}
	short, found := true, map[uint64]*stream{}
	for _, c := range all {
		fd, mine := fds[c.Inode]
		if !mine || !k.ports.holds(c.Remote) || c.Acked < streamAtLeast {
			continue
		}
		s := k.streams[c.Cookie]
		if s == nil {
			s = &stream{acked: c.Acked, at: now}
		}
		found[c.Cookie] = s
		if took := now.Sub(s.at); took >= watched {
			rate := hypervisor.Rate(hypervisor.Bytes(c.Acked-s.acked), took)
			s.acked, s.at = c.Acked, now
			if size := next(s.buffer, rate, c.MinRTT); size != s.buffer {
				if err := k.set(k.pid, fd, c.Cookie, size); err != nil {
					return false, fmt.Errorf("send buffer of a stream: %w", err)
				}
				s.buffer = size
			}
		}
		short = short && s.buffer > 0
	}
	k.streams = found
	return short && len(found) > 0, nil
}

// sockets are the file descriptors of the domain's QEMU process, by the inodes of their sockets.
func (k *Keeper) sockets() (map[uint32]int, error) {
	if k.pid == 0 {
		if err := k.find(); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(k.proc, strconv.Itoa(k.pid), "fd")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		k.pid = 0
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	out := map[uint32]int{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		inode, isSocket := strings.CutPrefix(to, "socket:[")
		n, err := strconv.ParseUint(strings.TrimSuffix(inode, "]"), 10, 32)
		fd, err2 := strconv.Atoi(e.Name())
		if isSocket && err == nil && err2 == nil {
			out[uint32(n)] = fd
		}
	}
	return out, nil
}

// find looks for the domain's QEMU process by its arguments, as a pid file's name depends on the domain's
// name and on where this libvirt keeps its state.
func (k *Keeper) find() error {
	procs, err := os.ReadDir(k.proc)
	if err != nil {
		return err
	}
	args := []byte("\x00-uuid\x00" + string(k.id) + "\x00")
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(k.proc, e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(cmdline, args) {
			continue
		}
		if k.pid != 0 {
			k.pid = 0
			return ErrNotFound
		}
		k.pid = pid
	}
	if k.pid == 0 {
		return ErrNotFound
	}
	return nil
}

// errReused: the descriptor is another socket's by now.
var errReused = errors.New("the connection is closed")

// setBuffer sets the send buffer of another process's socket. The copy of the descriptor lives for a few
// microseconds: as long as it does, the connection does not end by the process's closing it.
func setBuffer(pid, fd int, cookie uint64, size hypervisor.Bytes) error {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(p)
	s, err := unix.PidfdGetfd(p, fd, 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	defer unix.Close(s)
	if got, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil || got != cookie {
		return errReused
	}
	// The kernel doubles what it is told, to have room for its own bookkeeping (socket(7)).
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, int(size/2)); err != nil {
		return fmt.Errorf("SO_SNDBUFFORCE: %w", err)
	}
	return nil
}
