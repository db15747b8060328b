package etcd

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
	"sync"
	"syscall"
	"time"

	"drover/store/kv"
)

// diagnoseTime bounds one look at all endpoints; they are tried side by side.
const diagnoseTime = time.Second

// diagnosis keeps the last look, so that a burst of failed calls dials once.
type diagnosis struct {
	mu    sync.Mutex
	at    time.Time
	cause error
}

// diagnose dials every endpoint and says what is wrong with each; nil when all of them answer, in
// which case it is the cluster behind them that does not.
func (c *Client) diagnose(ctx context.Context) error {
	c.diag.mu.Lock()
	defer c.diag.mu.Unlock()
	if !c.diag.at.IsZero() && time.Since(c.diag.at) < kv.Pulse {
		return c.diag.cause
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTime)
	defer cancel()
	errs := make([]error, len(c.cfg.Endpoints))
	var wg sync.WaitGroup
	for i, e := range c.cfg.Endpoints {
		wg.Go(func() {
			if err := c.probe(ctx, e); err != nil {
				errs[i] = fmt.Errorf("%s: %w", e, err)
			}
		})
	}
	wg.Wait()
	c.diag.at, c.diag.cause = time.Now(), join(errs)
	return c.diag.cause
}

// joined is several causes in one line; errors.Join would use several.
type joined []error

func join(errs []error) error {
	var out joined
	for _, e := range errs {
		if e != nil {
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Error implements error.
func (j joined) Error() string {
	s := ""
	for i, e := range j {
		if i > 0 {
			s += "; "
		}
		s += e.Error()
	}
	return s
}

// Unwrap returns the causes.
func (j joined) Unwrap() []error { return j }

// probe makes one connection up to the server's first byte, which is where a refused client
// certificate shows.
func (c *Client) probe(ctx context.Context, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return explainDial(err)
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if c.tls == nil {
		return probePlain(conn)
	}
	cfg := c.tls.Clone()
	cfg.NextProtos = []string{"h2"}
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return explainTLS(err, cfg)
	}
	if _, err := t.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return explainTLS(err, cfg)
	}
	return nil
}

// probePlain says HTTP/2's hello and looks at the first byte of the answer.
func probePlain(conn net.Conn) error {
	hello := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := conn.Write([]byte(hello)); err != nil {
		return err
	}
	first := make([]byte, 1)
	_, err := conn.Read(first)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("accepts connections but does not answer")
	case err != nil:
		return errors.New("closes the connection (it may want TLS: try https://)")
	case first[0] == 0x15:
		return errors.New("wants TLS: use https://")
	}
	return nil
}

func explainDial(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens there (%w)", syscall.ECONNREFUSED)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer within %s", diagnoseTime)
	}
	return err
}

// explainTLS puts the commonest faults in plain words; each keeps its cause.
func explainTLS(err error, cfg *tls.Config) error {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		header   tls.RecordHeaderError
		alert    tls.AlertError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("the store's certificate is not signed by the given CA: %w", err)
	case errors.As(err, &hostname):
		return fmt.Errorf("the store's certificate is for another name: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the store's certificate is out of date (or this host's clock is wrong): %w", err)
	case errors.As(err, &header), errors.Is(err, io.EOF):
		return errors.New("does not speak TLS, it seems (a plain-text store needs http:// and --insecure)")
	case errors.As(err, &alert), isRemoteAlert(err):
		if cfg.GetClientCertificate == nil {
			return fmt.Errorf("the store wants a client certificate and none was given: %w", err)
		}
		return fmt.Errorf("the store does not accept this program's certificate: %w", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no TLS answer within %s", diagnoseTime)
	}
	return err
}

// isRemoteAlert reports whether the other side ended the handshake with an alert, which crypto/tls
// gives as a net.OpError "remote error".
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
