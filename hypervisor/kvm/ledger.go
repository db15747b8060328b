package kvm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ledgerAge is how long it is remembered which files were made for a migration.
const ledgerAge = 30 * 24 * time.Hour

// ledger remembers which disk files were made for which migration, on disk where it was given a
// place: only what is in it may ever be removed, also by an agent that was restarted.
type ledger struct {
	path string // empty: in memory only

	mu      sync.Mutex
	entries []ledgerEntry
	works   map[string]*work // by migration, while any is under way
}

// work is the right to make or remove the files of one migration.
type work struct {
	turn  sync.Mutex
	users int
}

type ledgerEntry struct {
	Migration string    `json:"migration"`
	Path      string    `json:"path"`
	File      identity  `json:"file"`
	Made      time.Time `json:"made"`
}

// openLedger reads the ledger in dir. One that can't be read is an error: with it lost, files that
// drover made would be taken for somebody else's for ever.
func openLedger(dir string) (*ledger, error) {
	l := &ledger{}
	if dir == "" {
		return l, nil
	}
	l.path = filepath.Join(dir, "copied-disks.json")
	text, err := os.ReadFile(l.path)
	if os.IsNotExist(err) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ledger of copied disks: %w", err)
	}
	if err := json.Unmarshal(text, &l.entries); err != nil {
		return nil, fmt.Errorf("ledger of copied disks %s: %w", l.path, err)
	}
	return l, nil
}

// work waits for its turn to make or remove the migration's files; the returned function ends it.
func (l *ledger) work(migration string) (end func()) {
	l.mu.Lock()
	w := l.works[migration]
	if w == nil {
		w = &work{}
		if l.works == nil {
			l.works = map[string]*work{}
		}
		l.works[migration] = w
	}
	w.users++
	l.mu.Unlock()
	w.turn.Lock()
	return func() {
		w.turn.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.users--; w.users == 0 {
			delete(l.works, migration)
		}
	}
}

// working reports whether files of the migration are being made or removed, or are about to be.
func (l *ledger) working(migration string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.works[migration] != nil
}

// record notes a file right after it was made.
func (l *ledger) record(migration, path string) error {
	file, err := identify(path)
	if err != nil {
		return fmt.Errorf("ledger of copied disks: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.entries = slices.DeleteFunc(l.entries, func(e ledgerEntry) bool { return now.Sub(e.Made) > ledgerAge })
	l.entries = append(l.entries, ledgerEntry{Migration: migration, Path: path, File: file, Made: now})
	return l.save()
}

// strike forgets a file.
func (l *ledger) strike(migration, path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(e ledgerEntry) bool { return e.Migration == migration && e.Path == path })
	return l.save()
}

// owns reports whether the path is, now, the file that was made for the migration; an empty
// migration stands for any.
func (l *ledger) owns(migration, path string) (bool, error) {
	now, err := identify(path)
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.entries, func(e ledgerEntry) bool {
		return (migration == "" || e.Migration == migration) && e.Path == path && e.File == now
	}), nil
}

// files lists the paths made for a migration.
func (l *ledger) files(migration string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var paths []string
	for _, e := range l.entries {
		if e.Migration == migration {
			paths = append(paths, e.Path)
		}
	}
	return paths
}

// save writes the ledger so that a crash leaves either the old or the new one.
func (l *ledger) save() error {
	if l.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(l.entries, "", "  ")
	if err != nil {
		return fmt.Errorf("ledger of copied disks: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(l.path), ".copied-disks-*")
	if err != nil {
		return fmt.Errorf("ledger of copied disks: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it has its final name
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), l.path)
	}
	if err != nil {
		return fmt.Errorf("ledger of copied disks: %w", err)
	}
	return nil
}
