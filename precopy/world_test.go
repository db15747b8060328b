package precopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

const (
	vm      hypervisor.DomainID = "11111111-1111-4111-8111-111111111111"
	simLink                     = hypervisor.BytesPerSecond(50e6)
	// patience is how long after the last disturbance a migration may take to be over. It is a
	// minute, since each look at a host that does not answer may take 20 s.
	patience = 90 * time.Second
)

// world is two simulated hosts with an agent each, a store, and one migration. It lives inside a
// synctest bubble.
type world struct {
	t        *testing.T
	fleet    *sim.Fleet
	store    *memStore
	src, dst *node
	id       string
	log      *lockedBuffer
	mayStop  bool
	dir      string

	mu       sync.Mutex
	migrates int // calls that reached libvirt
}

// setting is what differs between worlds.
type setting struct {
	domain sim.DomainConfig
	policy *Policy
	copies bool // storage copy asked for
	// mayStop says that the guest may be off in the end, wherever it is.
	mayStop bool
}

func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	w := &world{t: t, fleet: sim.New(sim.Config{Seed: 7}), store: newMemStore(), id: "0190-m1", log: &lockedBuffer{}, mayStop: s.mayStop}
	w.dir = memoryDir(t)
	w.src, w.dst = w.addNode("a"), w.addNode("b")
	c := s.domain
	c.ID, c.Name = vm, "web"
	if c.Memory == 0 {
		c.Memory = 64 * hypervisor.MiB
	}
	if err := w.fleet.AddDomain("a", c); err != nil {
		t.Fatal(err)
	}
	policy := DefaultPolicy()
	if s.policy != nil {
		policy = *s.policy
	}
	w.store.create(Migration{
		Schema: Schema, ID: w.id, Domain: "web", UUID: vm, Source: "a", Target: "b", Phase: Queued,
		RequestedBy: "test", Created: time.Now(), Policy: policy, CopyStorage: s.copies,
		Order: &Order{PeerURI: w.dst.host.PeerURI(), Bandwidth: simLink, NotAfter: time.Now().Add(10 * time.Minute), Leader: "l", Fence: 1},
	})
	return w
}

// memoryDir is a directory in memory where there is one: thousands of spools synced to a real disk
// would take minutes.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "drover-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (w *world) addNode(name string) *node {
	h, err := w.fleet.AddHost(sim.HostConfig{Name: name, Cores: 8, Memory: 4 * hypervisor.GiB, Link: simLink})
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, host: h, spool: filepath.Join(w.dir, name+"-0")}
	w.store.setAnswering(name, n.answer)
	return n
}

// migrated is how many migrate calls reached libvirt.
func (w *world) migrated() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.migrates
}

// close stops the agents and the fleet.
func (w *world) close() {
	w.src.stop()
	w.dst.stop()
	w.fleet.Close()
}

// node is one host and the agent that runs on it now.
type node struct {
	w     *world
	host  *sim.Host
	spool string
	agent *agent
	runs  int
	deaf  bool         // the agent hears no events
	slow  atomic.Int64 // nanoseconds that setting the autostart flag takes
}

// answer is what the host's agent says when asked.
func (n *node) answer(ctx context.Context, q Question) (Answer, error) {
	a := Answer{Nonce: q.Nonce, Host: n.host.Name()}
	switch q.Kind {
	case AskSight:
		s, err := n.host.Sight(ctx, q.Domain)
		if err != nil {
			a.Error = err.Error()
			return a, nil
		}
		a.Sighting = &s
	case AskCreateDisks, AskDiscardDisks, AskInspect, AskCheckTarget:
	}
	return a, nil
}

