package store

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store/kv"
)

func TestViewFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, _ := w.client()
		watcher, c := w.client()
		v, err := watcher.OpenView(t.Context())
		must(t, err)
		defer v.Close()
		empty := v.Snapshot()

		a := register(t, s, "h1", "machine-1", "i1")
		must(t, a.PublishFacts(t.Context(), hypervisor.HostFacts{Name: "h1"}))
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 1}))
		seen := time.Now()
		synctest.Wait()
		select {
		case <-v.Changed():
		default:
			t.Error("no notice of a change")
		}
		first := v.Snapshot()
		if h := first.Hosts["h1"]; h == nil || !h.Alive() || h.Load.CPU != 1 || !h.LoadSeen.Equal(seen) || h.LoadAsOf != a.Fence().Create || h.LoadRevision <= h.LoadAsOf {
			t.Errorf("host %+v", first.Hosts["h1"])
		}
		if len(empty.Hosts) != 0 {
			t.Error("an earlier snapshot was written to")
		}
		time.Sleep(time.Minute)
		must(t, a.PublishLoad(t.Context(), hypervisor.HostLoad{CPU: 2}))
		synctest.Wait()
		second := v.Snapshot()
		if first.Hosts["h1"].Load.CPU != 1 || second.Hosts["h1"].Load.CPU != 2 {
			t.Error("the change is in the earlier snapshot, or not in the later one")
		}
		if second.Hosts["h1"].LoadAsOf != first.Hosts["h1"].LoadRevision {
			t.Errorf("the second load was taken after the first was written, and says %d", second.Hosts["h1"].LoadAsOf)
		}
		if second.Hosts["h1"].Facts != first.Hosts["h1"].Facts {
			t.Error("unchanged facts were decoded again")
		}
		// Compaction behind a cut: what did not change keeps the time at which it was seen.
		c.Partition(true)
		time.Sleep(4 * kv.Pulse)
		_, err = s.CreateMigration(t.Context(), request(1, "d1"))
		must(t, err)
		w.server.Compact()
		if !v.Stale() {
			t.Errorf("cut off for %s and not stale", v.Age())
		}
		c.Partition(false)
		synctest.Wait()
		if v.Stale() {
			t.Error("stale after the cut is healed")
		}
		third := v.Snapshot()
		if len(third.Migrations) != 1 {
			t.Error("what changed behind the cut is not there")
		}
		if third.Hosts["h1"] == nil || third.Hosts["h1"].LoadSeen != second.Hosts["h1"].LoadSeen {
			t.Error("a Reset made an old load look new")
		}
		must(t, a.Close(t.Context()))
		synctest.Wait()
		if h := v.Snapshot().Hosts["h1"]; h.Session != nil || h.Facts != nil || h.Load != nil {
			t.Errorf("after the session ended: %+v", h)
		}
		time.Sleep(time.Hour)
		if v.Stale() {
			t.Error("a quiet store makes the view stale")
		}
	})
}

func TestViewBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, c := w.client()
		v, err := s.OpenView(t.Context())
		must(t, err)
		defer v.Close()
		put := func(value string) {
			_, _, err := c.Txn(t.Context(), nil, []kv.Op{kv.Put(migrationKey("m1"), []byte(value))})
			must(t, err)
			synctest.Wait()
		}
		put(`{"id":"m1","phase":"queued"}`)
		put(`{"id":`)
		if b := v.Broken(); len(b) != 1 || b[migrationKey("m1")] == nil || len(v.Snapshot().Migrations) != 0 {
			t.Errorf("broken: %v", b)
		}
		put(`{"id":"m1","phase":"claimed"}`)
		if b := v.Broken(); len(b) != 0 || v.Snapshot().Migrations["m1"].Phase != precopy.Claimed {
			t.Errorf("after repair: %v", b)
		}
	})
}

// viewOps is what happens to a store while a view looks on.
type viewOps struct {
	t        *rapid.T
	w        *world
	s        *Store
	cut      func(bool)
	sessions map[string]*AgentSession
	leader   *Leadership
	n        int
}

func (o *viewOps) ctx() context.Context { return context.Background() }

