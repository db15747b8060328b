package peercheck

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"drover/hypervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(400 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// issue makes a certificate for the names that ends after life.
func (a *authority) issue(life time.Duration, names ...string) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "host/x"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", raw)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}

const year = 365 * 24 * time.Hour

// host lays out a host's files as libvirt and QEMU want them and returns its configuration.
func host(t *testing.T, a *authority, life time.Duration) Config {
	t.Helper()
	c := Config{Root: t.TempDir(), MigrationTLS: true, PeerURI: "qemu+tls://kvm1/system", StreamAddress: "198.51.100.11"}
	cert, key := a.issue(life, "kvm1", "198.51.100.11", "127.0.0.1")
	ca := block("CERTIFICATE", a.cert.Raw)
	put(t, c.path("/etc/pki/CA/cacert.pem"), ca)
	put(t, c.path("/etc/pki/libvirt/clientcert.pem"), cert)
	put(t, c.path("/etc/pki/libvirt/private/clientkey.pem"), key)
	put(t, c.path("/etc/pki/libvirt/servercert.pem"), cert)
	put(t, c.path("/etc/pki/qemu/ca-cert.pem"), ca)
	put(t, c.path("/etc/pki/qemu/client-cert.pem"), cert)
	put(t, c.path("/etc/pki/qemu/server-cert.pem"), cert)
	c.AgentCert = c.path("/etc/drover/tls/cert.pem")
	put(t, c.AgentCert, cert)
	return c
}

// serve runs one connection's server on the loopback address and returns its port.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// libvirtd answers like the real one: handshake, judgement, one byte or nothing.
func libvirtd(t *testing.T, a, clients *authority, life time.Duration, name string, accept bool) string {
	t.Helper()
	cert, key := a.issue(life, name)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(clients.cert)
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	return serve(t, func(conn net.Conn) {
		s := tls.Server(conn, cfg)
		if s.Handshake() != nil || !accept {
			_ = s.Close()
			return
		}
		_, _ = s.Write([]byte{1})
		_, _ = io.Copy(io.Discard, s)
	})
}

