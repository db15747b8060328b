package storetest

import (
	"strconv"
	"testing"
	"time"

	"drover/store/kv"
)

func testWatch(t *testing.T, h Harness) {
	put(t, h.KV, "/t/a", "1")
	put(t, h.KV, "/u/a", "other")
	ctx, _ := background(t)
	ch := h.KV.Watch(ctx, "/t/")
	first := next(t, ch)
	wantEvents(t, first, true, "+/t/a=1")

	rev := put(t, h.Other, "/t/b", "2")
	b := next(t, ch)
	wantEvents(t, b, false, "+/t/b=2")
	if b.Rev != rev || b.Events[0].Entry.Mod != rev {
		t.Errorf("batch at %d with event of %d, want both %d", b.Rev, b.Events[0].Entry.Mod, rev)
	}
	put(t, h.Other, "/u/b", "other")
	_, rev, err := h.Other.Txn(t.Context(), nil, []kv.Op{kv.Delete("/t/a"), kv.Put("/t/b", []byte("3")), kv.Put("/t/c", []byte("4"))})
	must(t, err)
	b = next(t, ch)
	wantEvents(t, b, false, "-/t/a", "+/t/b=3", "+/t/c=4")
	if b.Events[0].Entry.Mod != rev {
		t.Errorf("delete has revision %d, want %d", b.Events[0].Entry.Mod, rev)
	}

	empty := next(t, h.KV.Watch(ctx, "/none/"))
	wantEvents(t, empty, true)
}

// testWatchComplete counts in one key from two sides while a watch begins and the connection is cut
// now and then: every number must come, once, in order.
func testWatchComplete(t *testing.T, h Harness) {
	const n = 300
	ctx, _ := background(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; i <= n; i++ {
			if _, _, err := h.Other.Txn(ctx, nil, []kv.Op{kv.Put("/t/n", []byte(strconv.Itoa(i)))}); err != nil {
				t.Error(err)
				return
			}
			if i%20 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	defer func() { <-done }()
	ch := h.KV.Watch(ctx, "/t/")
	last, lastRev := 0, int64(0)
	for cuts := 0; last < n; {
		b := next(t, ch)
		if b.Rev < lastRev {
			t.Fatalf("batch at revision %d after one at %d", b.Rev, lastRev)
		}
		lastRev = b.Rev
		for _, e := range b.Events {
			got, err := strconv.Atoi(string(e.Entry.Value))
			must(t, err)
			if !b.Reset && got != last+1 {
				t.Fatalf("got %d after %d", got, last)
			}
			last = got
		}
		if h.Cut != nil && cuts < 3 && last > (cuts+1)*n/5 {
			cuts++
			h.Cut(t)
		}
	}
}

func testWatchCompaction(t *testing.T, h Harness) {
	put(t, h.KV, "/t/a", "1")
	ctx, _ := background(t)
	ch := h.KV.Watch(ctx, "/t/")
	wantEvents(t, next(t, ch), true, "+/t/a=1")
	put(t, h.KV, "/t/a", "2")
	wantEvents(t, next(t, ch), false, "+/t/a=2")
	h.Compact(t)
	// A watch that is up to date is not disturbed; a new one begins with the state.
	put(t, h.KV, "/t/b", "3")
	wantEvents(t, next(t, ch), false, "+/t/b=3")
	wantEvents(t, next(t, h.Other.Watch(ctx, "/t/")), true, "+/t/a=2", "+/t/b=3")
}

func testWatchExpiry(t *testing.T, h Harness) {
	l := grant(t, h.KV, shortTTL)
	must(t, putLeased(t, h.KV, "/t/a", l))
	must(t, putLeased(t, h.KV, "/t/b", l))
	ctx, _ := background(t)
	ch := h.Other.Watch(ctx, "/t/")
	wantEvents(t, next(t, ch), true, "+/t/a=x", "+/t/b=x")
	must(t, l.Revoke(t.Context()))
	wantEvents(t, next(t, ch), false, "-/t/a", "-/t/b")
}

func testWatchPulse(t *testing.T, h Harness) {
	ctx, _ := background(t)
	ch := h.KV.Watch(ctx, "/t/")
	next(t, ch)
	rev := put(t, h.KV, "/u/elsewhere", "x")
	timeout := time.After(wait)
	for {
		select {
		case b := <-ch:
			if b.Reset || len(b.Events) > 0 {
				t.Fatalf("a change elsewhere gave %+v", b)
			}
			if b.Rev >= rev {
				return
			}
		case <-timeout:
			t.Fatal("a quiet watch did not pulse")
		}
	}
}

func testWatchEnds(t *testing.T, h Harness) {
	ctx, cancel := background(t)
	ch := h.KV.Watch(ctx, "/t/")
	next(t, ch)
	cancel()
	timeout := time.After(wait)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-timeout:
			t.Fatal("the channel is not closed after the context ended")
		}
	}
}
