package runs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Load reads a file of runs; none when there is no such file.
func Load(path string) ([]Run, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Run
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("runs: %s: %w", path, err)
	}
	return all, nil
}

// Save writes a file of runs whole, one a line and in order, so that two versions of it can be compared.
func Save(path string, all []Run) error {
	var b bytes.Buffer
	b.WriteString("[")
	for i, r := range slices.SortedFunc(slices.Values(all), compare) {
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("runs: %w", err)
		}
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n")
		b.Write(line)
	}
	b.WriteString("\n]\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func compare(a, b Run) int {
	return cmp.Or(
		cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Rate, b.Rate),
		cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Number, b.Number),
		cmp.Compare(a.Receipts, b.Receipts),
	)
}

// Merge returns the runs of both; of those with the same key, the newer.
func Merge(old, newer []Run) []Run {
	out := slices.Clone(newer)
	have := Keys(newer)
	for _, r := range old {
		if !have[r.Key()] {
			out = append(out, r)
		}
	}
	return out
}

// Keys are the keys of the runs.
func Keys(all []Run) map[string]bool {
	have := make(map[string]bool, len(all))
	for _, r := range all {
		have[r.Key()] = true
	}
	return have
}

// Select returns the runs for which keep is true.
func Select(all []Run, keep func(Run) bool) []Run {
	return slices.DeleteFunc(slices.Clone(all), func(r Run) bool { return !keep(r) })
}
