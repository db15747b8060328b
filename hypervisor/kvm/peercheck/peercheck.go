// Package peercheck finds out, without migrating anything, what would stop a migration between two
// hosts before libvirt says so in mid-flight: it reaches the other host's libvirt as this host's
// libvirt would, with the same certificates, tries the stream's ports, and reads the certificates.
//
// It is pure Go. Everything is bounded by its context and its own time limits, and changes nothing.
package peercheck

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"drover/hypervisor"
)

const (
	// probeTime bounds one connection; a filtered port takes all of it.
	probeTime = 2 * time.Second
	// atOnce is how many peers are tried side by side.
	atOnce = 32

	libvirtTLSPort = "16514"
	libvirtTCPPort = "16509"
	sshPort        = "22"
)

// Config is what this host's libvirt uses, and what the checks are about. The zero value of a path
// asks for libvirt's default.
type Config struct {
	// Root stands before all of libvirt's default paths; for tests.
	Root string
	// MigrationTLS says whether memory streams are encrypted, and MigrationDir where QEMU finds the
	// certificates for that.
	MigrationTLS bool
	MigrationDir string
	// StreamAddress is where this host takes memory streams: its certificate must name it.
	StreamAddress string
	// PeerURI is how other hosts reach this one's libvirt.
	PeerURI string
	// AgentCert is the agent's own certificate; empty without TLS.
	AgentCert string
}

// Peers tries every peer, many at once, and returns two findings for each, in the order of peers.
func Peers(ctx context.Context, c Config, peers []hypervisor.Peer) []hypervisor.Finding {
	found := make([]hypervisor.Finding, 2*len(peers))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			both := found[2*i : 2*i+2]
			var inner sync.WaitGroup
			inner.Go(func() { both[0] = c.libvirt(ctx, p) })
			inner.Go(func() { both[1] = c.stream(ctx, p) })
			inner.Wait()
			for j := range both {
				both[j].Peer = p.Host
			}
		})
	}
	wg.Wait()
	return found
}

// libvirt opens the peer's libvirt up to the point at which it would take calls.
func (c Config) libvirt(ctx context.Context, p hypervisor.Peer) hypervisor.Finding {
	f := hypervisor.Finding{Check: hypervisor.CheckLibvirt, Level: hypervisor.CheckStop}
	way, err := parseURI(p.URI)
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "set peer-uri in that host's agent.yaml"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", way.address)
	if err != nil {
		f.Detail, f.Remedy = explainDial(way.address, err)
		return f
	}
	defer func() { _ = conn.Close() }()
	if !way.tls {
		f.Level, f.Detail = hypervisor.CheckOK, way.address+" takes connections ("+way.transport+"; who may use it was not tried)"
		return f
	}
	cfg, err := c.clientTLS(way)
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "put this host's certificate where libvirt looks for it"
		return f
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if detail, remedy := hello(ctx, tls.Client(conn, cfg)); detail != "" {
		f.Detail, f.Remedy = detail, remedy
		return f
	}
	f.Level, f.Detail = hypervisor.CheckOK, way.address+" accepts this host's certificate"
	return f
}

// hello does the handshake and waits for the byte with which libvirt says that it accepts the client;
// a libvirtd that does not just closes the connection.
func hello(ctx context.Context, t *tls.Conn) (detail, remedy string) {
	if err := t.HandshakeContext(ctx); err != nil {
		return explainTLS(err)
	}
	answer := make([]byte, 1)
	switch _, err := t.Read(answer); {
	case errors.Is(err, io.EOF):
		return "its libvirt refuses this host's certificate", "see tls_allowed_dn_list in libvirtd.conf there, and its log"
	case err != nil:
		return explainTLS(err)
	case answer[0] != 1:
		return "what answers there is not libvirt", "see peer-uri in that host's agent.yaml"
	}
	return "", ""
}

// route is where a libvirt URI leads.
type route struct {
	address   string // host:port
	server    string // the name to check the certificate against
	transport string
	tls       bool
	verify    bool
	pki       string // a directory of its own for certificates, from the URI
}

func parseURI(text string) (route, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return route{}, fmt.Errorf("%q is no URI by which another host could be reached", text)
	}
	r := route{server: u.Hostname(), verify: u.Query().Get("no_verify") != "1", pki: u.Query().Get("pkipath")}
	port := u.Port()
	switch u.Scheme {
	case "qemu", "qemu+tls": // TLS is what a remote URI without transport means
		r.tls, r.transport = true, "tls"
		port = orElse(port, libvirtTLSPort)
	case "qemu+tcp":
		r.transport = "plain tcp"
		port = orElse(port, libvirtTCPPort)
	case "qemu+ssh", "qemu+libssh", "qemu+libssh2":
		r.transport = "ssh"
		port = orElse(port, sshPort)
	default:
		return route{}, fmt.Errorf("%q: transport %q can't be tried", text, u.Scheme)
	}
	r.address = net.JoinHostPort(r.server, port)
	return r, nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// clientFiles are the files that this host's libvirt uses as a client.
func (c Config) clientFiles(pkiDir string) (ca, cert, key string) {
	if pkiDir != "" {
		return filepath.Join(pkiDir, "cacert.pem"), filepath.Join(pkiDir, "clientcert.pem"), filepath.Join(pkiDir, "clientkey.pem")
	}
	return c.path("/etc/pki/CA/cacert.pem"), c.path("/etc/pki/libvirt/clientcert.pem"), c.path("/etc/pki/libvirt/private/clientkey.pem")
}

func (c Config) path(p string) string { return filepath.Join(orElse(c.Root, "/"), p) }

func (c Config) clientTLS(way route) (*tls.Config, error) {
	ca, cert, key := c.clientFiles(way.pki)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("libvirt's client certificate here: %w", err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("libvirt's authority here: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("libvirt's authority here: %s holds no certificate", ca)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: way.server,
		Certificates:       []tls.Certificate{pair},
		InsecureSkipVerify: !way.verify, // the URI asks libvirt for the same
	}, nil
}

// stream tries the first and the last port of the peer's range. Nobody listens there while no
// migration arrives: a refusal proves that the packets get through.
func (c Config) stream(ctx context.Context, p hypervisor.Peer) hypervisor.Finding {
	f := hypervisor.Finding{Check: hypervisor.CheckStream, Level: hypervisor.CheckStop}
	host := p.StreamAddress
	if host == "" {
		// Without an address libvirt takes the peer's own host name, which only the peer knows; the
		// name in its URI is the likeliest.
		way, err := parseURI(p.URI)
		if err != nil {
			f.Detail, f.Remedy = "the address for memory streams is not known", "set migration-address in that host's agent.yaml"
			return f
		}
		host = way.server
	}
	for _, port := range p.Ports {
		address := net.JoinHostPort(host, strconv.Itoa(port))
		if err := c.reach(ctx, address); err != nil {
			f.Detail, f.Remedy = explainDial(address, err)
			return f
		}
	}
	f.Level, f.Detail = hypervisor.CheckOK, fmt.Sprintf("%s lets ports %d-%d through", host, p.Ports[0], p.Ports[1])
	return f
}

// reach returns nil when the address answers, were it with a refusal.
func (c Config) reach(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
		return nil
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}
