package logs

import (
	"bytes"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	tests := []struct{ format, level, want string }{
		{"text", "info", `level=WARN msg=m k=v`},
		{"json", "warn", `"msg":"m","k":"v"`},
		{"json", "error", ""},
	}
	for _, tt := range tests {
		var b bytes.Buffer
		l, err := New(&b, tt.format, tt.level)
		if err != nil {
			t.Fatal(err)
		}
		l.Warn("m", "k", "v")
		if got := b.String(); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s at %s: %q, want %q", tt.format, tt.level, got, tt.want)
		}
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "loud"}} {
		if _, err := New(&bytes.Buffer{}, bad[0], bad[1]); err == nil {
			t.Errorf("New(%q, %q): no error", bad[0], bad[1])
		}
	}
}
