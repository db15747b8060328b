package policy

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// maxPause is QEMU's own bound on the downtime limit.
	maxPause = Duration(2000 * time.Second)
	// maxSlowdown leaves the guest something to run with.
	maxSlowdown Percent = 95
	// leastBudget is what the shortest migration takes.
	leastBudget = Duration(time.Second)
	// maxHook bounds how long a migration may wait for a hook.
	maxHook = Duration(10 * time.Minute)
	// maxPriority bounds priorities on both sides of zero.
	maxPriority = 1000
	// maxLabel is the longest label's key and value, in bytes.
	maxLabel = 253
)

// className is the form of the names of classes and groups: lower case, so that no two look alike.
var className = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// labelKey is the form of the keys of labels.
var labelKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// Validate returns everything that is wrong with the document, as [Faults], or nil.
func (d Document) Validate() error { return d.faults().err() }

func (d Document) faults() Faults {
	var f Faults
	if d.Schema > Schema || d.Schema < 0 {
		f.add("schema", "%d is not known here: the newest is %d", d.Schema, Schema)
	}
	base := Builtin()
	f.class("default", d.Default, d.Default.over(base))
	for _, name := range slices.Sorted(maps.Keys(d.Classes)) {
		at := join("classes", name)
		switch {
		case name == DefaultClass:
			f.add(at, `the default stands under "default", not among the classes`)
		case !className.MatchString(name):
			f.add(at, "want a name of lower-case letters, digits, dots and dashes, at most 63")
		}
		f.class(at, d.Classes[name], d.Classes[name].over(d.Default).over(base))
	}
	for i, r := range d.Rules {
		f.rule(entry("rules", i), r, d)
	}
	seen := map[string]bool{}
	for i, g := range d.Groups {
		at := entry("groups", i)
		if seen[g.Name] {
			f.add(at+".name", "there is another group called %q", g.Name)
		}
		seen[g.Name] = true
		f.group(at, g)
	}
	f.automation(d.Automation)
	f.network(d.Network)
	return f
}

// Has reports whether the class may be given to VMs.
func (d Document) Has(class string) bool {
	_, ok := d.Classes[class]
	return ok || class == DefaultClass
}

// Names returns the names of all classes in order, the default's first.
func (d Document) Names() []string {
	return append([]string{DefaultClass}, slices.Sorted(maps.Keys(d.Classes))...)
}

// class checks what a class says itself, and how it goes with what it inherits.
func (f *Faults) class(at string, own, whole Class) {
	for _, p := range []struct {
		field string
		value *Duration
	}{{"max_pause", own.MaxPause}, {"max_pause_ceiling", own.MaxPauseCeiling}} {
		if v := p.value; v != nil && (*v < Duration(time.Millisecond) || *v > maxPause || time.Duration(*v)%time.Millisecond != 0) {
			f.add(join(at, p.field), "%s: want whole milliseconds, 1ms to %s", v, maxPause)
		}
	}
	if whole.MaxPauseCeiling != nil && whole.MaxPause != nil && *whole.MaxPauseCeiling < *whole.MaxPause &&
		(own.MaxPause != nil || own.MaxPauseCeiling != nil) {
		f.add(join(at, "max_pause_ceiling"), "%s is below max_pause, which is %s: state both", whole.MaxPauseCeiling, whole.MaxPause)
	}
	if v := own.MaxSlowdown; v != nil && (*v < 0 || *v > maxSlowdown) {
		f.add(join(at, "max_slowdown"), "%s: want 0%% to %s", v, maxSlowdown)
	}
	if v := own.Budget; v != nil && *v != 0 && *v < leastBudget {
		f.add(join(at, "budget"), "%s: want 0 (reckoned from size and link), or at least %s", v, leastBudget)
	}
	if v := own.PostCopy; v != nil && *v != PostCopyNever && *v != PostCopyAllowed {
		f.add(join(at, "post_copy"), "%q: want never or allowed", *v)
	}
	if v := own.Priority; v != nil && (*v < -maxPriority || *v > maxPriority) {
		f.add(join(at, "priority"), "%d: want -%d to %d", *v, maxPriority, maxPriority)
	}
	for _, h := range []struct {
		field string
		value *string
	}{{"before_hook", own.BeforeHook}, {"after_hook", own.AfterHook}} {
		if v := h.value; v != nil && !className.MatchString(*v) {
			f.add(join(at, h.field), "%q: want a name of lower-case letters, digits, dots and dashes, at most 63", *v)
		}
	}
	if v := own.HookTimeout; v != nil && (*v < Duration(time.Second) || *v > maxHook) {
		f.add(join(at, "hook_timeout"), "%s: want 1s to %s", v, maxHook)
	}
	if v := own.HookFailure; v != nil && *v != HookGoOn && *v != HookRefuse {
		f.add(join(at, "hook_failure"), "%q: want go-on or refuse", *v)
	}
	if v := own.Cooldown; v != nil && *v < 0 {
		f.add(join(at, "cooldown"), "%s: want 0 or more", v)
	}
}