// start runs a new agent on the node; kill may be zero.
func (n *node) start(k kill) *agent {
	n.w.t.Helper()
	n.runs++
	spool, err := OpenSpool(n.spool)
	if err != nil {
		n.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &agent{node: n, kill: k, session: n.w.store.register(n.host.Name()), done: make(chan struct{})}
	a.cancel = cancel
	events := n.host.Events()
	if n.deaf {
		events = nil
	}
	a.worker = NewWorker(Config{
		Host: n.host.Name(), Instance: fmt.Sprintf("%s-%d", n.host.Name(), n.runs),
		Migrator: gatedMigrator{a}, Queue: gatedQueue{a}, Spool: spool, Events: events,
		Log: slog.New(slog.NewTextHandler(n.w.log, &slog.HandlerOptions{Level: slog.LevelInfo})).With("agent", fmt.Sprintf("%s-%d", n.host.Name(), n.runs)),
	})
	n.agent = a
	go func() {
		defer close(a.done)
		if err := a.worker.Run(ctx); err != nil {
			n.w.t.Errorf("worker on %s: %v", n.host.Name(), err)
		}
	}()
	return a
}

// stop ends the node's agent in the ordinary way.
func (n *node) stop() {
	if n.agent != nil {
		n.agent.cancel()
		<-n.agent.done
	}
}

// kill says at which call an agent dies: before the call takes effect, or after it did and before
// the agent learns of it. Zero is never.
type kill struct {
	at    int
	after bool
	// then, instead of dying, is what happens at that call.
	then func()
	// forget, instead of dying, loses that call's answer.
	forget bool
}

// agent is one run of a worker. Each of its calls to libvirt or the store goes through its gate;
// once dead, nothing does, and its disk is out of its reach.
type agent struct {
	node    *node
	worker  *Worker
	session *session
	cancel  context.CancelFunc
	done    chan struct{}
	kill    kill

	mu    sync.Mutex
	calls int
	trace []string
	dead  bool
}

var errDead = errors.New("this agent is dead")

// enter counts a call; false when the agent is dead, or dies of it.
func (a *agent) enter(name string) (int, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return 0, false
	}
	a.calls++
	a.trace = append(a.trace, name)
	if a.calls == a.kill.at && !a.kill.after {
		a.strike()
	}
	return a.calls, !a.dead
}

// count is how many calls it made.
func (a *agent) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

// leave ends a call; false when the agent is dead, or dies of it.
func (a *agent) leave(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.dead && n == a.kill.at && a.kill.after {
		if a.kill.forget {
			return false
		}
		a.strike()
	}
	return !a.dead
}

// strike is death, or what comes instead; a.mu is held.
func (a *agent) strike() {
	if a.kill.then != nil {
		a.kill.then()
		return
	}
	a.die()
}

// die ends the agent like a kill -9: the spool goes to the next one, out of this one's reach.
func (a *agent) die() {
	a.dead = true
	next := fmt.Sprintf("%s-%d", strings.TrimRight(a.node.spool, "0123456789"), a.node.runs)
	if err := os.Rename(a.node.spool, next); err != nil {
		a.node.w.t.Errorf("spool of a dead agent: %v", err)
	}
	a.node.spool = next
	a.session.setAlive(false)
	a.cancel()
}

func gated[T any](a *agent, name string, f func() (T, error)) (T, error) {
	var none T
	n, ok := a.enter(name)
	if !ok {
		return none, errDead
	}
	v, err := f()
	if !a.leave(n) {
		return none, errDead
	}
	return v, err
}

func gatedErr(a *agent, name string, f func() error) error {
	_, err := gated(a, name, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// gatedMigrator is the host's libvirt as an agent reaches it.
type gatedMigrator struct{ a *agent }

func (g gatedMigrator) Migrate(ctx context.Context, spec hypervisor.MigrateSpec) error {
	return gatedErr(g.a, "migrate", func() error {
		g.a.node.w.mu.Lock()
		g.a.node.w.migrates++
		g.a.node.w.mu.Unlock()
		return g.a.node.host.Migrate(ctx, spec)
	})
}

func (g gatedMigrator) Abort(ctx context.Context, id hypervisor.DomainID) error {
	return gatedErr(g.a, "abort", func() error { return g.a.node.host.Abort(ctx, id) })
}

func (g gatedMigrator) JobStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, error) {
	return gated(g.a, "job-stats", func() (hypervisor.JobStats, error) { return g.a.node.host.JobStats(ctx, id) })
}

func (g gatedMigrator) CompletedStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, bool, error) {
	var ok bool
	s, err := gated(g.a, "completed-stats", func() (s hypervisor.JobStats, err error) {
		s, ok, err = g.a.node.host.CompletedStats(ctx, id)
		return s, err
	})
	return s, ok, err
}

