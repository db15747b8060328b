package sockets

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	now   time.Time
	lists int
}

func (w *world) system(t *testing.T, inodes map[int]uint32) system {
	return system{
		proc: tree(t, inodes),
		list: func(Ports) ([]Conn, error) {
			w.lists++
			return slices.Clone(w.conns), nil
		},
		set: func(pid, fd int, cookie uint64, size hypervisor.Bytes) error {
			if pid != 77 {
				t.Errorf("process %d", pid)
			}
			w.got = append(w.got, setting{fd, cookie, size})
			return w.err
		},
	}
}

func (w *world) keeper(t *testing.T, inodes map[int]uint32, begun bool) *Keeper {
	w.now = time.Now()
	return newKeeper(domain, Ports{49152, 49215}, begun, w.system(t, inodes))
}

// pass lets a second go by in which each connection carries so much, busy all the time.
func (w *world) pass(mib ...uint64) {
	w.now = w.now.Add(time.Second)
	for i, n := range mib {
		w.conns[i].Acked += n << 20
		w.conns[i].Busy += time.Second
		w.conns[i].Held += time.Second
	}
}

func (w *world) keep(t *testing.T, k *Keeper, want bool) {
	t.Helper()
	if short, err := k.Keep(w.now); err != nil || short != want {
		t.Fatalf("after %d settings: short %t, %v", len(w.got), short, err)
	}
}

// A stream of this domain gets its buffer once its rate is known, and no other connection does: neither of
// another process, nor one to another port, nor one that hardly carried anything, nor one that was there before.
func TestStreamsGetTheirBuffer(t *testing.T) {
	w := &world{conns: []Conn{{Cookie: 9, Inode: 19, Remote: 49152, Acked: 100 << 20}}}
	k := w.keeper(t, map[int]uint32{20: 10, 22: 12, 23: 13, 24: 99, 29: 19}, false)
	w.keep(t, k, false)
	w.conns = append(w.conns,
		Conn{Cookie: 1, Inode: 10, Local: 40000, Remote: 49152, Acked: 100 << 20, MinRTT: 100 * time.Microsecond},
		Conn{Cookie: 2, Inode: 11, Local: 40001, Remote: 49153, Acked: 100 << 20},
		Conn{Cookie: 3, Inode: 12, Local: 49153, Remote: 40100, Acked: 100 << 20},
		Conn{Cookie: 4, Inode: 13, Local: 5900, Remote: 49153, Acked: 1 << 10})
	w.pass(100)
	w.keep(t, k, false)
	w.pass(100, 100, 100, 100)
	w.keep(t, k, true)
	if len(w.got) != 1 || w.got[0].fd != 20 || w.got[0].cookie != 1 {
		t.Fatalf("set %+v", w.got)
	}
	if size := w.got[0].size; size < 800*hypervisor.KiB || size > 880*hypervisor.KiB {
		t.Errorf("100 MiB/s and 8.2 ms: %s", size)
	}
	// As before: nothing to do, and no look at the process's files. Another stream: not short until that one is.
	w.pass(0, 100)
	w.keep(t, k, true)
	w.conns = append(w.conns, Conn{Cookie: 5, Inode: 99, Remote: 49154, Acked: 100 << 20})
	w.pass(0, 100)
	w.keep(t, k, false)
	w.pass(0, 100, 0, 0, 0, 100)
	w.keep(t, k, true)
	if len(w.got) != 2 || w.got[1].fd != 24 {
		t.Errorf("set %+v", w.got)
	}
	k.Release()
	if len(w.got) != 4 || w.got[2].size != 0 || w.got[3].size != 0 {
		t.Errorf("released with %+v", w.got)
	}
	w.pass(0, 100)
	w.keep(t, k, false)
	k = w.keeper(t, map[int]uint32{20: 10}, true)
	w.keep(t, k, false)
	w.pass(0, 100)
	if w.keep(t, k, true); len(w.got) != 5 {
		t.Errorf("adopted: set %+v", w.got)
	}
}

// A stream that has nothing to send for a while keeps its buffer.
func TestIdleStreamKeepsItsBuffer(t *testing.T) {
	w := &world{conns: []Conn{{Cookie: 1, Inode: 10, Remote: 49152, Acked: 100 << 20}}}
	k := w.keeper(t, map[int]uint32{20: 10}, true)
	for range 3 {
		w.pass(100)
		_, _ = k.Keep(w.now)
	}
	for range 20 {
		w.now = w.now.Add(time.Second)
		w.keep(t, k, true)
	}
	if len(w.got) != 1 {
		t.Errorf("set %+v", w.got)
	}
}

// What the kernel refuses is told once, and not tried again; what is over meanwhile is no error.
func TestRefusalIsForGood(t *testing.T) {
	for _, c := range []struct {
		err         error
		tries, told int
	}{{unix.EPERM, 1, 1}, {unix.ENOSYS, 1, 1}, {errReused, 2, 0}, {unix.ESRCH, 2, 0}} {
		w := &world{conns: []Conn{{Cookie: 1, Inode: 10, Remote: 49152, Acked: 100 << 20}}, err: c.err}
		k, told := w.keeper(t, map[int]uint32{20: 10}, true), 0
		for range 4 {
			w.pass(50)
			short, err := k.Keep(w.now)
			if short {
				t.Errorf("%v: taken for short", c.err)
			}
			if err != nil {
				told++
			}
		}
		if len(w.got) != c.tries || told != c.told {
			t.Errorf("%v: tried %d times, told %d times", c.err, len(w.got), told)
		}
	}
}

