package budget

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func fleetOf(hosts int, link func(int) hypervisor.BytesPerSecond) *fleet.Snapshot {
	s := &fleet.Snapshot{
		Now: t0, Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{},
		Shares: map[string]fleet.StoredShare{}, Progress: map[string]fleet.SeenProgress{},
	}
	for i := range hosts {
		name := fmt.Sprintf("h%d", i)
		s.Hosts[name] = &fleet.Host{
			Name: name, Session: &fleet.Session{Host: name},
			Facts: &hypervisor.HostFacts{Name: name, Capacity: hypervisor.Capacity{Bandwidth: link(i)}},
			Load:  &hypervisor.HostLoad{},
		}
	}
	return s
}

// world is a store and its agents, as far as shares go: what is written, what each agent's libvirt really has in
// force, and which agents are away.
type world struct {
	t        *rapid.T
	s        *fleet.Snapshot
	now      time.Time
	inForce  map[string]hypervisor.BytesPerSecond
	applied  map[string]int64
	next     int
	revision int64
	streams  *Memory
	network  policy.Network
}

func (w *world) input() Input {
	return Input{Fleet: w.s, Network: w.network, Memory: w.streams, Outgoing: 3, Incoming: 4, Now: w.now}
}

// ask tries to order a migration.
func (w *world) ask(a *Arbiter) {
	n := len(w.s.Hosts)
	src := rapid.IntRange(0, n-1).Draw(w.t, "source")
	dst := (src + rapid.IntRange(1, n-1).Draw(w.t, "target")) % n
	w.next++
	m := precopy.Stored{Migration: precopy.Migration{
		ID: fmt.Sprintf("m%04d", w.next), Domain: fmt.Sprintf("vm%d", w.next), UUID: hypervisor.DomainID(fmt.Sprint(w.next)),
		Source: fmt.Sprintf("h%d", src), Target: fmt.Sprintf("h%d", dst), Phase: precopy.Queued, RequestedBy: "somebody",
	}}
	v := a.Admit(Candidate{
		Migration: m, Target: m.Target, Need: hypervisor.BytesPerSecond(rapid.IntRange(0, 60).Draw(w.t, "need")) * mib,
	})
	if !v.OK {
		return
	}
	m.Order = &precopy.Order{Bandwidth: a.Bandwidth(m.Source, m.Target), Need: v.Need, Share: v.Share, IssuedAt: w.now}
	w.revision++
	w.s.Migrations[m.ID] = m
	w.s.Shares[m.ID] = fleet.StoredShare{Share: FirstShare(m.Migration, v, w.now), Revision: w.revision}
	w.inForce[m.ID] = v.Share // the agent may claim it at once
	w.applied[m.ID] = 1
}

// lead is one pass of a leader, who may die before it has written everything.
func (w *world) lead(dies bool) {
	w.streams.Look(w.s, w.now)
	a := New(w.input())
	for range rapid.IntRange(0, 3).Draw(w.t, "requests") {
		w.ask(a)
	}
	writes := a.Writes()
	if dies {
		writes = writes[:rapid.IntRange(0, len(writes)).Draw(w.t, "written before it dies")]
		w.streams = &Memory{}
	}
	for _, c := range writes {
		if w.s.Shares[c.New.ID].Revision != c.Old.Revision {
			continue
		}
		w.revision++
		w.s.Shares[c.New.ID] = fleet.StoredShare{Share: c.New, Revision: w.revision}
	}
}

// agents lets some of them apply what is written, and tell.
func (w *world) agents() {
	for _, id := range idsOf(w.s) {
		m := w.s.Migrations[id]
		if w.s.Hosts[m.Source].Session == nil {
			continue
		}
		share := w.s.Shares[id]
		if rapid.Bool().Draw(w.t, "applies") {
			w.inForce[id], w.applied[id] = share.Bandwidth, share.Serial
		}
		if rapid.Bool().Draw(w.t, "tells") {
			w.s.Progress[id] = fleet.SeenProgress{Seen: w.now, Progress: precopy.Progress{
				ID: id, At: w.now, Serial: w.applied[id], Cap: w.inForce[id], Achieved: w.inForce[id],
				Need: hypervisor.BytesPerSecond(rapid.IntRange(0, 60).Draw(w.t, "live need")) * mib,
				Near: rapid.IntRange(0, 5).Draw(w.t, "near") == 0, ETA: 3 * time.Second,
			}}
		}
	}
}

