package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/cmd/drover-lab/internal/cgroup"
	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

// Errors that callers branch on.
var (
	// ErrUp says that the lab is up already.
	ErrUp = errors.New("lab is up already")
	// ErrSpec says that a lab can't be made as described.
	ErrSpec = errors.New("impossible lab")
	// ErrDown says that a host was killed and not booted since.
	ErrDown = errors.New("host is down")
)

// killTimeout is how long everything in a host may take to go after its first process was killed; guests with much
// memory take a while to be freed.
const killTimeout = 20 * time.Second

// Manager changes one lab. Methods that change it take its lock, so any number of processes may use one at a time.
type Manager struct {
	store *state.Store
	log   *slog.Logger
}

// NewManager returns the manager of the lab kept in store.
func NewManager(store *state.Store, log *slog.Logger) *Manager {
	return &Manager{store: store, log: log.With("lab", store.Name())}
}

// Spec is what to make.
type Spec struct {
	Dir    string // bulky files go to Dir/NAME; state.DefaultDir when empty
	Hosts  int
	CPUs   hypervisor.Cores          // size of each host; zero for no limit
	Memory hypervisor.Bytes          // likewise
	Shape  hypervisor.BytesPerSecond // limit of each migration link; zero for none
}

// Check returns why a lab can't be made so ([ErrSpec]).
func (s Spec) Check() error {
	if s.Hosts < 1 || s.Hosts > netns.MaxHosts {
		return fmt.Errorf("%d hosts: want 1 to %d: %w", s.Hosts, netns.MaxHosts, ErrSpec)
	}
	return nil
}

// Up makes the lab and returns once every libvirtd answers over TLS. On failure nothing is left. [ErrUp] when
// it is up already; what an interrupted Up left is removed first.
func (m *Manager) Up(ctx context.Context, spec Spec) (state.Lab, error) {
	if err := spec.Check(); err != nil {
		return state.Lab{}, err
	}
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return state.Lab{}, fmt.Errorf("up: %w", err)
	}
	defer unlock()
	if l, err := m.store.Up(); err == nil {
		return l, fmt.Errorf("up: %s with %d hosts since %s: %w", l.Name, len(l.Hosts), l.Created.Format(time.DateTime), ErrUp)
	}
	if err := m.down(); err != nil {
		return state.Lab{}, fmt.Errorf("up: remove what is left of an earlier lab: %w", err)
	}
	l, err := m.newLab(spec)
	if err == nil {
		err = m.up(ctx, &l)
	}
	if err != nil {
		err = fmt.Errorf("up: %w", err)
		if derr := m.down(); derr != nil {
			return state.Lab{}, errors.Join(err, fmt.Errorf("up: clean up: %w", derr))
		}
		return state.Lab{}, errors.Join(err, m.store.Remove())
	}
	return l, nil
}

func (m *Manager) newLab(spec Spec) (state.Lab, error) {
	if spec.Dir == "" {
		spec.Dir = state.DefaultDir
	}
	base, err := filepath.Abs(spec.Dir)
	if err != nil {
		return state.Lab{}, err
	}
	if m.store.Name() == cacheName {
		return state.Lab{}, fmt.Errorf("lab %s: the name is taken by the cache: %w", cacheName, state.ErrName)
	}
	l := state.Lab{
		Name: m.store.Name(), Dir: filepath.Join(base, m.store.Name()), Cache: filepath.Join(base, cacheName),
		CPUs: spec.CPUs, Memory: spec.Memory, Shape: spec.Shape, Created: time.Now().UTC(),
	}
	for i := range spec.Hosts {
		l.Hosts = append(l.Hosts, fmt.Sprintf("kvm%d", i+1))
	}
	return l, nil
}

const cacheName = "cache"

