package state

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestParseStart(t *testing.T) {
	rest := " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99"
	for _, tc := range []struct {
		name string
		in   string
		want uint64
		err  error
	}{
		{"plain", "7 (sleep) S" + rest, 4242, nil},
		{"a name like a stat line", "7 (a) S 1 (b)) R" + rest, 4242, nil},
		{"zombie", "7 (x) Z" + rest, 0, ErrGone},
	} {
		got, err := parseStart([]byte(tc.in))
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: got %d, %v, want %d, %v", tc.name, got, err, tc.want, tc.err)
		}
	}
	for _, in := range []string{"", "7 sleep S 1", "7 (sleep) S 1 2"} {
		if _, err := parseStart([]byte(in)); err == nil {
			t.Errorf("parseStart(%q): want an error", in)
		}
	}
}

func TestProcKillsOnlyItself(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FindProc(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stranger := Proc{PID: p.PID, Start: p.Start - 1}
	if stranger.Alive() {
		t.Error("another process of the same pid counts as alive")
	}
	if err := stranger.Kill(time.Second); err != nil || !p.Alive() {
		t.Errorf("killing a process that is gone: %v, and its pid's new owner lives: %v", err, p.Alive())
	}
	if err := p.Kill(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive after Kill")
	}
	_ = cmd.Wait() // killed
	if err := p.Kill(time.Second); err != nil {
		t.Errorf("killing twice: %v", err)
	}
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := OpenAt(filepath.Join(t.TempDir(), "root"), "lab")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLockExcludesAndSurvivesRemoval(t *testing.T) {
	s := open(t)
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second Lock: got %v, want a timeout", err)
	}
	second := make(chan error, 1)
	go func() {
		unlock, err := s.Lock(t.Context())
		if err == nil {
			// The first holder removed the directory: the lock must be on the file that is there now.
			_, err = os.Stat(filepath.Join(s.root, lockFile))
			unlock()
		}
		second <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-second; err != nil {
		t.Errorf("Lock after removal: %v", err)
	}
}

func TestRecords(t *testing.T) {
	s := open(t)
	if _, err := s.Up(); !errors.Is(err, ErrNoLab) {
		t.Errorf("Up without a lab: got %v, want ErrNoLab", err)
	}
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := s.PutLab(Lab{Name: "lab"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Up(); !errors.Is(err, ErrNoLab) {
		t.Errorf("Up of a half-made lab: got %v, want ErrNoLab", err)
	}
	if err := s.PutLab(Lab{Name: "lab", Ready: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Up(); err != nil {
		t.Errorf("Up: %v", err)
	}
	self, err := FindProc(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutHost(Host{Name: "kvm1", Init: self}); err != nil {
		t.Fatal(err)
	}
	if h, err := s.Host("kvm1"); err != nil || h.Init != self {
		t.Errorf("Host = %+v, %v, want process %+v", h, err, self)
	}
	if _, err := s.Host("kvm2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown host: got %v, want ErrNotFound", err)
	}
	// After a reboot a pid and start time may fit by chance: such records must not count.
	if err := s.write("lab.json", Lab{Name: "lab", Ready: true, Boot: "another"}); err != nil {
		t.Fatal(err)
	}
	if h, err := s.Host("kvm1"); err != nil || h.Init != (Proc{}) {
		t.Errorf("host of an earlier boot = %+v, %v, want no process", h, err)
	}
	if _, err := s.Up(); !errors.Is(err, ErrNoLab) {
		t.Errorf("Up of a lab of an earlier boot: got %v, want ErrNoLab", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"lab": true, "a": true, "a-1": true, "": false, "-a": false, "a-": false, "A": false, "a/b": false, "..": false,
		"a234567890123456789012345678901": true, "a2345678901234567890123456789012": false,
	} {
		if err := CheckName("lab", name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v, want accepted %v", name, err, ok)
		}
	}
}