func idsOf(s *fleet.Snapshot) []string {
	var ids []string
	for i := 0; i < 10_000 && len(ids) < len(s.Migrations); i++ {
		if id := fmt.Sprintf("m%04d", i); s.Migrations[id].ID != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *world) check() {
	used := map[string]hypervisor.BytesPerSecond{}
	for id, m := range w.s.Migrations {
		used[m.Source+" out"] += w.inForce[id]
		used[m.Target+" in"] += w.inForce[id]
		used["fleet"] += w.inForce[id]
	}
	for _, l := range Links(w.input()) {
		if l.Usable > 0 && used[l.Name] > l.Usable {
			w.t.Fatalf("%s of %s usable carries %s", l.Name, l.Usable, used[l.Name])
		}
		if l.InForce < used[l.Name] {
			w.t.Fatalf("%s carries %s, the leader thinks %s", l.Name, used[l.Name], l.InForce)
		}
	}
}

// Whatever happens, and whenever leaders and agents die, what agents have in force never exceeds a link.
func TestSharesNeverExceedALink(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			t: t, now: t0, inForce: map[string]hypervisor.BytesPerSecond{}, applied: map[string]int64{}, streams: &Memory{},
			s: fleetOf(rapid.IntRange(2, 5).Draw(t, "hosts"), func(i int) hypervisor.BytesPerSecond { return hypervisor.BytesPerSecond(20+31*i) * mib }),
		}
		if rapid.Bool().Draw(t, "bounded fleet") {
			w.network.Limits.Fleet = policy.Rate(70 * mib)
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				if ids := idsOf(w.s); len(ids) > 0 { // one ends, and its share with it
					id := rapid.SampledFrom(ids).Draw(t, "ends")
					delete(w.s.Migrations, id)
					delete(w.s.Shares, id)
					delete(w.s.Progress, id)
					delete(w.inForce, id)
				}
			case 1:
				h := w.s.Hosts[fmt.Sprintf("h%d", rapid.IntRange(0, len(w.s.Hosts)-1).Draw(t, "agent"))]
				if h.Session == nil {
					h.Session = &fleet.Session{Host: h.Name}
					break
				}
				h.Session = nil
				for id, m := range w.s.Migrations {
					if m.Source == h.Name {
						delete(w.s.Progress, id) // under its lease
					}
				}
			case 2, 3, 4:
				w.agents()
			default:
				w.lead(rapid.IntRange(0, 4).Draw(t, "dies") == 0)
			}
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			w.check()
		}
	})
}

// settle runs leader and agents until nothing is written any more, and returns how many shares were.
func settle(s *fleet.Snapshot, in Input, now time.Time) (written int) {
	for range 20 {
		in.Now = now
		writes := New(in).Writes()
		for _, w := range writes {
			s.Shares[w.New.ID] = fleet.StoredShare{Share: w.New, Revision: w.Old.Revision + 1}
			s.Progress[w.New.ID] = fleet.SeenProgress{Seen: now, Progress: precopy.Progress{ID: w.New.ID, Serial: w.New.Serial}}
		}
		if len(writes) == 0 {
			return written
		}
		written += len(writes)
		now = now.Add(time.Second)
	}
	return written
}

func running(s *fleet.Snapshot, id, source, target string, share, need hypervisor.BytesPerSecond) {
	m := precopy.Migration{
		ID: id, Domain: "vm-" + id, UUID: hypervisor.DomainID(id), Source: source, Target: target, Phase: precopy.Copying,
		RequestedBy: "somebody",
		Order: &precopy.Order{
			Bandwidth: Between(s.Hosts[source], s.Hosts[target]), Need: need, IssuedAt: t0.Add(time.Duration(len(s.Migrations)) * time.Second),
		},
	}
	s.Migrations[id] = precopy.Stored{Migration: m, Revision: 1}
	s.Shares[id] = fleet.StoredShare{Share: FirstShare(m, Verdict{Share: share}, t0), Revision: 1}
	s.Progress[id] = fleet.SeenProgress{Seen: t0, Progress: precopy.Progress{ID: id, Serial: 1}}
}

