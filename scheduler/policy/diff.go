package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one difference between two documents.
type Change struct {
	// What names the thing: "default", "class gold", "rule", "order of the rules", "group database" or
	// "automation".
	What string `json:"what"`
	// Field is a class's field; empty for the thing as a whole.
	Field string `json:"field,omitempty"`
	// Old and New are the two values; empty for what is not there, or inherited.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// String is "class gold: max_pause: 150ms -> 80ms".
func (c Change) String() string {
	what := c.What
	if c.Field != "" {
		what += ": " + c.Field
	}
	switch {
	case c.Old == "" && c.Field == "":
		return what + ": added: " + c.New
	case c.New == "" && c.Field == "":
		return what + ": removed: " + c.Old
	}
	return fmt.Sprintf("%s: %s -> %s", what, orInherited(c.Old), orInherited(c.New))
}

func orInherited(s string) string {
	if s == "" {
		return "(inherited)"
	}
	return s
}

// Diff returns how the second document differs from the first: the default, classes by name, rules,
// groups, automation.
func Diff(a, b Document) []Change {
	out := diffClass(DefaultClass, a.Default, b.Default)
	names := map[string]bool{}
	for _, d := range []Document{a, b} {
		for n := range d.Classes {
			names[n] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		old, was := a.Classes[n]
		now, is := b.Classes[n]
		what := "class " + n
		if was && is {
			out = append(out, diffClass(what, old, now)...)
		} else {
			out = append(out, Change{What: what, Old: describe(old, was), New: describe(now, is)})
		}
	}
	out = append(out, diffLists("rule", ruleTexts(a.Rules), ruleTexts(b.Rules))...)
	out = append(out, diffGroups(a.Groups, b.Groups)...)
	out = append(out, diffAutomation(a.Automation, b.Automation)...)
	return append(out, diffNetwork(a.Network, b.Network)...)
}

func diffClass(what string, a, b Class) []Change {
	var out []Change
	old, now := fieldValues(a), fieldValues(b)
	for i, field := range classFields {
		if old[i] != now[i] {
			out = append(out, Change{What: what, Field: field, Old: old[i], New: now[i]})
		}
	}
	return out
}

// describe renders a class in one line; "" when there is none.
func describe(c Class, exists bool) string {
	if !exists {
		return ""
	}
	return cmp.Or(c.String(), "as the default")
}

// String is what the class says itself, such as "max_pause 80ms, pinned true"; empty for nothing.
func (c Class) String() string {
	var parts []string
	values := fieldValues(c)
	for i, field := range classFields {
		if values[i] != "" {
			parts = append(parts, field+" "+values[i])
		}
	}
	return strings.Join(parts, ", ")
}

func ruleTexts(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.String())
	}
	return out
}

// diffLists tells what was added and removed; where nothing was but the order, it tells that.
func diffLists(what string, a, b []string) []Change {
	var out []Change
	left := slices.Clone(b)
	for _, s := range a {
		if i := slices.Index(left, s); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			out = append(out, Change{What: what, Old: s})
		}
	}
	for _, s := range left {
		out = append(out, Change{What: what, New: s})
	}
	if len(out) == 0 && !slices.Equal(a, b) {
		out = append(out, Change{What: "order of the rules", Field: "from, to", Old: strings.Join(a, "; "), New: strings.Join(b, "; ")})
	}
	return out
}

func diffGroups(a, b []Group) []Change {
	var out []Change
	index := func(groups []Group) map[string]string {
		m := map[string]string{}
		for _, g := range groups {
			m[g.Name] = g.String()
		}
		return m
	}
	old, now := index(a), index(b)
	for _, n := range slices.Sorted(maps.Keys(old)) {
		if old[n] != now[n] {
			out = append(out, Change{What: "group " + n, Old: old[n], New: now[n]})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(now)) {
		if _, was := old[n]; !was {
			out = append(out, Change{What: "group " + n, New: now[n]})
		}
	}
	return out
}

// String is "anti_affinity, required: db-1, db-2".
func (g Group) String() string {
	who := strings.Join(g.VMs, ", ")
	if len(g.Labels) > 0 {
		who = Match{Labels: g.Labels}.String()
	}
	return fmt.Sprintf("%s, %s: %s", g.Kind, g.Strength, who)
}