func (g gatedMigrator) Sight(ctx context.Context, id hypervisor.DomainID) (hypervisor.Sighting, error) {
	return gated(g.a, "sight", func() (hypervisor.Sighting, error) { return g.a.node.host.Sight(ctx, id) })
}

func (g gatedMigrator) Inspect(ctx context.Context, id hypervisor.DomainID) (hypervisor.Inspection, error) {
	return gated(g.a, "inspect", func() (hypervisor.Inspection, error) {
		in, err := g.a.node.host.Inspect(ctx, id)
		in.Facts.Disks = []hypervisor.Disk{{Target: "vda", Source: "/images/web.qcow2"}}
		return in, err
	})
}

func (g gatedMigrator) SetDowntime(ctx context.Context, id hypervisor.DomainID, d time.Duration) error {
	return gatedErr(g.a, "set-downtime", func() error { return g.a.node.host.SetDowntime(ctx, id, d) })
}

func (g gatedMigrator) SetBandwidth(ctx context.Context, id hypervisor.DomainID, b hypervisor.BytesPerSecond) error {
	return gatedErr(g.a, "set-bandwidth", func() error { return g.a.node.host.SetBandwidth(ctx, id, b) })
}

func (g gatedMigrator) SetAutostart(ctx context.Context, id hypervisor.DomainID, on bool) error {
	return gatedErr(g.a, fmt.Sprintf("set-autostart-%v", on), func() error {
		sleep(ctx, time.Duration(g.a.node.slow.Load()))
		return g.a.node.host.SetAutostart(ctx, id, on)
	})
}

func (g gatedMigrator) Resume(ctx context.Context, id hypervisor.DomainID) error {
	return gatedErr(g.a, "resume", func() error { return g.a.node.host.Resume(ctx, id) })
}

func (g gatedMigrator) Undefine(ctx context.Context, id hypervisor.DomainID) error {
	return gatedErr(g.a, "undefine", func() error { return g.a.node.host.Undefine(ctx, id) })
}

// gatedQueue is the store as an agent reaches it.
type gatedQueue struct{ a *agent }

func (g gatedQueue) Watch(ctx context.Context) <-chan Update { return g.a.session.Watch(ctx) }

func (g gatedQueue) Get(ctx context.Context, id string) (Stored, error) {
	return gated(g.a, "get", func() (Stored, error) { return g.a.session.Get(ctx, id) })
}

func (g gatedQueue) Begin(ctx context.Context, old Stored, m Migration) (Stored, error) {
	return gated(g.a, "begin-"+string(m.Phase), func() (Stored, error) { return g.a.session.Begin(ctx, old, m) })
}

func (g gatedQueue) Update(ctx context.Context, old Stored, m Migration) (Stored, error) {
	return gated(g.a, "update-"+string(m.Phase), func() (Stored, error) { return g.a.session.Update(ctx, old, m) })
}

func (g gatedQueue) Progress(ctx context.Context, p Progress) error {
	return gatedErr(g.a, "progress", func() error { return g.a.session.Progress(ctx, p) })
}

func (g gatedQueue) Ask(ctx context.Context, host string, q Question) (Answer, error) {
	return gated(g.a, "ask-"+string(q.Kind), func() (Answer, error) { return g.a.session.Ask(ctx, host, q) })
}

// awaitFinal lets time pass until the record is final and nobody works on it, at most d.
func (w *world) awaitFinal(d time.Duration) Stored {
	deadline := time.Now().Add(d)
	for !w.over() && time.Now().Before(deadline) {
		time.Sleep(300 * time.Millisecond)
	}
	return w.store.get(w.id)
}

func (w *world) over() bool {
	if !w.store.settled(w.id) || w.src.agent.worker.Active() > 0 {
		return false
	}
	left, _ := os.ReadDir(w.src.spool)
	return len(left) == 0
}