// When a stream ends, the other has the link; while nothing changes, nothing is written.
func TestSharesFollow(t *testing.T) {
	link := 400 * hypervisor.BytesPerSecond(1e6) / 8
	s := fleetOf(3, func(int) hypervisor.BytesPerSecond { return link })
	in := Input{Fleet: s, Outgoing: 2, Incoming: 2, Now: t0}
	running(s, "m0001", "h0", "h1", 42*mib, 30*mib)
	if n := settle(s, in, t0.Add(time.Minute)); n != 0 {
		t.Errorf("%d writes for one stream that has the link", n)
	}
	v := New(in).Admit(Candidate{
		Migration: precopy.Stored{Migration: precopy.Migration{ID: "m0002", Source: "h0", Target: "h2"}}, Target: "h2", Need: 30 * mib,
	})
	if v.OK || v.Reason == "" {
		t.Errorf("a second stream that needs 30 of 42 MiB/s: %+v, want it to wait", v)
	}
	running(s, "m0002", "h0", "h2", 1*mib, 0)
	settle(s, in, t0.Add(2*time.Minute))
	if a, b := s.Shares["m0001"].Bandwidth, s.Shares["m0002"].Bandwidth; a != 30*mib || b != 12*mib {
		t.Errorf("shares %s and %s, want 30 MiB/s, which it needs, and the rest", a, b)
	}
	delete(s.Migrations, "m0001")
	delete(s.Shares, "m0001")
	if settle(s, in, t0.Add(3*time.Minute)); s.Shares["m0002"].Bandwidth != 42*mib {
		t.Errorf("the other ended, and it has %s", s.Shares["m0002"].Bandwidth)
	}
}

// Tenants that begin to send are left what they use, and some more; once they stop, it comes back.
func TestTenantsFirst(t *testing.T) {
	link := 400 * hypervisor.BytesPerSecond(1e6) / 8
	s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link })
	running(s, "m0001", "h0", "h1", 42*mib, 0)
	traffic := &Traffic{}
	in := Input{Fleet: s, Traffic: traffic, Outgoing: 1, Incoming: 2}
	at := t0
	sample := func(tenants, streams hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
		at = at.Add(time.Second)
		s.Hosts["h0"].Link = &hypervisor.LinkLoad{At: at, Tx: tenants + streams, StreamsTx: streams, Streams: true}
		s.Hosts["h0"].LinkSeen = at
		traffic.Look(s, at)
		in.Now = at
		settle(s, in, at)
		return s.Shares["m0001"].Bandwidth
	}
	if got := sample(0, 42*mib); got != 42*mib {
		t.Errorf("without tenants %s", got)
	}
	if got := sample(20*mib, 27*mib); got > 15*mib {
		t.Errorf("tenants that use 20 of a full link: %s left to the migration, want room for them to grow", got)
	}
	var got hypervisor.BytesPerSecond
	for range 4 {
		got = sample(23*mib, 13*mib)
	}
	if got < 15*mib || got > 19*mib {
		t.Errorf("tenants that use 23 of a link with room: %s left to the migration", got)
	}
	for range 4 {
		got = sample(0, got)
	}
	if got != 42*mib {
		t.Errorf("tenants have stopped: %s", got)
	}
	for range 6 {
		got = sample(link-got, got) // they take what they can get
	}
	if least := hypervisor.BytesPerSecond(float64(link) * linkShare * leastPart); got < least-2*mib {
		t.Errorf("greedy tenants leave %s, want %s at least", got, least)
	}
}

// A person's order and an evacuation come before what automation wants.
func TestStanding(t *testing.T) {
	s := &fleet.Snapshot{Runs: map[string]fleet.StoredRun{
		"d": {Run: fleet.Run{Kind: fleet.RunDrain, RequestedBy: "ann@desk"}},
		"r": {Run: fleet.Run{Kind: fleet.RunRebalance, RequestedBy: "scheduler"}},
		"p": {Run: fleet.Run{Kind: fleet.RunRebalance, RequestedBy: "ann@desk"}},
	}}
	last := 1000
	for _, run := range []string{"d", "p", "r"} {
		r := Rank(s, precopy.Migration{Run: run})
		if r >= last {
			t.Errorf("run %s has rank %d, not below %d", run, r, last)
		}
		last = r
	}
}

