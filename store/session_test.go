package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store/kv"
	"drover/store/memstore"
)

func TestRegisterPublishClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		a := register(t, s, "h1", "machine-1", "i1")
		must(t, a.PublishFacts(t.Context(), hypervisor.HostFacts{Name: "h1", Arch: "x86_64"}))
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 2}))
		must(t, a.Progress(t.Context(), precopy.Progress{ID: "m1", Round: 3}))

		time.Sleep(time.Minute)
		snap, err := s.ReadSnapshot(t.Context())
		must(t, err)
		h := snap.Hosts["h1"]
		if h == nil || !h.Alive() || h.Session.Instance != "i1" || h.Facts.Arch != "x86_64" || h.Load.CPU != 2 {
			t.Fatalf("host is %+v", h)
		}
		p, err := s.GetProgress(t.Context(), "m1")
		must(t, err)
		if p.Round != 3 {
			t.Errorf("progress %+v", p)
		}
		must(t, a.Close(t.Context()))
		<-a.Done()
		snap, err = s.ReadSnapshot(t.Context())
		must(t, err)
		if h := snap.Hosts["h1"]; h.Session != nil || h.Facts != nil || h.Load != nil {
			t.Errorf("after close: %+v", h)
		}
		if err := a.PublishLoad(t.Context(), hypervisor.HostLoad{}); !errors.Is(err, ErrFenced) {
			t.Errorf("publish after close: %v, want ErrFenced", err)
		}
	})
}

// TestTakeover: the restarted agent of the same machine is its host's agent at once, and nobody sees a
// host without an agent in between; the old one can write nothing more and knows it.
// What was seen on a host outlives its agent, is written only when it changed, and goes with the host.
func TestSeenStays(t *testing.T) {
	w := newWorld(t)
	s, _ := w.client()
	ctx := context.Background()
	a := register(t, s, "h1", "m1", "i1")
	must(t, s.BindHost(ctx, lead(t, s, "ctl").Fence(), "h1", "m1"))
	publish := func(names ...string) *fleet.Host {
		var f hypervisor.HostFacts
		for _, n := range names {
			f.Domains = append(f.Domains, hypervisor.DomainFacts{ID: hypervisor.DomainID("id-" + n), Name: n})
		}
		must(t, a.PublishFacts(ctx, f))
		snap, err := s.ReadSnapshot(ctx)
		must(t, err)
		return snap.Hosts["h1"]
	}
	first := publish("web", "db")
	if again := publish("db", "web"); again.SeenRevision != first.SeenRevision {
		t.Errorf("written again without a change: revision %d, then %d", first.SeenRevision, again.SeenRevision)
	}
	publish("mail", "db")
	must(t, a.Close(ctx))
	snap, err := s.ReadSnapshot(ctx)
	must(t, err)
	h := snap.Hosts["h1"]
	want := []fleet.SeenDomain{{ID: "id-db", Name: "db"}, {ID: "id-mail", Name: "mail"}}
	if diff := cmp.Diff(want, h.Seen); diff != "" || h.Facts != nil || h.SeenRevision <= first.SeenRevision {
		t.Errorf("after the agent's end: facts %v, revision %d, seen (-want +got):\n%s", h.Facts, h.SeenRevision, diff)
	}
	register(t, s, "h2", "m2", "i2")
	for id, want := range map[hypervisor.DomainID][2][]string{"id-mail": {{"h1"}, {"h2"}}, "id-web": {nil, {"h2"}}} {
		listing, others, err := s.Listing(ctx, id)
		must(t, err)
		if diff := cmp.Diff(want, [2][]string{listing, others}); diff != "" {
			t.Errorf("%s is listed by, others (-want +got):\n%s", id, diff)
		}
	}
	must(t, s.ForgetHost(ctx, "h1"))
	snap, err = s.ReadSnapshot(ctx)
	must(t, err)
	if h := snap.Hosts["h1"]; h != nil {
		t.Errorf("after forgetting: %+v", h)
	}
}

