package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is one TCP connection of this network namespace, as the kernel sees it.
type Conn struct {
	Cookie uint64 // SO_COOKIE: tells it from all others, also later ones
	Inode  uint32 // of the socket, as /proc/PID/fd shows it
	Local  uint16 // ports
	Remote uint16
	// Acked and Received are the bytes that the other end has acknowledged, and that it has sent.
	Acked, Received uint64
	// MinRTT is the shortest time from a segment to its acknowledgement in the last minutes.
	MinRTT time.Duration
	// Busy is for how long it had data under way, and Held for how long its send buffer alone kept it from sending.
	Busy, Held time.Duration
}

// Ports is a range of ports, both ends included.
type Ports struct{ Low, High uint16 }

func (p Ports) holds(port uint16) bool { return port >= p.Low && port <= p.High }

// What the kernel's socket diagnosis is asked, and how it answers (linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	diagInfo         = 2 // INET_DIAG_INFO
	diagMsgSize      = 72
	msgLocal         = 4 // offsets in struct inet_diag_msg
	msgRemote        = 6
	msgCookie        = 44
	msgInode         = 68
	infoAcked        = 120 // offsets in struct tcp_info
	infoReceived     = 128
	infoMinRTT       = 148 // microseconds
	infoBusy         = 168 // microseconds, from Linux 4.10 on
	infoHeld         = 184
)

type diagRequest struct {
	header unix.NlMsghdr
	family uint8
	proto  uint8
	ext    uint8
	_      uint8
	states uint32
	id     [48]byte
}

// List returns all TCP connections of this network namespace that have an end at one of the ports.
func List(ports Ports) ([]Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("socket diagnosis: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return nil, fmt.Errorf("socket diagnosis: %w", err)
	}
	var out []Conn
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := dump(fd, family, func(msg []byte) {
			if c, ok := parse(msg); ok && (ports.holds(c.Local) || ports.holds(c.Remote)) {
				out = append(out, c)
			}
		}); err != nil {
			return nil, fmt.Errorf("socket diagnosis: %w", err)
		}
	}
	return out, nil
}

func dump(fd int, family uint8, each func(msg []byte)) error {
	r := diagRequest{family: family, proto: unix.IPPROTO_TCP, ext: 1 << (diagInfo - 1)}
	for _, state := range []int{1, 4, 5, 8, 9, 11} { // all but listening and waiting ones
		r.states |= 1 << state
	}
	r.header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(r)), Type: sockDiagByFamily, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if err := unix.Sendto(fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		for rest := buf[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(rest))
			kind := binary.NativeEndian.Uint16(rest[4:])
			if size < unix.NLMSG_HDRLEN || size > len(rest) {
				return errors.New("a message is cut short")
			}
			switch kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if size < unix.NLMSG_HDRLEN+4 {
					return errors.New("refused")
				}
				return unix.Errno(-int32(binary.NativeEndian.Uint32(rest[unix.NLMSG_HDRLEN:])))
			default:
				each(rest[unix.NLMSG_HDRLEN:size])
			}
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
}

// parse reads one connection; false when the kernel tells too little of it.
func parse(msg []byte) (Conn, bool) {
	if len(msg) < diagMsgSize {
		return Conn{}, false
	}
	c := Conn{
		Local: binary.BigEndian.Uint16(msg[msgLocal:]), Remote: binary.BigEndian.Uint16(msg[msgRemote:]),
		Cookie: uint64(binary.NativeEndian.Uint32(msg[msgCookie:])) | uint64(binary.NativeEndian.Uint32(msg[msgCookie+4:]))<<32,
		Inode:  binary.NativeEndian.Uint32(msg[msgInode:]),
	}
	for rest := msg[diagMsgSize:]; len(rest) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if size < 4 || size > len(rest) {
			return Conn{}, false
		}
		if info := rest[4:size]; kind == diagInfo && len(info) >= infoReceived+8 {
			c.Acked, c.Received = binary.NativeEndian.Uint64(info[infoAcked:]), binary.NativeEndian.Uint64(info[infoReceived:])
			if len(info) >= infoHeld+8 {
				c.MinRTT = time.Duration(binary.NativeEndian.Uint32(info[infoMinRTT:])) * time.Microsecond
				c.Busy = time.Duration(binary.NativeEndian.Uint64(info[infoBusy:])) * time.Microsecond
				c.Held = time.Duration(binary.NativeEndian.Uint64(info[infoHeld:])) * time.Microsecond
			}
			return c, true
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return Conn{}, false
}
