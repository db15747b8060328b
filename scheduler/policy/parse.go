package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxSize bounds a document: one value of the store, with room for growth.
const maxSize = 256 << 10

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Path names the place, such as "classes.gold.max_pause" or "rules[2].class", counted from 1;
	// empty for the whole.
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
}

// String is "path: text".
func (f Fault) String() string {
	if f.Path == "" {
		return f.Text
	}
	return f.Path + ": " + f.Text
}

// Faults is everything that is wrong with a document, as an error.
type Faults []Fault

// Error implements error: one line for each fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

func (f *Faults) add(path, format string, args ...any) {
	*f = append(*f, Fault{path, fmt.Sprintf(format, args...)})
}

// err is nil when there is no fault.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// Parse reads a document in YAML or JSON, strictly: unknown keys, keys that stand twice, values without
// their unit and whatever [Document.Validate] finds are faults. The error is of type [Faults] and names
// all of them.
func Parse(text []byte) (File, error) {
	var f File
	faults := strict(text, &f)
	if faults == nil {
		f.Schema = max(f.Schema, Schema)
	}
	return f, append(faults, f.faults()...).err()
}

// ParseOverrides reads the fields of a class, given as "max_pause=80ms"; an empty value leaves the field
// inherited. It returns the names of all fields that were named.
func ParseOverrides(words []string) (c Class, named []string, err error) {
	var lines []string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || strings.ContainsAny(w, "\r\n") {
			return c, nil, Faults{{name, "want FIELD=VALUE, such as max_pause=80ms"}}
		}
		named = append(named, name)
		lines = append(lines, name+": "+value)
	}
	if len(lines) == 0 {
		return c, nil, nil
	}
	return c, named, strict([]byte(strings.Join(lines, "\n")), &c).err()
}

// strict decodes text into what v points to and returns every fault of form.
func strict(text []byte, v any) Faults {
	if len(text) > maxSize {
		return Faults{{"", fmt.Sprintf("larger than %d KiB", maxSize>>10)}}
	}
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return syntax(err)
	}
	if bytes.Equal(raw, []byte("null")) {
		return Faults{{"", `it is empty: "schema: 1" alone is the policy without classes`}}
	}
	var r reader
	r.read("", raw, reflect.ValueOf(v).Elem())
	return r.faults
}

// syntax turns the YAML library's error, which may be of several lines, into faults.
func syntax(err error) Faults {
	var out Faults
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "yaml:"))
		if line != "" && line != "unmarshal errors:" {
			out.add("", "%s", line)
		}
	}
	if strings.Contains(err.Error(), "alphabetic or numeric") {
		out.add("", `a pattern that begins with * must be in quotes: "*-db"`)
	}
	return out
}

// reader decodes JSON by the fields that the Go types have, and goes on after a fault.
type reader struct{ faults Faults }

func (r *reader) read(path string, raw json.RawMessage, v reflect.Value) {
	if bytes.Equal(raw, []byte("null")) {
		return // a key with nothing behind it is a key that is not there
	}
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		before := len(r.faults)
		if r.read(path, raw, p.Elem()); len(r.faults) == before {
			v.Set(p)
		}
		return
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		if err := u.UnmarshalJSON(raw); err != nil {
			r.faults.add(path, "%v", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		r.object(path, raw, v)
	case reflect.Map:
		r.table(path, raw, v)
	case reflect.Slice:
		r.list(path, raw, v)
	default:
		if json.Unmarshal(raw, v.Addr().Interface()) != nil {
			r.faults.add(path, "%s", wants(v.Kind()))
		}
	}
}

func wants(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "want true or false"
	case reflect.String:
		return "want text; put numbers, true, false, yes and no in quotes"
	}
	return "want a whole number"
}

func (r *reader) object(path string, raw json.RawMessage, v reflect.Value) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		r.faults.add(path, "want keys with values, one on a line")
		return
	}
	fields := map[string]reflect.Value{}
	fieldsOf(v, fields)
	for _, key := range slices.Sorted(maps.Keys(members)) {
		if f, ok := fields[key]; ok {
			r.read(join(path, key), members[key], f)
			continue
		}
		r.faults.add(join(path, key), "unknown key: there are %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
}

// fieldsOf adds the fields of a struct by their JSON names, those of embedded ones too.
func fieldsOf(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		t := v.Type().Field(i)
		name, _, _ := strings.Cut(t.Tag.Get("json"), ",")
		switch {
		case t.Anonymous:
			fieldsOf(v.Field(i), into)
		case name != "-":
			into[name] = v.Field(i)
		}
	}
}

func (r *reader) table(path string, raw json.RawMessage, v reflect.Value) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		r.faults.add(path, "want names with values, one on a line")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, key := range slices.Sorted(maps.Keys(members)) {
		e := reflect.New(v.Type().Elem()).Elem()
		before := len(r.faults)
		r.read(join(path, key), members[key], e)
		if e.Kind() == reflect.Struct || len(r.faults) == before {
			out.SetMapIndex(reflect.ValueOf(key), e)
		}
	}
	v.Set(out)
}

func (r *reader) list(path string, raw json.RawMessage, v reflect.Value) {
	var members []json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		r.faults.add(path, "want a list: each entry on a line that begins with -")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(members), len(members))
	for i, m := range members {
		r.read(entry(path, i), m, out.Index(i))
	}
	v.Set(out)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// entry is the path of a list's entry, counted from 1 as people do.
func entry(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i+1) }
