package precopy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
	"drover/precopy/forecast"
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
	prior    *forecast.Prior
	shares   func(context.Context) <-chan ShareUpdate // of the source
	dir      string

	mu       sync.Mutex
	migrates int // calls that reached libvirt
}

// setting is what differs between worlds.
type setting struct {
	domain sim.DomainConfig
	policy *Policy
	copies bool // storage copy asked for
	prior  *forecast.Prior
	// mayStop says that the guest may be off in the end, wherever it is.
	mayStop bool
}

func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	w := &world{t: t, fleet: sim.New(sim.Config{Seed: 7}), store: newMemStore(), id: "0190-m1", log: &lockedBuffer{}, mayStop: s.mayStop, prior: s.prior}
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
		Order: &Order{PeerURI: w.dst.host.PeerURI(), Bandwidth: simLink, NotAfter: time.Now().Add(10 * time.Minute), Leader: "l", Fence: 1, Prior: s.prior},
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
	if n := w.migrated(); n > max(len(rec.Attempts), 1) || n > 2 || w.prior == nil && n > 1 {
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
	noted := func(what string) bool {
		return slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, what) })
	}
	if made := w.dst.disks.Load(); rec.CopyStorage && made != (rec.Phase == Done) && !noted("disk files") {
		out = append(out, fmt.Sprintf("record says %s, disk files left on the target: %v, unmentioned", rec.Phase, made))
	}
	if rec.Phase == Done {
		if here || there != autostart {
			out = append(out, fmt.Sprintf("moved, autostart %v: source %v, target %v", autostart, here, there))
		}
		if w.src.host.Defined(vm) && !noted("definition is left") {
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
	w.t.Errorf("%s\nreplay: go test ./precopy -run '%s$'\nphases %v\nlast agent's calls %s\n%s",
		strings.Join(problems, "\n"), w.t.Name(), w.store.phases(), compressed(w.src.agent.called()), w.log.tail(25))
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
