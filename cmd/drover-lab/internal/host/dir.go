package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"drover/cmd/drover-lab/internal/state"
)

// marker is the file that makes a directory the lab's, to be deleted with all that is in it.
const marker = ".drover-lab"

// ErrForeignDir says that a lab's directory exists with files that no lab put there.
var ErrForeignDir = errors.New("directory is not a lab's")

// claimDir makes dir, or takes it when it is empty or a lab's already.
func claimDir(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 10; try++ {
		// Another lab's end took the directory above away in between.
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, marker)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s has other files in it: %w", dir, ErrForeignDir)
	}
	return os.WriteFile(mark, nil, 0o644)
}

// releaseDir deletes dir if it is a lab's; one that was made but not yet marked goes if it is empty.
func releaseDir(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
			return removeDefault(dir)
		}
		return err
	}
	// The marker goes last: an interrupted removal is finished by the next one.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return removeDefault(dir)
}

// removeDefault removes the directory of labs if it is ours by name, and neither a lab nor the cache is in it.
func removeDefault(dir string) error {
	if base := filepath.Dir(dir); base == state.DefaultDir {
		_ = os.Remove(base) // fails when it is in use, which is the intent
	}
	return nil
}
