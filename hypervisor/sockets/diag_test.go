package sockets

import (
	"io"
	"net"
	"testing"
)

// The kernel's counts of a connection to a port of the range, seen from both of its ends.
func TestList(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	got := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			got <- c
		}
	}()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in := <-got
	defer in.Close()
	const n = 100_000
	go func() { _, _ = out.Write(make([]byte, n)) }()
	if _, err := io.ReadFull(in, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	all, err := List(Ports{port, port})
	if err != nil {
		t.Fatal(err)
	}
	var sum Conn
	for _, c := range all {
		sum.Received, sum.Acked = sum.Received+c.Received, sum.Acked+c.Acked
		if c.Inode == 0 || c.Cookie == 0 {
			t.Errorf("who has it is not told: %+v", c)
		}
	}
	// One byte more is counted for the handshake.
	if len(all) != 2 || sum.Received < n || sum.Received > n+2 || sum.Acked > n+2 {
		t.Errorf("two ends of a connection that carried %d bytes: %v", n, all)
	}
	if other, err := List(Ports{1, 1}); err != nil || len(other) != 0 {
		t.Errorf("no connection at another port: %v, %v", other, err)
	}
}
