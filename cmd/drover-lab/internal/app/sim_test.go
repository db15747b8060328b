package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/test/sim"
)

// sims runs "drover-lab sim" and returns what it printed on each side.
func sims(t *testing.T, line string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	err = run(t.Context(), newApp(&out, &log), strings.Fields("drover-lab sim "+line))
	return out.String(), log.String(), err
}

func TestSim(t *testing.T) {
	out, _, err := sims(t, "--hosts 4 --vms 20 --hours 0.5 --roll 1 --level manual -o json")
	var r sim.Report
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Hosts != 4 || r.Guests != 20 || r.Moves != 5 || r.Lost > 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	again, _, err := sims(t, "--hosts 4 --vms 20 --hours 0.5 --roll 1 --level manual -o json")
	if err != nil || again != out {
		t.Errorf("the same flags give other figures: %v\n%s\n%s", err, out, again)
	}
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "scenario")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "# nothing happens\nfleet hosts=3 vms=6\n----\n\nrun 1m\n----\n\nassert\nmoves = 0\nsound\n----\nok\n"
	out, log, err := sims(t, file(good)+" -o table")
	if err != nil || !strings.Contains(out, "3 hosts, 6 guests") || !strings.Contains(log, "scenario:8: ok") {
		t.Errorf("%v\n%s\n%s", err, out, log)
	}
	for text, want := range map[string]string{
		strings.Replace(good, "moves = 0", "moves > 7", 1): "scenario:8: does not hold: moves > 7: it is 0",
		"fleet hosts=3 vms=6 cats=7\n":                     "cats= is not known here",
		"fly\n":                                            "scenario:1: fly: no such command",
		"fleet hosts=2 vms=2\n\nat 1m explode h001\n":      `no such event: "explode"`,
		"# nothing\n":                                      "it has no commands",
		"host a\n\nassert\nmoves ~ 7\n":                    `"~" is no comparison`,
	} {
		if _, _, err := sims(t, file(text)); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want: %s", text, err, want)
		}
	}
	for _, line := range []string{"a b", "/nowhere", "--hosts 0", "--hours 0", "--load odd", "--rule odd", "--level odd", "-o xml", "--fill 9"} {
		if err := run(t.Context(), newApp(io.Discard, io.Discard), strings.Fields("drover-lab sim "+line)); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v, want a usage error", line, err)
		}
	}
}
