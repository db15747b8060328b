package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/grpclog"
)

// gRPC writes its errors to standard error unless told otherwise, in a format that is nobody's. All
// that matters of them comes back as the error of a call. The switch is global and must be thrown
// before gRPC is used, hence here.
func init() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}

// Config says how to reach the store. Endpoints is required.
type Config struct {
	// Endpoints are URLs of members, https://HOST:PORT; http:// only with Insecure.
	Endpoints []string
	// CA, Cert and Key are PEM files: who the store's certificate must be signed by, and what this
	// program shows. Without CA the system's roots count; Cert and Key come together.
	CA   string
	Cert string
	Key  string
	// Insecure allows http:// endpoints, and with them no authentication at all.
	Insecure bool
	// RequestTimeout bounds every call; 0 means 5 s.
	RequestTimeout time.Duration
	// Log gets what etcd's client logs at error; nil discards it.
	Log *slog.Logger
}

// Errors about the configuration.
var (
	// ErrConfig: the configuration can't work, whatever the network does.
	ErrConfig = errors.New("store configuration")
)

func (c Config) withDefaults() Config {
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// check returns all faults of the configuration at once.
func (c Config) check() error {
	var errs []error
	if len(c.Endpoints) == 0 {
		errs = append(errs, errors.New("no endpoints"))
	}
	schemes := map[string]bool{}
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("endpoint %q: %w", e, err))
			continue
		case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "":
			errs = append(errs, fmt.Errorf("endpoint %q: want https://HOST:PORT", e))
			continue
		case u.Port() == "":
			errs = append(errs, fmt.Errorf("endpoint %q: the port is missing (etcd's is 2379)", e))
		case u.Scheme == "http" && !c.Insecure:
			errs = append(errs, fmt.Errorf("endpoint %q: plain text needs --insecure; use https://", e))
		}
		schemes[u.Scheme] = true
	}
	if len(schemes) > 1 {
		errs = append(errs, errors.New("endpoints mix http and https"))
	}
	if (c.Cert == "") != (c.Key == "") {
		errs = append(errs, errors.New("certificate and key must be given together"))
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrConfig, errors.Join(errs...))
	}
	return nil
}

// secure reports whether the endpoints want TLS; check has seen that they agree.
func (c Config) secure() bool { return strings.HasPrefix(c.Endpoints[0], "https://") }

// tls returns the TLS configuration, nil for plain text. The client certificate is read again for
// every connection, so that a renewed one is used without a restart.
func (c Config) tls() (*tls.Config, error) {
	if !c.secure() {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("%w: CA: %w", ErrConfig, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: CA: %s holds no PEM certificate", ErrConfig, c.CA)
		}
	}
	if c.Cert == "" {
		return t, nil
	}
	if _, err := c.keyPair(); err != nil {
		return nil, err
	}
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return c.keyPair()
	}
	return t, nil
}

func (c Config) keyPair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: client certificate: %w", ErrConfig, err)
	}
	return &pair, nil
}

// names is the endpoints for a message.
func (c Config) names() string {
	eps := slices.Clone(c.Endpoints)
	return strings.Join(eps, ", ")
}
