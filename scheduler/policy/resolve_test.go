package policy

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/precopy"
)

// TestNoDocument: the default needs no file.
func TestNoDocument(t *testing.T) {
	for _, doc := range []*Document{nil, {}} {
		d, err := Resolve(doc, nil, "web", "h1")
		if err != nil {
			t.Fatal(err)
		}
		want := precopy.DefaultPolicy()
		want.Class = DefaultClass
		if diff := cmp.Diff(want, d.Policy); diff != "" {
			t.Errorf("policy (-want +got):\n%s", diff)
		}
		if d.Pinned || d.Cooldown != 30*time.Minute || d.Source != "there are no rules" {
			t.Errorf("decision %+v", d)
		}
	}
}

func TestResolve(t *testing.T) {
	doc := parsed(t, valid)
	prod := map[string]string{"env": "prod", "tier": "1"}
	tests := []struct {
		name      string
		vm        *VMRecord
		called    string
		host      string
		class     string
		source    string
		pause     int64 // promised, ms
		ceiling   int64
		slow      float64
		pinned    bool
		pauseFrom string
	}{
		{"no rule matches", nil, "web-1", "h1", "default", "no rule matches", 150, 900, .2, false, "built in"},
		{"name and label", &VMRecord{Labels: prod}, "web-1", "h1", "gold", "rule 1: name web-*, label env=prod", 80, 80, 0, false, "class gold"},
		{"label without the name", &VMRecord{Labels: prod}, "db", "h1", "default", "no rule matches", 150, 900, .2, false, "built in"},
		{"by host; what the class leaves out is the default's", nil, "db", "batch7", "batch", "rule 2: host batch*", 2000, 10000, .2, false, "class batch"},
		{"the first rule wins", &VMRecord{Labels: prod}, "web-1", "batch7", "gold", "rule 1: name web-*, label env=prod", 80, 80, 0, false, "class gold"},
		{"the VM's class wins", &VMRecord{Labels: prod, Class: "appliance"}, "web-1", "batch7", "appliance", "set on the VM", 150, 900, .2, true, "built in"},
		{"the VM may be given the default", &VMRecord{Labels: prod, Class: "default"}, "web-1", "h1", "default", "set on the VM", 150, 900, .2, false, "built in"},
		{"unpinned against its class", &VMRecord{Class: "appliance", Pinned: new(false)}, "fw", "h1", "appliance", "set on the VM", 150, 900, .2, false, "built in"},
		{"pinned", &VMRecord{Pinned: new(true)}, "fw", "h1", "default", "no rule matches", 150, 900, .2, true, "built in"},
		{
			"the VM's values count above the class's",
			&VMRecord{Class: "gold", Overrides: Class{MaxPauseCeiling: new(Duration(time.Second))}}, "fw", "h1", "gold", "set on the VM", 80, 1000, 0, false, "class gold",
		},
		{
			"a ceiling that was outgrown gives way",
			&VMRecord{Overrides: Class{MaxPause: new(Duration(2 * time.Second))}}, "fw", "h1", "default", "no rule matches", 2000, 2000, .2, false, "set on the VM",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d, err := Resolve(doc, tc.vm, tc.called, tc.host)
			if err != nil {
				t.Fatal(err)
			}
			if d.Class != tc.class || d.Source != tc.source || d.Policy.Class != tc.class || d.Pinned != tc.pinned {
				t.Errorf("class %q (%s), pinned %v", d.Class, d.Source, d.Pinned)
			}
			if p := d.Policy; p.MaxPauseMS != tc.pause || p.MaxPauseCeilingMS != tc.ceiling || p.MaxSlowdown != tc.slow {
				t.Errorf("policy %+v", p)
			}
			if v := d.Values[0]; v.Field != "max_pause" || v.From != tc.pauseFrom {
				t.Errorf("the pause comes from %+v", v)
			}
		})
	}
}

