package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"drover/precopy"
)

const root = "../.."

func TestMetricsInFindsWhatIsThere(t *testing.T) {
	known, err := metricsIn(root)
	if err != nil {
		t.Fatal(err)
	}
	// One of each program and kind; if one of them is renamed this test is changed with it.
	for name, kind := range map[string]string{
		"drover_agent_migrations_total":        "Counter",
		"drover_agent_migration_pause_seconds": "Histogram",
		"drover_agent_libvirt_stragglers":      "Gauge",
		"drover_scheduler_hosts":               "Gauge",
	} {
		if known[name].kind != kind {
			t.Errorf("%s: found as %q, want %s", name, known[name].kind, kind)
		}
	}
}

func TestRulesUseMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "drover.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Record, Alert, Expr, For string
				Labels, Annotations      map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	check := newChecker(t)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				check.recorded[r.Record] = true
			}
		}
	}
	alerts := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if err := check.expr(r.Expr); err != nil {
				t.Errorf("%s%s: %v", r.Alert, r.Record, err)
			}
			if r.Alert == "" {
				continue
			}
			alerts++
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: wants a severity, a summary and a description", r.Alert)
			}
		}
	}
	if alerts == 0 {
		t.Error("no alerts found: has the file's shape changed?")
	}
}

func TestDashboardUsesMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy", "grafana", "drover.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	check := newChecker(t)
	cells := map[[2]int]string{}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: its id %d is another's too", p.Title, p.ID)
		}
		ids[p.ID] = true
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			if err := check.expr(target.Expr); err != nil {
				t.Errorf("panel %q: %v", p.Title, err)
			}
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, taken := cells[[2]int{x, y}]; taken && other != p.Title {
					t.Fatalf("panels %q and %q overlap", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
	}
	if len(dashboard.Panels) == 0 {
		t.Error("no panels found: has the file's shape changed?")
	}
}

// The checker itself must be able to object.
func TestCheckerObjects(t *testing.T) {
	check := newChecker(t)
	for expr, want := range map[string]string{
		`drover_agent_moves_total`:                          "no such metric",
		`drover:nothing`:                                    "no such record",
		`rate(drover_agent_migration_seconds[5m])`:          "histogram",
		`drover_agent_libvirt_stragglers_bucket`:            "no such metric",
		`drover_agent_migrations_total{host="a"}`:           `label "host"`,
		`drover_agent_migrations_total{phase="finished"}`:   `phase "finished"`,
		`drover_scheduler_migrations{phase=~"queued|late"}`: `phase "late"`,
		`drover_agent_libvirt_stragglers{phase="done"}`:     `label "phase"`,
		`sum((drover_scheduler_hosts)`:                      "parentheses",
	} {
		if err := check.expr(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an objection with %q", expr, err, want)
		}
	}
	for _, expr := range []string{
		`sum by (le) (rate(drover_agent_migration_seconds_bucket{instance="a"}[5m]))`,
		`up{job="drover-agent"} == 0`, `drover_scheduler_migrations{phase=~"queued|claimed"}`,
	} {
		if err := check.expr(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

// checker knows which metrics there are.
type checker struct {
	known    map[string]metric
	recorded map[string]bool
}

func newChecker(t *testing.T) checker {
	t.Helper()
	known, err := metricsIn(root)
	if err != nil {
		t.Fatal(err)
	}
	return checker{known: known, recorded: map[string]bool{}}
}

var (
	seriesRE  = regexp.MustCompile(`\b(drover[_:][A-Za-z0-9_:]+)\s*(?:\{([^}]*)\})?`)
	matcherRE = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
)

// expr returns what is wrong with the series that a query selects.
func (c checker) expr(expr string) error {
	if strings.Count(expr, "(") != strings.Count(expr, ")") {
		return errors.New("parentheses do not match")
	}
	for _, found := range seriesRE.FindAllStringSubmatch(expr, -1) {
		if err := c.series(found[1], found[2]); err != nil {
			return fmt.Errorf("%s: %w", found[1], err)
		}
	}
	return nil
}

func (c checker) series(name, matchers string) error {
	if strings.Contains(name, ":") {
		if !c.recorded[name] {
			return errors.New("no such record")
		}
		return nil
	}
	m, ok := c.known[name]
	if ok && m.kind == "Histogram" {
		return errors.New("a histogram has only _bucket, _sum and _count")
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); cut && !ok {
			m, ok = c.known[base]
			ok = ok && m.kind == "Histogram"
		}
	}
	if !ok {
		return errors.New("no such metric is registered")
	}
	// What Prometheus itself adds.
	labels := append([]string{"instance", "job", "le"}, m.labels...)
	for _, match := range matcherRE.FindAllStringSubmatch(matchers, -1) {
		label, value := match[1], match[3]
		if !slices.Contains(labels, label) {
			return fmt.Errorf("it has no label %q", label)
		}
		for _, phase := range strings.Split(value, "|") {
			if label == "phase" && !slices.Contains(precopy.Phases(), precopy.Phase(phase)) {
				return fmt.Errorf("there is no phase %q", phase)
			}
		}
	}
	return nil
}