func TestLibvirt(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	c := host(t, ours, year)
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, free, _ := net.SplitHostPort(refused.Addr().String())
	_ = refused.Close()
	tests := []struct {
		name, port, want string
		level            hypervisor.CheckLevel
		query            string
	}{
		{name: "accepted", port: libvirtd(t, ours, ours, year, "127.0.0.1", true), level: hypervisor.CheckOK, want: "accepts this host's certificate"},
		{name: "not on its list", port: libvirtd(t, ours, ours, year, "127.0.0.1", false), level: hypervisor.CheckStop, want: "refuses this host's certificate"},
		{name: "stranger", port: libvirtd(t, others, ours, year, "127.0.0.1", true), level: hypervisor.CheckStop, want: "not signed by the authority"},
		{name: "stranger, and the URI does not mind", port: libvirtd(t, others, ours, year, "127.0.0.1", true), query: "?no_verify=1", level: hypervisor.CheckOK, want: "accepts"},
		{name: "we are the stranger", port: libvirtd(t, ours, others, year, "127.0.0.1", true), level: hypervisor.CheckStop, want: "does not accept this host's certificate"},
		{name: "another name", port: libvirtd(t, ours, ours, year, "kvm9", true), level: hypervisor.CheckStop, want: "does not name 127.0.0.1"},
		{name: "expired", port: libvirtd(t, ours, ours, -time.Hour, "127.0.0.1", true), level: hypervisor.CheckStop, want: "has expired"},
		{name: "nobody", port: free, level: hypervisor.CheckStop, want: "nothing listens"},
		{name: "plain text", port: serve(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.0 400\r\n\r\n")) }), level: hypervisor.CheckStop, want: "does not speak TLS"},
		{name: "closes", port: serve(t, func(net.Conn) {}), level: hypervisor.CheckStop, want: "closes the connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := c.libvirt(t.Context(), hypervisor.Peer{Host: "kvm2", URI: "qemu+tls://127.0.0.1:" + tt.port + "/system" + tt.query})
			if f.Level != tt.level || !strings.Contains(f.Detail, tt.want) {
				t.Errorf("%s %q (%s), want %s with %q", f.Level, f.Detail, f.Remedy, tt.level, tt.want)
			}
			if f.Level == hypervisor.CheckStop && f.Remedy == "" {
				t.Errorf("%q: nothing to do about it is said", f.Detail)
			}
		})
	}
}

// A libvirtd that hangs must not hang the check.
func TestLibvirtStuck(t *testing.T) {
	c := host(t, newAuthority(t), year)
	port := serve(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	began := time.Now()
	f := c.libvirt(t.Context(), hypervisor.Peer{URI: "qemu+tls://127.0.0.1:" + port + "/system"})
	if f.Level != hypervisor.CheckStop || !strings.Contains(f.Detail, "does not answer within") {
		t.Errorf("%s %q", f.Level, f.Detail)
	}
	if took := time.Since(began); took > 2*probeTime {
		t.Errorf("took %s", took)
	}
}

func TestParseURI(t *testing.T) {
	tests := []struct{ uri, want string }{
		{"qemu+tls://kvm1/system", "kvm1:16514 tls=true verify=true"},
		{"qemu://kvm1/system", "kvm1:16514 tls=true verify=true"},
		{"qemu+tls://[2001:db8::1]:1/system?no_verify=1", "[2001:db8::1]:1 tls=true verify=false"},
		{"qemu+tcp://kvm1/system", "kvm1:16509 tls=false verify=true"},
		{"qemu+ssh://root@kvm1/system", "kvm1:22 tls=false verify=true"},
		{"qemu:///system", "error"},
		{"xen://kvm1/", "error"},
		{"%", "error"},
	}
	for _, tt := range tests {
		r, err := parseURI(tt.uri)
		got := fmt.Sprintf("%s tls=%v verify=%v", r.address, r.tls, r.verify)
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.uri, got, tt.want)
		}
	}
}

