package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newCA(t *testing.T, opts CAOptions) (*CA, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	ca, err := CreateCA(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func issue(t *testing.T, ca *CA, req Request) Identity {
	t.Helper()
	id, err := ca.Issue(req)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCreateNeverOverwrites(t *testing.T) {
	ca, dir := newCA(t, CAOptions{})
	before := snapshot(t, dir)
	if _, err := CreateCA(dir, CAOptions{}); !errors.Is(err, ErrExists) {
		t.Errorf("second CreateCA: got %v, want ErrExists", err)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("second CreateCA changed files: %s", diff)
	}
	req := Request{Role: RoleAgent, Name: "kvm1"}
	issue(t, ca, req)
	before = snapshot(t, dir)
	if _, err := ca.Issue(req); !errors.Is(err, ErrExists) {
		t.Errorf("second Issue: got %v, want ErrExists", err)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("second Issue changed files: %s", diff)
	}
}

func TestKeysArePrivate(t *testing.T) {
	ca, dir := newCA(t, CAOptions{})
	for _, r := range Roles() {
		issue(t, ca, Request{Role: r, Name: "x"})
	}
	keys := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, "key.pem") {
			return err
		}
		keys++
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys != 5 {
		t.Errorf("found %d keys, want 5", keys)
	}
}

func TestUsageByRole(t *testing.T) {
	ca, _ := newCA(t, CAOptions{})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, tc := range []struct {
		role   Role
		cn     string
		server bool
	}{
		{RoleAgent, "host/n1", true},
		{RoleScheduler, "scheduler/n1", true},
		{RoleAdmin, "admin/n1", false},
		{RoleViewer, "viewer/n1", false},
	} {
		t.Run(string(tc.role), func(t *testing.T) {
			id := issue(t, ca, Request{Role: tc.role, Name: "n1"})
			c, err := readCert(filepath.Join(id.Dir, certFile))
			if err != nil {
				t.Fatal(err)
			}
			if c.Subject.CommonName != tc.cn || c.Subject.Organization[0] != string(tc.role) {
				t.Errorf("subject = %v, want CN %s and O %s", c.Subject, tc.cn, tc.role)
			}
			for usage, want := range map[x509.ExtKeyUsage]bool{
				x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: tc.server,
			} {
				_, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
				if (err == nil) != want {
					t.Errorf("verify for usage %v: %v, want accepted %v", usage, err, want)
				}
			}
			_, err = os.Stat(filepath.Join(id.Dir, "server-cert.pem"))
			if (err == nil) != tc.server {
				t.Errorf("server-cert.pem: %v, want there %v", err, tc.server)
			}
		})
	}
}

func TestNamesAreChecked(t *testing.T) {
	ca, _ := newCA(t, CAOptions{})
	for _, req := range []Request{
		{Role: RoleAgent, Name: ""},
		{Role: RoleAgent, Name: "../ca"},
		{Role: RoleAgent, Name: "a/b"},
		{Role: RoleAgent, Name: ".hidden"},
		{Role: RoleAgent, Name: strings.Repeat("x", 60)},
		{Role: "root", Name: "kvm1"},
	} {
		if _, err := ca.Issue(req); !errors.Is(err, ErrName) {
			t.Errorf("Issue(%q, %q): got %v, want ErrName", req.Role, req.Name, err)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	ca, _ := newCA(t, CAOptions{})
	host := issue(t, ca, Request{Role: RoleAgent, Name: "kvm1", IPs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}})
	admin := issue(t, ca, Request{Role: RoleAdmin, Name: "ada"})
	pair := func(id Identity, side string) tls.Certificate {
		c, err := tls.LoadX509KeyPair(filepath.Join(id.Dir, side+"-cert.pem"), filepath.Join(id.Dir, side+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Certificate()) {
		t.Fatal("authority's PEM is not accepted")
	}
	for name, accepted := range map[string]bool{"kvm1": true, "10.1.2.3": true, "kvm2": false, "host/kvm1": false} {
		here, there := net.Pipe()
		srv := tls.Server(there, &tls.Config{
			Certificates: []tls.Certificate{pair(host, "server")}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		})
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Handshake(); there.Close() }()
		cl := tls.Client(here, &tls.Config{Certificates: []tls.Certificate{pair(admin, "client")}, RootCAs: roots, ServerName: name})
		if err := cl.Handshake(); (err == nil) != accepted {
			t.Errorf("handshake as %s: %v, want accepted %v", name, err, accepted)
		}
		here.Close()
		<-done
	}
}

func TestRenew(t *testing.T) {
	ca, dir := newCA(t, CAOptions{})
	soon := issue(t, ca, Request{
		Role: RoleAgent, Name: "kvm1", DNS: []string{"kvm1.example.org"},
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Validity: 10 * 24 * time.Hour,
	})
	late := issue(t, ca, Request{Role: RoleAdmin, Name: "ada", Validity: 300 * 24 * time.Hour})
	before := snapshot(t, dir)
	got, err := Renew(dir, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].CommonName != "host/kvm1" {
		t.Fatalf("renewed %v, want host/kvm1 only", got)
	}
	want := soon
	want.Serial, want.NotBefore, want.NotAfter = got[0].Serial, got[0].NotBefore, got[0].NotAfter
	if diff := cmp.Diff(want, got[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("renewal changed more than serial and dates (-want +got):\n%s", diff)
	}
	if got[0].Serial == soon.Serial || got[0].NotAfter.Before(soon.NotAfter) {
		t.Errorf("not renewed: serial %s, end %v; before %s, %v", got[0].Serial, got[0].NotAfter, soon.Serial, soon.NotAfter)
	}
	after := snapshot(t, dir)
	changed := filepath.Join("hosts", "kvm1", certFile)
	if before[changed] == after[changed] {
		t.Error("certificate file was not replaced")
	}
	before[changed] = after[changed]
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("renewal touched other files: %s", diff)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(soon.Dir, certFile), filepath.Join(soon.Dir, keyFile)); err != nil {
		t.Errorf("key and renewed certificate: %v", err)
	}
	_ = late
}

func TestCertificateNeverOutlivesCA(t *testing.T) {
	ca, dir := newCA(t, CAOptions{Validity: time.Hour})
	id := issue(t, ca, Request{Role: RoleAgent, Name: "kvm1"})
	if id.NotAfter.After(ca.NotAfter()) {
		t.Errorf("certificate ends %v, after its authority %v", id.NotAfter, ca.NotAfter())
	}
	old, _ := newCA(t, CAOptions{Validity: -time.Minute})
	if _, err := old.Issue(Request{Role: RoleAgent, Name: "kvm1"}); !errors.Is(err, ErrCAExpired) {
		t.Errorf("Issue by an expired authority: got %v, want ErrCAExpired", err)
	}
	if _, err := Load(dir, RoleAgent, "kvm9"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Load of an unknown host: got %v, want ErrNotFound", err)
	}
}

func TestListSkipsInterruptedWrites(t *testing.T) {
	ca, dir := newCA(t, CAOptions{})
	issue(t, ca, Request{Role: RoleScheduler, Name: "s1"})
	issue(t, ca, Request{Role: RoleAgent, Name: "kvm2"})
	issue(t, ca, Request{Role: RoleAgent, Name: "kvm1"})
	if err := os.Mkdir(filepath.Join(dir, "hosts", tempPrefix+"1"), 0o700); err != nil {
		t.Fatal(err)
	}
	ids, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, id := range ids {
		names = append(names, id.CommonName)
	}
	if diff := cmp.Diff([]string{"host/kvm1", "host/kvm2", "scheduler/s1"}, names); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if _, err := List(t.TempDir()); !errors.Is(err, ErrNotFound) {
		t.Errorf("List without authority: got %v, want ErrNotFound", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts", "kvm1", certFile), []byte("junk"), 0o644); err != nil {
		t.Fatal(err)
	}
	ids, err = List(dir)
	if err == nil || len(ids) != 2 {
		t.Errorf("List with a broken one: %d identities, error %v; want 2 and an error", len(ids), err)
	}
}

// snapshot returns the content of every regular file under dir.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
