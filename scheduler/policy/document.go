package policy

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

// Schema is the version of [Document] and [VMRecord] that this program writes and can check.
const Schema = 1

// DefaultClass is the name of what applies where nothing else does. No class may be called so.
const DefaultClass = "default"

// Document is the fleet's policy as people write it. The zero value is a valid one.
type Document struct {
	Schema int `json:"schema"`
	// Default is what classes inherit, and what VMs without a class get.
	Default Class            `json:"default,omitzero"`
	Classes map[string]Class `json:"classes,omitempty"`
	// Rules give classes to VMs; the first that matches decides.
	Rules  []Rule  `json:"rules,omitempty"`
	Groups []Group `json:"groups,omitempty"`
	// Automation is what is wanted of moves that nobody asked for.
	Automation Automation `json:"automation,omitzero"`
	// Network is what migrations may take of the links.
	Network Network `json:"network,omitzero"`
}

// Class is an intent. Nil fields are inherited.
type Class struct {
	MaxPause *Duration `json:"max_pause,omitempty"`
	// MaxPauseCeiling is how far the pause may go when there is no other way.
	MaxPauseCeiling *Duration `json:"max_pause_ceiling,omitempty"`
	// MaxSlowdown is the share of guest work that may be lost over the migration's time.
	MaxSlowdown *Percent `json:"max_slowdown,omitempty"`
	// Budget is how long a migration may take; 0 lets it be reckoned from size and link.
	Budget   *Duration `json:"budget,omitempty"`
	PostCopy *PostCopy `json:"post_copy,omitempty"`
	Encrypt  *bool     `json:"encrypt,omitempty"`
	// Priority orders requests that wait for each other: higher ones first.
	Priority *int `json:"priority,omitempty"`
	// Cooldown is the rest after a move before the next one that nobody asked for.
	Cooldown *Duration `json:"cooldown,omitempty"`
	// BeforeHook and AfterHook name commands in hooks-dir of the agents: the one is run on the source before
	// a migration, the other where the VM is after it. [NoHook] is none.
	BeforeHook *string `json:"before_hook,omitempty"`
	AfterHook  *string `json:"after_hook,omitempty"`
	// HookTimeout is how long each of them may take.
	HookTimeout *Duration `json:"hook_timeout,omitempty"`
	// HookFailure says what becomes of a migration whose hook before it fails.
	HookFailure *HookFailure `json:"hook_failure,omitempty"`
	// Pinned VMs do not move.
	Pinned *bool `json:"pinned,omitempty"`
	// Automatic VMs may be moved when nobody asked for it; others by people and drains only.
	Automatic *bool `json:"automatic,omitempty"`
}

// Builtin returns the class that applies where no document says otherwise; all of its fields are set.
func Builtin() Class {
	p := precopy.DefaultPolicy()
	postCopy := PostCopyNever
	if p.PostCopy {
		postCopy = PostCopyAllowed
	}
	return Class{
		MaxPause:        new(Duration(p.MaxPause())),
		MaxPauseCeiling: new(Duration(p.MaxPauseCeiling())),
		MaxSlowdown:     new(Percent(p.MaxSlowdown * 100)),
		Budget:          new(Duration(p.BudgetSeconds * float64(time.Second))),
		PostCopy:        &postCopy,
		Encrypt:         &p.Encrypt,
		Priority:        &p.Priority,
		Cooldown:        new(Duration(30 * time.Minute)),
		BeforeHook:      new(NoHook),
		AfterHook:       new(NoHook),
		HookTimeout:     new(Duration(p.HookTime())),
		HookFailure:     new(HookGoOn),
		Pinned:          new(bool),
		Automatic:       new(true),
	}
}

// Rule gives a class to the VMs that it matches.
type Rule struct {
	Match Match  `json:"match"`
	Class string `json:"class"`
}

// String is "name web-* -> gold".
func (r Rule) String() string { return r.Match.String() + " -> " + r.Class }

// Match is a condition on a VM; every part that is set must hold.
type Match struct {
	// Name and Host are patterns as of path.Match, for the VM's name and that of the host it is on.
	Name string `json:"name,omitempty"`
	// Labels must all be there, with equal values.
	Labels map[string]string `json:"labels,omitempty"`
	Host   string            `json:"host,omitempty"`
}

// String is "name web-*, label env=prod, host kvm*".
func (m Match) String() string {
	var parts []string
	if m.Name != "" {
		parts = append(parts, "name "+m.Name)
	}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		parts = append(parts, "label "+k+"="+m.Labels[k])
	}
	if m.Host != "" {
		parts = append(parts, "host "+m.Host)
	}
	return strings.Join(parts, ", ")
}

// holds reports whether the VM is meant; the error is a bad pattern. A match without a condition, which
// no valid document has, means nobody.
func (m Match) holds(name, host string, labels map[string]string) (bool, error) {
	if m.Name == "" && m.Host == "" && len(m.Labels) == 0 {
		return false, nil
	}
	for _, p := range []struct{ pattern, value string }{{m.Name, name}, {m.Host, host}} {
		if p.pattern == "" {
			continue
		}
		if ok, err := path.Match(p.pattern, p.value); err != nil || !ok {
			return false, err
		}
	}
	return hasAll(labels, m.Labels), nil
}

func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Group is VMs that belong together or apart. It is for the planner of automatic moves.
type Group struct {
	Name string `json:"name"`
	// VMs are patterns of names; Labels must all be equal. One of the two is set.
	VMs      []string          `json:"vms,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Kind     Kind              `json:"kind"`
	Strength Strength          `json:"strength"`
}

// Has reports whether the VM belongs to the group.
func (g Group) Has(name string, labels map[string]string) bool {
	if len(g.Labels) > 0 {
		return hasAll(labels, g.Labels)
	}
	return slices.ContainsFunc(g.VMs, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// VMRecord is what people decided about one VM.
type VMRecord struct {
	Schema int                 `json:"schema"`
	UUID   hypervisor.DomainID `json:"uuid"`
	// Class is the VM's class whatever the rules say; empty leaves it to them.
	Class string `json:"class,omitempty"`
	// Pinned counts above the class's; nil leaves it to the class.
	Pinned *bool             `json:"pinned,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// Overrides are values that count above the class's.
	Overrides Class `json:"overrides,omitzero"`
	// Fault says why the stored record can't be read; the rest is empty then.
	Fault string `json:"-"`
}

// Stored is the document as the store holds it.
type Stored struct {
	Document
	Revision int64 `json:"-"`
	// Fault says why the stored document can't be read; the rest is empty then.
	Fault string `json:"-"`
}

// File is a document as it leaves and enters the store by hand. Revision is the one that it was read at,
// 0 for none; nil when it does not say.
type File struct {
	Revision *int64 `json:"revision,omitempty"`
	Document
}
