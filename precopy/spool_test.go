package precopy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func spooled(id string) Spooled {
	return Spooled{
		ID: id, Phase: Done, Reason: "moved to b", Finished: "2030-01-02T03:04:05.000000006Z", Notes: []string{"n"},
		Outcome: &Outcome{Seconds: 1.5, Bytes: 42, PauseMS: 30, PauseKnown: true, Rounds: 3, Strategy: "plain"},
	}
}

func TestSpoolKeepsAndForgets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "spool[1]")
	s, err := OpenSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, second := spooled("m1"), spooled("m2")
	second.Phase, second.Outcome = Failed, nil
	for _, e := range []Spooled{spooled("m2"), first, second} {
		if err := s.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.List()
	if d := cmp.Diff([]Spooled{first, second}, got); d != "" || err != nil {
		t.Errorf("list: %v (-want +got):\n%s", err, d)
	}
	for _, id := range []string{"m1", "m1", "never"} {
		if err := again.Remove(id); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	if got, err := again.List(); len(got) != 1 || err != nil {
		t.Errorf("after removing one of two: %v, %v", got, err)
	}
}

// TestSpoolAfterACrash leaves every prefix of a file behind, under its own name and the one that it
// has while it is written: what is listed is whole, and what is not is named.
func TestSpoolAfterACrash(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(spooled("whole")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "whole.json"))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		cut := data[:rapid.IntRange(0, len(data)-1).Draw(t, "cut")]
		half := filepath.Join(dir, "1234"+unfinished)
		if err := os.WriteFile(half, cut, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSpool(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.List(); err != nil || len(got) != 1 || got[0].ID != "whole" {
			t.Fatalf("with a half-written file: %v, %v", got, err)
		}
		if _, err := os.Stat(half); err == nil {
			t.Fatal("the half-written file is still there")
		}
		torn := filepath.Join(dir, "torn.json")
		if err := os.WriteFile(torn, cut, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(torn)
		got, err := s.List()
		if err == nil || !strings.Contains(err.Error(), "torn.json") {
			t.Fatalf("a torn file is not named: %v", err)
		}
		if len(got) != 1 || got[0].ID != "whole" {
			t.Fatalf("with a torn file: %v", got)
		}
	})
}

func TestSpoolRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSpool(filepath.Join(file, "spool")); err == nil {
		t.Error("a spool under a file was opened")
	}
	dir := t.TempDir()
	s, err := OpenSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(spooled("a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.List(); err == nil || len(got) != 0 {
		t.Errorf("a file under another migration's name: %v, %v", got, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(spooled("a")); err == nil {
		t.Error("put into a directory that is gone")
	}
}
