package precopy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Spool keeps, on the source host's own disk, what must survive the agent and the store: the
// outcome of each migration until the store has taken it. libvirt gives an outcome's statistics
// once; a power cut after that must not lose them.
//
// One file per migration; each is written whole, synced and renamed. Methods may be called from
// several goroutines as long as no two concern the same migration.
type Spool struct{ dir string }

// Spooled is one migration's file: the part of the record that only this host knows.
type Spooled struct {
	ID         string   `json:"id"`
	Phase      Phase    `json:"phase"`
	Reason     string   `json:"reason,omitempty"`
	ReasonCode string   `json:"reason_code,omitempty"`
	Error      string   `json:"error,omitempty"`
	Finished   string   `json:"finished,omitempty"` // RFC 3339 with nanoseconds
	Outcome    *Outcome `json:"outcome,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// OpenSpool makes the directory if need be.
func OpenSpool(dir string) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	probe := filepath.Join(dir, ".probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return nil, fmt.Errorf("spool: not writable: %w", err)
	}
	_ = os.Remove(probe)
	return &Spool{dir: dir}, nil
}

// Put writes or replaces a migration's file durably.
func (s *Spool) Put(e Spooled) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	tmp := s.path(e.ID) + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	if err := os.Rename(tmp, s.path(e.ID)); err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	return s.syncDir()
}

// Remove forgets a migration; none is no error.
func (s *Spool) Remove(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool %s: %w", id, err)
	}
	return nil
}

// List reads every whole file. One that can't be read is named in the error; the others are
// returned all the same.
func (s *Spool) List() ([]Spooled, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var out []Spooled
	var errs []error
	for _, n := range names {
		data, err := os.ReadFile(n)
		var e Spooled
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err == nil && e.ID != strings.TrimSuffix(filepath.Base(n), ".json") {
			err = errors.New("it names another migration")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("spool %s: %w", filepath.Base(n), err))
			continue
		}
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

func (s *Spool) path(id string) string { return filepath.Join(s.dir, filepath.Base(id)+".json") }

func (s *Spool) syncDir() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
