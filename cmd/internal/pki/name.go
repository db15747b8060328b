package pki

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
)

// Errors that callers branch on.
var (
	// ErrExists says that the authority or identity is there already; nothing was changed.
	ErrExists = errors.New("already exists")
	// ErrNotFound says that there is no authority or identity where one was expected.
	ErrNotFound = errors.New("not found")
	// ErrName says that a name cannot be used in a certificate or as a directory.
	ErrName = errors.New("unusable name")
	// ErrCAExpired says that the authority itself has expired, so that nothing it signs would be accepted.
	ErrCAExpired = errors.New("certificate authority has expired")
)

// Role is what the holder of a certificate may do; it is the certificate's organisation.
type Role string

// The roles. Agents and schedulers are programs (server and client), admins and viewers people (client only).
const (
	RoleAgent     Role = "drover:agent"
	RoleAdmin     Role = "drover:admin"
	RoleViewer    Role = "drover:viewer"
	RoleScheduler Role = "drover:scheduler"
)

// roleInfo is what distinguishes the roles; server says that others connect to the holder too.
type roleInfo struct {
	dir    string
	user   string
	server bool
}

var roles = map[Role]roleInfo{
	RoleAgent:     {dir: "hosts", user: "host", server: true},
	RoleScheduler: {dir: "schedulers", user: "scheduler", server: true},
	RoleAdmin:     {dir: "admins", user: "admin"},
	RoleViewer:    {dir: "viewers", user: "viewer"},
}

// Roles returns all roles in a fixed order.
func Roles() []Role { return []Role{RoleAgent, RoleScheduler, RoleAdmin, RoleViewer} }

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { _, ok := roles[r]; return ok }

// CommonName returns the certificate's common name, which is also the holder's etcd user: "host/kvm1", "admin/ada".
func CommonName(r Role, name string) string { return roles[r].user + "/" + name }

// IdentityDir returns where the identity of that role and name is kept under dir.
func IdentityDir(dir string, r Role, name string) string {
	return filepath.Join(dir, roles[r].dir, name)
}

// LibvirtPaths returns where libvirt's remote driver looks for its files by default, each with the file of the
// identity directory that belongs there.
func LibvirtPaths(identityDir string) map[string]string {
	return map[string]string{
		"/etc/pki/CA/cacert.pem":                 filepath.Join(identityDir, caCertFile),
		"/etc/pki/libvirt/servercert.pem":        filepath.Join(identityDir, "server-cert.pem"),
		"/etc/pki/libvirt/private/serverkey.pem": filepath.Join(identityDir, "server-key.pem"),
		"/etc/pki/libvirt/clientcert.pem":        filepath.Join(identityDir, "client-cert.pem"),
		"/etc/pki/libvirt/private/clientkey.pem": filepath.Join(identityDir, "client-key.pem"),
	}
}

// maxCommonName is X.520's bound; longer names are refused by GnuTLS and so by libvirt.
const maxCommonName = 64

var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

func checkName(r Role, name string) error {
	if !r.Valid() {
		return fmt.Errorf("role %q: %w", r, ErrName)
	}
	if !nameRE.MatchString(name) {
		return fmt.Errorf("%q: letters, digits, dot, dash and underscore only: %w", name, ErrName)
	}
	if cn := CommonName(r, name); len(cn) > maxCommonName {
		return fmt.Errorf("%q: longer than %d characters with its prefix: %w", name, maxCommonName, ErrName)
	}
	return nil
}
