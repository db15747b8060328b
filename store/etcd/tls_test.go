package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/store/embed"
	"drover/store/kv"
)

// authority is a CA of a test's own.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.issue("ca", nil, time.Hour)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name+".pem") }
func (a *authority) keyOf(name string) string {
	return filepath.Join(a.dir, name+"-key.pem")
}

// issue writes NAME.pem and NAME-key.pem; the first is the CA's own.
func (a *authority) issue(name string, ip net.IP, valid time.Duration) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
		a.key = key
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, a.file(name), "CERTIFICATE", der)
	writePEM(a.t, a.keyOf(name), "EC PRIVATE KEY", keyDER)
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	loopback := net.IPv4(127, 0, 0, 1)
	ours.issue("server", loopback, time.Hour)
	ours.issue("elsewhere", net.IPv4(192, 0, 2, 1), time.Hour)
	ours.issue("old", loopback, -time.Hour)
	ours.issue("client", nil, time.Hour)
	theirs.issue("client", nil, time.Hour)
	run := func(name string) string {
		return startServer(t, embed.Config{
			ListenURL: "https://127.0.0.1:0", CA: ours.file("ca"), Cert: ours.file(name), Key: ours.keyOf(name),
		}).Endpoints()[0]
	}
	good, other, old := run("server"), run("elsewhere"), run("old")
	clear := startServer(t, embed.Config{}).Endpoints()[0]
	us := Config{CA: ours.file("ca"), Cert: ours.file("client"), Key: ours.keyOf("client"), Insecure: true}

	for _, c := range []struct {
		name     string
		endpoint string
		change   func(*Config)
		want     string // part of the message; "" for success
	}{
		{"both certificates fit", good, func(*Config) {}, ""},
		{"no client certificate", good, func(c *Config) { c.Cert, c.Key = "", "" }, "wants a client certificate and none was given"},
		{"client of another CA", good, func(c *Config) { c.Cert, c.Key = theirs.file("client"), theirs.keyOf("client") }, "does not accept this program's certificate"},
		{"server of another CA", good, func(c *Config) { c.CA = theirs.file("ca") }, "not signed by the given CA"},
		{"server with another name", other, func(*Config) {}, "is for another name"},
		{"server out of date", old, func(*Config) {}, "out of date"},
		{"plain text to TLS", strings.Replace(good, "https", "http", 1), func(*Config) {}, "https"},
		{"TLS to plain text", strings.Replace(clear, "http", "https", 1), func(*Config) {}, "does not speak TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := us
			cfg.Endpoints = []string{c.endpoint}
			c.change(&cfg)
			client := open(t, cfg)
			start := time.Now()
			err := client.Ping(t.Context())
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			t.Log(err)
			if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.endpoint) {
				t.Errorf("got %v, want ErrUnavailable with %q and the endpoint", err, c.want)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	ca := newAuthority(t)
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no endpoints", Config{}, "no endpoints"},
		{"plain text", Config{Endpoints: []string{"http://a:1"}}, "--insecure"},
		{"no scheme", Config{Endpoints: []string{"a:2379"}}, "want https://HOST:PORT"},
		{"no port", Config{Endpoints: []string{"https://a"}}, "the port is missing"},
		{"mixed", Config{Endpoints: []string{"https://a:1", "http://b:1"}, Insecure: true}, "mix http and https"},
		{"certificate without key", Config{Endpoints: []string{"https://a:1"}, Cert: "x"}, "given together"},
		{"no such CA", Config{Endpoints: []string{"https://a:1"}, CA: "/none"}, "no such file"},
		{"CA is junk", Config{Endpoints: []string{"https://a:1"}, CA: junk}, "no PEM certificate"},
		{"certificate is junk", Config{Endpoints: []string{"https://a:1"}, CA: ca.file("ca"), Cert: junk, Key: junk}, "client certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.cfg)
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrConfig with %q", err, c.want)
			}
		})
	}
}
