package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store/embed"
	"drover/store/etcd"
	"drover/store/kv"
)

// liveStore is the records on a real etcd, with its writes going to the disk.
func liveStore(t testing.TB) (*embed.Server, func() *Store) {
	t.Helper()
	server, err := embed.Start(context.Background(), embed.Config{Dir: t.TempDir(), ListenURL: "http://127.0.0.1:0", Insecure: true})
	must(t, err)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, func() *Store {
		c, err := etcd.Open(etcd.Config{Endpoints: server.Endpoints(), Insecure: true})
		must(t, err)
		s := New(c)
		t.Cleanup(func() { _, _ = s.Close(), c.Close() })
		return s
	}
}

// TestLiveRound plays a migration's life on a real etcd, with all parties on connections of their own.
func TestLiveRound(t *testing.T) {
	_, open := liveStore(t)
	control, agent, person := open(), open(), open()
	ctx := t.Context()

	l := lead(t, control, "s1")
	a := register(t, agent, "h1", "machine-1", "i1")
	must(t, control.BindHost(ctx, l.Fence(), "h1", "machine-1"))
	must(t, a.PublishFacts(ctx, hypervisor.HostFacts{Name: "h1"}))
	must(t, a.PublishLoad(ctx, hypervisor.HostLoad{CPU: 1}))
	v, err := control.OpenView(ctx)
	must(t, err)
	defer v.Close()
	if h := v.Snapshot().Hosts["h1"]; h == nil || !h.Alive() {
		t.Fatalf("host in the view: %+v", h)
	}
	st, err := person.CreateMigration(ctx, request(1, "d1"))
	must(t, err)
	_, err = person.CreateMigration(ctx, request(2, "d1"))
	if !errors.Is(err, ErrActive) {
		t.Errorf("second migration: %v", err)
	}
	leader, session := l.Fence(), a.Fence()
	for _, s := range []struct {
		who   *Store
		actor precopy.Actor
		fence *Fence
		to    precopy.Phase
	}{
		{control, precopy.ActorLeader, &leader, precopy.Queued},
		{agent, precopy.ActorSource, &session, precopy.Claimed},
		{agent, precopy.ActorSource, &session, precopy.Preparing},
		{agent, precopy.ActorSource, nil, precopy.Copying},
		{agent, precopy.ActorSource, nil, precopy.Done},
	} {
		st, err = s.who.UpdateMigration(ctx, s.actor, s.fence, st, step(st, s.to))
		must(t, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for v.Snapshot().Migrations[st.ID].Phase != precopy.Done {
		if time.Now().After(deadline) {
			t.Fatal("the view does not follow")
		}
		time.Sleep(5 * time.Millisecond)
	}
	must(t, control.Retire(ctx, l.Fence(), st))
	got, err := person.GetMigration(ctx, st.ID)
	must(t, err)
	if got.Phase != precopy.Done {
		t.Errorf("from the history: %+v", got)
	}
	must(t, a.Close(ctx))
	must(t, l.Resign(ctx))
	if info, err := person.Leader(ctx); info != nil || err != nil {
		t.Errorf("leader after resigning: %+v, %v", info, err)
	}
}

// TestLiveTakeover restarts an agent over its living session.
func TestLiveTakeover(t *testing.T) {
	_, open := liveStore(t)
	s := open()
	old := register(t, s, "h1", "machine-1", "i1")
	must(t, old.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 1}))
	next := register(t, s, "h1", "machine-1", "i2")
	select {
	case <-old.Done():
	case <-time.After(5 * time.Second):
		t.Error("the superseded session does not know it")
	}
	if err := old.PublishLoad(t.Context(), hypervisor.HostLoad{}); !errors.Is(err, ErrFenced) {
		t.Errorf("publish by the superseded session: %v", err)
	}
	must(t, old.Close(t.Context()))
	must(t, next.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 2}))
	must(t, next.Close(t.Context()))
}

// TestLiveAskIsQuick holds questions to their promise: fast enough to ask several before a migration.
func TestLiveAskIsQuick(t *testing.T) {
	_, open := liveStore(t)
	asker, agent := open(), open()
	a := register(t, agent, "h1", "machine-1", "i1")
	ctx, cancel := context.WithCancel(t.Context())
	done := serve(ctx, agent, a, sight)
	var took []time.Duration
	for range 31 {
		start := time.Now()
		got, err := asker.Ask(ctx, "h1", precopy.Question{Kind: precopy.AskSight, Domain: "d1"})
		must(t, err)
		if got.Sighting == nil {
			t.Fatalf("got %+v", got)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("a question takes %s in the middle, %s at most", took[15], took[30])
	// The promise is 10 ms; the test machine may be as busy as can be. A question that waits for some
	// period takes longer.
	if took[15] > 300*time.Millisecond {
		t.Errorf("half of the questions took longer than %s", took[15])
	}
	cancel()
	<-done
	must(t, a.Close(t.Context()))
}

func TestBackupRestore(t *testing.T) {
	w := newWorld(t)
	s, c := w.client()
	ctx := context.Background()
	l := lead(t, s, "s1")
	must(t, s.BindHost(ctx, l.Fence(), "h1", "machine-1"))
	for n := range 150 {
		_, err := s.CreateMigration(ctx, request(n, hypervisor.DomainID(request(n, "").ID)))
		must(t, err)
	}
	must(t, s.Record(ctx, Event{Kind: "k"}))
	var file bytes.Buffer
	n, err := s.Backup(ctx, &file)
	must(t, err)
	whole := file.Bytes()

	_, open := liveStore(t)
	other := open()
	m, err := other.Restore(ctx, bytes.NewReader(whole))
	must(t, err)
	if n != m || n != 1+2*150+1 {
		t.Errorf("backed up %d, restored %d, want %d", n, m, 1+2*150+1)
	}
	if d := cmp.Diff(dump(t, c), dump(t, other.kv)); d != "" {
		t.Errorf("restored store (-was +is):\n%s", d)
	}
	if _, err := other.Restore(ctx, bytes.NewReader(whole)); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("restore into a store that is not empty: %v", err)
	}
	empty, _ := newWorld(t).client()
	for _, bad := range [][]byte{nil, []byte("no backup"), whole[:len(whole)/2], whole[:len(whole)-9]} {
		if _, err := empty.Restore(ctx, bytes.NewReader(bad)); !errors.Is(err, ErrBadBackup) {
			t.Errorf("restore of %d bytes: %v, want ErrBadBackup", len(bad), err)
		}
	}
	if left, _, err := empty.kv.List(ctx, Root); err != nil || len(left) != 0 {
		t.Errorf("a bad backup wrote %d keys (%v)", len(left), err)
	}
	must(t, l.Resign(ctx))
}

// TestLiveStoreAway: with the store gone every call ends soon, and says so.
func TestLiveStoreAway(t *testing.T) {
	server, open := liveStore(t)
	s := open()
	a, err := s.Register(context.Background(), testSession("h1", "machine-1", "i1"), 3*time.Second)
	must(t, err)
	must(t, server.Close())
	start := time.Now()
	if err := a.PublishLoad(t.Context(), hypervisor.HostLoad{}); !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrMaybeApplied) {
		t.Errorf("publish: %v", err)
	}
	select {
	case <-a.Done():
	case <-time.After(15 * time.Second):
		t.Error("the session's end was not noticed")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the session with 3 s to live was given up, and a call ended, after %s", took)
	}
}
