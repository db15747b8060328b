package peercheck

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"drover/hypervisor"
)

// endsSoon is how long before its end a certificate is worth a word.
const endsSoon = 30 * 24 * time.Hour

// Certificates looks at every certificate that this host's part of a migration needs, as of now.
func Certificates(c Config, now time.Time) []hypervisor.Finding {
	var found []hypervisor.Finding
	add := func(what, path, mustName string) {
		found = append(found, certificate(what, path, mustName, now))
	}
	if way, err := parseURI(c.PeerURI); err == nil && way.tls {
		ca, cert, _ := c.clientFiles("")
		add("libvirt's authority", ca, "")
		add("libvirt's client certificate", cert, "")
		add("libvirt's server certificate", c.path("/etc/pki/libvirt/servercert.pem"), way.server)
	}
	if c.MigrationTLS {
		dir := orElse(c.MigrationDir, c.path("/etc/pki/qemu"))
		add("the streams' authority", filepath.Join(dir, "ca-cert.pem"), "")
		add("the streams' client certificate", filepath.Join(dir, "client-cert.pem"), "")
		add("the streams' server certificate", filepath.Join(dir, "server-cert.pem"), c.StreamAddress)
	}
	if c.AgentCert != "" {
		add("the agent's certificate", c.AgentCert, "")
	}
	return found
}

// certificate judges one file. mustName is a name or an address that must be in it, "" for any.
func certificate(what, path, mustName string, now time.Time) hypervisor.Finding {
	f := hypervisor.Finding{Check: hypervisor.CheckCertificate, Level: hypervisor.CheckStop}
	cert, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Detail, f.Remedy = fmt.Sprintf("%s is missing: %s", what, path), "copy it from the authority's directory"
	case err != nil:
		f.Detail = fmt.Sprintf("%s: %v", what, err)
	case now.After(cert.NotAfter):
		f.Detail, f.Remedy = fmt.Sprintf("%s expired on %s: %s", what, cert.NotAfter.Format(time.DateOnly), path), "drover pki renew, and copy it"
	case now.Before(cert.NotBefore):
		f.Detail, f.Remedy = fmt.Sprintf("%s is not valid before %s: %s", what, cert.NotBefore.Format(time.DateTime), path), "is this host's clock right?"
	case mustName != "" && cert.VerifyHostname(mustName) != nil:
		f.Detail = fmt.Sprintf("%s does not name %s, by which other hosts come: %s", what, mustName, path)
		f.Remedy = "issue one that does: drover pki host --dns NAME --ip ADDRESS"
	case cert.NotAfter.Sub(now) < endsSoon:
		f.Level = hypervisor.CheckWarn
		f.Detail = fmt.Sprintf("%s ends in %d days: %s", what, int(cert.NotAfter.Sub(now).Hours()/24), path)
		f.Remedy = "drover pki renew, and copy it"
	default:
		f.Level, f.Detail = hypervisor.CheckOK, fmt.Sprintf("%s ends on %s", what, cert.NotAfter.Format(time.DateOnly))
	}
	return f
}

func read(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return x509.ParseCertificate(block.Bytes)
}