func BenchmarkPass(b *testing.B) {
	s := fleetOf(200, func(i int) hypervisor.BytesPerSecond { return hypervisor.BytesPerSecond(1000+50*(i%7)) * mib })
	for i := range 500 {
		running(s, fmt.Sprintf("m%04d", i), fmt.Sprintf("h%d", i%200), fmt.Sprintf("h%d", (i*7+3)%200),
			hypervisor.BytesPerSecond(i%50+1)*mib, hypervisor.BytesPerSecond(i%300)*mib)
	}
	in := Input{Fleet: s, Traffic: &Traffic{}, Memory: &Memory{}, Outgoing: 8, Incoming: 8, Now: t0.Add(time.Minute)}
	for b.Loop() {
		in.Traffic.Look(s, in.Now)
		in.Memory.Look(s, in.Now)
		New(in).Writes()
	}
}

// With 500 migrations under way, some of which end and begin all the time while tenants come and go, a pass writes
// few shares. The store takes all of one pass in one transaction, of which there are seven in a second at most.
func TestWritesAreFew(t *testing.T) {
	s := fleetOf(200, func(i int) hypervisor.BytesPerSecond { return hypervisor.BytesPerSecond(1000+50*(i%7)) * mib })
	next := 0
	begin := func() {
		next++
		running(s, fmt.Sprintf("m%04d", next), fmt.Sprintf("h%d", next%200), fmt.Sprintf("h%d", (next*7+3)%200),
			mib, hypervisor.BytesPerSecond(next%300)*mib)
	}
	for range 500 {
		begin()
	}
	traffic, streams := &Traffic{}, &Memory{}
	now, total, most := t0.Add(time.Hour), 0, 0
	const seconds = 60
	for sec := range seconds {
		now = now.Add(time.Second)
		for i := range 5 { // five end, five begin
			id := fmt.Sprintf("m%04d", sec*5+i+1)
			delete(s.Migrations, id)
			delete(s.Shares, id)
			delete(s.Progress, id)
			begin()
		}
		for i := range 20 { // tenants of a tenth of the hosts change
			h := s.Hosts[fmt.Sprintf("h%d", (sec*20+i)%200)]
			tx := hypervisor.BytesPerSecond((sec*37+i*11)%500) * mib
			h.Link, h.LinkSeen = &hypervisor.LinkLoad{At: now, Tx: tx, Streams: true}, now
		}
		traffic.Look(s, now)
		streams.Look(s, now)
		writes := New(Input{Fleet: s, Traffic: traffic, Memory: streams, Outgoing: 8, Incoming: 8, Now: now}).Writes()
		for _, w := range writes {
			s.Shares[w.New.ID] = fleet.StoredShare{Share: w.New, Revision: w.Old.Revision + 1}
			s.Progress[w.New.ID] = fleet.SeenProgress{Seen: now, Progress: precopy.Progress{ID: w.New.ID, Serial: w.New.Serial}}
		}
		if sec > 10 {
			total, most = total+len(writes), max(most, len(writes))
		}
	}
	t.Logf("%d shares changed in %d s, %d in one pass at most", total, seconds-11, most)
	if most > AtOnce {
		t.Errorf("one pass changes %d shares", most)
	}
}

