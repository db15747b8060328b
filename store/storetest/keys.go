package storetest

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/store/kv"
)

func testGetMissing(t *testing.T, h Harness) {
	_, err := h.KV.Get(t.Context(), "/t/none")
	wantErr(t, err, kv.ErrNotFound)
}

func testRevisions(t *testing.T, h Harness) {
	r1 := put(t, h.KV, "/t/a", "1")
	r2 := put(t, h.KV, "/t/a", "2")
	r3 := put(t, h.KV, "/t/b", "3")
	if !(r1 < r2 && r2 < r3) {
		t.Errorf("revisions %d, %d, %d do not rise", r1, r2, r3)
	}
	want := kv.Entry{Key: "/t/a", Value: []byte("2"), Create: r1, Mod: r2}
	if d := cmp.Diff(want, get(t, h.Other, "/t/a")); d != "" {
		t.Errorf("entry (-want +got):\n%s", d)
	}
}

func testTxnAtomic(t *testing.T, h Harness) {
	put(t, h.KV, "/t/a", "old")
	held, _, err := h.KV.Txn(t.Context(),
		[]kv.Cond{kv.IfExists("/t/a"), kv.IfExists("/t/none")},
		[]kv.Op{kv.Put("/t/a", []byte("new")), kv.Put("/t/b", []byte("new"))})
	must(t, err)
	if held {
		t.Error("transaction with a failing condition held")
	}
	if got := string(get(t, h.KV, "/t/a").Value); got != "old" {
		t.Errorf("a is %q after a transaction that did not hold", got)
	}
	held, rev, err := h.KV.Txn(t.Context(), []kv.Cond{kv.IfExists("/t/a")},
		[]kv.Op{kv.Delete("/t/a"), kv.Put("/t/b", []byte("x")), kv.Put("/t/c", []byte("y")), kv.Delete("/t/none")})
	must(t, err)
	if !held {
		t.Fatal("transaction did not hold")
	}
	for _, k := range []string{"/t/b", "/t/c"} {
		if e := get(t, h.KV, k); e.Mod != rev || e.Create != rev {
			t.Errorf("%s: create %d, mod %d, want both %d", k, e.Create, e.Mod, rev)
		}
	}
	_, err = h.KV.Get(t.Context(), "/t/a")
	wantErr(t, err, kv.ErrNotFound)
}

func testConditions(t *testing.T, h Harness) {
	r1 := put(t, h.KV, "/t/a", "1")
	r2 := put(t, h.KV, "/t/a", "2")
	for _, c := range []struct {
		name string
		cond kv.Cond
		want bool
	}{
		{"absent, exists", kv.IfAbsent("/t/a"), false},
		{"absent, missing", kv.IfAbsent("/t/x"), true},
		{"exists", kv.IfExists("/t/a"), true},
		{"exists, missing", kv.IfExists("/t/x"), false},
		{"mod", kv.IfMod("/t/a", r2), true},
		{"old mod", kv.IfMod("/t/a", r1), false},
		{"mod, missing", kv.IfMod("/t/x", r1), false},
		{"create", kv.IfCreate("/t/a", r1), true},
		{"create, wrong", kv.IfCreate("/t/a", r2), false},
		{"create, missing", kv.IfCreate("/t/x", r1), false},
	} {
		held, _, err := h.KV.Txn(t.Context(), []kv.Cond{c.cond}, nil)
		must(t, err)
		if held != c.want {
			t.Errorf("%s: held %v, want %v", c.name, held, c.want)
		}
	}
}

// testCompareAndSet has several writers count in one key: no increment may be lost.
func testCompareAndSet(t *testing.T, h Harness) {
	put(t, h.KV, "/t/n", "0")
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for i := range writers {
		s := h.KV
		if i%2 == 1 {
			s = h.Other
		}
		wg.Go(func() {
			for n := 0; n < each; {
				e, err := s.Get(t.Context(), "/t/n")
				if err != nil {
					t.Error(err)
					return
				}
				v, _ := strconv.Atoi(string(e.Value))
				held, _, err := s.Txn(t.Context(), []kv.Cond{kv.IfMod("/t/n", e.Mod)},
					[]kv.Op{kv.Put("/t/n", []byte(strconv.Itoa(v+1)))})
				if err != nil {
					t.Error(err)
					return
				}
				if held {
					n++
				}
			}
		})
	}
	wg.Wait()
	if got := string(get(t, h.KV, "/t/n").Value); got != strconv.Itoa(writers*each) {
		t.Errorf("counted to %s, want %d", got, writers*each)
	}
}