func (f *Faults) rule(at string, r Rule, d Document) {
	switch {
	case r.Class == "":
		f.add(at+".class", "is missing: there are %s", strings.Join(d.Names(), ", "))
	case !d.Has(r.Class):
		f.add(at+".class", "there is no class %q: there are %s", r.Class, strings.Join(d.Names(), ", "))
	}
	m := r.Match
	if m.Name == "" && m.Host == "" && len(m.Labels) == 0 {
		f.add(at+".match", "says nothing: give a name, labels or a host; what holds for all is the default")
	}
	f.pattern(at+".match.name", m.Name)
	f.pattern(at+".match.host", m.Host)
	f.labels(at+".match.labels", m.Labels)
}

func (f *Faults) group(at string, g Group) {
	if !className.MatchString(g.Name) {
		f.add(at+".name", "%q: want a name of lower-case letters, digits, dots and dashes, at most 63", g.Name)
	}
	if g.Kind != Apart && g.Kind != Together {
		f.add(at+".kind", "%q: want %s or %s", g.Kind, Apart, Together)
	}
	if g.Strength != Required && g.Strength != Preferred {
		f.add(at+".strength", "%q: want %s or %s", g.Strength, Required, Preferred)
	}
	if (len(g.VMs) > 0) == (len(g.Labels) > 0) {
		f.add(at, "want either vms or labels")
	}
	f.labels(at+".labels", g.Labels)
	names := map[string]bool{}
	for i, p := range g.VMs {
		here := entry(at+".vms", i)
		switch {
		case p == "":
			f.add(here, "is empty")
		case names[p]:
			f.add(here, "%q stands there twice", p)
		}
		names[p] = true
		f.pattern(here, p)
	}
	if len(g.VMs) == 1 && !strings.ContainsAny(g.VMs[0], `*?[\`) {
		f.add(at+".vms", "one VM is no group")
	}
}

func (f *Faults) pattern(at, pattern string) {
	if _, err := path.Match(pattern, ""); err != nil {
		f.add(at, "%q is no pattern: want *, ?, [a-z] and plain characters", pattern)
	}
}

func (f *Faults) labels(at string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		v := labels[k]
		switch {
		case !labelKey.MatchString(k) || len(k) > maxLabel:
			f.add(join(at, k), "want a key of letters, digits, dots, slashes and dashes, at most %d", maxLabel)
		case v == "" || len(v) > maxLabel || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }):
			f.add(join(at, k), "%q: want printable text, at most %d", v, maxLabel)
		}
	}
}

// Validate returns everything that is wrong with the record, as [Faults], or nil. The class must be one
// of the document's; a nil document has the default only.
func (r VMRecord) Validate(doc *Document) error {
	var f Faults
	d := cmp.Or(doc, &Document{})
	if r.Class != "" && !d.Has(r.Class) {
		f.add("class", "there is no class %q: there are %s", r.Class, strings.Join(d.Names(), ", "))
	}
	f.labels("labels", r.Labels)
	if r.Overrides.Pinned != nil {
		f.add("overrides.pinned", "say it by the VM's own pinned")
	}
	// Against the values themselves: the class under them may change at any time.
	f.class("overrides", r.Overrides, r.Overrides)
	return f.err()
}
