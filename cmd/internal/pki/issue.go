package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	certFile = "cert.pem"
	keyFile  = "key.pem"
)

// links are the names that libvirt and QEMU look for, and what they point to.
var (
	serverLinks = map[string]string{"server-cert.pem": certFile, "server-key.pem": keyFile}
	clientLinks = map[string]string{"client-cert.pem": certFile, "client-key.pem": keyFile}
)

// Request describes a certificate to issue.
type Request struct {
	Role Role
	Name string
	// DNS and IPs are the names and addresses others reach the holder by. Name is added to DNS for agents and schedulers.
	DNS []string
	IPs []netip.Addr
	// Validity is counted from now; DefaultCertValidity when zero, and never past the authority's own end.
	Validity time.Duration
}

// Identity is an issued certificate as found on disk.
type Identity struct {
	Role       Role
	Name       string
	CommonName string // the etcd user
	Dir        string // holds the files named in the package documentation
	DNS        []string
	IPs        []netip.Addr
	Serial     string // hexadecimal
	NotBefore  time.Time
	NotAfter   time.Time
}

// Issue makes a key and a certificate for req. It fails with [ErrExists] when that identity is there already.
func (ca *CA) Issue(req Request) (Identity, error) {
	op := "issue " + req.Name
	if err := checkName(req.Role, req.Name); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", op, err)
	}
	dir := IdentityDir(ca.dir, req.Role, req.Name)
	if exists(dir) {
		return Identity{}, fmt.Errorf("%s: %s: %w", op, dir, ErrExists)
	}
	if req.Validity == 0 {
		req.Validity = DefaultCertValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: key: %w", op, err)
	}
	der, err := ca.sign(template(req), key.Public(), req.Validity)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", op, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", op, err)
	}
	files := []file{
		{caCertFile, ca.Certificate(), 0o644},
		{certFile, encodeCert(der), 0o644},
		{keyFile, keyPEM, 0o600},
	}
	if err := createDir(dir, files, linksFor(req.Role)); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", op, err)
	}
	return load(ca.dir, req.Role, req.Name)
}

func linksFor(r Role) map[string]string {
	all := map[string]string{}
	for k, v := range clientLinks {
		all[k] = v
	}
	if roles[r].server {
		for k, v := range serverLinks {
			all[k] = v
		}
	}
	return all
}

func template(req Request) *x509.Certificate {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: CommonName(req.Role, req.Name), Organization: []string{string(req.Role)}},
		// libvirt 9 and QEMU refuse a critical key usage without key encipherment, though ECDSA never uses it.
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	dns := slices.Clone(req.DNS)
	if roles[req.Role].server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		dns = append([]string{req.Name}, dns...)
	}
	for _, d := range dns {
		if d = strings.ToLower(d); !slices.Contains(t.DNSNames, d) {
			t.DNSNames = append(t.DNSNames, d)
		}
	}
	for _, ip := range req.IPs {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	return t
}

// List returns every identity under dir, by role and then by name. An authority without identities gives none;
// [ErrNotFound] when there is no authority. A directory that cannot be read is reported in the error, and
// the others are returned all the same.
func List(dir string) ([]Identity, error) {
	if !exists(filepath.Join(dir, caDir)) {
		return nil, fmt.Errorf("list certificates: %s: %w", dir, ErrNotFound)
	}
	var (
		ids  []Identity
		errs []error
	)
	for _, r := range Roles() {
		entries, err := os.ReadDir(filepath.Join(dir, roles[r].dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !e.IsDir() || strings.HasPrefix(e.Name(), tempPrefix) {
				continue
			}
			id, err := load(dir, r, e.Name())
			if err != nil {
				errs = append(errs, err)
				continue
			}
			ids = append(ids, id)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return ids, fmt.Errorf("list certificates: %w", err)
	}
	return ids, nil
}

// Renew issues new certificates for the identities under dir that expire within the given time from now, with the
// same keys, names, addresses and validity, and returns the new ones. The holders' copies are not touched: copy the
// directory again. Those that fail are reported together after the others were renewed.
func Renew(dir string, within time.Duration) ([]Identity, error) {
	ca, err := LoadCA(dir)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	ids, err := List(dir)
	errs := []error{err}
	var renewed []Identity
	limit := time.Now().Add(within)
	for _, id := range ids {
		if id.NotAfter.After(limit) {
			continue
		}
		fresh, err := ca.renew(id)
		if err != nil {
			errs = append(errs, fmt.Errorf("renew %s: %w", id.CommonName, err))
			continue
		}
		renewed = append(renewed, fresh)
	}
	return renewed, errors.Join(errs...)
}

func (ca *CA) renew(id Identity) (Identity, error) {
	old, err := readCert(filepath.Join(id.Dir, certFile))
	if err != nil {
		return Identity{}, err
	}
	key, err := readKey(filepath.Join(id.Dir, keyFile))
	if err != nil {
		return Identity{}, err
	}
	validity := old.NotAfter.Sub(old.NotBefore.Add(clockSkew))
	tmpl := template(Request{Role: id.Role, Name: id.Name, DNS: id.DNS, IPs: id.IPs})
	der, err := ca.sign(tmpl, key.Public(), validity)
	if err != nil {
		return Identity{}, err
	}
	if err := replaceFile(file{filepath.Join(id.Dir, certFile), encodeCert(der), 0o644}); err != nil {
		return Identity{}, err
	}
	return load(ca.dir, id.Role, id.Name)
}

func load(dir string, r Role, name string) (Identity, error) {
	idDir := IdentityDir(dir, r, name)
	c, err := readCert(filepath.Join(idDir, certFile))
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, fmt.Errorf("load %s: %w", CommonName(r, name), ErrNotFound)
	} else if err != nil {
		return Identity{}, fmt.Errorf("load %s: %w", CommonName(r, name), err)
	}
	id := Identity{
		Role: r, Name: name, CommonName: c.Subject.CommonName, Dir: idDir, DNS: c.DNSNames,
		Serial: c.SerialNumber.Text(16), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			id.IPs = append(id.IPs, a.Unmap())
		}
	}
	return id, nil
}

// Load returns the identity of that role and name under dir; [ErrNotFound] when there is none.
func Load(dir string, r Role, name string) (Identity, error) {
	if err := checkName(r, name); err != nil {
		return Identity{}, fmt.Errorf("load: %w", err)
	}
	return load(dir, r, name)
}