// The next stream out of a host is prepared when the one in front may end soon, by whatever tells; never beside one
// that is prepared already, nor while nobody knows when the other ends.
func TestPrepareNext(t *testing.T) {
	for _, tt := range []struct {
		name     string
		progress *precopy.Progress
		forecast *precopy.Forecast
		second   bool // another is prepared already
		want     bool
	}{
		{name: "nothing is known", want: false},
		{name: "a short one, of which nothing was sent yet", forecast: &precopy.Forecast{Seconds: 3}, want: true},
		{name: "a long one", forecast: &precopy.Forecast{Seconds: 30}, want: false},
		{name: "its pass ends, long before the forecast", progress: &precopy.Progress{Round: 1, ETA: 3 * time.Second, Remaining: 120 << 20}, forecast: &precopy.Forecast{Seconds: 300, Bytes: 1 << 40}, want: true},
		{name: "its pass ends later, as the forecast says too", progress: &precopy.Progress{Round: 1, ETA: 30 * time.Second, Remaining: 1200 << 20}, forecast: &precopy.Forecast{Seconds: 33, Bytes: 1300 << 20}, want: false},
		{name: "what is left is empty, says the forecast", progress: &precopy.Progress{Round: 1, ETA: 30 * time.Second, Remaining: 1200 << 20, Processed: 1200 << 20}, forecast: &precopy.Forecast{Seconds: 33, Bytes: 1300 << 20}, want: true},
		{name: "a later pass, whatever was forecast", progress: &precopy.Progress{Round: 4, ETA: 30 * time.Second, Remaining: 1200 << 20, Processed: 9000 << 20}, forecast: &precopy.Forecast{Seconds: 33, Bytes: 1300 << 20}, want: false},
		{name: "it was told before it had the link", progress: &precopy.Progress{Round: 1, ETA: 100 * time.Second, Remaining: 100 << 20}, want: true},
		{name: "passes that do not leave less", progress: &precopy.Progress{Round: 5, ETA: -1, Remaining: 100 << 20}, want: false},
		{name: "one is prepared", progress: &precopy.Progress{Round: 1, ETA: time.Second, Remaining: 40 << 20}, second: true, want: false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := fleetOf(4, func(int) hypervisor.BytesPerSecond { return 50 * mib })
			running(s, "m0001", "h0", "h1", 44*mib, 0)
			delete(s.Progress, "m0001")
			m := s.Migrations["m0001"]
			m.Forecast = tt.forecast
			s.Migrations["m0001"] = m
			if tt.progress != nil {
				p := *tt.progress
				p.ID, p.Serial = "m0001", 1
				s.Progress["m0001"] = fleet.SeenProgress{Progress: p, Seen: t0}
			}
			if tt.second {
				running(s, "m0002", "h0", "h2", 1*mib, 0)
			}
			if got := New(Input{Fleet: s, Outgoing: 1, Incoming: 2, Now: t0}).Prepare("h0", "h3", "h0"); got != tt.want {
				t.Errorf("prepared: %v, want %v", got, tt.want)
			}
		})
	}
}

// A share says how much more of it there is to wait for: what tenants use, but not what a link no longer carries, also
// where the share itself stays as it is.
func TestWhatThereIsToWaitFor(t *testing.T) {
	link := 400 * hypervisor.BytesPerSecond(1e6) / 8
	s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link })
	running(s, "m0001", "h0", "h1", 42*mib, 30*mib)
	traffic := &Traffic{}
	at := t0
	after := func(tenants hypervisor.BytesPerSecond) precopy.Share {
		for range 5 {
			at = at.Add(time.Second)
			got := s.Shares["m0001"].Bandwidth
			s.Hosts["h0"].Link = &hypervisor.LinkLoad{At: at, Tx: tenants + got, StreamsTx: got, Streams: true}
			s.Hosts["h0"].LinkSeen = at
			traffic.Look(s, at)
			settle(s, Input{Fleet: s, Traffic: traffic, Outgoing: 1, Incoming: 2, Now: at}, at)
		}
		return s.Shares["m0001"].Share
	}
	if got := after(0); got.Alone != 0 && got.Alone != 42*mib {
		t.Errorf("with the link to itself: %+v", got)
	}
	busy := after(20 * mib)
	if busy.Bandwidth > 22*mib || busy.Alone != 42*mib || strings.Contains(busy.Why, "more than") {
		t.Errorf("with tenants: %+v, want 42 MiB/s once they are gone", busy)
	}
	s.Hosts["h0"].Facts.Capacity.Bandwidth = link / 2
	*traffic = Traffic{} // another leader, who hears of both at once
	slow := after(0)
	if slow.Bandwidth != 21*mib || slow.Alone != 21*mib || !strings.Contains(slow.Why, "more than its links give") {
		t.Errorf("over a link that became half as fast: %+v, want nothing more to wait for", slow)
	}
}