func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		old := register(t, s, "h1", "machine-1", "i1")
		must(t, old.PublishFacts(t.Context(), hypervisor.HostFacts{Name: "h1"}))
		must(t, old.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 2}))
		watch := s.kv.Watch(t.Context(), reportKey("h1", partSession))
		<-watch

		next := register(t, s, "h1", "machine-1", "i2")
		b := <-watch
		if len(b.Events) != 1 || b.Events[0].Deleted {
			t.Errorf("session key changed by %+v, want one put", b.Events)
		}
		<-old.Done()
		for name, err := range map[string]error{
			"facts":    old.PublishFacts(t.Context(), hypervisor.HostFacts{}),
			"load":     old.PublishLoad(t.Context(), hypervisor.HostLoad{}),
			"progress": old.Progress(t.Context(), precopy.Progress{ID: "m"}),
		} {
			if !errors.Is(err, ErrFenced) {
				t.Errorf("%s by the old session: %v, want ErrFenced", name, err)
			}
		}
		snap, err := s.ReadSnapshot(t.Context())
		must(t, err)
		if h := snap.Hosts["h1"]; h.Session.Instance != "i2" || h.Facts != nil || h.Load != nil {
			t.Errorf("after takeover: %+v, want no reports of the old session", h)
		}
		must(t, next.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 1}))
		must(t, old.Close(t.Context()))
		time.Sleep(time.Minute)
		snap, err = s.ReadSnapshot(t.Context())
		must(t, err)
		if h := snap.Hosts["h1"]; h == nil || h.Session == nil || h.Load == nil || h.Load.CPU != 1 {
			t.Errorf("the old session's end took the new one's keys: %+v", h)
		}
		must(t, next.Close(t.Context()))
	})
}

func TestNameTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		a := register(t, s, "h1", "machine-1", "i1")
		var taken *NameTakenError
		_, err := s.Register(t.Context(), testSession("h1", "machine-2", "j1"), time.Second)
		if !errors.Is(err, ErrNameTaken) || !errors.As(err, &taken) || taken.Session == nil || taken.BoundTo != "machine-1" {
			t.Fatalf("second machine: %v", err)
		}
		l := lead(t, s, "s1")
		must(t, s.BindHost(t.Context(), l.Fence(), "h1", "machine-1"))
		must(t, s.BindHost(t.Context(), l.Fence(), "h1", "machine-1"))
		if err := s.BindHost(t.Context(), l.Fence(), "h1", "machine-2"); !errors.Is(err, ErrNameTaken) {
			t.Errorf("bind to another machine: %v", err)
		}
		if err := s.ForgetHost(t.Context(), "h1"); !errors.Is(err, ErrConflict) {
			t.Errorf("forget a living host: %v", err)
		}
		must(t, a.Close(t.Context()))
		// The binding outlasts the session.
		_, err = s.Register(t.Context(), testSession("h1", "machine-2", "j1"), time.Second)
		if !errors.As(err, &taken) || taken.Session != nil || taken.BoundTo != "machine-1" {
			t.Fatalf("second machine after the first one's end: %v", err)
		}
		must(t, s.ForgetHost(t.Context(), "h1"))
		b := register(t, s, "h1", "machine-2", "j1")
		must(t, b.Close(t.Context()))
		must(t, l.Resign(t.Context()))
	})
}

// TestSessionLost cuts an agent off: it knows in time, and registers anew afterwards.
func TestSessionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, c := w.client()
		other, _ := w.client()
		a := register(t, s, "h1", "machine-1", "i1")
		start := time.Now()
		c.Partition(true)
		<-a.Done()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the session was given up after %s, its lease has 10 s", took)
		}
		if err := a.PublishLoad(t.Context(), hypervisor.HostLoad{}); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("publish while cut off: %v", err)
		}
		time.Sleep(10 * time.Second)
		snap, err := other.ReadSnapshot(t.Context())
		must(t, err)
		if len(snap.Hosts) != 0 {
			t.Errorf("the lost session's keys are still there: %+v", snap.Hosts)
		}
		c.Partition(false)
		b := register(t, s, "h1", "machine-1", "i1")
		must(t, b.PublishLoad(t.Context(), hypervisor.HostLoad{}))
		must(t, b.Close(t.Context()))
	})
}

