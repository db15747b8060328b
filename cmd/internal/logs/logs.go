// Package logs makes the one logger of a program.
//
// Levels: debug for following one migration step by step, info for what an admin would want in the
// journal, warn for what drover works around by itself, error for what needs a person.
package logs

import (
	"fmt"
	"io"
	"log/slog"
)

// New returns a logger that writes to w in the format "text" or "json", from the level "debug",
// "info", "warn" or "error" up.
func New(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format %q: want text or json", format)
}
