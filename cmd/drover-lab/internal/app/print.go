package app

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
)

// printJSON writes v for programs.
func (l *lab) printJSON(v any) error {
	enc := json.NewEncoder(l.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printTable writes rows for people; the first one is the heading.
func (l *lab) printTable(rows ...[]string) error {
	w := tabwriter.NewWriter(l.out, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}
