package precopy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// node is one host and the agent that runs on it now.
type node struct {
	w     *world
	host  *sim.Host
	spool string
	agent *agent
	runs  int
	deaf  bool         // the agent hears no events
	slow  atomic.Int64 // nanoseconds that setting the autostart flag takes
	// slowCall is the nanoseconds that the hypervisor takes before it makes the migrate call.
	slowCall atomic.Int64
	flaky    atomic.Int64 // how many more times the downtime limit can't be set
	unfit    atomic.Int64 // how many more times a broken post-copy can't go on with this libvirt
	refusals atomic.Int64 // how many more times post-copy can't be started
	misnamed atomic.Bool  // errors of the migrate call are of class invalid
	disks    atomic.Bool  // files for a storage copy were made here and not removed
	brakes   *brakes      // nil: guests can't be slowed here
	hooks    HookRunner   // nil: there are none
	queue    SendQueue    // nil: nobody keeps it short
}

// simLibvirt is the version that agents answer.
const simLibvirt = 11_004_000

// answer is what the host's agent says when asked.
func (n *node) answer(ctx context.Context, q Question) (Answer, error) {
	a := Answer{Nonce: q.Nonce, Host: n.host.Name(), Libvirt: simLibvirt}
	switch q.Kind {
	case AskSight:
		s, err := n.host.Sight(ctx, q.Domain)
		if err != nil {
			a.Error = err.Error()
			return a, nil
		}
		a.Sighting = &s
	case AskCreateDisks, AskDiscardDisks:
		n.disks.Store(q.Kind == AskCreateDisks)
	case AskInspect, AskCheckTarget:
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
	if n.w.shares != nil && n == n.w.src {
		a.worker.Shares = n.w.shares
	}
	a.worker.Hooks = n.hooks
	if n.queue != nil {
		a.worker.SendQueue = func(hypervisor.DomainID, bool) SendQueue { return n.queue }
	}
	if n.brakes != nil {
		a.worker.Throttle = n.brakes.open
	}
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
	// forget, instead of dying, loses that call's answer, after then.
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

// called are its calls so far.
func (a *agent) called() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.trace)
}

// leave ends a call; false when the agent is dead, or dies of it.
func (a *agent) leave(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead || n != a.kill.at || !a.kill.after {
		return !a.dead
	}
	if !a.kill.forget {
		a.strike()
		return !a.dead
	}
	if a.kill.then != nil {
		a.mu.Unlock() // it may take its time
		a.kill.then()
		a.mu.Lock()
	}
	return false
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
		sleep(ctx, time.Duration(g.a.node.slowCall.Load()))
		proceed := spec.Proceed
		spec.Proceed = func() error {
			if err := proceed(); err != nil {
				return err
			}
			g.a.node.w.mu.Lock()
			g.a.node.w.migrates++
			g.a.node.w.mu.Unlock()
			return nil
		}
		err := g.a.node.host.Migrate(ctx, spec)
		if err != nil && g.a.node.misnamed.Load() {
			return &hypervisor.Error{Op: "migrate", Domain: spec.Domain, Class: hypervisor.ClassInvalid, Message: err.Error()}
		}
		return err
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
	return gatedErr(g.a, "set-downtime", func() error {
		if g.a.node.flaky.Add(-1) >= 0 {
			return &hypervisor.Error{Op: "set downtime", Domain: id, Class: hypervisor.ClassBusy, Message: "timed out"}
		}
		return g.a.node.host.SetDowntime(ctx, id, d)
	})
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

func (g gatedMigrator) StartPostCopy(ctx context.Context, id hypervisor.DomainID) error {
	return gatedErr(g.a, "start-postcopy", func() error {
		if g.a.node.refusals.Add(-1) >= 0 {
			return &hypervisor.Error{Op: "start post-copy", Domain: id, Class: hypervisor.ClassInvalid, Message: "not now"}
		}
		return g.a.node.host.StartPostCopy(ctx, id)
	})
}

func (g gatedMigrator) Recover(ctx context.Context, spec hypervisor.MigrateSpec) error {
	return gatedErr(g.a, "recover", func() error {
		if spec.TargetLibvirt != simLibvirt && spec.TargetLibvirt != 0 {
			g.a.node.w.t.Errorf("recovery takes the target's libvirt for %d", spec.TargetLibvirt)
		}
		if g.a.node.unfit.Add(-1) >= 0 {
			return &hypervisor.Error{Op: "recover", Domain: spec.Domain, Class: hypervisor.ClassUnsupported, Message: "the target's libvirt would crash of it"}
		}
		return g.a.node.host.Recover(ctx, spec)
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

func (g gatedQueue) Listing(ctx context.Context, id hypervisor.DomainID) (listing, others []string, err error) {
	err = gatedErr(g.a, "listing", func() (err error) {
		listing, others, err = g.a.session.Listing(ctx, id)
		return err
	})
	return listing, others, err
}

func (g gatedQueue) Ask(ctx context.Context, host string, q Question) (Answer, error) {
	return gated(g.a, "ask-"+string(q.Kind), func() (Answer, error) { return g.a.session.Ask(ctx, host, q) })
}
