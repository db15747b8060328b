package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drover/hypervisor"
)

const (
	// every is how often the streams are looked at.
	every = 400 * time.Millisecond
	// findAgain is how long a domain's process that was not found is not looked for.
	findAgain = 30 * time.Second
	// streamAtLeast is what a connection must have carried to be taken for a stream: a console's may have
	// an end at a port of the range by chance.
	streamAtLeast = 4 << 20
)

// ErrNotFound: no QEMU process on this host runs the domain, or none that can be told from others.
var ErrNotFound = errors.New("the domain's QEMU process is not found")

// Keeper keeps the queue in front of the link short for the streams of one domain that leaves this host. It
// is used by one goroutine.
type Keeper struct {
	id     hypervisor.DomainID
	ports  Ports
	system system

	pid     int
	sought  time.Time
	looked  time.Time
	others  map[uint64]bool // connections, by their cookies, that are none of its streams
	streams map[uint64]*stream
	short   bool
	failed  bool  // for good
	untold  error // why it failed at the beginning
}

// system is the part of the kernel that a keeper uses.
type system struct {
	proc string // /proc
	list func(Ports) ([]Conn, error)
	set  func(pid, fd int, cookie uint64, size hypervisor.Bytes) error
}

// NewKeeper returns the keeper of a domain's streams, which go to these ports of other hosts. Connections that the
// domain has there already are left alone if the migration is yet to begin: they may be to its storage.
func NewKeeper(id hypervisor.DomainID, ports Ports, begun bool) *Keeper {
	return newKeeper(id, ports, begun, system{"/proc", List, setBuffer})
}

func newKeeper(id hypervisor.DomainID, ports Ports, begun bool, s system) *Keeper {
	k := &Keeper{id: id, ports: ports, system: s, others: map[uint64]bool{}, streams: map[uint64]*stream{}}
	if begun {
		return k
	}
	all, err := k.system.list(ports)
	for _, c := range all {
		k.others[c.Cookie] = true
	}
	k.failed, k.untold = err != nil, err // which are its streams can't be told
	return k
}

// Keep looks at the streams if it has not just done so, and sets their buffers where that is worth it. It
// reports whether all of the streams that there are have a short queue. Call it as often as the job is looked at.
// An error of the kernel's refusal is returned once: nothing more is tried after that.
func (k *Keeper) Keep(now time.Time) (bool, error) {
	if err := k.untold; err != nil {
		k.untold = nil
		return false, err
	}
	if k.failed || now.Sub(k.looked) < every {
		return k.short, nil
	}
	k.looked = now
	short, err := k.look(now)
	k.short = short && err == nil
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
		k.failed = true
	}
	return k.short, err
}

// Release gives the buffers of the streams that there still are back to the kernel: nobody will look after them.
func (k *Keeper) Release() {
	for cookie, s := range k.streams {
		if s.buffer > 0 {
			_ = k.system.set(k.pid, s.fd, cookie, 0) // it is gone, most likely
		}
	}
	k.streams, k.short, k.failed = map[uint64]*stream{}, false, true
}

func (k *Keeper) look(now time.Time) (bool, error) {
	all, err := k.system.list(k.ports)
	if err != nil {
		return false, err
	}
	all = slices.DeleteFunc(all, func(c Conn) bool {
		return !k.ports.holds(c.Remote) || c.Acked < streamAtLeast || k.others[c.Cookie]
	})
	isNew := func(c Conn) bool { return k.streams[c.Cookie] == nil }
	if slices.ContainsFunc(all, isNew) {
		if err := k.meet(all, now); err != nil {
			return false, err
		}
	}
	short, found := true, map[uint64]*stream{}
	for _, c := range all {
		s := k.streams[c.Cookie]
		if s == nil || !s.at.Before(now) {
			short = short && s == nil // not measured yet
			if s != nil {
				found[c.Cookie] = s
			}
			continue
		}
		before := s.buffer
		if size := s.decide(c, now, len(all)); size != before {
			switch err := k.system.set(k.pid, s.fd, c.Cookie, size); {
			case errors.Is(err, errReused), errors.Is(err, unix.EBADF), errors.Is(err, unix.ESRCH):
				continue // closed meanwhile
			case err != nil:
				return false, fmt.Errorf("send buffer of a stream: %w", err)
			}
		}
		found[c.Cookie] = s
		short = short && s.short()
	}
	k.streams = found
	return short && len(found) > 0, nil
}

// meet finds out which of the connections are this domain's.
func (k *Keeper) meet(all []Conn, now time.Time) error {
	fds, err := k.sockets(now)
	if err != nil {
		return err
	}
	for _, c := range all {
		if k.streams[c.Cookie] != nil {
			continue
		}
		if fd, mine := fds[c.Inode]; mine {
			k.streams[c.Cookie] = &stream{fd: fd, acked: c.Acked, busy: c.Busy, held: c.Held, at: now, since: now, wait: measured}
		} else {
			k.others[c.Cookie] = true
		}
	}
	return nil
}

// sockets are the file descriptors of the domain's QEMU process, by the inodes of their sockets.
func (k *Keeper) sockets(now time.Time) (map[uint32]int, error) {
	if k.pid == 0 {
		if err := k.find(now); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(k.system.proc, strconv.Itoa(k.pid), "fd")
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
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
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
func (k *Keeper) find(now time.Time) error {
	if now.Sub(k.sought) < findAgain {
		return ErrNotFound
	}
	k.sought = now
	procs, err := os.ReadDir(k.system.proc)
	if err != nil {
		return err
	}
	args := []byte("\x00-uuid\x00" + string(k.id) + "\x00")
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(k.system.proc, e.Name(), "cmdline"))
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

// setBuffer sets the send buffer of another process's socket; 0 gives it back to the kernel. The copy of the descriptor lives for a few
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
	set := func(name string, option, value int) error {
		if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, option, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	// The kernel doubles what it is told, to have room for its own bookkeeping (socket(7)).
	if size > 0 {
		return set("SO_SNDBUFFORCE", unix.SO_SNDBUFFORCE, int(size/2))
	}
	if err := set("SO_SNDBUFFORCE", unix.SO_SNDBUFFORCE, int(kernelsMost/2)); err != nil {
		return err
	}
	// From Linux 5.15 on the kernel goes on to size it; before, it stays that large.
	_ = set("SO_BUF_LOCK", unix.SO_BUF_LOCK, 0)
	return nil
}

// kernelsMost is the largest buffer that the kernel makes by itself, as it comes (tcp_wmem).
const kernelsMost = 4 * hypervisor.MiB