func TestStream(t *testing.T) {
	c := Config{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening := l.Addr().(*net.TCPAddr).Port
	// One port with a listener, one that refuses: both let packets through.
	f := c.stream(t.Context(), hypervisor.Peer{StreamAddress: "127.0.0.1", Ports: [2]int{1, listening}})
	if f.Level != hypervisor.CheckOK {
		t.Errorf("%s %q", f.Level, f.Detail)
	}
	f = c.stream(t.Context(), hypervisor.Peer{URI: "qemu+tls://127.0.0.1/system", Ports: [2]int{1, 1}})
	if f.Level != hypervisor.CheckOK || !strings.Contains(f.Detail, "127.0.0.1") {
		t.Errorf("without a stream address: %s %q, want the URI's host tried", f.Level, f.Detail)
	}
	f = c.stream(t.Context(), hypervisor.Peer{URI: "", Ports: [2]int{1, 1}})
	if f.Level != hypervisor.CheckStop {
		t.Errorf("without any address: %s %q", f.Level, f.Detail)
	}
}

// What a dial can fail with, by kind; a filtered port can't be had on the loopback address.
func TestExplainDial(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"dropped", dial(context.DeadlineExceeded), "no answer from h:1"},
		{"dropped, as the net package says it", dial(os.ErrDeadlineExceeded), "no answer from h:1"},
		{"refused", dial(&os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}), "nothing listens at h:1"},
		{"no route", dial(&os.SyscallError{Syscall: "connect", Err: syscall.EHOSTUNREACH}), "no way to h:1"},
		{"own firewall", dial(&os.SyscallError{Syscall: "connect", Err: syscall.EPERM}), "no way to h:1"},
		{"name", dial(&net.DNSError{Name: "h", IsNotFound: true}), "name h can't be resolved"},
		{"slow name", dial(&net.DNSError{Name: "h", IsTimeout: true}), "name h can't be resolved"},
		{"else", dial(errors.New("odd")), "h:1: odd"},
	}
	for _, tt := range tests {
		if got, _ := explainDial("h:1", tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPeersKeepsOrder(t *testing.T) {
	a := newAuthority(t)
	c := host(t, a, year)
	port := libvirtd(t, a, a, year, "127.0.0.1", true)
	var peers []hypervisor.Peer
	for i := range 2 * atOnce {
		peers = append(peers, hypervisor.Peer{
			Host: fmt.Sprint("kvm", i), URI: "qemu+tls://127.0.0.1:" + port + "/system", StreamAddress: "127.0.0.1", Ports: [2]int{1, 2},
		})
	}
	found := Peers(t.Context(), c, peers)
	if len(found) != 2*len(peers) {
		t.Fatalf("%d findings for %d peers", len(found), len(peers))
	}
	for i, f := range found {
		want := hypervisor.CheckLibvirt
		if i%2 == 1 {
			want = hypervisor.CheckStream
		}
		if f.Peer != peers[i/2].Host || f.Check != want || f.Level != hypervisor.CheckOK {
			t.Errorf("finding %d: %+v", i, f)
		}
	}
}

func TestCertificates(t *testing.T) {
	a := newAuthority(t)
	tests := []struct {
		name   string
		change func(c *Config)
		now    time.Time
		want   []string // level and part of the detail
	}{
		{"all fine", func(*Config) {}, time.Now(), []string{"ok 7 files are fine"}},
		{"no TLS anywhere", func(c *Config) { *c = Config{Root: c.Root, PeerURI: "qemu+tcp://kvm1/system"} }, time.Now(), nil},
		{"no encrypted streams", func(c *Config) { c.MigrationTLS = false }, time.Now(), []string{"ok 4 files"}},
		{
			"missing", func(c *Config) { _ = os.Remove(c.path("/etc/pki/qemu/server-cert.pem")) }, time.Now(),
			[]string{"stop the streams' server certificate is missing", "ok 6 files"},
		},
		{
			"rubbish", func(c *Config) { put(t, c.path("/etc/pki/CA/cacert.pem"), []byte("x")) }, time.Now(),
			[]string{"stop libvirt's authority: ", "ok 6 files"},
		},
		{
			"other address", func(c *Config) { c.StreamAddress = "198.51.100.99" }, time.Now(),
			[]string{"stop the streams' server certificate does not name 198.51.100.99", "ok 6 files"},
		},
		{
			"other name", func(c *Config) { c.PeerURI = "qemu+tls://kvm7/system" }, time.Now(),
			[]string{"stop libvirt's server certificate does not name kvm7", "ok 6 files"},
		},
		{
			"ends soon", func(*Config) {}, time.Now().Add(year - 10*24*time.Hour),
			[]string{
				"warn libvirt's client certificate ends in", "warn libvirt's server certificate ends in",
				"warn the streams' client certificate ends in", "warn the streams' server certificate ends in",
				"warn the agent's certificate ends in", "ok 2 files",
			},
		},
		{
			"expired", func(c *Config) { c.MigrationTLS, c.PeerURI = false, "" }, time.Now().Add(year + 24*time.Hour),
			[]string{"stop the agent's certificate expired on"},
		},
		{
			"clock is late", func(c *Config) { c.MigrationTLS, c.PeerURI = false, "" }, time.Now().Add(-year),
			[]string{"stop the agent's certificate is not valid before"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := host(t, a, year)
			tt.change(&c)
			found := Certificates(c, tt.now)
			if len(found) != len(tt.want) {
				t.Fatalf("%d findings, want %d: %+v", len(found), len(tt.want), found)
			}
			for i, f := range found {
				if got := string(f.Level) + " " + f.Detail; !strings.HasPrefix(got, tt.want[i]) {
					t.Errorf("finding %d: %q, want %q", i, got, tt.want[i])
				}
			}
		})
	}
}
