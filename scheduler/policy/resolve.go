package policy

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"drover/precopy"
)

// ErrNoClass: a VM or a rule names a class that the document does not have.
var ErrNoClass = errors.New("no such class")

// Decision is which policy applies to a VM, and why.
type Decision struct {
	// Class is the class's name, Source in words what gave it to the VM, such as "rule 2: name web-*".
	Class  string
	Source string
	// Policy is what a migration promises.
	Policy precopy.Policy
	// Pinned VMs do not move; Automatic ones may when nobody asked for it, Cooldown after their last move.
	Pinned    bool
	Automatic bool
	Cooldown  time.Duration
	// Values says where each value comes from, in the order of a class's fields.
	Values []Value
}

// Value is one field's value and its origin.
type Value struct {
	Field string `json:"field"`
	Value string `json:"value"`
	From  string `json:"from"` // "set on the VM", "class gold", "default" or "built in"; in words for a ceiling that gave way
}

// Origin says where the field's value comes from, as in [Value].
func (d Decision) Origin(field string) string {
	for _, v := range d.Values {
		if v.Field == field {
			return v.From
		}
	}
	return ""
}

// Resolve decides which policy applies to the VM of that name on that host. doc is nil when there is no
// document, vm when nothing was decided about the VM. The most particular word counts: the VM's, then
// the first rule that matches, then the default. Errors are [ErrNoClass], and [Faults] for values that no
// valid document gives.
func Resolve(doc *Document, vm *VMRecord, name, host string) (Decision, error) {
	d, r := cmp.Or(doc, &Document{}), cmp.Or(vm, &VMRecord{})
	class, source, err := d.choose(r, name, host)
	if err != nil {
		return Decision{}, err
	}
	own := r.Overrides
	own.Pinned = cmp.Or(r.Pinned, own.Pinned)
	return d.decide(class, source, layer{"set on the VM", own})
}

// Named is the decision for a class that somebody asked for by name, whatever the VM.
func Named(doc *Document, class string) (Decision, error) {
	d := cmp.Or(doc, &Document{})
	if !d.Has(class) {
		return Decision{}, fmt.Errorf("%w: %q; there are %s", ErrNoClass, class, strings.Join(d.Names(), ", "))
	}
	return d.decide(class, "asked for")
}

// choose returns the name of the VM's class and why it is that one.
func (d *Document) choose(r *VMRecord, name, host string) (class, source string, err error) {
	if r.Class != "" {
		if !d.Has(r.Class) {
			return "", "", fmt.Errorf("%w: %q, set on the VM; there are %s", ErrNoClass, r.Class, strings.Join(d.Names(), ", "))
		}
		return r.Class, "set on the VM", nil
	}
	for i, rule := range d.Rules {
		ok, err := rule.Match.holds(name, host, r.Labels)
		switch {
		case err != nil:
			return "", "", fmt.Errorf("rule %d: %w", i+1, err)
		case ok && !d.Has(rule.Class):
			return "", "", fmt.Errorf("%w: %q, of rule %d; there are %s", ErrNoClass, rule.Class, i+1, strings.Join(d.Names(), ", "))
		case ok:
			return rule.Class, fmt.Sprintf("rule %d: %s", i+1, rule.Match), nil
		}
	}
	if len(d.Rules) == 0 {
		return DefaultClass, "there are no rules", nil
	}
	return DefaultClass, "no rule matches", nil
}

// layer is where values come from.
type layer struct {
	from  string
	class Class
}

// decide puts the layers on top of each other, the first on top.
func (d *Document) decide(class, source string, layers ...layer) (Decision, error) {
	if class != DefaultClass {
		layers = append(layers, layer{"class " + class, d.Classes[class]})
	}
	layers = append(layers, layer{DefaultClass, d.Default}, layer{"built in", Builtin()})
	out := Decision{Class: class, Source: source}
	var whole Class
	for _, l := range layers {
		whole = whole.over(l.class)
	}
	// A value set on the VM may have outgrown what its class says by now.
	ceiling := *whole.MaxPauseCeiling
	if ceiling < *whole.MaxPause {
		whole.MaxPauseCeiling = whole.MaxPause
	}
	var f Faults
	if f.class(class, whole, whole); len(f) > 0 {
		return Decision{}, f
	}
	out.Values = origins(whole, layers)
	for i, v := range out.Values {
		if v.Field == "max_pause_ceiling" && ceiling != *whole.MaxPauseCeiling {
			out.Values[i].From = fmt.Sprintf("max_pause (%s: %s, which is less)", v.From, ceiling)
		}
	}
	out.Pinned, out.Automatic, out.Cooldown = *whole.Pinned, *whole.Automatic, time.Duration(*whole.Cooldown)
	out.Policy = precopy.Policy{
		Class:             class,
		MaxPauseMS:        time.Duration(*whole.MaxPause).Milliseconds(),
		MaxPauseCeilingMS: time.Duration(*whole.MaxPauseCeiling).Milliseconds(),
		MaxSlowdown:       whole.MaxSlowdown.Fraction(),
		BudgetSeconds:     time.Duration(*whole.Budget).Seconds(),
		PostCopy:          *whole.PostCopy == PostCopyAllowed,
		Encrypt:           *whole.Encrypt,
		Priority:          *whole.Priority,
	}
	if *whole.BeforeHook != NoHook {
		out.Policy.BeforeHook, out.Policy.HookRequired = *whole.BeforeHook, *whole.HookFailure == HookRefuse
	}
	if *whole.AfterHook != NoHook {
		out.Policy.AfterHook = *whole.AfterHook
	}
	if out.Policy.BeforeHook != "" || out.Policy.AfterHook != "" {
		out.Policy.HookSeconds = time.Duration(*whole.HookTimeout).Seconds()
	}
	return out, nil
}

// origins says of each field which layer is the first to have it.
func origins(whole Class, layers []layer) []Value {
	values, v := fieldValues(whole), make([]Value, 0, len(classFields))
	for i, name := range classFields {
		at := slices.IndexFunc(layers, func(l layer) bool { return !reflect.ValueOf(l.class).Field(i).IsNil() })
		v = append(v, Value{Field: name, Value: values[i], From: layers[at].from})
	}
	return v
}

// over returns the class with what it does not say taken from base.
func (c Class) over(base Class) Class {
	v, b := reflect.ValueOf(&c).Elem(), reflect.ValueOf(base)
	for i := range v.NumField() {
		if v.Field(i).IsNil() {
			v.Field(i).Set(b.Field(i))
		}
	}
	return c
}

// Set returns the class with the named fields replaced by those of from, which may be nil there.
func (c Class) Set(from Class, fields []string) Class {
	v, f := reflect.ValueOf(&c).Elem(), reflect.ValueOf(from)
	for i, name := range classFields {
		if slices.Contains(fields, name) {
			v.Field(i).Set(f.Field(i))
		}
	}
	return c
}

// classFields are the fields of a class as people write them, in order.
var classFields = func() []string {
	t := reflect.TypeFor[Class]()
	out := make([]string, t.NumField())
	for i := range out {
		out[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return out
}()

// fieldValues are the values in the order of classFields, as people write them; "" for what is not said.
func fieldValues(c Class) []string {
	v := reflect.ValueOf(c)
	out := make([]string, v.NumField())
	for i := range out {
		if f := v.Field(i); !f.IsNil() {
			out[i] = fmt.Sprint(f.Elem().Interface())
		}
	}
	return out
}

// Effective is the class of that name with everything that it inherits; false when there is none.
func (d Document) Effective(class string) (Class, bool) {
	return d.Classes[class].over(d.Default).over(Builtin()), d.Has(class)
}
