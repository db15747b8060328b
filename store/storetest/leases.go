package storetest

import (
	"testing"
	"time"

	"drover/store/kv"
)

// shortTTL is about the least that etcd grants.
const shortTTL = 2 * time.Second

func grant(t *testing.T, s kv.KV, ttl time.Duration) kv.Lease {
	t.Helper()
	ctx, _ := background(t)
	l, err := s.Grant(ctx, ttl)
	must(t, err)
	return l
}

func putLeased(t *testing.T, s kv.KV, key string, l kv.Lease) error {
	t.Helper()
	_, _, err := s.Txn(t.Context(), nil, []kv.Op{kv.PutLeased(key, []byte("x"), l.ID())})
	return err
}

func testLeaseRevoke(t *testing.T, h Harness) {
	l := grant(t, h.KV, shortTTL)
	must(t, putLeased(t, h.KV, "/t/a", l))
	must(t, putLeased(t, h.KV, "/t/b", l))
	if e := get(t, h.Other, "/t/a"); e.Lease != l.ID() {
		t.Errorf("entry has lease %d, want %d", e.Lease, l.ID())
	}
	// Longer than the time to live: only keep-alives can explain that it is still there.
	time.Sleep(2*shortTTL + shortTTL/2)
	get(t, h.Other, "/t/a")
	select {
	case <-l.Done():
		t.Fatal("a lease that is kept alive is done")
	default:
	}
	must(t, l.Revoke(t.Context()))
	closed(t, l.Done(), "Done of a revoked lease")
	for _, k := range []string{"/t/a", "/t/b"} {
		_, err := h.Other.Get(t.Context(), k)
		wantErr(t, err, kv.ErrNotFound)
	}
	must(t, l.Revoke(t.Context()))
}

func testLeaseExpires(t *testing.T, h Harness) {
	ctx, cancel := background(t)
	l, err := h.KV.Grant(ctx, shortTTL)
	must(t, err)
	must(t, putLeased(t, h.KV, "/t/a", l))
	cancel()
	// The end of the context is no revocation.
	get(t, h.Other, "/t/a")
	closed(t, l.Done(), "Done of a lease that is no longer renewed")
	gone(t, h.Other, "/t/a", wait)
}

func testLeasedPutLost(t *testing.T, h Harness) {
	l := grant(t, h.KV, shortTTL)
	must(t, l.Revoke(t.Context()))
	wantErr(t, putLeased(t, h.KV, "/t/a", l), kv.ErrLeaseLost)
	// Nothing of the transaction is applied.
	_, _, err := h.KV.Txn(t.Context(), nil, []kv.Op{kv.Put("/t/b", nil), kv.PutLeased("/t/c", nil, l.ID())})
	wantErr(t, err, kv.ErrLeaseLost)
	_, err = h.KV.Get(t.Context(), "/t/b")
	wantErr(t, err, kv.ErrNotFound)
}

func testDetach(t *testing.T, h Harness) {
	l1, l2 := grant(t, h.KV, shortTTL), grant(t, h.KV, shortTTL)
	for _, k := range []string{"/t/plain", "/t/moved", "/t/kept"} {
		must(t, putLeased(t, h.KV, k, l1))
	}
	put(t, h.KV, "/t/plain", "y")
	must(t, putLeased(t, h.KV, "/t/moved", l2))
	must(t, l1.Revoke(t.Context()))
	get(t, h.KV, "/t/plain")
	get(t, h.KV, "/t/moved")
	_, err := h.KV.Get(t.Context(), "/t/kept")
	wantErr(t, err, kv.ErrNotFound)
	must(t, l2.Revoke(t.Context()))
	_, err = h.KV.Get(t.Context(), "/t/moved")
	wantErr(t, err, kv.ErrNotFound)
}

// testFence is what leadership and sessions rest on: a key that was deleted and made again has
// another create revision, so writes under the old one fail.
func testFence(t *testing.T, h Harness) {
	l1 := grant(t, h.KV, shortTTL)
	_, fence, err := h.KV.Txn(t.Context(), []kv.Cond{kv.IfAbsent("/t/leader")}, []kv.Op{kv.PutLeased("/t/leader", nil, l1.ID())})
	must(t, err)
	write := func(fence int64) bool {
		held, _, err := h.KV.Txn(t.Context(), []kv.Cond{kv.IfCreate("/t/leader", fence)}, []kv.Op{kv.Put("/t/x", nil)})
		must(t, err)
		return held
	}
	if !write(fence) {
		t.Error("write under a valid fence did not hold")
	}
	must(t, putLeased(t, h.KV, "/t/leader", l1))
	if !write(fence) {
		t.Error("rewriting the key ended its fence")
	}
	must(t, l1.Revoke(t.Context()))
	if write(fence) {
		t.Error("write under a fence whose key is gone held")
	}
	l2 := grant(t, h.Other, shortTTL)
	_, fence2, err := h.Other.Txn(t.Context(), []kv.Cond{kv.IfAbsent("/t/leader")}, []kv.Op{kv.PutLeased("/t/leader", nil, l2.ID())})
	must(t, err)
	if write(fence) || !write(fence2) {
		t.Error("the old fence holds, or the new one does not")
	}
}
