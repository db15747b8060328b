package out

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// Terminal reports whether w is a terminal that can be redrawn, and how many columns it has.
func Terminal(w io.Writer) (width int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	return width, true
}

// IsTerminal reports whether r is a terminal: somebody can be asked.
func IsTerminal(r io.Reader) bool {
	f, isFile := r.(*os.File)
	return isFile && term.IsTerminal(int(f.Fd()))
}

// ErrOver: what a watch shows will not change any more.
var ErrOver = errors.New("over")

// Watch renders every period until ctx ends, which is no error. A terminal is redrawn; anything else
// gets a rendering only when it differs from the one before, so that a log of changes results. An
// error of render ends the watch; ErrOver ends it well, after what came with it.
func Watch(ctx context.Context, w io.Writer, period time.Duration, render func(context.Context, io.Writer) error) error {
	_, redraw := Terminal(w)
	var last []byte
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		var b bytes.Buffer
		err := render(ctx, &b)
		over := errors.Is(err, ErrOver)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil && !over:
			return err
		}
		if !bytes.Equal(b.Bytes(), last) {
			last = bytes.Clone(b.Bytes())
			if redraw {
				// Home, then clear below: less flicker than clearing first.
				last = append([]byte("\x1b[H\x1b[J"), b.Bytes()...)
			}
			if _, err := w.Write(last); err != nil {
				return err
			}
			last = bytes.Clone(b.Bytes())
		}
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