// TestAutomatic: VMs may be moved unless their class or they themselves say otherwise.
func TestAutomatic(t *testing.T) {
	doc := &Document{Classes: map[string]Class{"still": {Automatic: new(false)}}}
	for _, tc := range []struct {
		vm   VMRecord
		want bool
	}{
		{VMRecord{}, true},
		{VMRecord{Class: "still"}, false},
		{VMRecord{Overrides: Class{Automatic: new(false)}}, false},
		{VMRecord{Class: "still", Overrides: Class{Automatic: new(true)}}, true},
	} {
		if d, err := Resolve(doc, &tc.vm, "vm", "h1"); err != nil || d.Automatic != tc.want {
			t.Errorf("%+v: automatic %t (%v), want %t", tc.vm, d.Automatic, err, tc.want)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	doc := &Document{Rules: []Rule{{Match{Name: "lost-*"}, "gone"}, {Match{Name: "["}, DefaultClass}}}
	for name, vm := range map[string]*VMRecord{"web": {Class: "gone"}, "lost-1": nil} {
		if _, err := Resolve(doc, vm, name, "h1"); !errors.Is(err, ErrNoClass) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Resolve(doc, nil, "web", "h1"); err == nil {
		t.Error("a bad pattern was taken for a good one")
	}
	var faults Faults
	if _, err := Resolve(&Document{Default: Class{MaxPause: new(Duration(0))}}, nil, "web", "h1"); !errors.As(err, &faults) {
		t.Errorf("a pause of 0: %v", err)
	}
	if _, err := Named(doc, "gone"); !errors.Is(err, ErrNoClass) {
		t.Errorf("asked for: %v", err)
	}
}

// TestPrecedence: of any document and VM, each value is the VM's own, else that of its class, else the
// default's, else the built-in one; the class is the VM's, else the first matching rule's.
func TestPrecedence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := drawDocument(t)
		if err := doc.Validate(); err != nil {
			t.Fatal(err)
		}
		vm := VMRecord{Labels: drawLabels(t, "VM's labels"), Overrides: drawClass(t, "VM")}
		vm.Overrides.Pinned = nil
		if rapid.Bool().Draw(t, "VM has a class") {
			vm.Class = rapid.SampledFrom(doc.Names()).Draw(t, "VM's class")
		}
		if rapid.Bool().Draw(t, "VM is pinned or not") {
			vm.Pinned = new(rapid.Bool().Draw(t, "pinned"))
		}
		if err := vm.Validate(&doc); err != nil {
			t.Fatal(err)
		}
		name := rapid.SampledFrom([]string{"ab", "abc", "x"}).Draw(t, "VM's name")
		host := rapid.SampledFrom([]string{"h1", "k1"}).Draw(t, "VM's host")

		d, err := Resolve(&doc, &vm, name, host)
		if err != nil {
			t.Fatal(err)
		}
		class := vm.Class
		for _, r := range doc.Rules {
			if ok, _ := r.Match.holds(name, host, vm.Labels); ok && class == "" {
				class = r.Class
			}
		}
		if class == "" {
			class = DefaultClass
		}
		if d.Class != class {
			t.Fatalf("class %s, want %s", d.Class, class)
		}
		own := vm.Overrides
		own.Pinned = vm.Pinned
		for i, v := range d.Values {
			from, want := "", ""
			for _, l := range []layer{{"set on the VM", own}, {"class " + class, doc.Classes[class]}, {"default", doc.Default}, {"built in", Builtin()}} {
				if s := fieldValues(l.class)[i]; s != "" && want == "" {
					from, want = l.from, s
				}
			}
			if v.Field == "max_pause_ceiling" && v.Value != want {
				// Outgrown by the pause.
				from, want = fmt.Sprintf("max_pause (%s: %s, which is less)", from, want), Duration(d.Policy.MaxPause()).String()
			}
			if v.From != from || v.Value != want {
				t.Fatalf("%s: %s from %s, want %s from %s", v.Field, v.Value, v.From, want, from)
			}
		}
		p := d.Policy
		if p.MaxPauseMS < 1 || p.MaxPauseCeilingMS < p.MaxPauseMS || p.MaxSlowdown < 0 || p.MaxSlowdown > .95 || p.BudgetSeconds < 0 {
			t.Fatalf("policy %+v", p)
		}
	})
}

func TestVMRecordFaults(t *testing.T) {
	r := VMRecord{
		Class: "gone", Labels: map[string]string{"a b": "c", "d": "e\x00"},
		Overrides: Class{MaxSlowdown: new(Percent(99)), Pinned: new(true)},
	}
	var f Faults
	if err := r.Validate(nil); !errors.As(err, &f) || len(f) != 5 {
		t.Errorf("faults: %v", err)
	}
	if err := (VMRecord{Class: DefaultClass}).Validate(nil); err != nil {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	a := parsed(t, valid)
	b := parsed(t, `
default: {max_slowdown: 20%, budget: 1h}
classes:
  gold: {max_pause: 60ms, max_pause_ceiling: 80ms, max_slowdown: 0%}
  silver: {}
  batch: {max_pause: 2s, max_pause_ceiling: 10s, budget: 30m, priority: -10, post_copy: allowed, encrypt: false}
rules:
  - {match: {host: "batch*"}, class: batch}
  - {match: {name: "*-web"}, class: silver}
groups:
  - {name: database, vms: ["db-*"], kind: anti_affinity, strength: preferred}
`)
	want := []string{
		"default: budget: (inherited) -> 1h",
		"class appliance: removed: pinned true",
		"class gold: max_pause: 80ms -> 60ms",
		"class gold: cooldown: 2h -> (inherited)",
		"class silver: added: as the default",
		"rule: removed: name web-*, label env=prod -> gold",
		"rule: added: name *-web -> silver",
		"group app: removed: affinity, preferred: label app=shop",
		"group database: anti_affinity, required: db-* -> anti_affinity, preferred: db-*",
	}
	var got []string
	for _, c := range Diff(*a, *b) {
		got = append(got, c.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	turned := *a
	turned.Rules = []Rule{a.Rules[1], a.Rules[0]}
	if c := Diff(*a, turned); len(c) != 1 || c[0].What != "order of the rules" {
		t.Errorf("turned rules: %v", c)
	}
}

func TestGroupHas(t *testing.T) {
	doc := parsed(t, valid)
	if g := doc.Groups[0]; !g.Has("db-7", nil) || g.Has("web", nil) {
		t.Error("by name")
	}
	if g := doc.Groups[1]; !g.Has("x", map[string]string{"app": "shop"}) || g.Has("x", nil) {
		t.Error("by label")
	}
}

// BenchmarkResolve is one VM of a fleet with a dozen rules before its own.
func BenchmarkResolve(b *testing.B) {
	doc := parsed(b, valid)
	rule := doc.Rules[0]
	for range 12 {
		doc.Rules = append([]Rule{{Match{Name: "other-*"}, "batch"}}, doc.Rules...)
	}
	vm := &VMRecord{Labels: rule.Match.Labels}
	for b.Loop() {
		if d, err := Resolve(doc, vm, "web-1", "h1"); err != nil || d.Class != "gold" {
			b.Fatal(d.Class, err)
		}
	}
}