// problems checks the invariants at the end of a schedule.
func (w *world) problems(autostart bool) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	rec := w.store.get(w.id)
	on := w.fleet.RunningOn(vm)
	if !rec.Phase.Final() {
		bad("record is still %s (%s)", rec.Phase, rec.Reason)
	}
	where := map[Phase]string{Done: "b", Failed: "a", Aborted: "a"}[rec.Phase]
	stopped := rec.ReasonCode == "guest-stopped" || w.mayStop && len(on) == 0
	if !slices.Equal(on, []string{where}) && !stopped {
		bad("record says %s (%s, %s), the guest runs on %v", rec.Phase, rec.ReasonCode, rec.Reason, on)
	}
	if rec.ReasonCode == "guest-stopped" && len(on) > 0 {
		bad("record says that the guest stopped, it runs on %v", on)
	}
	if rec.Phase.Final() && rec.Finished == nil {
		bad("a final record without its time")
	}
	if rec.Phase.Final() && rec.Started != nil && rec.Outcome == nil {
		bad("started, final, and no outcome")
	}
	w.store.mu.Lock()
	if len(w.store.active) > 0 {
		bad("active keys left: %v", w.store.active)
	}
	if len(w.store.illegal) > 0 {
		bad("illegal writes: %v", w.store.illegal)
	}
	w.store.mu.Unlock()
	if wrongs := w.fleet.Wrongs(); len(wrongs) > 0 {
		bad("done to the guest: %v", wrongs)
	}
	if n := w.migrated(); n > 1 {
		bad("libvirt was called %d times for one migration", n)
	}
	out = append(out, w.flagProblems(rec, autostart)...)
	for _, n := range []*node{w.src, w.dst} {
		if left, _ := os.ReadDir(n.spool); len(left) > 0 {
			bad("spool of %s: %v is left", n.host.Name(), left)
		}
		if k := n.agent.worker.Active(); k > 0 {
			bad("%s still drives %d migrations", n.host.Name(), k)
		}
	}
	return out
}

// flagProblems checks definitions and the autostart flag.
func (w *world) flagProblems(rec Stored, autostart bool) []string {
	var out []string
	here, there := w.src.host.Autostart(vm), w.dst.host.Autostart(vm)
	left := len(rec.Notes) > 0 && slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, "definition is left") })
	if rec.Phase == Done {
		if here || there != autostart {
			out = append(out, fmt.Sprintf("moved, autostart %v: source %v, target %v", autostart, here, there))
		}
		if w.src.host.Defined(vm) && !left {
			out = append(out, "moved, and its definition is left on the source unmentioned")
		}
		return out
	}
	if here != autostart || there {
		out = append(out, fmt.Sprintf("not moved, autostart %v: source %v, target %v", autostart, here, there))
	}
	if seen, err := w.dst.host.Sight(w.t.Context(), vm); err == nil && seen.Active() {
		out = append(out, "not moved, and the target has a process for it: "+string(seen.State))
	}
	return out
}

// report fails the test with what is needed to understand and replay.
func (w *world) report(problems []string) {
	w.t.Helper()
	if len(problems) == 0 {
		return
	}
	w.src.agent.mu.Lock()
	trace := slices.Clone(w.src.agent.trace)
	w.src.agent.mu.Unlock()
	w.t.Errorf("%s\nreplay: go test ./precopy -run '%s$'\nphases %v\nlast agent's calls %s\n%s",
		strings.Join(problems, "\n"), w.t.Name(), w.store.phases(), compressed(trace), w.log.tail(25))
}

// compressed joins a list, with repeats counted.
func compressed(list []string) string {
	var b strings.Builder
	for i := 0; i < len(list); {
		n := i + 1
		for n < len(list) && list[n] == list[i] {
			n++
		}
		fmt.Fprintf(&b, "%s", list[i])
		if n-i > 1 {
			fmt.Fprintf(&b, "*%d", n-i)
		}
		b.WriteByte(' ')
		i = n
	}
	return b.String()
}

// lockedBuffer collects logs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
