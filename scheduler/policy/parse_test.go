package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// valid is a document that uses everything.
const valid = `
revision: 12
schema: 1
default: {max_slowdown: 20%}
classes:
  gold: {max_pause: 80ms, max_pause_ceiling: 80ms, max_slowdown: 0%, cooldown: 2h}
  batch: {max_pause: 2s, max_pause_ceiling: 10s, budget: 30m, priority: -10, post_copy: allowed, encrypt: false}
  appliance: {pinned: true}
rules:
  - match: {name: "web-*", labels: {env: prod}}
    class: gold
  - match: {host: "batch*"}
    class: batch
groups:
  - {name: database, vms: ["db-*"], kind: anti_affinity, strength: required}
  - {name: app, labels: {app: shop}, kind: affinity, strength: preferred}
`

func parsed(t testing.TB, text string) *Document {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &f.Document
}

func TestParse(t *testing.T) {
	f, err := Parse([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	if f.Revision == nil || *f.Revision != 12 || f.Schema != 1 {
		t.Errorf("revision %v, schema %d", f.Revision, f.Schema)
	}
	want := Class{
		MaxPause: new(Duration(2 * time.Second)), MaxPauseCeiling: new(Duration(10 * time.Second)),
		Budget: new(Duration(30 * time.Minute)), PostCopy: new(PostCopyAllowed), Encrypt: new(false), Priority: new(-10),
	}
	if diff := cmp.Diff(want, f.Classes["batch"]); diff != "" {
		t.Errorf("batch (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Rule{Match{Name: "web-*", Labels: map[string]string{"env": "prod"}}, "gold"}, f.Rules[0]); diff != "" {
		t.Errorf("rule 1 (-want +got):\n%s", diff)
	}
	if f, err := Parse([]byte("classes:\n")); err != nil || f.Schema != Schema || f.Revision != nil {
		t.Errorf("a key with nothing behind it: %+v, %v", f, err)
	}
}

func TestParseFaults(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // all of them, in order
	}{
		{"empty", "# nothing\n", []string{`it is empty: "schema: 1" alone is the policy without classes`}},
		{"no object", "- a\n", []string{"want keys with values, one on a line"}},
		{"unknown keys at every depth", "clases: {}\nclasses: {gold: {max_puase: 1s}}\n", []string{
			"clases: unknown key: there are automation, classes, default, groups, network, revision, rules, schema",
			"classes.gold.max_puase: unknown key: there are after_hook, automatic, before_hook, budget, cooldown, encrypt, hook_failure, hook_timeout, max_pause, max_pause_ceiling, max_slowdown, pinned, post_copy, priority",
		}},
		{"keys that stand twice", "classes:\n  a: {}\n  a: {}\nrules: []\nrules: []\n", []string{
			`line 3: key "a" already set in map`, `line 5: key "rules" already set in map`,
		}},
		{"units", "default: {max_pause: 150, max_slowdown: 0.3, budget: -5m, priority: high, encrypt: 1, post_copy: maybe}\n", []string{
			`default.budget: "-5m": want a time with its unit, such as 150ms, 10m or 1h30m`,
			"default.encrypt: want true or false",
			`default.max_pause: "150": want a time with its unit, such as 150ms, 10m or 1h30m`,
			`default.max_slowdown: "0.3": want a share of 0% to 100%, such as 30%`,
			"default.priority: want a whole number",
			`default.post_copy: "maybe": want never or allowed`,
		}},
		{"ranges", "default: {max_pause: 1us, max_pause_ceiling: 1h, max_slowdown: 96%, budget: 10ms, priority: 5000}\n", []string{
			"default.max_pause: 1µs: want whole milliseconds, 1ms to 33m20s",
			"default.max_pause_ceiling: 1h: want whole milliseconds, 1ms to 33m20s",
			"default.max_slowdown: 96%: want 0% to 95%",
			"default.budget: 10ms: want 0 (reckoned from size and link), or at least 1s",
			"default.priority: 5000: want -1000 to 1000",
		}},
		{"ceiling below the pause, stated or inherited", "classes: {a: {max_pause: 2s}, b: {max_pause_ceiling: 100ms}, c: {max_pause: 900ms}}\n", []string{
			"classes.a.max_pause_ceiling: 900ms is below max_pause, which is 2s: state both",
			"classes.b.max_pause_ceiling: 100ms is below max_pause, which is 150ms: state both",
		}},
		{"rules", "classes: {a: {}}\nrules:\n- {match: {name: x}, class: b}\n- {match: {}, class: a}\n- {match: {name: \"[\"}, class: default}\n- {match: {labels: {gen: 3}}}\n", []string{
			"rules[4].match.labels.gen: want text; put numbers, true, false, yes and no in quotes",
			`rules[1].class: there is no class "b": there are default, a`,
			"rules[2].match: says nothing: give a name, labels or a host; what holds for all is the default",
			`rules[3].match.name: "[" is no pattern: want *, ?, [a-z] and plain characters`,
			"rules[4].class: is missing: there are default, a",
			"rules[4].match: says nothing: give a name, labels or a host; what holds for all is the default",
		}},
		{"names", "classes: {Gold: {}, default: {}}\n", []string{
			"classes.Gold: want a name of lower-case letters, digits, dots and dashes, at most 63",
			`classes.default: the default stands under "default", not among the classes`,
		}},
		{"groups", "groups:\n- {name: a, vms: [x], kind: apart, strength: must}\n- {name: a, vms: [x, x], labels: {l: v}, kind: affinity, strength: required}\n- {name: b, kind: affinity, strength: required}\n", []string{
			`groups[1].kind: "apart": want anti_affinity or affinity`,
			`groups[1].strength: "must": want required or preferred`,
			"groups[1].vms: one VM is no group",
			`groups[2].name: there is another group called "a"`,
			"groups[2]: want either vms or labels",
			`groups[2].vms[2]: "x" stands there twice`,
			"groups[3]: want either vms or labels",
		}},
		{"a newer schema", "schema: 2\n", []string{"schema: 2 is not known here: the newest is 1"}},
		{"a bare star", "rules:\n- match: {name: *web}\n", []string{
			"line 2: did not find expected alphabetic or numeric character", "unknown anchor",
		}},
		{"too large", "# " + strings.Repeat("x", maxSize), []string{"larger than 256 KiB"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text))
			var got Faults
			if !errors.As(err, &got) {
				t.Fatalf("no faults but %v", err)
			}
			if tc.name == "a bare star" { // the library's words
				if len(got) == 0 || got[0].Path != "" {
					t.Errorf("got %q", got)
				}
				return
			}
			if diff := cmp.Diff(tc.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseOverrides(t *testing.T) {
	c, named, err := ParseOverrides([]string{"max_pause=80ms", "budget=", "priority=3"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Class{MaxPause: new(Duration(80 * time.Millisecond)), Priority: new(3)}, c); diff != "" {
		t.Errorf("class (-want +got):\n%s", diff)
	}
	base := Class{Budget: new(Duration(time.Hour)), Encrypt: new(false), Priority: new(1)}
	want := Class{MaxPause: c.MaxPause, Encrypt: base.Encrypt, Priority: c.Priority}
	if diff := cmp.Diff(want, base.Set(c, named)); diff != "" {
		t.Errorf("set (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"max_pause", "max_pause=80", "speed=1", "max_pause=1s\nbudget: 1s", "=", "priority=1: 2"} {
		if _, _, err := ParseOverrides([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// drawClass draws any class that a valid document may have; each field may be left out.
func drawClass(t *rapid.T, name string) Class {
	var c Class
	in := func() bool { return rapid.Bool().Draw(t, name+" says") }
	if in() {
		pause := rapid.IntRange(1, 2_000_000).Draw(t, name+" pause")
		c.MaxPause = new(Duration(pause) * Duration(time.Millisecond))
		c.MaxPauseCeiling = new(Duration(rapid.IntRange(pause, 2_000_000).Draw(t, name+" ceiling")) * Duration(time.Millisecond))
	}
	if in() {
		c.MaxSlowdown = new(Percent(rapid.Float64Range(0, 95).Draw(t, name+" slowdown")))
	}
	if in() {
		c.Budget = new(Duration(rapid.Int64Range(1e9, 1e15).Draw(t, name+" budget")))
	}
	if in() {
		c.PostCopy = new(rapid.SampledFrom([]PostCopy{PostCopyNever, PostCopyAllowed}).Draw(t, name+" post-copy"))
	}
	if in() {
		c.BeforeHook, c.AfterHook = new(rapid.SampledFrom([]string{NoHook, "lb-out"}).Draw(t, name+" before")), new("lb-in")
		c.HookTimeout = new(Duration(rapid.Int64Range(1e9, 600e9).Draw(t, name+" hook time")))
		c.HookFailure = new(rapid.SampledFrom([]HookFailure{HookGoOn, HookRefuse}).Draw(t, name+" hook failure"))
	}
	if in() {
		c.Encrypt, c.Pinned = new(rapid.Bool().Draw(t, name+" encrypt")), new(rapid.Bool().Draw(t, name+" pinned"))
	}
	if in() {
		c.Priority = new(rapid.IntRange(-1000, 1000).Draw(t, name+" priority"))
	}
	if in() {
		c.Cooldown = new(Duration(rapid.Int64Range(0, 1e15).Draw(t, name+" cooldown")))
	}
	return c
}

func drawLabels(t *rapid.T, name string) map[string]string {
	return rapid.MapOfN(rapid.SampledFrom([]string{"env", "tier"}), rapid.SampledFrom([]string{"prod", "test", "3"}), 0, 2).Draw(t, name)
}

func drawDocument(t *rapid.T) Document {
	d := Document{Schema: Schema, Default: drawClass(t, "default")}
	names := []string{DefaultClass}
	for _, n := range []string{"gold", "batch"} {
		if rapid.Bool().Draw(t, n) {
			if d.Classes == nil {
				d.Classes = map[string]Class{}
			}
			d.Classes[n] = drawClass(t, n)
			names = append(names, n)
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "rules") {
		r := Rule{Class: rapid.SampledFrom(names).Draw(t, "rule's class"), Match: Match{
			Name: rapid.SampledFrom([]string{"", "*", "a*", "ab", "[a-c]?"}).Draw(t, "name"),
			Host: rapid.SampledFrom([]string{"", "h1", "h*"}).Draw(t, "host"),
		}}
		if l := drawLabels(t, "labels"); len(l) > 0 {
			r.Match.Labels = l
		}
		if r.Match.String() != "" {
			d.Rules = append(d.Rules, r)
		}
	}
	if rapid.Bool().Draw(t, "group") {
		d.Groups = []Group{{Name: "g", VMs: []string{"a*"}, Kind: Apart, Strength: Preferred}}
	}
	return d
}

// TestRoundTrip: what is written, in YAML or JSON, is read as the same.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := File{Document: drawDocument(t)}
		if rapid.Bool().Draw(t, "revision") {
			want.Revision = new(rapid.Int64Range(0, 1e18).Draw(t, "number"))
		}
		inYAML, err := yaml.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		inJSON, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{inYAML, inJSON} {
			got, err := Parse(text)
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s\n(-want +got):\n%s", text, diff)
			}
		}
		var stored Document // leniently, as the store reads
		if err := json.Unmarshal(inJSON, &stored); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Document, stored); diff != "" {
			t.Fatalf("stored (-want +got):\n%s", diff)
		}
		if c := Diff(stored, want.Document); len(c) != 0 {
			t.Fatalf("differs from itself: %v", c)
		}
	})
}

func TestDurationText(t *testing.T) {
	for text, want := range map[string]string{"600s": "10m", "60m": "1h", "90m": "1h30m", "0": "0s", "1.5s": "1.5s", "3601s": "1h0m1s"} {
		d, err := ParseDuration(text)
		if err != nil || d.String() != want {
			t.Errorf("%s reads %s, %v; want %s", text, d, err, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Range(0, 1<<62).Draw(t, "d"))
		if got, err := ParseDuration(d.String()); err != nil || got != d {
			t.Fatalf("%d reads %d, %v", d, got, err)
		}
	})
	for _, bad := range []string{"", "5", "1 h", "-1s", "soon", "1e3"} {
		if d, err := ParseDuration(bad); err == nil {
			t.Errorf("%q reads %s", bad, d)
		}
	}
}

func TestPercentText(t *testing.T) {
	for text, want := range map[string]Percent{"30%": 30, "12.5 %": 12.5, "0": 0, "0%": 0, "100%": 100} {
		if p, err := ParsePercent(text); err != nil || p != want {
			t.Errorf("%s reads %v, %v", text, p, err)
		}
	}
	for _, bad := range []string{"", "%", "30", "0.3", "-1%", "101%", "NaN%", "Inf%", "30%%"} {
		if p, err := ParsePercent(bad); err == nil {
			t.Errorf("%q reads %s", bad, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte("rules: [{match: {labels: {a: b}}, class: c}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		if err := file.Validate(); err != nil {
			t.Fatalf("parsed but not valid: %v", err)
		}
		if _, err := Resolve(&file.Document, nil, "a", "h"); err != nil {
			t.Fatalf("valid, but does not resolve: %v", err)
		}
	})
}