func (m *Manager) up(ctx context.Context, l *state.Lab) error {
	// The lock made the state directory.
	if err := m.store.PutLab(*l); err != nil {
		return err
	}
	if err := claimDir(l.Dir); err != nil {
		return err
	}
	p := PathsOf(*l)
	// A lab of that name whose state was lost, to a reboot perhaps, leaves these; its hosts are gone with it.
	for _, dir := range []string{p.PKI, p.Hosts, p.Shared} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{p.Shared, p.Logs, p.Hosts} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := issueAll(*l); err != nil {
		return err
	}
	if err := m.startHost(ctx, *l, state.Control); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range l.Hosts {
		g.Go(func() error { return m.startHost(gctx, *l, h) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.Ready = true
	return m.store.PutLab(*l)
}

// number is a host's place in the address plan.
func number(l state.Lab, host string) int { return slices.Index(l.Hosts, host) + 1 }

// startHost makes one host and waits until its libvirtd answers.
func (m *Manager) startHost(ctx context.Context, l state.Lab, name string) error {
	begin := time.Now()
	groups, err := cgroup.Detect()
	if err != nil {
		return err
	}
	num := number(l, name)
	cfg, err := config(l, groups, num, name)
	if err != nil {
		return err
	}
	lim := cgroup.Limits{CPUs: l.CPUs, Memory: l.Memory}
	if num == 0 {
		lim = cgroup.Limits{}
	}
	if err := groups.Create(l.Name, name, lim); err != nil {
		return err
	}
	launch, err := hostinit.Start(m.store.Socket(name), filepath.Join(cfg.LogDir, "init.log"))
	if err != nil {
		return fmt.Errorf("host %s: %w", name, err)
	}
	h, err := m.record(name, launch.PID)
	if err == nil {
		err = groups.MoveToRoot(l.Name, name, launch.PID)
	}
	if err == nil {
		err = m.connect(ctx, l, h)
	}
	if err != nil {
		launch.Abandon()
		return err
	}
	if err := launch.Configure(ctx, cfg); err != nil {
		return err
	}
	if num > 0 {
		if err := m.waitLibvirt(ctx, name); err != nil {
			return err
		}
	}
	m.log.Debug("host is up", "host", name, "took", time.Since(begin))
	return nil
}

// record stores the host's first process. What was set on the host before, such as its shaping, stays.
func (m *Manager) record(name string, pid int) (state.Host, error) {
	h, err := m.store.Host(name)
	if errors.Is(err, state.ErrNotFound) {
		h = state.Host{Name: name}
		if l, err := m.store.Lab(); err == nil {
			h.Shape = l.Shape
		}
	} else if err != nil {
		return h, err
	}
	if h.Init, err = state.FindProc(pid); err != nil {
		return h, fmt.Errorf("host %s: %w", name, err)
	}
	return h, m.store.PutHost(h)
}

// connect puts the host on the lab's networks, as shaped and as cut as its record says.
func (m *Manager) connect(ctx context.Context, l state.Lab, h state.Host) error {
	if h.Name == state.Control {
		return netns.SetupControl(ctx, h.Init.PID)
	}
	control, err := m.Running(state.Control)
	if err != nil {
		return err
	}
	if err := netns.Attach(ctx, control.Init.PID, h.Init.PID, number(l, h.Name), h.Name); err != nil {
		return err
	}
	if h.Shape > 0 {
		if err := netns.Shape(ctx, control.Init.PID, h.Init.PID, h.Name, h.Shape); err != nil {
			return err
		}
	}
	for _, n := range netns.Networks() {
		if slices.Contains(h.Cut, n.Name) {
			if err := netns.SetLink(ctx, control.Init.PID, h.Name, n, netns.LinkDown); err != nil {
				return err
			}
		}
	}
	return nil
}

// libvirtTimeout covers a first start, which asks every QEMU binary for its capabilities, on a busy machine.
const libvirtTimeout = 60 * time.Second

// attemptTimeout bounds one try: a connection made in the middle of libvirtd's start may stay unanswered for ever.
const attemptTimeout = 3 * time.Second

// waitLibvirt returns when the host's libvirtd answers: inside the host, and then over TLS from the control host, which
// proves the certificates and the network too, unless it is cut off.
func (m *Manager) waitLibvirt(ctx context.Context, name string) error {
	h, err := m.store.Host(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, libvirtTimeout)
	defer cancel()
	if err := m.waitAnswer(ctx, h, name, LocalURI); err != nil || len(h.Cut) > 0 {
		return err
	}
	return m.waitAnswer(ctx, h, state.Control, URI(name))
}

func (m *Manager) waitAnswer(ctx context.Context, h state.Host, from, uri string) error {
	for {
		tctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		_, err := m.Virsh(tctx, from, "-c", uri, "version", "--daemon")
		cancel()
		if err == nil {
			return nil
		}
		if !h.Init.Alive() {
			return fmt.Errorf("host %s: died while starting: %w", h.Name, m.lastWords(h.Name, err))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("host %s: libvirtd does not answer: %w", h.Name, m.lastWords(h.Name, err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords adds the end of libvirtd's log to err.
func (m *Manager) lastWords(name string, err error) error {
	l, lerr := m.store.Lab()
	if lerr != nil {
		return err
	}
	data, _ := os.ReadFile(filepath.Join(PathsOf(l).Logs, name, daemonLibvirtd+".log"))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("%w (libvirtd: %s)", err, strings.Join(lines[max(0, len(lines)-3):], " | "))
}

// Down removes the lab and everything it made. A lab that is not there is no error; the result says if there was one.
func (m *Manager) Down(ctx context.Context) (bool, error) {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return false, fmt.Errorf("down: %w", err)
	}
	defer unlock()
	_, err = m.store.Lab()
	there := !errors.Is(err, state.ErrNoLab)
	if err := m.down(); err != nil {
		return there, fmt.Errorf("down: %w", err)
	}
	return there, m.store.Remove()
}

// down removes everything but the state directory, whose lock is held. It goes on after failures, so that a second
// call has less to do, and forgets nothing that it could not remove.
func (m *Manager) down() error {
	names, err := m.store.HostNames()
	errs := []error{err}
	for _, n := range names {
		h, err := m.store.Host(n)
		if err == nil {
			err = h.Init.Kill(killTimeout)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	groups, err := cgroup.Detect()
	if err == nil {
		err = groups.Remove(m.store.Name())
	}
	if err != nil {
		return err
	}
	l, err := m.store.Lab()
	if errors.Is(err, state.ErrNoLab) {
		return nil
	} else if err != nil {
		return err
	}
	if err := releaseDir(l.Dir); err != nil {
		return err
	}
	return m.store.Clear()
}
