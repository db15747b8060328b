package conf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"
)

// Etcd is how a program reaches the store. The file names are PEM files.
type Etcd struct {
	Endpoints []string
	CA        string
	Cert      string
	Key       string
	// Insecure allows plain-text transports. Nothing is then protected: for labs only.
	Insecure bool
}

// Fields returns the settings that every program shares.
func (e *Etcd) Fields() []Field {
	return []Field{
		{"etcd-endpoints", "comma-separated URLs of the store, such as https://ctl1:2379", List(&e.Endpoints)},
		{"tls-ca", "file with the certificate authority that signs every peer", String(&e.CA)},
		{"tls-cert", "file with this program's certificate", String(&e.Cert)},
		{"tls-key", "file with the certificate's private key", String(&e.Key)},
		{"insecure", "allow plain-text connections: no encryption, no check of who is there", Bool(&e.Insecure)},
	}
}

// ValidateEndpoints checks that there are endpoints and that plain http was allowed explicitly.
func (e *Etcd) ValidateEndpoints() []error {
	if len(e.Endpoints) == 0 {
		return []error{fmt.Errorf("etcd-endpoints %w: give --etcd-endpoints or set %s", errRequired, EnvName("etcd-endpoints"))}
	}
	var faults []error
	https := false
	for _, ep := range e.Endpoints {
		err := e.checkURL(ep)
		if err != nil {
			faults = append(faults, fmt.Errorf("etcd-endpoints: %w", err))
		}
		if u, err := url.Parse(ep); err == nil && u.Scheme == "https" {
			https = true
		}
	}
	if https && e.CA == "" {
		faults = append(faults, fmt.Errorf("tls-ca %w for an https endpoint", errRequired))
	}
	return faults
}

// checkURL accepts http and https URLs with a host, the former only with Insecure.
func (e *Etcd) checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%q: want a URL such as https://ctl1:2379", s)
	}
	if u.Scheme == "http" && !e.Insecure {
		return fmt.Errorf("%q is plain text: use https, or allow it with --insecure", s)
	}
	return nil
}

// ValidateTLS checks that certificate and key come together and that all three files can be read
// and hold what they should.
func (e *Etcd) ValidateTLS() []error {
	var faults []error
	if e.CA != "" {
		pem, err := os.ReadFile(e.CA)
		if err != nil {
			faults = append(faults, fmt.Errorf("tls-ca: %w", err))
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			faults = append(faults, fmt.Errorf("tls-ca: %s holds no certificate", e.CA))
		}
	}
	switch {
	case e.Cert == "" && e.Key == "":
	case e.Cert == "" || e.Key == "":
		faults = append(faults, errors.New("tls-cert and tls-key go together: give both or none"))
	default:
		pair, err := tls.LoadX509KeyPair(e.Cert, e.Key)
		if err != nil {
			faults = append(faults, fmt.Errorf("tls-cert: %w", err))
		} else if leaf := pair.Leaf; leaf != nil && time.Now().After(leaf.NotAfter) {
			faults = append(faults, fmt.Errorf("tls-cert: %s expired on %s: renew it (drover pki renew)", e.Cert, leaf.NotAfter.Format(time.DateOnly)))
		}
	}
	return faults
}

// Client is the settings of the admin's command line: only the store.
type Client struct{ Etcd }

// Validate implements Settings.
func (c *Client) Validate() []error {
	return append(c.ValidateEndpoints(), c.ValidateTLS()...)
}

// Logging is how a daemon logs.
type Logging struct {
	Format string // text or json
	Level  string // debug, info, warn or error
}

// Fields returns the settings of logging.
func (l *Logging) Fields() []Field {
	return []Field{
		{"log-format", "text or json, on stderr", OneOf(&l.Format, "text", "json")},
		{"log-level", "debug, info, warn or error", OneOf(&l.Level, "debug", "info", "warn", "error")},
	}
}
