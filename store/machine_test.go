package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store/kv"
	"drover/store/memstore"
)

// inBubble hides the test's Deadline from rapid: it may not be called in a bubble of synctest.
type inBubble struct{ testing.TB }

func newServer() *memstore.Server { return memstore.New() }

// machine plays migrations with a leader, an agent and two people, each on a connection that fails, and
// checks the invariants from outside after every step.
type machine struct {
	t       *rapid.T
	truth   kv.KV
	people  [2]*Store
	control *Store
	source  *Store
	clients []*memstore.Client
	leader  *Leadership
	agent   *AgentSession
	// known is what each actor last read of a record: often outdated.
	known map[string][]precopy.Stored
	// phases is what each record was last seen in by the checker.
	phases map[string]precopy.Phase
	ids    int
}

var machineDomains = []hypervisor.DomainID{"d1", "d2"}

func (m *machine) ctx() context.Context { return context.Background() }

// create asks for a migration, now and then for one that was asked for before.
func (m *machine) create() {
	n := m.ids
	if rapid.IntRange(0, 3).Draw(m.t, "again") > 0 {
		m.ids++
		n = m.ids
	}
	domain := machineDomains[n%len(machineDomains)]
	st, err := m.people[rapid.IntRange(0, 1).Draw(m.t, "person")].CreateMigration(m.ctx(), request(n, domain))
	var active *ActiveError
	switch {
	case err == nil:
		m.learn(st)
		if st.UUID != domain {
			m.t.Errorf("creating a migration of %s gave one of %s", domain, st.UUID)
		}
	case errors.As(err, &active):
		if active.Domain != domain {
			m.t.Errorf("creating a migration of %s: %v", domain, err)
		}
	case !errors.Is(err, kv.ErrMaybeApplied) && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrNoSpace):
		m.t.Errorf("create: %v", err)
	}
}

func (m *machine) learn(st precopy.Stored) {
	m.known[st.ID] = append(m.known[st.ID], st)
}

// read refreshes what is known of all records.
func (m *machine) read() {
	if all, err := m.people[0].ListMigrations(m.ctx()); err == nil {
		for _, st := range all {
			m.learn(st)
		}
	}
}

// write lets an actor take a step from what it, perhaps wrongly, takes for the record.
func (m *machine) write() {
	var all []precopy.Stored
	for i := range m.ids + 1 {
		all = append(all, m.known[request(i, "").ID]...)
	}
	if len(all) == 0 {
		return
	}
	old := all[rapid.IntRange(0, len(all)-1).Draw(m.t, "record")]
	to := rapid.SampledFrom(precopy.Phases()).Draw(m.t, "phase")
	actor := rapid.SampledFrom([]precopy.Actor{precopy.ActorCLI, precopy.ActorLeader, precopy.ActorSource}).Draw(m.t, "actor")
	s, fence := m.people[1], (*Fence)(nil)
	switch actor {
	case precopy.ActorLeader:
		s, fence = m.control, ptr(m.leader.Fence())
	case precopy.ActorSource:
		s = m.source
		if !to.Final() {
			fence = ptr(m.agent.Fence())
		}
	}
	next := step(old, to)
	next.Reason = fmt.Sprint(rapid.IntRange(0, 3).Draw(m.t, "reason"))
	st, err := s.UpdateMigration(m.ctx(), actor, fence, old, next)
	legal := precopy.CheckTransition(old.Phase, to, actor) == nil
	switch {
	case err == nil && !legal:
		m.t.Errorf("%s took %s from %s to %s", actor, old.ID, old.Phase, to)
	case err == nil:
		m.learn(st)
		if got, err := m.people[0].GetMigration(m.ctx(), st.ID); err == nil && got.Revision == st.Revision && string(got.Raw) != string(st.Raw) {
			m.t.Errorf("update returned %s, stored is %s", st.Raw, got.Raw)
		}
	}
}

