package store

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store/kv"
)

// TestViewIntent: what people decide is in the next snapshot, in earlier ones it is not; what can't be
// read is known as such, not as nothing.
func TestViewIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, c := w.client()
		v, err := s.OpenView(t.Context())
		must(t, err)
		defer v.Close()
		vm := fleet.Domain{Host: &fleet.Host{Name: "h1"}, Facts: hypervisor.DomainFacts{ID: "id-a", Name: "a"}}
		class := func() string {
			t.Helper()
			synctest.Wait()
			d, err := v.Snapshot().PolicyOf(vm)
			if errors.Is(err, fleet.ErrPolicy) {
				return "not known"
			}
			must(t, err)
			return d.Class
		}
		want := func(what, name string) {
			t.Helper()
			if got := class(); got != name {
				t.Errorf("%s: class %s, want %s", what, got, name)
			}
		}
		put := func(key, value string) {
			t.Helper()
			_, _, err := c.Txn(t.Context(), nil, []kv.Op{kv.Put(key, []byte(value))})
			must(t, err)
		}
		want("no document", "default")
		before := v.Snapshot()
		put(policyKey, `{"schema":1,"classes":{"gold":{"max_pause":"80ms"}},"rules":[{"match":{"name":"*"},"class":"gold"}]}`)
		want("a rule", "gold")
		if before.Policy.Classes != nil {
			t.Error("an earlier snapshot was written to")
		}
		put(vmsPrefix+"id-a", `{"schema":1,"uuid":"id-a","class":"default"}`)
		want("the VM's own class", "default")
		put(vmsPrefix+"id-a", `{"schema":1,"overrides":{"max_pause":80}}`)
		want("a record that can't be read", "not known")
		if len(v.Broken()) != 1 {
			t.Errorf("broken: %v", v.Broken())
		}
		put(vmsPrefix+"id-b", `{"schema":1,"uuid":"id-b","class":"lost"}`)
		_, _, err = c.Txn(t.Context(), nil, []kv.Op{kv.Delete(vmsPrefix + "id-a")})
		must(t, err)
		want("the record is gone", "gold")
		put(policyKey, `{"classes":[]}`)
		want("a document that can't be read", "not known")
		_, _, err = c.Txn(t.Context(), nil, []kv.Op{kv.Delete(policyKey)})
		must(t, err)
		want("the document is gone", "default")
	})
}

// TestReplace: a document is replaced only as it was read, and what a newer program wrote into it stays.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	s, c := w.client()
	table := Policy[policy.Document](s)
	first, err := table.Replace(t.Context(), nil, PolicyID, 0, policy.Document{Schema: 1})
	must(t, err)
	for _, revision := range []int64{0, first.Revision + 1} {
		if _, err := table.Replace(t.Context(), nil, PolicyID, revision, policy.Document{}); !errors.Is(err, ErrConflict) {
			t.Errorf("at %d: %v", revision, err)
		}
	}
	if _, err := Policy[policy.Document](s).Replace(t.Context(), nil, "other", 7, policy.Document{}); !errors.Is(err, ErrConflict) {
		t.Errorf("a record that is not there: %v", err)
	}
	_, _, err = c.Txn(t.Context(), nil, []kv.Op{kv.Put(policyKey,
		[]byte(`{"schema":2,"windows":["night"],"classes":{"gold":{"colour":"red"},"old":{"colour":"grey"}}}`))})
	must(t, err)
	row, err := table.Get(t.Context(), PolicyID)
	must(t, err)
	row.Value.Classes = map[string]policy.Class{"gold": {Priority: new(3)}}
	row, err = table.Replace(t.Context(), nil, PolicyID, row.Revision, row.Value)
	must(t, err)
	want := `{"classes":{"gold":{"colour":"red","priority":3}},"schema":2,"windows":["night"]}`
	if diff := cmp.Diff(want, string(row.Raw)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	_, _, err = c.Txn(t.Context(), nil, []kv.Op{kv.Put(policyKey, []byte(`{"default":7}`))})
	must(t, err)
	snap, err := s.ReadSnapshot(t.Context())
	must(t, err)
	if _, err := table.Replace(t.Context(), nil, PolicyID, row.Revision, policy.Document{}); !errors.Is(err, ErrConflict) {
		t.Errorf("what can't be read, at another revision: %v", err)
	}
	if _, err := table.Replace(t.Context(), nil, PolicyID, snap.Policy.Revision, policy.Document{}); err != nil || snap.Policy.Fault == "" {
		t.Errorf("what can't be read (%q): %v", snap.Policy.Fault, err)
	}
}
