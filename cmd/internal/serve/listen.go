package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// ErrPlainText: the address can be reached from other machines, there is no certificate to serve
// HTTPS with, and plain text was not allowed.
var ErrPlainText = errors.New("would be plain text on the network: give a certificate, a loopback address, http:// in front or --insecure")

// transport decides how an address is served. The host:port is returned without the scheme.
func transport(address string, haveCert, insecure bool) (hostPort string, encrypted bool, err error) {
	if rest, ok := strings.CutPrefix(address, "http://"); ok {
		return rest, false, nil
	}
	if rest, ok := strings.CutPrefix(address, "https://"); ok {
		if !haveCert {
			return "", false, errors.New("https needs tls-ca, tls-cert and tls-key")
		}
		return rest, true, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", false, err
	}
	ip := net.ParseIP(host)
	switch {
	case host == "localhost" || (ip != nil && ip.IsLoopback()) || insecure:
		return address, false, nil
	case haveCert:
		return address, true, nil
	}
	return "", false, ErrPlainText
}

func listen(ctx context.Context, cfg Config) (net.Listener, error) {
	haveCert := cfg.TLS.CA != "" && cfg.TLS.Cert != "" && cfg.TLS.Key != ""
	hostPort, encrypted, err := transport(cfg.Address, haveCert, cfg.Insecure)
	if err != nil {
		return nil, err
	}
	var tlsConfig *tls.Config
	if encrypted {
		if tlsConfig, err = cfg.TLS.server(); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", hostPort)
	if err != nil || tlsConfig == nil {
		return l, err
	}
	return tls.NewListener(l, tlsConfig), nil
}

// server returns the TLS configuration; it fails early on files that can't be used now.
func (f Files) server() (*tls.Config, error) {
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return f.load()
		},
	}, nil
}

func (f Files) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority: %s holds no certificate", f.CA)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		// Health checks come without; known() turns the others away where it matters.
		ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"http/1.1"},
	}, nil
}
