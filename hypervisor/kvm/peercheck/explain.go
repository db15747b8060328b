package peercheck

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// explainDial puts a connection that failed in plain words, with what to do about it.
func explainDial(address string, err error) (detail, remedy string) {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s can't be resolved here", dns.Name), "mend DNS or /etc/hosts on this host"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens at " + address, "enable libvirtd-tls.socket (or virtproxyd-tls.socket) there"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Sprintf("no answer from %s within %s", address, probeTime), "a firewall drops it, or the host is down"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("there is no way to %s: %v", address, reason(err)), "see routes and firewalls between the hosts"
	}
	return fmt.Sprintf("%s: %v", address, reason(err)), ""
}

// explainTLS puts a handshake that failed in plain words. "It" is the peer.
func explainTLS(err error) (detail, remedy string) {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		header    tls.RecordHeaderError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "its libvirt certificate is not signed by the authority that this host trusts", "both hosts need certificates and ca-cert.pem of one authority"
	case errors.As(err, &name):
		return fmt.Sprintf("its libvirt certificate does not name %s", name.Host), "issue one that does (drover pki host --dns, --ip), or change its peer-uri"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its libvirt certificate has expired, or a clock is wrong", "drover pki renew, copy it there, virt-admin server-update-tls libvirtd"
	case errors.As(err, &header):
		return "what answers there does not speak TLS", "see peer-uri in that host's agent.yaml"
	case errors.As(err, &op) && op.Op == "remote error":
		return "its libvirt does not accept this host's certificate: " + op.Err.Error(), "both hosts need certificates of one authority that have not expired"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "its libvirt closes the connection", "see libvirtd's log there"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Sprintf("its libvirt does not answer within %s", probeTime), "is libvirtd there stuck, or out of workers?"
	}
	return reason(err).Error(), ""
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// reason takes the innermost words of a network error: the address is said already.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