func (o *viewOps) step() {
	host := rapid.SampledFrom([]string{"h1", "h2", "h3"}).Draw(o.t, "host")
	a := o.sessions[host]
	switch op := rapid.IntRange(0, 13).Draw(o.t, "op"); {
	case op == 0:
		o.sessions[host] = register(o.w.t, o.s, host, "machine-"+host, fmt.Sprint(o.n))
	case op == 1 && a != nil:
		_ = a.Close(o.ctx())
		delete(o.sessions, host)
	case op == 2 && a != nil:
		_ = a.PublishFacts(o.ctx(), hypervisor.HostFacts{Name: host, Arch: fmt.Sprint(o.n)})
	case op <= 4 && a != nil:
		_ = a.PublishLoad(o.ctx(), hypervisor.HostLoad{CPU: hypervisor.Cores(o.n)})
	case op == 5:
		_ = o.s.BindHost(o.ctx(), o.leader.Fence(), host, "machine-"+host)
	case op == 6:
		_, _ = o.s.CreateMigration(o.ctx(), request(o.n, hypervisor.DomainID(host)))
	case op == 7:
		for _, m := range must2(o.s.ListMigrations(o.ctx())) {
			if !m.Phase.Final() {
				_, _ = o.s.UpdateMigration(o.ctx(), precopy.ActorCLI, nil, m, step(m, precopy.Aborted))
			}
		}
	case op == 8:
		for _, m := range must2(o.s.ListMigrations(o.ctx())) {
			if m.Phase.Final() {
				_ = o.s.Retire(o.ctx(), o.leader.Fence(), m)
			}
		}
	case op == 9:
		o.w.server.Compact()
	case op == 10:
		o.cut(rapid.Bool().Draw(o.t, "cut"))
	case op == 11:
		o.intent(policyKey, PolicyID)
	case op == 12:
		o.intent(vmsPrefix+host, host)
	case op == 13:
		_, c := o.w.client()
		ops := []kv.Op{kv.Put(runsPrefix+host, fmt.Appendf(nil, `{"schema":1,"id":"%s","phase":"running","max_parallel":%d}`, host, o.n))}
		if rapid.Bool().Draw(o.t, "gone") {
			ops = []kv.Op{kv.Delete(runsPrefix + host)}
		}
		_, _, _ = c.Txn(o.ctx(), nil, ops)
	}
	o.n++
}

// intent writes, spoils or removes the policy or a VM's record.
func (o *viewOps) intent(key, id string) {
	_, c := o.w.client()
	switch rapid.IntRange(0, 2).Draw(o.t, "intent") {
	case 0:
		_, _, _ = c.Txn(o.ctx(), nil, []kv.Op{kv.Put(key, []byte(`{"schema":1,"class":7,"default":7}`))})
	case 1:
		_, _, _ = c.Txn(o.ctx(), nil, []kv.Op{kv.Delete(key)})
	case 2:
		if id == PolicyID {
			_, _ = Policy[policy.Document](o.s).Upsert(o.ctx(), nil, id, func(d *policy.Document) error {
				*d = policy.Document{Default: policy.Class{Priority: &o.n}}
				return nil
			})
		} else {
			_, _ = VMs[policy.VMRecord](o.s).Upsert(o.ctx(), nil, id, func(r *policy.VMRecord) error {
				r.Class = fmt.Sprint(o.n)
				return nil
			})
		}
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestViewEqualsFreshList: after any history, with cuts and compaction, a view shows what a fresh read
// shows.
func TestViewEqualsFreshList(t *testing.T) {
	synctest.Test(t, func(st *testing.T) {
		rapid.Check(inBubble{st}, func(t *rapid.T) {
			w := &world{t: st}
			w.server = newServer()
			defer w.close()
			s, _ := w.client()
			watcher, c := w.client()
			v, err := watcher.OpenView(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			o := &viewOps{t: t, w: w, s: s, cut: c.Partition, sessions: map[string]*AgentSession{}, leader: lead(st, s, "s1")}
			for range rapid.IntRange(1, 40).Draw(t, "steps") {
				o.step()
				if rapid.IntRange(0, 3).Draw(t, "settle") == 0 {
					synctest.Wait()
					v.Snapshot()
				}
			}
			o.cut(false)
			synctest.Wait()
			fresh, err := s.ReadSnapshot(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			ignore := cmp.Options{
				cmpopts.IgnoreFields(fleet.Snapshot{}, "Now"), cmpopts.IgnoreFields(fleet.Host{}, "LoadSeen"),
			}
			if d := cmp.Diff(fresh, v.Snapshot(), ignore); d != "" {
				t.Errorf("view (-fresh +view):\n%s", d)
			}
		})
	})
}
