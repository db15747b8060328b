package kvm

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// qemuConf is the part of libvirt's qemu.conf that decides what this host can do in a migration. It
// is read again when the file changes.
type qemuConf struct {
	path string

	mu       sync.Mutex
	modified time.Time
	size     int64
	values   map[string][]string
}

func newQEMUConf(path string) *qemuConf { return &qemuConf{path: path} }

// get returns the values of a key: one for a scalar, any number for a list, none when unset. A file
// that can't be read has no keys: libvirt's defaults hold then.
func (c *qemuConf) get(key string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err != nil {
		c.values = nil
		return nil
	}
	if c.values == nil || !info.ModTime().Equal(c.modified) || info.Size() != c.size {
		text, err := os.ReadFile(c.path)
		if err != nil {
			return nil
		}
		c.values, c.modified, c.size = parseConf(string(text)), info.ModTime(), info.Size()
	}
	return c.values[key]
}

func (c *qemuConf) first(key, otherwise string) string {
	if v := c.get(key); len(v) > 0 {
		return v[0]
	}
	return otherwise
}

// migrationTLS reports whether the host has the certificates that an encrypted stream needs at
// either end.
func (c *qemuConf) migrationTLS() bool {
	dir := c.migrationDir()
	for _, name := range []string{"ca-cert.pem", "server-cert.pem", "server-key.pem"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// migrationDir is where QEMU looks for the certificates of encrypted streams.
func (c *qemuConf) migrationDir() string {
	return c.first("migrate_tls_x509_cert_dir", c.first("default_tls_x509_cert_dir", "/etc/pki/qemu"))
}

// parseConf reads libvirt's configuration syntax: key = "string", key = number and key = [ list ],
// which may run over several lines; '#' starts a comment outside strings. What it can't read it
// passes over, since libvirt is the judge of that file.
func parseConf(text string) map[string][]string {
	s := confScanner{text: text}
	values := map[string][]string{}
	for !s.done() {
		key := s.word()
		if key == "" {
			s.skipLine()
			continue
		}
		s.blanks(false)
		if !s.take('=') {
			s.skipLine()
			continue
		}
		s.blanks(false)
		if list, ok := s.value(); ok {
			values[key] = list
		}
		s.skipLine()
	}
	return values
}

type confScanner struct {
	text string
	pos  int
}

func (s *confScanner) done() bool { return s.pos >= len(s.text) }

func (s *confScanner) take(c byte) bool {
	if s.done() || s.text[s.pos] != c {
		return false
	}
	s.pos++
	return true
}

// blanks passes over white space, and over line ends and comments too when lines is true.
func (s *confScanner) blanks(lines bool) {
	for !s.done() {
		switch c := s.text[s.pos]; {
		case c == ' ' || c == '\t' || c == '\r':
			s.pos++
		case lines && c == '\n':
			s.pos++
		case lines && c == '#':
			s.skipLine()
		default:
			return
		}
	}
}

func (s *confScanner) skipLine() {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		s.pos += i + 1
		return
	}
	s.pos = len(s.text)
}

func (s *confScanner) word() string {
	s.blanks(true)
	from := s.pos
	for !s.done() {
		c := s.text[s.pos]
		if c != '_' && c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			break
		}
		s.pos++
	}
	return s.text[from:s.pos]
}

// value reads a scalar or a list.
func (s *confScanner) value() ([]string, bool) {
	if !s.take('[') {
		v, ok := s.scalar()
		return []string{v}, ok
	}
	list := []string{}
	for {
		s.blanks(true)
		if s.take(']') {
			return list, true
		}
		v, ok := s.scalar()
		if !ok {
			return nil, false
		}
		list = append(list, v)
		s.blanks(true)
		s.take(',')
	}
}

func (s *confScanner) scalar() (string, bool) {
	for _, quote := range []string{`"""`, `"`, `'`} {
		if !strings.HasPrefix(s.text[s.pos:], quote) {
			continue
		}
		from := s.pos + len(quote)
		end := strings.Index(s.text[from:], quote)
		if end < 0 {
			return "", false
		}
		s.pos = from + end + len(quote)
		return s.text[from : from+end], true
	}
	v := s.word()
	return v, v != ""
}
