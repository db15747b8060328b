package kvm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// Time limits of calls that touch no busy QEMU, of those that may, and of abort, which waits for
// QEMU to give up what it is doing.
const (
	quickLimit = 10 * time.Second
	slowLimit  = 30 * time.Second
	abortLimit = 30 * time.Second
)

// Slots by connection; see the package comment for why the sum per connection stays below five.
const (
	viewSlots    = 4
	controlSlots = 2
	abortSlots   = 2
	tuneSlots    = 2 // beside the migrate call itself
	probeSlots   = 2 // so that one guest that hangs does not end the sampling of the others
	fileSlots    = 4 // no libvirt: file systems can hang too
)

// Host is one KVM host as its libvirt shows it.
type Host struct {
	cfg Config
	log *slog.Logger
	t   *tracker

	view    *link
	control *link
	probe   *link

	viewSlots    slots
	controlSlots slots
	abortSlots   slots
	probeSlots   slots
	fileSlots    slots

	events    *fanout
	outgoing  *outgoing
	facts     *factsCache
	load      *sampler
	dirty     *dirtySampler
	copies    *ledger
	qemuConf  *qemuConf
	nic       nic
	libvirt   uint32 // version numbers as libvirt gives them, read at each connect
	qemu      uint32
	versionMu sync.Mutex

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Open connects to the local libvirt and starts what keeps the connection alive. It fails when
// libvirt can't be reached now; later breaks heal by themselves. Close must be called.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("kvm configuration: %w", err)
	}
	cfg = cfg.withDefaults()
	log := cfg.Logger
	if err := startLoop(log); err != nil {
		return nil, err
	}
	copies, err := openLedger(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	t := newTracker(log)
	h := &Host{
		cfg: cfg, log: log, t: t,
		view:         newLink("view", cfg, t),
		control:      newLink("control", cfg, t),
		probe:        newLink("probe", cfg, t),
		viewSlots:    newSlots(viewSlots),
		controlSlots: newSlots(controlSlots),
		abortSlots:   newSlots(abortSlots),
		probeSlots:   newSlots(probeSlots),
		fileSlots:    newSlots(fileSlots),
		events:       newFanout(),
		outgoing:     newOutgoing(cfg.MaxOutgoing),
		copies:       copies,
		qemuConf:     newQEMUConf(cfg.QEMUConf),
	}
	h.facts = newFactsCache()
	h.load = newSampler(procfs{root: cfg.ProcRoot})
	h.dirty = newDirtySampler(cfg.DirtyPeriod)
	h.view.prepare = h.prepareView
	h.view.restored = h.reset
	for _, l := range h.links() {
		if err := l.open(ctx); err != nil {
			h.drop()
			return nil, fmt.Errorf("connect to %s: %w", cfg.URI, err)
		}
	}
	h.start()
	return h, nil
}

// start runs the Host's own goroutines until Close.
func (h *Host) start() {
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	for _, l := range h.links() {
		h.wg.Go(func() { l.supervise(ctx) })
	}
	h.wg.Go(func() { h.events.run(ctx, h.observe) })
	h.wg.Go(func() { h.dirty.run(ctx, h) })
}

// Close lets go of libvirt: it closes the connections, ends every Events channel and waits for the
// Host's own goroutines. Migrations that run go on; a call that hangs keeps its connection until
// libvirt answers. It may be called again.
func (h *Host) Close() {
	h.stop()
	h.wg.Wait()
	h.drop()
}

// links are the connections that are always there.
func (h *Host) links() []*link { return []*link{h.view, h.control, h.probe} }

// drop lets go of all of them.
func (h *Host) drop() {
	for _, l := range h.links() {
		l.drop()
	}
}

// Stragglers is the number of calls that libvirt still owes an answer for though nobody waits any
// more; it is meant for a gauge. A migration whose caller's context ended counts as one.
func (h *Host) Stragglers() int { return h.t.count() }

// Name is the host's name in the fleet.
func (h *Host) Name() string { return h.cfg.Name }

// prepareView registers the events and reads the versions on a fresh view connection.
func (h *Host) prepareView(c *conn) error {
	lv, err := c.lv.GetLibVersion()
	if err != nil {
		return err
	}
	qemu, err := c.lv.GetVersion()
	if err != nil {
		return err
	}
	h.versionMu.Lock()
	h.libvirt, h.qemu = lv, qemu
	h.versionMu.Unlock()
	return h.events.register(c)
}

// reset follows a new connection: anything may have happened meanwhile.
func (h *Host) reset() {
	h.facts.forgetAll()
	h.outgoing.doubt()
	h.events.push(hypervisor.Event{Kind: hypervisor.EventReset, At: time.Now()})
}

// versions returns libvirt's and QEMU's version numbers as of the last connect.
func (h *Host) versions() (libvirtVersion, qemuVersion uint32) {
	h.versionMu.Lock()
	defer h.versionMu.Unlock()
	return h.libvirt, h.qemu
}

// LibvirtVersion is that of this host's libvirtd, as it was last reached; in libvirt's notation.
func (h *Host) LibvirtVersion() uint32 {
	v, _ := h.versions()
	return v
}

// onHost runs a call about the host on the view connection.
func onHost[T any](ctx context.Context, h *Host, op string, fn func(*libvirt.Connect) (T, error)) (T, error) {
	r := request{op: op, limit: quickLimit, slots: h.viewSlots}
	return onLink(ctx, h, h.view, r, fn)
}

// onDomain looks the domain up on the control connection, runs fn on it and frees it.
func onDomain[T any](ctx context.Context, h *Host, r request, fn func(*libvirt.Domain) (T, error)) (T, error) {
	if r.slots == nil {
		r.slots = h.controlSlots
	}
	if r.limit == 0 {
		r.limit = quickLimit
	}
	return onLink(ctx, h, h.control, r, func(lv *libvirt.Connect) (T, error) {
		return withDomain(lv, r.domain, fn)
	})
}

func onLink[T any](ctx context.Context, h *Host, l *link, r request, fn func(*libvirt.Connect) (T, error)) (T, error) {
	c, err := l.use(r.op, r.domain)
	if err != nil {
		if r.release != nil {
			r.release()
		}
		var zero T
		return zero, err
	}
	return onConn(ctx, h.t, c, r, fn)
}

// onConn runs fn on a held connection and releases it when fn, not the caller, is done.
func onConn[T any](ctx context.Context, t *tracker, c *conn, r request, fn func(*libvirt.Connect) (T, error)) (T, error) {
	after := r.release
	r.release = func() {
		c.release()
		if after != nil {
			after()
		}
	}
	return ask(ctx, t, r, func() (T, error) { return fn(c.lv) })
}

// withDomain looks a domain up by its UUID and frees it after fn.
func withDomain[T any](lv *libvirt.Connect, id hypervisor.DomainID, fn func(*libvirt.Domain) (T, error)) (T, error) {
	dom, err := lv.LookupDomainByUUIDString(string(id))
	if err != nil {
		var zero T
		return zero, err
	}
	defer dom.Free()
	return fn(dom)
}
