package load

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Row is one VM of a trace.
type Row struct {
	Name string
	// VCPUs and MemoryMiB are 0 where the trace does not say.
	VCPUs     int
	MemoryMiB int
	Series    Recorded
}

// every is the time between two columns of the traces.
const every = 5 * time.Minute

// Read reads a trace: a CSV file, gzipped if its name ends in .gz, with a heading and a line for each VM, and a
// column for every five minutes. Columns headed vm, cores, mem_mib come first and are taken as such, others up
// to the first one headed t… are left out. Loads are per cent of the VM's vCPUs, or per mille where the heading
// says cores, as the traces of Bitbrains do; where there is none, the one before goes on.
func Read(path string) ([]Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("read trace %s: %w", path, err)
		}
	}
	rows, err := csv.NewReader(r).ReadAll() // refuses rows of unequal lengths
	if err != nil {
		return nil, fmt.Errorf("read trace %s: %w", path, err)
	}
	out, err := parse(rows)
	if err != nil {
		return nil, fmt.Errorf("read trace %s: %w", path, err)
	}
	return out, nil
}

func parse(rows [][]string) ([]Row, error) {
	if len(rows) < 2 {
		return nil, fmt.Errorf("%d lines: want a heading, and VMs", len(rows))
	}
	first, scale := len(rows[0]), 100.0
	for i, h := range rows[0] {
		if h == "cores" {
			scale = 1000
		}
		if strings.HasPrefix(h, "t") && i < first {
			first = i
		}
	}
	if first == len(rows[0]) {
		return nil, fmt.Errorf("the heading %q has no column t0", strings.Join(rows[0], ","))
	}
	out := make([]Row, 0, len(rows)-1)
	for n, cells := range rows[1:] {
		row := Row{Series: Recorded{Every: every, Values: make([]float64, len(cells)-first)}}
		for i, cell := range cells {
			bad := fmt.Errorf("line %d, column %d: %q is no number that fits there", n+2, i+1, cell)
			if i >= first && cell == "" {
				// A gap in the record: it went on as it was.
				row.Series.Values[i-first] = row.Series.Values[max(i-first-1, 0)]
				continue
			}
			if i >= first {
				v, err := strconv.ParseFloat(cell, 64)
				if err != nil || !(v >= 0 && v <= scale) {
					return nil, bad
				}
				row.Series.Values[i-first] = v / scale
				continue
			}
			whole := func(into *int) error {
				v, err := strconv.Atoi(cell)
				if err != nil || v < 0 {
					return bad
				}
				*into = v
				return nil
			}
			var err error
			switch rows[0][i] {
			case "vm":
				row.Name = cell
			case "cores":
				err = whole(&row.VCPUs)
			case "mem_mib":
				err = whole(&row.MemoryMiB)
			}
			if err != nil {
				return nil, err
			}
		}
		out = append(out, row)
	}
	return out, nil
}