func (m *machine) fault() {
	c := m.clients[rapid.IntRange(0, len(m.clients)-1).Draw(m.t, "client")]
	c.FailTxns(rapid.SliceOfN(rapid.SampledFrom([]memstore.Fault{
		0, memstore.Unavailable, memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest, memstore.Full,
	}), 0, 4).Draw(m.t, "faults")...)
}

// depose replaces the leader, or the agent, by a new one; the old one's fence stays in use by mistake
// until then.
func (m *machine) depose() {
	for _, c := range m.clients {
		c.FailTxns()
	}
	if rapid.Bool().Draw(m.t, "agent") {
		old := m.agent
		m.agent = must2(m.source.Register(m.ctx(), testSession("h1", "machine-1", "next"), time.Minute))
		_ = old.Close(m.ctx())
		return
	}
	_ = m.leader.Resign(m.ctx())
	m.leader = must2(m.control.Campaign(m.ctx(), "next", time.Minute))
}

// check states the invariants.
func (m *machine) check() {
	entries, _, err := m.truth.List(m.ctx(), live)
	if err != nil {
		m.t.Fatal(err)
	}
	unfinished := map[hypervisor.DomainID]string{}
	active := map[hypervisor.DomainID]string{}
	for _, e := range entries {
		if id, ok := cutPrefix(e.Key, activePrefix); ok {
			var a activeRecord
			if err := decode(e.Value, &a); err != nil {
				m.t.Fatal(err)
			}
			active[hypervisor.DomainID(id)] = a.Migration
		}
		id, ok := cutPrefix(e.Key, migrationsPrefix)
		if !ok {
			continue
		}
		var r precopy.Migration
		if err := decode(e.Value, &r); err != nil {
			m.t.Fatal(err)
		}
		if !r.Phase.Final() {
			if other := unfinished[r.UUID]; other != "" {
				m.t.Errorf("%s has two unfinished migrations, %s and %s", r.UUID, other, id)
			}
			unfinished[r.UUID] = id
		}
		if was, seen := m.phases[id]; seen && was != r.Phase && !reachable(was, r.Phase) {
			m.t.Errorf("%s went from %s to %s", id, was, r.Phase)
		}
		m.phases[id] = r.Phase
	}
	if fmt.Sprint(unfinished) != fmt.Sprint(active) {
		m.t.Errorf("unfinished migrations %v, active keys %v", unfinished, active)
	}
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}

// reachable: a late request may make two steps look like one.
func reachable(from, to precopy.Phase) bool {
	if from.Final() {
		return false
	}
	seen := map[precopy.Phase]bool{from: true}
	for grown := true; grown; {
		grown = false
		for p := range seen {
			for _, q := range precopy.Phases() {
				for _, a := range []precopy.Actor{precopy.ActorCLI, precopy.ActorLeader, precopy.ActorSource} {
					if !seen[q] && p != q && precopy.CheckTransition(p, q, a) == nil {
						seen[q], grown = true, true
					}
				}
			}
		}
	}
	return seen[to]
}

func TestMigrationMachine(t *testing.T) {
	synctest.Test(t, func(st *testing.T) {
		rapid.Check(inBubble{st}, func(t *rapid.T) {
			w := &world{t: st, server: newServer()}
			defer w.close()
			m := &machine{t: t, known: map[string][]precopy.Stored{}, phases: map[string]precopy.Phase{}}
			m.truth = func() kv.KV { _, c := w.client(); return c }()
			for _, s := range []**Store{&m.people[0], &m.people[1], &m.control, &m.source} {
				st, c := w.client()
				*s, m.clients = st, append(m.clients, c)
			}
			m.leader = must2(m.control.Campaign(m.ctx(), "first", time.Minute))
			m.agent = must2(m.source.Register(m.ctx(), testSession("h1", "machine-1", "first"), time.Minute))
			steps := []func(){m.create, m.write, m.write, m.write, m.write, m.read, m.fault, m.depose}
			for range rapid.IntRange(1, 60).Draw(t, "steps") {
				steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")]()
				m.check()
			}
		})
	})
}
