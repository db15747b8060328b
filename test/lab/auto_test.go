//go:build soak

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// The automatic loop's hosts have small shares of the CPU, so that a few guests fill one.
const (
	autoGuests = 4
	autoSlot   = 10 * time.Second
	autoHold   = 30 * time.Second
	autoReady  = 12 * autoSlot // before a VM's load is known
	// autoWithin is how long after its detection an overload may last, autoIdle how long nothing may happen then.
	autoWithin = 2 * time.Minute
	autoIdle   = 10 * time.Minute
)

// shares are the hosts' CPU in use, of what they have.
func (l *Lab) shares(t *testing.T) map[string]float64 {
	t.Helper()
	var hosts []struct {
		Name     string  `json:"name"`
		CPU      float64 `json:"cpu"`
		Capacity struct {
			Cores float64 `json:"cores"`
		} `json:"capacity"`
	}
	unmarshal(t, l.MustDrover(t, "host", "list", "-o", "json").Stdout, &hosts)
	out := map[string]float64{}
	for _, h := range hosts {
		out[h.Name] = h.CPU / h.Capacity.Cores
	}
	return out
}

func (l *Lab) plans(t *testing.T) []fleet.Plan {
	t.Helper()
	var out []fleet.Plan
	unmarshal(t, l.MustDrover(t, "plan", "list", "--all", "-o", "json").Stdout, &out)
	return out
}

// automate applies a policy of automation.
func (l *Lab) automate(t *testing.T, level string, mark int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf("schema: 1\nautomation: {level: %s, mark: %d%%, slot: %s, hold: %s}\n", level, mark, autoSlot, autoHold)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(l.MustDrover(t, "policy", "apply", file).Stdout)
}

// TestBalanceRestored loads one of three hosts beyond the policy's mark, and wants that the automatic loop restores
// balance within two minutes of detecting it, and then does nothing for ten.
func TestBalanceRestored(t *testing.T) {
	l := begin(t, "1gbit")
	l.automate(t, "manual", 100)
	var guests []string
	for i := range autoGuests {
		g := fmt.Sprintf("auto%d", i+1)
		l.Guest(t, g, "kvm1", "--memory", "128MiB", "--wss", "16MiB", "--rate", "1500", "--pattern", "page", "--disk", "shared")
		guests = append(guests, g)
	}
	began, used := time.Now(), 0.0
	const readings = 8
	for range readings {
		time.Sleep(6 * time.Second)
		used += l.shares(t)["kvm1"] / readings
	}
	autoMark := used - 0.08
	t.Logf("%d guests use %.0f %% of kvm1, the mark is %.0f %%", len(guests), 100*used, 100*autoMark)
	time.Sleep(time.Until(began.Add(autoReady)))
	if n := len(l.plans(t)); n != 0 {
		t.Fatalf("%d plans while no host is above the mark", n)
	}
	l.automate(t, "full", int(100*autoMark))
	loaded := time.Now()
	l.Eventually(t, autoHold+6*autoSlot, "a plan", func() bool { return len(l.plans(t)) > 0 })
	detected := l.plans(t)[0].Created
	t.Logf("detected %s after it was there: %v", detected.Sub(loaded).Round(time.Second), l.shares(t))
	t.Logf("the plan:\n%s", l.MustDrover(t, "plan", "show", l.plans(t)[0].ID).Stdout)
	l.Eventually(t, time.Until(detected.Add(autoWithin)), "balance", func() bool {
		for _, p := range l.plans(t) {
			if p.Ended == nil {
				return false
			}
		}
		for _, s := range l.shares(t) {
			if s > autoMark {
				return false
			}
		}
		return true
	})
	t.Logf("balance %s after the detection: %v\n%s", time.Since(detected).Round(time.Second), l.shares(t), l.MustDrover(t, "migration", "list").Stdout)
	before, plans := len(l.all(t)), len(l.plans(t))
	for began := time.Now(); time.Since(began) < autoIdle; time.Sleep(15 * time.Second) {
		if m, p := len(l.all(t)), len(l.plans(t)); m != before || p != plans {
			t.Fatalf("%s later: %d migrations and %d plans, were %d and %d: %v\n%s", time.Since(began).Round(time.Second), m, p, before, plans,
				l.shares(t), l.MustDrover(t, "plan", "list", "--all").Stdout)
		}
	}
	t.Logf("nothing for %s: %d migrations, %d plans; %v", autoIdle, before, plans, l.shares(t))
	for _, g := range guests {
		on := l.RunningOn(t, g)
		if len(on) != 1 {
			t.Errorf("%s runs on %v", g, on)
			continue
		}
		l.OnOnly(t, g, on[0])
	}
	t.Logf("events:\n%s", l.MustDrover(t, "events").Stdout)
}

// all are all migrations in sight.
func (l *Lab) all(t *testing.T) []precopy.Migration {
	t.Helper()
	var out []precopy.Migration
	if err := json.Unmarshal([]byte(l.MustDrover(t, "migration", "list", "-o", "json").Stdout), &out); err != nil {
		t.Fatal(err)
	}
	return out
}
