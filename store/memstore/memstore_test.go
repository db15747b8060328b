package memstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"drover/store/kv"
	"drover/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestContract runs each case in a bubble of virtual time.
func TestContract(t *testing.T) {
	for _, c := range storetest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New()
				a, b := s.Client(), s.Client()
				t.Cleanup(func() {
					_, _ = a.Close(), b.Close()
					s.Close()
				})
				c.Func(t, storetest.Harness{
					KV: a, Other: b,
					Compact: func(*testing.T) { synctest.Wait(); s.Compact() },
					Cut: func(*testing.T) {
						a.Partition(true)
						time.Sleep(time.Second)
						a.Partition(false)
					},
				})
			})
		})
	}
}

func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		a, b := s.Client(), s.Client()
		defer func() { _, _ = a.Close(), b.Close(); s.Close() }()
		l, err := a.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Txn(t.Context(), nil, []kv.Op{kv.PutLeased("/a", nil, l.ID())}); err != nil {
			t.Fatal(err)
		}
		ch := a.Watch(t.Context(), "/")
		if b := <-ch; !b.Reset || len(b.Events) != 1 {
			t.Fatalf("first batch %+v", b)
		}
		a.Partition(true)
		if _, err := a.Get(t.Context(), "/a"); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("get while cut off: %v", err)
		}
		start := time.Now()
		<-l.Done()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("lease was given up after %s, later than its time to live", took)
		}
		time.Sleep(10 * time.Second)
		if _, err := b.Get(t.Context(), "/a"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("key of an expired lease: %v", err)
		}
		s.Compact()
		a.Partition(false)
		if b := <-ch; !b.Reset || len(b.Events) != 0 {
			t.Errorf("after compaction behind a cut: %+v, want an empty Reset", b)
		}
	})
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   Fault
		want    error
		applied bool
		late    bool
	}{
		{"unavailable", Unavailable, kv.ErrUnavailable, false, false},
		{"lost answer", LostAnswer, kv.ErrMaybeApplied, true, true},
		{"lost request", LostRequest, kv.ErrMaybeApplied, false, false},
		{"late request", LateRequest, kv.ErrMaybeApplied, false, true},
		{"full", Full, kv.ErrNoSpace, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New()
			a := s.Client()
			defer func() { _ = a.Close(); s.Close() }()
			a.FailTxns(c.fault)
			exists := func() bool { _, err := a.Get(t.Context(), "/a"); return err == nil }
			if _, _, err := a.Txn(t.Context(), nil, []kv.Op{kv.Put("/a", nil)}); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if exists() != c.applied {
				t.Errorf("applied at once: %v, want %v", exists(), c.applied)
			}
			if _, _, err := a.Txn(t.Context(), nil, []kv.Op{kv.Put("/b", nil)}); err != nil {
				t.Error(err)
			}
			if exists() != c.late {
				t.Errorf("applied after the next transaction: %v, want %v", exists(), c.late)
			}
		})
	}
}
