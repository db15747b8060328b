package app

import (
	"os"
	"strings"
	"testing"
)

// The lab's agents run as systemd runs them.
func TestAgentEnvironmentIsTheUnits(t *testing.T) {
	unit, err := os.ReadFile("../../../../deploy/systemd/drover-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nEnvironment=" + strings.Join(agentEnv, " ") + "\n"; !strings.Contains(string(unit), want) {
		t.Errorf("the unit has no line %q", strings.TrimSpace(want))
	}
}
