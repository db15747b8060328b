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

// Certificates looks at every certificate that this host's part of a migration needs, as of now. It
// returns a finding for each that is not fine, and one for all that are.
func Certificates(c Config, now time.Time) []hypervisor.Finding {
	var found []hypervisor.Finding
	var fine int
	var first time.Time
	for _, w := range c.wanted() {
		f, ends := certificate(w.what, w.path, w.mustName, now)
		if f.Level != hypervisor.CheckOK {
			found = append(found, f)
			continue
		}
		fine++
		if first.IsZero() || ends.Before(first) {
			first = ends
		}
	}
	if fine > 0 {
		found = append(found, hypervisor.Finding{
			Check: hypervisor.CheckCertificate, Level: hypervisor.CheckOK,
			Detail: fmt.Sprintf("%d files are fine, the first ends on %s", fine, first.Format(time.DateOnly)),
		})
	}
	return found
}

// wantedFile is a certificate that must be there. mustName is a name or an address that must be in
// it, "" for any.
type wantedFile struct{ what, path, mustName string }

func (c Config) wanted() []wantedFile {
	var list []wantedFile
	if way, err := parseURI(c.PeerURI); err == nil && way.tls {
		ca, cert, _ := c.clientFiles("")
		list = append(list,
			wantedFile{"libvirt's authority", ca, ""},
			wantedFile{"libvirt's client certificate", cert, ""},
			wantedFile{"libvirt's server certificate", c.path("/etc/pki/libvirt/servercert.pem"), way.server})
	}
	if c.MigrationTLS {
		dir := orElse(c.MigrationDir, c.path("/etc/pki/qemu"))
		list = append(list,
			wantedFile{"the streams' authority", filepath.Join(dir, "ca-cert.pem"), ""},
			wantedFile{"the streams' client certificate", filepath.Join(dir, "client-cert.pem"), ""},
			wantedFile{"the streams' server certificate", filepath.Join(dir, "server-cert.pem"), c.StreamAddress})
	}
	if c.AgentCert != "" {
		list = append(list, wantedFile{"the agent's certificate", c.AgentCert, ""})
	}
	return list
}

// certificate judges one file, and returns when it ends.
func certificate(what, path, mustName string, now time.Time) (hypervisor.Finding, time.Time) {
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
		f.Level = hypervisor.CheckOK
		return f, cert.NotAfter
	}
	return f, time.Time{}
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
