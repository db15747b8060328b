package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Validity of what is issued when the caller names none.
const (
	DefaultCAValidity   = 10 * 365 * 24 * time.Hour
	DefaultCertValidity = 365 * 24 * time.Hour
)

// clockSkew is how far in the past certificates begin, so that hosts with a late clock accept new ones.
const clockSkew = time.Hour

const (
	caDir      = "ca"
	caCertFile = "ca-cert.pem"
	caKeyFile  = "ca-key.pem"
)

// CA is an authority that can issue. It is safe for concurrent use.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CAOptions are the choices at creation.
type CAOptions struct {
	Name     string        // common name of the authority; "drover CA" when empty
	Validity time.Duration // DefaultCAValidity when zero
}

// CreateCA makes a new authority under dir (created if needed, mode 0700). It fails with [ErrExists] when one is there.
func CreateCA(dir string, opts CAOptions) (*CA, error) {
	if opts.Name == "" {
		opts.Name = "drover CA"
	}
	if opts.Validity == 0 {
		opts.Validity = DefaultCAValidity
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create CA: key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("create CA: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: opts.Name, Organization: []string{"drover"}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(opts.Validity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create CA: sign: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("create CA: %w", err)
	}
	files := []file{{caCertFile, encodeCert(der), 0o644}, {caKeyFile, keyPEM, 0o600}}
	if err := createDir(filepath.Join(dir, caDir), files, nil); err != nil {
		return nil, fmt.Errorf("create CA: %w", err)
	}
	return LoadCA(dir)
}

// LoadCA opens the authority under dir; [ErrNotFound] when there is none.
func LoadCA(dir string) (*CA, error) {
	cert, err := readCert(filepath.Join(dir, caDir, caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load CA: %s: %w", dir, ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	key, err := readKey(filepath.Join(dir, caDir, caKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load CA: %s: key and certificate do not belong together", dir)
	}
	return &CA{dir: dir, cert: cert, key: key}, nil
}

// Certificate returns the authority's certificate in PEM form.
func (ca *CA) Certificate() []byte { return encodeCert(ca.cert.Raw) }

// NotAfter is when the authority expires, and with it everything it signed.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// sign issues tmpl for the public key of key, from now on for validity but never past the authority's own end.
func (ca *CA) sign(tmpl *x509.Certificate, pub any, validity time.Duration) ([]byte, error) {
	now := time.Now()
	if !now.Before(ca.cert.NotAfter) {
		return nil, fmt.Errorf("%w on %s", ErrCAExpired, ca.cert.NotAfter.Format(time.DateOnly))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := *tmpl
	t.SerialNumber = serial
	t.NotBefore = now.Add(-clockSkew)
	t.NotAfter = now.Add(validity)
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return der, nil
}

func newSerial() (*big.Int, error) {
	// 127 bits: RFC 5280 allows 20 octets and wants a positive number.
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n, nil
}

// exists reports whether path is there; errors other than absence count as there, so that nothing is overwritten.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
