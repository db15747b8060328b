package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"drover/hypervisor"
)

// LinkCounters reads what the migration network's interface has carried, and what of it were migrations'
// streams: the connections from and to libvirt's ports for them, as the kernel counts their bytes.
func (h *Host) LinkCounters() (hypervisor.LinkCounters, error) {
	c := hypervisor.LinkCounters{Interface: h.migrationInterface()}
	if c.Interface == "" {
		return c, errors.New("the migration network's interface is not known")
	}
	var err error
	if c.Rx, c.Tx, err = h.load.proc.traffic(c.Interface); err != nil {
		return c, err
	}
	low, high := h.qemuConf.migrationPorts()
	// Where the kernel does not tell, whose traffic it is stays unknown.
	c.Streams, _ = streamCounters(low, high)
	return c, nil
}

// migrationPorts are those that QEMU listens on for streams and for copies of disks.
func (c *qemuConf) migrationPorts() (low, high uint16) {
	port := func(key string, otherwise uint16) uint16 {
		n, err := strconv.ParseUint(c.first(key, ""), 10, 16)
		if err != nil || n == 0 {
			return otherwise
		}
		return uint16(n)
	}
	return port("migration_port_min", 49152), port("migration_port_max", 49215)
}

// What the kernel's socket diagnosis is asked, and how it answers (linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	diagInfo         = 2 // INET_DIAG_INFO
	diagMsgSize      = 72
	infoAcked        = 120 // offsets in struct tcp_info
	infoReceived     = 128
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

// streamCounters reads the totals of all TCP connections of this network namespace with one end at a port of
// the range.
func streamCounters(low, high uint16) (map[uint64]hypervisor.StreamCounters, error) {
	out := map[uint64]hypervisor.StreamCounters{}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("socket diagnosis: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return nil, fmt.Errorf("socket diagnosis: %w", err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := dumpSockets(fd, family, func(msg []byte) {
			readSocket(msg, low, high, out)
		}); err != nil {
			return nil, fmt.Errorf("socket diagnosis: %w", err)
		}
	}
	return out, nil
}

func dumpSockets(fd int, family uint8, each func(msg []byte)) error {
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

// readSocket adds one connection, if it is a stream.
func readSocket(msg []byte, low, high uint16, into map[uint64]hypervisor.StreamCounters) {
	if len(msg) < diagMsgSize {
		return
	}
	within := func(port uint16) bool { return port >= low && port <= high }
	if !within(binary.BigEndian.Uint16(msg[4:])) && !within(binary.BigEndian.Uint16(msg[6:])) {
		return
	}
	cookie := binary.NativeEndian.Uint64(msg[44:])
	for rest := msg[diagMsgSize:]; len(rest) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if size < 4 || size > len(rest) {
			return
		}
		if info := rest[4:size]; kind == diagInfo && len(info) >= infoReceived+8 {
			into[cookie] = hypervisor.StreamCounters{
				Tx: binary.NativeEndian.Uint64(info[infoAcked:]), Rx: binary.NativeEndian.Uint64(info[infoReceived:]),
			}
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
}