func testList(t *testing.T, h Harness) {
	for _, k := range []string{"/t/b", "/t/a/1", "/t/c", "/u/x", "/t"} {
		put(t, h.KV, k, k)
	}
	got, rev, err := h.Other.List(t.Context(), "/t/")
	must(t, err)
	var keys []string
	for _, e := range got {
		keys = append(keys, e.Key)
		if string(e.Value) != e.Key {
			t.Errorf("%s has value %q", e.Key, e.Value)
		}
		if e.Mod > rev {
			t.Errorf("%s was changed in %d, after the list's revision %d", e.Key, e.Mod, rev)
		}
	}
	if d := cmp.Diff([]string{"/t/a/1", "/t/b", "/t/c"}, keys); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	empty, rev2, err := h.KV.List(t.Context(), "/none/")
	must(t, err)
	if len(empty) != 0 || rev2 < rev {
		t.Errorf("list of nothing: %v at %d, want none at %d or later", empty, rev2, rev)
	}
}

// testLongList lists more than a page while others write: the result must be of one moment, which
// shows in that two keys are only ever written together.
func testLongList(t *testing.T, h Harness) {
	const n = 1200
	for i := 0; i < n; i += 100 {
		var ops []kv.Op
		for j := i; j < i+100; j++ {
			ops = append(ops, kv.Put(keyN(j), []byte("0")))
		}
		_, _, err := h.KV.Txn(t.Context(), nil, ops)
		must(t, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; i <= 50 && ctx.Err() == nil; i++ {
			v := []byte(strconv.Itoa(i))
			// Not ended with ctx: one that is cut off may be carried out later, in the middle of the next test.
			_, _, _ = h.Other.Txn(t.Context(), nil, []kv.Op{kv.Put(keyN(0), v), kv.Put(keyN(n-1), v)})
		}
	})
	defer wg.Wait()
	defer stop()
	for range 5 {
		got, _, err := h.KV.List(t.Context(), "/t/")
		must(t, err)
		if len(got) != n {
			t.Fatalf("listed %d keys, want %d", len(got), n)
		}
		if a, b := string(got[0].Value), string(got[n-1].Value); a != b {
			t.Fatalf("list of two moments: first key is at %s, last at %s", a, b)
		}
	}
}

func testLast(t *testing.T, h Harness) {
	for i := range 5 {
		put(t, h.KV, keyN(i), "x")
	}
	put(t, h.KV, "/u/z", "x")
	got, err := h.KV.Last(t.Context(), "/t/", 2)
	must(t, err)
	var keys []string
	for _, e := range got {
		keys = append(keys, e.Key)
	}
	if d := cmp.Diff([]string{keyN(4), keyN(3)}, keys); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	if got, err := h.KV.Last(t.Context(), "/t/", 100); err != nil || len(got) != 5 {
		t.Errorf("last 100 of 5: %d keys, %v", len(got), err)
	}
	if got, err := h.KV.Last(t.Context(), "/t/", 0); err != nil || len(got) != 0 {
		t.Errorf("last 0: %d keys, %v", len(got), err)
	}
}

func testDuplicate(t *testing.T, h Harness) {
	for name, ops := range map[string][]kv.Op{
		"two puts":            {kv.Put("/t/a", nil), kv.Put("/t/a", nil)},
		"put and delete":      {kv.Put("/t/a", nil), kv.Delete("/t/a")},
		"delete, then put it": {kv.Delete("/t/a"), kv.Put("/t/a", nil)},
	} {
		if _, _, err := h.KV.Txn(t.Context(), nil, ops); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func testTooLarge(t *testing.T, h Harness) {
	big := []byte(strings.Repeat("x", kv.MaxValue+1))
	_, _, err := h.KV.Txn(t.Context(), nil, []kv.Op{kv.Put("/t/a", big)})
	wantErr(t, err, kv.ErrTooLarge)
	var ops []kv.Op
	for i := range kv.MaxOps + 1 {
		ops = append(ops, kv.Put(keyN(i), nil))
	}
	_, _, err = h.KV.Txn(t.Context(), nil, ops)
	wantErr(t, err, kv.ErrTooLarge)
	put(t, h.KV, "/t/a", strings.Repeat("x", kv.MaxValue-100))
	_, _, err = h.KV.Txn(t.Context(), nil, ops[:kv.MaxOps])
	must(t, err)
}

func testEndedContext(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.KV.Get(ctx, "/t/a"); err == nil {
		t.Error("get: no error")
	}
	if _, _, err := h.KV.List(ctx, "/t/"); err == nil {
		t.Error("list: no error")
	}
	if _, _, err := h.KV.Txn(ctx, nil, []kv.Op{kv.Put("/t/a", nil)}); err == nil {
		t.Error("txn: no error")
	}
	if _, err := h.KV.Grant(ctx, 1); err == nil {
		t.Error("grant: no error")
	}
}