// Nothing is touched where two processes run the domain, as those of two hosts of a lab seen from outside; and they
// are not sought all the time.
func TestProcessIsNotSure(t *testing.T) {
	w := &world{conns: []Conn{{Cookie: 1, Inode: 10, Remote: 49152, Acked: 100 << 20}}}
	k := w.keeper(t, map[int]uint32{20: 10}, true)
	other := filepath.Join(k.system.proc, "78")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile(filepath.Join(k.system.proc, "77", "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "cmdline"), cmdline, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Keep(w.now); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	w.pass(50)
	if _, err := k.Keep(w.now); !errors.Is(err, ErrNotFound) {
		t.Errorf("sought again at once: %v", err)
	}
	w.now = w.now.Add(findAgain)
	if _, err := k.Keep(w.now); err != nil {
		t.Errorf("sought again: %v", err)
	}
}

// link is a bottleneck with a queue of somebody else's in it.
type link struct {
	fair  hypervisor.BytesPerSecond // what the stream gets with the kernel's own buffer
	rtt   time.Duration
	queue time.Duration // the others'
}

// carried is what a stream with such a buffer gets.
func (l link) carried(buffer hypervisor.Bytes) hypervisor.BytesPerSecond {
	if buffer == 0 {
		return l.fair
	}
	return min(l.fair, hypervisor.Rate(buffer, max(l.rtt+l.queue, time.Microsecond)))
}

// play lets a stream run over links, each for so many looks, and returns what it carried in each of them.
func play(begin hypervisor.BytesPerSecond, looks int, links ...link) (rates []hypervisor.BytesPerSecond, s *stream) {
	now := time.Now()
	s = &stream{at: now, since: now, wait: measured, rtt: links[0].rtt}
	c := Conn{MinRTT: links[0].rtt}
	for _, l := range links {
		for range looks {
			now = now.Add(every)
			rate := l.carried(s.buffer)
			if begin > 0 {
				rate, begin = begin, 0
			}
			c.Acked += uint64(float64(rate) * every.Seconds())
			c.Busy, c.Held = c.Busy+every, c.Held+every
			s.decide(c, now, 1)
			rates = append(rates, rate)
		}
	}
	return rates, s
}

// A buffer never keeps a stream from what the link carries, and the queue comes down to some milliseconds.
func TestBufferIsNoBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := hypervisor.BytesPerSecond(rapid.Int64Range(1<<20, 4<<30).Draw(t, "link"))
		l := link{fair: rate, rtt: time.Duration(rapid.Int64Range(10_000, int64(50*time.Millisecond)).Draw(t, "rtt"))}
		begin := hypervisor.BytesPerSecond(rapid.Int64Range(1<<10, int64(rate)).Draw(t, "begin"))
		rates, s := play(begin, 60, l)
		if last := rates[len(rates)-1]; last < rate-rate/50 {
			t.Fatalf("held back to %s of %s by %s", last, rate, s.buffer)
		}
		if queue := rate.Time(s.buffer) - l.rtt; queue > max(l.rtt+2*queueTime, rate.Time(leastBuffer))*5/4+time.Millisecond {
			t.Fatalf("a queue of %s", queue)
		}
	})
}

// A stream beside somebody else's long queue, which would leave it buffer over round trip, is not starved; once that
// is gone its queue is short again.
func TestStreamBesideALongQueue(t *testing.T) {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	alone := link{fair: 24 * mib, rtt: 200 * time.Microsecond}
	beside := link{fair: 12 * mib, rtt: 200 * time.Microsecond, queue: 120 * time.Millisecond}
	rates, s := play(0, 200, alone, beside, alone)
	var low int
	for _, r := range rates[200:400] {
		if r < 11*mib {
			low++
		}
	}
	if low > 12 {
		t.Errorf("starved in %d of 200 looks", low)
	}
	if s.state != kept || !s.short() {
		t.Errorf("in the end: %+v", s)
	}
}

// A link that became slower for good is measured anew.
func TestLinkThatBecameSlower(t *testing.T) {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	rtt := 200 * time.Microsecond
	_, s := play(0, 60, link{fair: 100 * mib, rtt: rtt}, link{fair: 20 * mib, rtt: rtt})
	if s.state != kept || s.best != 20*mib || !s.short() {
		t.Errorf("%+v", s)
	}
}

// A small buffer is not short for a slow stream.
func TestSlowStreamIsNotShort(t *testing.T) {
	_, s := play(0, 60, link{fair: 1 << 20, rtt: time.Millisecond})
	if s.short() {
		t.Errorf("%s at %s", s.buffer, s.best)
	}
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
	if err := setBuffer(other.Process.Pid, fd, cookie, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || got < int(kernelsMost)/2 {
		t.Errorf("given back: %d, %v", got, err)
	}
}
