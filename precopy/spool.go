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
// One file per migration; each is written whole, synced and renamed. A file stays until the store
// has the outcome and this host has been tidied up, so that the next start finds what is left to do.
// Methods may be called from several goroutines; of two that put the same migration one wins.
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
	// Leave says that nothing is to be tidied up: it is not known which host ran the guest last, or
	// a definition would be the last one.
	Leave bool `json:"leave,omitempty"`
}

// unfinished ends the names of files that are still being written.
const unfinished = ".new"

// OpenSpool makes the directory if need be, and clears half-written files out of it.
func OpenSpool(dir string) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	probe := filepath.Join(dir, ".probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return nil, fmt.Errorf("spool: not writable: %w", err)
	}
	_ = os.Remove(probe)
	// Files that a crash left half written: what they were to say was never promised to anybody.
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	for _, n := range left {
		if strings.HasSuffix(n.Name(), unfinished) {
			_ = os.Remove(filepath.Join(dir, n.Name()))
		}
	}
	return &Spool{dir: dir}, nil
}

// Put writes or replaces a migration's file durably.
func (s *Spool) Put(e Spooled) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	// A name of its own: for a moment an agent and its successor may both be alive.
	f, err := os.CreateTemp(s.dir, "*"+unfinished)
	if err != nil {
		return fmt.Errorf("spool %s: %w", e.ID, err)
	}
	tmp := f.Name()
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
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var out []Spooled
	var errs []error
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, f.Name()))
		var e Spooled
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err == nil && e.ID != id {
			err = errors.New("it names another migration")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("spool %s: %w", f.Name(), err))
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
