// Package out renders what a command found out: as a table for people, or as JSON or YAML for tools;
// once, or again and again with --watch; and the progress of a migration.
//
// Everything is plain ASCII, no meaning is in colour, and only a terminal is ever redrawn.
package out

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"sigs.k8s.io/yaml"
)

// Format is how an answer is written.
type Format string

// The formats.
const (
	AsTable Format = "table"
	AsJSON  Format = "json"
	AsYAML  Format = "yaml"
)

// ParseFormat reads the value of --output.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case AsTable, AsJSON, AsYAML:
		return f, nil
	}
	return "", fmt.Errorf("output %q: want table, json or yaml", s)
}

// Print writes value to w in the format; table makes its form for people and is called only then.
func (f Format) Print(w io.Writer, value any, table func() Table) error {
	switch f {
	case AsJSON:
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return fmt.Errorf("print json: %w", err)
		}
		_, err = fmt.Fprintf(w, "%s\n", text)
		return err
	case AsYAML:
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("print yaml: %w", err)
		}
		_, err = w.Write(text)
		return err
	default:
		return table().Write(w)
	}
}

// Table is rows of cells under a heading. Without a heading it is a list of names and values.
type Table struct {
	Head []string
	Rows [][]string
	// None is what to say instead when there are no rows.
	None string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Write writes the table with aligned columns. Empty cells read "-" so that columns can be counted by
// tools; characters that could confuse a terminal become "?".
func (t Table) Write(w io.Writer) error {
	if len(t.Rows) == 0 {
		if t.None == "" {
			return nil
		}
		_, err := fmt.Fprintln(w, t.None)
		return err
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(t.Head) > 0 {
		fmt.Fprintln(tw, strings.Join(t.Head, "\t"))
	}
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = Clean(c)
			if cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	for _, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// Clean makes text from the store fit for one line of a terminal: control characters, which could
// move the cursor or hide a row, become "?", and line breaks blanks.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// Shorten cuts s to at most n characters, marking the cut with "...".
func Shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 4 {
		return s
	}
	return string(r[:n-3]) + "..."
}
