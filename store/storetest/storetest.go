// Package storetest is the one suite that every implementation of [kv.KV] passes: what drover's
// records, fences and leases rely on, stated as tests.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/store/kv"
)

// Harness is one empty store, as a case sees it.
type Harness struct {
	// KV and Other are two programs' connections to it. Other may be used where a case needs a
	// bystander.
	KV, Other kv.KV
	// Compact forgets all history up to now.
	Compact func(t *testing.T)
	// Cut breaks KV's connection for a moment in a way that loses nothing but time. Nil where the
	// case has to do without.
	Cut func(t *testing.T)
}

// Case is one test of the suite.
type Case struct {
	Name string
	Func func(t *testing.T, h Harness)
}

// Cases returns the suite, for implementations that need each case in surroundings of their own, as
// testing/synctest does.
func Cases() []Case {
	return []Case{
		{"get of a missing key", testGetMissing},
		{"revisions of a key", testRevisions},
		{"transaction is atomic", testTxnAtomic},
		{"conditions", testConditions},
		{"compare-and-set counts", testCompareAndSet},
		{"list in order at one revision", testList},
		{"long list", testLongList},
		{"last keys", testLast},
		{"key touched twice is refused", testDuplicate},
		{"too large is refused", testTooLarge},
		{"lease keeps and revoke deletes", testLeaseRevoke},
		{"lease expires after its context", testLeaseExpires},
		{"put under a lost lease", testLeasedPutLost},
		{"put without lease detaches", testDetach},
		{"fence of a recreated key", testFence},
		{"watch delivers state, then changes", testWatch},
		{"watch misses and doubles nothing", testWatchComplete},
		{"watch after compaction", testWatchCompaction},
		{"watch of an expiring lease", testWatchExpiry},
		{"watch pulses", testWatchPulse},
		{"watch ends with its context", testWatchEnds},
		{"ended context", testEndedContext},
	}
}

// Run runs the suite; open makes a new empty store for each case.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Func(t, open(t)) })
	}
}

// wait bounds what a case waits for.
const wait = 20 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// put writes unconditionally and returns the revision.
func put(t *testing.T, s kv.KV, key, value string) int64 {
	t.Helper()
	held, rev, err := s.Txn(t.Context(), nil, []kv.Op{kv.Put(key, []byte(value))})
	must(t, err)
	if !held {
		t.Fatalf("put %s: a transaction without conditions did not hold", key)
	}
	return rev
}

func get(t *testing.T, s kv.KV, key string) kv.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	must(t, err)
	return e
}

// next returns the next batch that is not a mere pulse.
func next(t *testing.T, ch <-chan kv.Batch) kv.Batch {
	t.Helper()
	timeout := time.After(wait)
	for {
		select {
		case b, ok := <-ch:
			if !ok {
				t.Fatal("watch ended")
			}
			if b.Reset || len(b.Events) > 0 {
				return b
			}
		case <-timeout:
			t.Fatal("no batch came")
		}
	}
}

// brief is an event without what differs between stores.
func brief(events []kv.Event) []string {
	var out []string
	for _, e := range events {
		if e.Deleted {
			out = append(out, "-"+e.Entry.Key)
		} else {
			out = append(out, "+"+e.Entry.Key+"="+string(e.Entry.Value))
		}
	}
	return out
}

func wantEvents(t *testing.T, b kv.Batch, reset bool, want ...string) {
	t.Helper()
	if b.Reset != reset {
		t.Errorf("batch %v: Reset is %v, want %v", brief(b.Events), b.Reset, reset)
	}
	if d := cmp.Diff(want, brief(b.Events)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func closed(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(wait):
		t.Fatalf("%s: not closed within %s", what, wait)
	}
}

func gone(t *testing.T, s kv.KV, key string, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		_, err := s.Get(t.Context(), key)
		if errors.Is(err, kv.ErrNotFound) {
			return
		}
		must(t, err)
		if time.Now().After(deadline) {
			t.Fatalf("%s still exists after %s", key, within)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func background(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

func keyN(n int) string { return fmt.Sprintf("/t/%06d", n) }
