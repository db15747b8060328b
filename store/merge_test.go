package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/precopy"
	"drover/scheduler/fleet"
)

func TestMerge(t *testing.T) {
	for _, c := range []struct{ name, raw, before, after, want string }{
		{
			"unknown fields stay",
			`{"a":1,"new":{"x":[1,2]},"big":12345678901234567890}`, `{"a":1}`, `{"a":2}`,
			`{"a":2,"new":{"x":[1,2]},"big":12345678901234567890}`,
		},
		{
			"removed fields go",
			`{"a":1,"b":2,"new":3}`, `{"a":1,"b":2}`, `{"a":1}`, `{"a":1,"new":3}`,
		},
		{
			"at depth",
			`{"o":{"k":1,"new":2}}`, `{"o":{"k":1}}`, `{"o":{"k":9}}`, `{"o":{"k":9,"new":2}}`,
		},
		{
			"a removed object takes its unknown fields along",
			`{"o":{"k":1,"new":2}}`, `{"o":{"k":1}}`, `{}`, `{}`,
		},
		{
			"elements by number, one added in front",
			`{"l":[{"number":1,"new":"x"},{"number":2,"new":"y"}]}`, `{"l":[{"number":1},{"number":2}]}`,
			`{"l":[{"number":0},{"number":1},{"number":2,"r":1}]}`,
			`{"l":[{"number":0},{"number":1,"new":"x"},{"number":2,"new":"y","r":1}]}`,
		},
		{
			"elements by holder, one removed",
			`{"l":[{"holder":"a","new":1},{"holder":"b","new":2}]}`, `{"l":[{"holder":"a"},{"holder":"b"}]}`,
			`{"l":[{"holder":"b"}]}`, `{"l":[{"holder":"b","new":2}]}`,
		},
		{
			"plain elements by place",
			`{"l":[{"a":1,"new":1},{"a":2}]}`, `{"l":[{"a":1},{"a":2}]}`, `{"l":[{"a":5},{"a":2}]}`,
			`{"l":[{"a":5,"new":1},{"a":2}]}`,
		},
		{
			"plain elements, another count",
			`{"l":[{"a":1,"new":1}]}`, `{"l":[{"a":1}]}`, `{"l":[{"a":1},{"a":2}]}`, `{"l":[{"a":1},{"a":2}]}`,
		},
		{"the schema never falls", `{"schema":7}`, `{"schema":7}`, `{"schema":1}`, `{"schema":7}`},
		{"the schema may rise", `{"schema":1}`, `{"schema":1}`, `{"schema":2}`, `{"schema":2}`},
		{"another type", `{"a":{"new":1}}`, `{"a":{}}`, `{"a":3}`, `{"a":3}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := merge([]byte(c.raw), []byte(c.before), []byte(c.after))
			must(t, err)
			var g, w any
			must(t, parse(got, &g))
			must(t, parse([]byte(c.want), &w))
			if d := cmp.Diff(w, g); d != "" {
				t.Errorf("merged (-want +got):\n%s", d)
			}
		})
	}
}

// newer is a migration as a later version of drover might know it.
type newer struct {
	precopy.Migration
	Extra  string `json:"zz_extra,omitempty"`
	Nested struct {
		Deep []int `json:"deep,omitempty"`
	} `json:"zz_nested"`
	Policy   newerPolicy    `json:"policy"`
	Attempts []newerAttempt `json:"attempts,omitempty"`
}

type newerPolicy struct {
	precopy.Policy
	Colour string `json:"zz_colour,omitempty"`
}

type newerAttempt struct {
	precopy.Attempt
	Cost int `json:"zz_cost,omitempty"`
}

func drawNewer(t *rapid.T) newer {
	word := rapid.StringMatching(`[a-z]{0,6}`)
	var n newer
	n.Schema = rapid.IntRange(1, 3).Draw(t, "schema")
	n.ID, n.Reason = "m1", word.Draw(t, "reason")
	n.Phase = rapid.SampledFrom(precopy.Phases()).Draw(t, "phase")
	n.Notes = rapid.SliceOfN(word, 0, 3).Draw(t, "notes")
	n.Extra = word.Draw(t, "extra")
	n.Nested.Deep = rapid.SliceOfN(rapid.Int(), 0, 3).Draw(t, "deep")
	n.Policy.MaxPauseMS = rapid.Int64().Draw(t, "pause")
	n.Policy.Colour = word.Draw(t, "colour")
	for i := range rapid.IntRange(0, 3).Draw(t, "attempts") {
		n.Attempts = append(n.Attempts, newerAttempt{
			Attempt: precopy.Attempt{Number: i + 1, Strategy: word.Draw(t, "strategy")},
			Cost:    rapid.IntRange(0, 9).Draw(t, "cost"),
		})
	}
	return n
}

// TestOldWriterKeepsNewFields: what a newer program wrote survives any change by this one, and this
// one's change is what it meant.
func TestOldWriterKeepsNewFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		was := drawNewer(t)
		raw, err := json.Marshal(was)
		if err != nil {
			t.Fatal(err)
		}
		var before, after precopy.Migration
		for _, m := range []*precopy.Migration{&before, &after} {
			if err := decode(raw, m); err != nil {
				t.Fatal(err)
			}
		}
		after.Reason = rapid.StringMatching(`[a-z]{0,6}`).Draw(t, "new reason")
		after.Policy.MaxPauseMS = rapid.Int64().Draw(t, "new pause")
		grow := rapid.IntRange(-1, 1).Draw(t, "grow")
		switch {
		case grow > 0:
			after.Attempts = append(after.Attempts, precopy.Attempt{Number: len(after.Attempts) + 1})
		case grow < 0 && len(after.Attempts) > 0:
			after.Attempts = after.Attempts[1:]
		}
		out, err := rewrite(raw, before, after)
		if err != nil {
			t.Fatal(err)
		}
		var known precopy.Migration
		if err := decode(out, &known); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(canonical(t, after), canonical(t, known)); d != "" {
			t.Errorf("the change is not what was written (-want +got):\n%s", d)
		}
		var is newer
		if err := decode(out, &is); err != nil {
			t.Fatal(err)
		}
		if is.Extra != was.Extra || is.Policy.Colour != was.Policy.Colour || !slices.Equal(is.Nested.Deep, was.Nested.Deep) {
			t.Errorf("unknown fields were lost: %s became %s", raw, out)
		}
		costs := map[int]int{}
		for _, a := range was.Attempts {
			costs[a.Number] = a.Cost
		}
		for _, a := range is.Attempts {
			if a.Cost != costs[a.Number] {
				t.Errorf("attempt %d costs %d, had %d: %s became %s", a.Number, a.Cost, costs[a.Number], raw, out)
			}
		}
	})
}

func canonical(t *rapid.T, m precopy.Migration) string {
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEncodeAddsSchema(t *testing.T) {
	raw, err := encode(struct {
		A int `json:"a"`
	}{3})
	must(t, err)
	if string(raw) != `{"a":3,"schema":1}` {
		t.Errorf("got %s", raw)
	}
	if _, err := encode([]int{1}); err == nil {
		t.Error("a value that is no object was encoded")
	}
	raw, err = encode(fleet.HostRecord{Schema: 4, Name: "h"})
	must(t, err)
	if !strings.Contains(string(raw), `"schema":4`) {
		t.Errorf("got %s", raw)
	}
}

func TestPack(t *testing.T) {
	small, large := []byte(`{"a":1}`), []byte(`{"a":"`+strings.Repeat("x", 5000)+`"}`)
	if got := pack(small); string(got) != string(small) {
		t.Error("a small value was packed")
	}
	packed := pack(large)
	if len(packed) > len(large)/2 {
		t.Errorf("packed %d bytes into %d", len(large), len(packed))
	}
	got, err := unpack(packed)
	must(t, err)
	if string(got) != string(large) {
		t.Error("unpack(pack(x)) is not x")
	}
	for _, cut := range []int{2, 12, len(packed) - 3} {
		if _, err := unpack(packed[:cut]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v, want ErrCorrupt", cut, err)
		}
	}
}

// FuzzRewrite feeds the codec what anybody may have put into the store.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"schema":1,"id":"m","phase":"queued","attempts":[{"number":1,"x":2}]}`,
		`{"schema":99999999999999999999,"a":1e400}`, `{"a":1}{"b":2}`, `{"Phase":"done","phase":"queued"}`, `{"phaſe":"done"}`,
		"\x1f\x8b\x08\x00", `{"attempts":[null,3,{"number":"x"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var before, after precopy.Migration
		if decode(raw, &before) != nil || decode(raw, &after) != nil {
			return
		}
		after.Phase = precopy.Unknown
		out, err := rewrite(raw, before, after)
		if err != nil {
			return
		}
		var got precopy.Migration
		if err := decode(out, &got); err != nil {
			t.Fatalf("%q was rewritten into what can't be read: %q: %v", raw, out, err)
		}
		if got.Phase != precopy.Unknown {
			t.Fatalf("%q was rewritten into phase %q: %q", raw, got.Phase, out)
		}
		again, err := rewrite(out, got, got)
		if err != nil {
			t.Fatalf("second rewrite of %q: %v", out, err)
		}
		if string(again) != string(out) {
			t.Fatalf("rewriting without a change changed %q to %q", out, again)
		}
	})
}