// TestRegisterLostAnswers registers through every pattern of lost answers: there is one session in the
// end, and its fence stands.
func TestRegisterLostAnswers(t *testing.T) {
	for _, f := range []memstore.Fault{memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest} {
		for _, g := range []memstore.Fault{0, memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest} {
			for _, restart := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					s, c := w.client()
					if restart {
						register(t, s, "h1", "machine-1", "i0")
					}
					c.FailTxns(f, g)
					a := register(t, s, "h1", "machine-1", "i1")
					c.FailTxns()
					if err := a.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 1}); err != nil {
						t.Errorf("faults %d, %d, restart %v: publish: %v", f, g, restart, err)
					}
					time.Sleep(time.Minute)
					select {
					case <-a.Done():
						t.Errorf("faults %d, %d, restart %v: the session is done", f, g, restart)
					default:
					}
					must(t, a.Close(t.Context()))
				})
			}
		}
	}
}

func TestBadNames(t *testing.T) {
	w := newWorld(t)
	s, _ := w.client()
	ctx := context.Background()
	for _, name := range []string{"", "a/b", "a\n", "a\x00b"} {
		if _, err := s.Register(ctx, testSession(name, "m", "i"), time.Second); !errors.Is(err, ErrBadName) {
			t.Errorf("register %q: %v", name, err)
		}
		if _, err := s.UpdateHost(ctx, nil, name, nil); !errors.Is(err, ErrBadName) {
			t.Errorf("update host %q: %v", name, err)
		}
		if _, err := s.Ask(ctx, name, precopy.Question{}); !errors.Is(err, ErrBadName) {
			t.Errorf("ask %q: %v", name, err)
		}
		m := request(1, "d1")
		m.ID = name
		if _, err := s.CreateMigration(ctx, m); !errors.Is(err, ErrBadName) {
			t.Errorf("create %q: %v", name, err)
		}
	}
}

func TestCordonHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, c := w.client()
		if _, err := s.UpdateHost(t.Context(), nil, "h1", func(*fleet.HostRecord) error { return nil }); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("update of an unknown host: %v", err)
		}
		l := lead(t, s, "s1")
		fence := l.Fence()
		must(t, s.BindHost(t.Context(), fence, "h1", "machine-1"))
		cordon := func(holder string) func(*fleet.HostRecord) error {
			return func(h *fleet.HostRecord) error {
				h.Cordons = append(h.Cordons, fleet.Cordon{Holder: holder})
				return nil
			}
		}
		_, err := s.UpdateHost(t.Context(), &fence, "h1", cordon("run/1"))
		must(t, err)
		c.FailTxns(memstore.LostAnswer)
		h, err := s.UpdateHost(t.Context(), nil, "h1", cordon("admin"))
		must(t, err)
		if len(h.Cordons) != 2 {
			t.Errorf("cordons after a lost answer: %+v, want each holder once", h.Cordons)
		}
		refused := errors.New("no")
		if _, err := s.UpdateHost(t.Context(), nil, "h1", func(*fleet.HostRecord) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("error of the callback: got %v", err)
		}
		must(t, l.Resign(t.Context()))
		if _, err := s.UpdateHost(t.Context(), &fence, "h1", cordon("run/2")); !errors.Is(err, ErrFenced) {
			t.Errorf("update by a deposed leader: %v", err)
		}
		hosts, err := s.hosts().List(t.Context())
		must(t, err)
		if len(hosts) != 1 || len(hosts[0].Value.Cordons) != 2 || hosts[0].Value.LibvirtUUID != "machine-1" {
			t.Errorf("hosts: %+v", hosts)
		}
	})
}

// A report says what it is newer than: all that was written before the one before it. One with a problem has
// the domains of the last one without, and is no newer than that.
func TestLoadAsOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		a := register(t, s, "h1", "machine-1", "i1")
		seen := func() (asOf, revision int64) {
			snap, err := s.ReadSnapshot(t.Context())
			must(t, err)
			return snap.Hosts["h1"].LoadAsOf, snap.Hosts["h1"].LoadRevision
		}
		must(t, a.PublishFacts(t.Context(), hypervisor.HostFacts{Name: "h1"}))
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{Problem: "no libvirt yet"}))
		none, _ := seen()
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{}))
		good, before := seen()
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{Problem: "libvirt is gone"}))
		away, later := seen()
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{}))
		again, _ := seen()
		if none != 0 || good < a.Fence().Create || good >= before || away != good || again != later {
			t.Errorf("as of %d, %d (written at %d), %d (at %d), %d", none, good, before, away, later, again)
		}
	})
}
