package hooks_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/cmd/internal/hooks"
	"drover/precopy"
)

// dir makes a hooks directory with one script.
func dir(t *testing.T, name, script string) (*hooks.Dir, string) {
	t.Helper()
	d := t.TempDir()
	if err := os.Chmod(d, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return hooks.Open(d), d
}

func TestRun(t *testing.T) {
	tests := []struct {
		name, script string
		exit         int
		timedOut     bool
		output, says string
	}{
		{"it ends with 0", `echo "$DROVER_HOST $DROVER_RUN$SECRET"`, 0, false, "kvm1 r1", ""},
		{"it fails", "echo broken >&2; exit 3", 3, false, "broken", "exit status 3"},
		{"it takes too long, and obeys", "echo begun; sleep 60", -1, true, "begun", "took longer than 300ms"},
		{"it takes too long, and does not obey", "trap '' TERM; echo begun; sleep 60; sleep 60", -1, true, "begun", "was stopped"},
		{"something that it started goes on", "echo done; sleep 60 &", 0, false, "done", ""},
		{"it writes much", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo the end", 0, false, "the end", ""},
	}
	t.Setenv("DROVER_HOST", "wrong")
	t.Setenv("SECRET", "secret")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d, _ := dir(t, "h", tt.script)
			timeout := 20 * time.Second
			if tt.timedOut {
				timeout = 300 * time.Millisecond
			}
			began := time.Now()
			r := d.Run(t.Context(), precopy.HookCall{
				Name: "h", Attempt: "1", Timeout: timeout, Grace: 300 * time.Millisecond,
				Env: map[string]string{"DROVER_HOST": "kvm1", "DROVER_RUN": "r1", "LD_PRELOAD": "x"},
			})
			if r.Exit != tt.exit || r.TimedOut != tt.timedOut || !strings.HasSuffix(r.Output, tt.output) || len(r.Output) > 4096 || !strings.Contains(r.Error, tt.says) {
				t.Errorf("got %+v, want exit %d, timed out %v, output %q, error with %q", r, tt.exit, tt.timedOut, tt.output, tt.says)
			}
			if r.Failed() != (tt.exit != 0) {
				t.Errorf("failed is %v: %+v", r.Failed(), r)
			}
			if took := time.Since(began); took > 50*time.Second {
				t.Errorf("it was waited for %s", took)
			}
		})
	}
}

// One attempt runs once, however often it is asked for; another one runs anew.
func TestAttempts(t *testing.T) {
	d, path := dir(t, "h", "")
	count := filepath.Join(path, "count")
	if err := os.WriteFile(filepath.Join(path, "h"), []byte("#!/bin/sh\necho x >> "+count+"\nsleep 0.2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	call := precopy.HookCall{Name: "h", Attempt: "1", Timeout: 20 * time.Second}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if r := d.Run(impatient, call); !r.Failed() || !strings.Contains(r.Error, "not waited for") {
		t.Errorf("not waited for: %+v", r)
	}
	for _, id := range []string{"1", "1", "2"} {
		call.Attempt = id
		if r := d.Run(t.Context(), call); r.Failed() {
			t.Errorf("attempt %s: %+v", id, r)
		}
	}
	if got, err := os.ReadFile(count); err != nil || string(got) != "x\nx\n" {
		t.Errorf("it ran %d times (%v), want twice", strings.Count(string(got), "x"), err)
	}
}

// What others could change is not run, nor what is not there.
func TestAllowed(t *testing.T) {
	tests := []struct {
		name  string
		hook  string
		spoil func(t *testing.T, dir string) error
		says  string
	}{
		{"it is not there", "other", nil, "there is no "},
		{"it is elsewhere", "../h", nil, "want lower-case letters"},
		{"others may write to it", "h", func(_ *testing.T, d string) error { return os.Chmod(filepath.Join(d, "h"), 0o777) }, "others may write"},
		{"others may write to the directory", "h", func(_ *testing.T, d string) error { return os.Chmod(d, 0o777) }, "others may write"},
		{"it is no program", "h", func(_ *testing.T, d string) error { return os.Chmod(filepath.Join(d, "h"), 0o600) }, "no executable file"},
		{"it is a directory", "sub", func(_ *testing.T, d string) error { return os.Mkdir(filepath.Join(d, "sub"), 0o700) }, "no executable file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, path := dir(t, "h", "exit 0")
			if tt.spoil != nil {
				if err := tt.spoil(t, path); err != nil {
					t.Fatal(err)
				}
			}
			r := d.Run(t.Context(), precopy.HookCall{Name: tt.hook, Attempt: "1", Timeout: time.Second})
			if !r.Failed() || !strings.Contains(r.Error, tt.says) {
				t.Errorf("got %+v, want an error with %q", r, tt.says)
			}
		})
	}
	if r := hooks.Open("").Run(t.Context(), precopy.HookCall{Name: "h", Timeout: time.Second}); !strings.Contains(r.Error, "has no hooks") {
		t.Errorf("without a directory: %+v", r)
	}
	d, _ := dir(t, "h", "exit 0")
	if r := d.Run(t.Context(), precopy.HookCall{Name: "h"}); !strings.Contains(r.Error, "time limit") {
		t.Errorf("without a time limit: %+v", r)
	}
}
