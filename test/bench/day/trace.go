package main

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// trace is the load of VMs over a day: one row for each VM, one column for each step, per cent of the
// VM's own CPU.
type trace [][]float64

// readTrace reads a CSV file, gzipped if its name says so: a heading, then name and loads.
func readTrace(path string) (trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	rows, err := csv.NewReader(r).ReadAll() // refuses rows of unequal lengths
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) < 2 || len(rows[0]) < 1+2*warmup {
		return nil, fmt.Errorf("%s: want a heading, and VMs with %d steps or more", path, 2*warmup)
	}
	out := make(trace, len(rows)-1)
	for i, row := range rows[1:] {
		for j, cell := range row[1:] {
			v, err := strconv.ParseFloat(cell, 64)
			if err != nil || !(v >= 0 && v <= 100) {
				return nil, fmt.Errorf("%s: line %d, column %d: %q is no share of 0 to 100", path, i+2, j+2, cell)
			}
			out[i] = append(out[i], v)
		}
	}
	return out, nil
}
