package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Probe watches a guest from outside while something is done to it.
type Probe struct {
	cmd *exec.Cmd
	out bytes.Buffer
	err bytes.Buffer
}

// Seen is what a probe saw.
type Seen struct {
	SilenceMS  float64 `json:"silence_ms"`
	Beats      int64   `json:"beats"`
	LostS      float64 `json:"work_lost_seconds"`
	Mismatches int64   `json:"mismatches"`
	Alive      bool    `json:"alive"`
}

// Probe starts watching the guest.
func (l *Lab) Probe(t testing.TB, guest string) *Probe {
	t.Helper()
	p := &Probe{cmd: exec.Command(filepath.Join(l.Build, "drover-lab"), "probe", guest, "-o", "json")}
	p.cmd.Env = append(os.Environ(), "DROVER_LAB="+l.Name)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// Stop ends the watch and returns what was seen.
func (p *Probe) Stop(t testing.TB) Seen {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("probe: %v: %s", err, p.err.String())
	}
	var s Seen
	unmarshal(t, p.out.String(), &s)
	return s
}
