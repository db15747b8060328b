package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// merge returns after, with everything carried over that raw has and before has not. raw is a stored
// value, before the same value decoded and encoded again by this program: what differs between the two
// is what this program does not know. The schema never falls.
func merge(raw, before, after []byte) ([]byte, error) {
	var r, b, a any
	for _, p := range []struct {
		text []byte
		into *any
	}{{raw, &r}, {before, &b}, {after, &a}} {
		if err := parse(p.text, p.into); err != nil {
			return nil, err
		}
	}
	out := mergeValue(r, b, a)
	keepSchema(r, out)
	return json.Marshal(out)
}

// parse keeps numbers as they are written: a float64 would round large ones.
func parse(text []byte, into *any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one value", ErrCorrupt)
	}
	return nil
}

func mergeValue(raw, before, after any) any {
	switch a := after.(type) {
	case map[string]any:
		r, ok1 := raw.(map[string]any)
		b, ok2 := before.(map[string]any)
		if ok1 && ok2 {
			return mergeObject(r, b, a)
		}
	case []any:
		r, ok1 := raw.([]any)
		b, ok2 := before.([]any)
		if ok1 && ok2 && len(r) == len(b) {
			return mergeArray(r, b, a)
		}
	}
	return after
}

func mergeObject(raw, before, after map[string]any) map[string]any {
	out := make(map[string]any, len(after))
	for k, v := range after {
		out[k] = mergeValue(raw[k], before[k], v)
	}
	for k, v := range raw {
		if !spelled(before, k) && !spelled(after, k) {
			out[k] = v
		}
	}
	return out
}

// spelled reports whether the object has the field, however it is written: encoding/json takes "Phase"
// for "phase" when it reads, so what is spelled otherwise is known all the same.
func spelled(obj map[string]any, name string) bool {
	if _, ok := obj[name]; ok {
		return true
	}
	for k := range obj {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// mergeArray pairs elements by what identifies them, else by place while the count is the same.
// Elements without a partner are taken as they are.
func mergeArray(raw, before, after []any) []any {
	out := make([]any, len(after))
	byPlace := len(before) == len(after)
	for i, v := range after {
		j, found := -1, false
		if id, ok := identity(v); ok {
			j, found = find(before, id)
		} else if byPlace {
			j, found = i, true
		}
		if found {
			out[i] = mergeValue(raw[j], before[j], v)
		} else {
			out[i] = v
		}
	}
	return out
}

// identities are the fields by which elements of drover's lists know themselves again: attempts by
// number, cordons by holder.
var identities = []string{"number", "holder"}

func identity(v any) (string, bool) {
	obj, ok := v.(map[string]any)
	if !ok {
		return "", false
	}
	for _, name := range identities {
		switch id := obj[name].(type) {
		case string:
			return name + "=" + id, true
		case json.Number:
			return name + "=" + id.String(), true
		}
	}
	return "", false
}

func find(list []any, id string) (int, bool) {
	for i, v := range list {
		if other, ok := identity(v); ok && other == id {
			return i, true
		}
	}
	return -1, false
}

// keepSchema raises the schema of out to that of raw.
func keepSchema(raw, out any) {
	r, ok1 := raw.(map[string]any)
	o, ok2 := out.(map[string]any)
	if !ok1 || !ok2 {
		return
	}
	was, ok1 := r["schema"].(json.Number)
	is, ok2 := o["schema"].(json.Number)
	if !ok1 || !ok2 {
		return
	}
	wasN, err1 := was.Int64()
	isN, err2 := is.Int64()
	if err1 == nil && err2 == nil && wasN > isN {
		o["schema"] = was
	}
}
