package sockets

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"drover/hypervisor"
)

const domain = hypervisor.DomainID("4f1f2c9e-0b1f-4c5d-9d58-2f6c4a2f7a10")

// tree is a /proc with one QEMU process whose descriptors are these sockets.
func tree(t *testing.T, inodes map[int]uint32) string {
	dir := t.TempDir()
	fds := filepath.Join(dir, "77", "fd")
	if err := os.MkdirAll(fds, 0o755); err != nil {
		t.Fatal(err)
	}
	cmdline := "qemu-system-x86_64\x00-uuid\x00" + string(domain) + "\x00-S\x00"
	if err := os.WriteFile(filepath.Join(dir, "77", "cmdline"), []byte(cmdline), 0o600); err != nil {
		t.Fatal(err)
	}
	for fd, inode := range inodes {
		if err := os.Symlink("socket:["+strconv.Itoa(int(inode))+"]", filepath.Join(fds, strconv.Itoa(fd))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type setting struct {
	fd     int
	cookie uint64
	size   hypervisor.Bytes
}

// world is what the kernel tells a keeper, and what that sets.
type world struct {
	conns []Conn
	got   []setting
	err   error
}

func (w *world) keeper(t *testing.T, inodes map[int]uint32) *Keeper {
	k := NewKeeper(domain, Ports{49152, 49215})
	k.proc = tree(t, inodes)
	k.list = func(Ports) ([]Conn, error) { return w.conns, nil }
	k.set = func(pid, fd int, cookie uint64, size hypervisor.Bytes) error {
		if pid != 77 {
			t.Errorf("process %d", pid)
		}
		w.got = append(w.got, setting{fd, cookie, size})
		return w.err
	}
	return k
}

func (w *world) keep(t *testing.T, k *Keeper, now time.Time, want bool) {
	t.Helper()
	if short, err := k.Keep(now); err != nil || short != want {
		t.Fatalf("after %d settings: short %t, %v", len(w.got), short, err)
	}
}

// A stream of this domain gets its buffer once its rate is known, and no other connection does: neither of
// another process, nor one to another port, nor one that hardly carried anything.
func TestStreamsGetTheirBuffer(t *testing.T) {
	w := &world{conns: []Conn{
		{Cookie: 1, Inode: 10, Local: 40000, Remote: 49152, Acked: 100 << 20, MinRTT: 100 * time.Microsecond},
		{Cookie: 2, Inode: 11, Local: 40001, Remote: 49153, Acked: 100 << 20},
		{Cookie: 3, Inode: 12, Local: 5900, Remote: 40100, Acked: 100 << 20},
		{Cookie: 4, Inode: 13, Local: 5900, Remote: 49153, Acked: 1 << 10},
	}}
	k := w.keeper(t, map[int]uint32{20: 10, 22: 12, 23: 13, 24: 99})
	now := time.Now()
	w.keep(t, k, now, false)
	w.conns[0].Acked += 100 << 20
	w.keep(t, k, now.Add(100*time.Millisecond), false) // too soon to tell
	w.keep(t, k, now.Add(time.Second), true)
	if len(w.got) != 1 || w.got[0].fd != 20 || w.got[0].cookie != 1 {
		t.Fatalf("set %+v", w.got)
	}
	if size := w.got[0].size; size < 400*hypervisor.KiB || size > 600*hypervisor.KiB {
		t.Errorf("100 MiB/s and 5.2 ms: %s", size)
	}
	// As before: nothing to do. Another stream: not short until that one is.
	w.conns[0].Acked += 100 << 20
	w.keep(t, k, now.Add(2*time.Second), true)
	w.conns[1].Inode = 99
	w.keep(t, k, now.Add(3*time.Second), false)
	w.keep(t, k, now.Add(4*time.Second), true)
	if len(w.got) < 2 || w.got[len(w.got)-1].fd != 24 {
		t.Errorf("set %+v", w.got)
	}
	w.conns = nil
	w.keep(t, k, now.Add(5*time.Second), false)
}

// What the kernel refuses is told once, and not tried again; what is over meanwhile is.
func TestRefusalIsForGood(t *testing.T) {
	for _, c := range []struct {
		err   error
		tries int
	}{{unix.EPERM, 1}, {unix.ENOSYS, 1}, {errReused, 2}, {unix.ESRCH, 2}} {
		w := &world{conns: []Conn{{Cookie: 1, Inode: 10, Remote: 49152, Acked: 100 << 20}}, err: c.err}
		k := w.keeper(t, map[int]uint32{20: 10})
		now, told := time.Now(), 0
		for i := range 3 {
			w.conns[0].Acked += 50 << 20
			short, err := k.Keep(now.Add(time.Duration(i) * time.Second))
			if short {
				t.Errorf("%v: taken for short", c.err)
			}
			if err != nil {
				told++
			}
		}
		if len(w.got) != c.tries || told != c.tries {
			t.Errorf("%v: tried %d times, told %d times", c.err, len(w.got), told)
		}
	}
}

// Nothing is touched where two processes run the domain, as those of two hosts of a lab seen from outside.
func TestProcessIsNotSure(t *testing.T) {
	w := &world{}
	k := w.keeper(t, map[int]uint32{20: 10})
	if err := os.CopyFS(filepath.Join(k.proc, "78"), os.DirFS(filepath.Join(k.proc, "77"))); err != nil {
		// Links to nowhere can't be copied; the arguments are enough.
		t.Log(err)
	}
	if _, err := os.Stat(filepath.Join(k.proc, "78", "cmdline")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Keep(time.Now()); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// A buffer never keeps a stream from growing to what the link carries: each time that it holds the
// stream back it is made larger, and the queue comes down to some milliseconds.
func TestBufferIsNoBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		link := hypervisor.BytesPerSecond(rapid.Int64Range(1<<20, 4<<30).Draw(t, "link"))
		rtt := time.Duration(rapid.Int64Range(10_000, int64(50*time.Millisecond)).Draw(t, "rtt"))
		begin := hypervisor.BytesPerSecond(rapid.Int64Range(1<<10, int64(link)).Draw(t, "begin"))
		buffer := next(0, begin, rtt)
		rate := begin
		for range 40 {
			rate = min(link, hypervisor.Rate(buffer, max(rtt, time.Microsecond)))
			buffer = next(buffer, rate, rtt)
		}
		if rate < link-link/100 {
			t.Fatalf("held back to %s of %s by %s", rate, link, buffer)
		}
		queue := link.Time(buffer) - rtt
		if most := max(rtt+2*queueTime, link.Time(leastBuffer)) + time.Millisecond; queue > most*5/4 {
			t.Fatalf("a queue of %s at %s and %s", queue, link, rtt)
		}
	})
}

// The send buffer of another process's socket is set, and only while the descriptor is that socket.
func TestSetBuffer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := exec.Command("sleep", "60")
	other.ExtraFiles = []*os.File{f}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	cookie, err := unix.GetsockoptUint64(int(f.Fd()), unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	const fd = 3 // the first of the extra files
	err = setBuffer(other.Process.Pid, fd, cookie, 300*hypervisor.KiB)
	if errors.Is(err, unix.EPERM) && os.Getuid() != 0 {
		t.Log("not as root: refused, as it must be")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || got != 300<<10 {
		t.Errorf("buffer %d, %v", got, err)
	}
	if err := setBuffer(other.Process.Pid, fd, cookie+1, 400*hypervisor.KiB); !errors.Is(err, errReused) {
		t.Errorf("another socket's: %v", err)
	}
}
