package throttle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"drover/hypervisor"
)

// Config is what a Throttler needs.
type Config struct {
	// Dir is the spool, on a local disk; it is made if need be.
	Dir string
	// Watchdog are the arguments with which this program's own executable runs [Watch].
	Watchdog []string
	Logger   *slog.Logger

	executable string // outside tests this process's own
	kernel     *kernel
	keeper     keeper
	metronomes func() (metronomes, error)
}

// Throttler throttles domains of this host. Methods may be called from several goroutines.
type Throttler struct {
	kernel kernel
	spool  spool
	guard  keeper
	self   process
	boot   string
	log    *slog.Logger
	// metronomes is nil where the agent may not schedule in real time.
	metronomes metronomes

	mu     sync.Mutex
	active map[hypervisor.DomainID]*Throttle
}

// New opens the spool and gives back what a process before this one left throttled: the migrations
// among those are throttled anew by whoever takes them up. That something could not be given back is
// logged as an error and no error of New: it is tried again at the next start.
func New(cfg Config) (*Throttler, error) {
	t := &Throttler{kernel: realKernel, log: cfg.Logger, active: map[hypervisor.DomainID]*Throttle{}}
	if cfg.kernel != nil {
		t.kernel = *cfg.kernel
	}
	var err error
	if t.spool, err = openSpool(cfg.Dir); err != nil {
		return nil, err
	}
	if t.boot, err = t.kernel.bootID(); err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	if t.self, _, err = t.kernel.identify(os.Getpid()); err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	// The path of a process's own program stays right when a package replaced the file. The watchdog
	// works in another directory, so the spool's path must be whole.
	executable, dir := "/proc/self/exe", ""
	if cfg.executable != "" {
		executable = cfg.executable
	}
	if dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	t.guard = &guard{executable: executable, args: cfg.Watchdog, order: order{Dir: dir, Owner: t.self}, log: t.log}
	if cfg.keeper != nil {
		t.guard = cfg.keeper
	}
	if cfg.metronomes == nil {
		cfg.metronomes = newMetronomes
	}
	if t.metronomes, err = cfg.metronomes(); err != nil {
		t.log.Info("guests are slowed less finely here", "err", err)
	}
	over := func(owner process) bool { return !t.kernel.lives(owner) }
	if _, err := recoverSpool(t.kernel, t.spool, t.log, over); err != nil {
		t.log.Error("CPU quotas of a run before are not all given back", "err", err)
	}
	return t, nil
}

// Begin finds the domain's vCPUs and notes their bandwidth; it changes nothing yet. name is for people. The caller must
// End the throttle, whatever becomes of the migration. Errors: [ErrNotRunning], [ErrNoGroups], [ErrAmbiguous], [ErrBusy], and those
// of reading the kernel's files.
func (t *Throttler) Begin(ctx context.Context, id hypervisor.DomainID, name string) (*Throttle, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("throttle %s: %w", id, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active[id] != nil {
		return nil, fmt.Errorf("throttle %s: %w", id, ErrBusy)
	}
	th := &Throttle{t: t, id: id, name: name, use: 1, share: 1}
	if err := t.spool.locked(th.open); err != nil {
		return nil, fmt.Errorf("throttle %s: %w", id, err)
	}
	t.active[id] = th
	return th, nil
}

// Close ends all throttles that were not ended.
func (t *Throttler) Close() error {
	t.mu.Lock()
	var left []*Throttle
	for _, th := range t.active {
		left = append(left, th)
	}
	t.mu.Unlock()
	var errs []error
	for _, th := range left {
		errs = append(errs, th.End())
	}
	return errors.Join(errs...)
}

// Throttle is the hold on one domain's vCPUs. vCPUs that are plugged in later are not throttled; libvirt
// plugs none while a migration runs. Methods may be called from several goroutines.
type Throttle struct {
	t    *Throttler
	id   hypervisor.DomainID
	name string

	mu        sync.Mutex
	use       float64
	silence   time.Duration
	share     float64     // in force
	inForce   []Bandwidth // of groups, once one was set
	asked     float64
	forgiver  chan struct{} // nil while nothing is taken away
	beat      metronome     // nil while there is none
	unbeaten  bool          // there can be none
	process   process
	groups    []group
	originals []Bandwidth // of groups, in the same order
	ceiling   float64     // what the groups above leave a vCPU
	entry     entry       // what the spool holds, once held
	held      bool        // in the spool and under guard
	ended     bool
	last      sample
}

// open looks the domain up. What a dead process left in the spool about it is more original than what
// the groups say now. Under the spool's lock.
func (th *Throttle) open() error {
	var err error
	if th.process, th.groups, err = th.t.kernel.find(th.id); err != nil {
		return err
	}
	e, known, err := th.t.spool.get(th.id)
	if err != nil {
		return err
	}
	known = known && e.BootID == th.t.boot && e.Process == th.process
	if known && e.Owner != th.t.self && th.t.kernel.lives(e.Owner) {
		return ErrBusy
	}
	if known {
		// What nobody could give back so far: what can't be now is still known below.
		if _, err := e.restore(th.t.kernel, th.t.boot); err == nil {
			err = th.t.spool.remove(th.id)
			if err != nil {
				return err
			}
		}
	}
	was := map[string]Bandwidth{}
	if known {
		for _, g := range e.Groups {
			was[g.Dir] = g.original()
		}
	}
	th.ceiling = th.groups[0].ceiling()
	for _, g := range th.groups {
		b, ok := was[g.dir]
		if !ok {
			if b, err = g.read(); err != nil {
				return err
			}
		}
		th.originals = append(th.originals, b)
	}
	th.last, err = th.sample()
	return err
}

// Original returns the bandwidth that the vCPUs had, and get back, by vCPU number.
func (th *Throttle) Original() map[int]Bandwidth {
	out := map[int]Bandwidth{}
	for i, g := range th.groups {
		out[g.vcpu] = th.originals[i]
	}
	return out
}

// Least is the smallest share of a core that a vCPU which uses so much of one when it is not throttled can be brought
// to without silencing it for so long; 1 when nothing can be done within that.
func (th *Throttle) Least(use hypervisor.Cores, silence time.Duration) float64 {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.heed()
	return th.timing().least(silence, use)
}

// Set lets each vCPU use no more than the share of one core, 0.01 to 1; 1 takes nothing away. use is what the busiest
// vCPU uses of a core when it is not throttled: one that uses little can be given little. No silence that is imposed
// will be as long as silence. It returns the share in force: one below what the silence allows (see [Throttle.Least])
// becomes that, and one above an original limit leaves that limit in force. Errors: [ErrNotRunning] when the
// domain's process ended, [ErrUnguarded] when there is no watchdog (nothing was written then), and those of writing: some
// vCPUs may be throttled then, and End still owes them.
func (th *Throttle) Set(share float64, use hypervisor.Cores, silence time.Duration) (float64, error) {
	if math.IsNaN(share) || share <= 0 || share > 1 {
		return 0, fmt.Errorf("throttle %s: share %v, want above 0 up to 1", th.id, share)
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	th.use, th.silence = float64(use), silence
	if err := th.set(share); err != nil {
		return 0, fmt.Errorf("throttle %s: %w", th.id, err)
	}
	return th.share, nil
}

func (th *Throttle) set(share float64) error {
	switch {
	case th.ended:
		return errors.New("it was ended")
	case !th.t.kernel.lives(th.process):
		return ErrNotRunning
	}
	plans, effective := th.plans(share)
	changes := !slices.Equal(plans, th.originals)
	th.stopForgiving() // it goes by what is in force
	defer th.forgiveSlowed()
	if changes && !th.held {
		if err := th.hold(); err != nil {
			return err
		}
	}
	if th.held {
		if err := th.t.guard.check(); err != nil && share < th.share {
			return err
		}
		if changes && th.timing() == beating && th.beat == nil {
			if th.startBeat(); th.beat == nil {
				plans, effective = th.plans(share)
			}
		}
		if th.inForce == nil {
			th.inForce = slices.Clone(th.originals)
		}
		var errs []error
		for i, g := range th.groups {
			err := g.write(th.t.kernel.write, plans[i])
			if errs = append(errs, err); err == nil {
				th.inForce[i] = plans[i] // also if another can't be written
			}
		}
		if err := errors.Join(errs...); err != nil {
			if !th.t.kernel.lives(th.process) {
				return ErrNotRunning
			}
			return err
		}
	}
	th.share, th.asked, th.inForce = effective, share, plans
	if !changes {
		th.stopBeat()
	}
	return nil
}

// plans are the bandwidths for a share, of groups, and the most that one of them leaves a vCPU.
func (th *Throttle) plans(share float64) (plans []Bandwidth, effective float64) {
	for _, original := range th.originals {
		b := th.timing().plan(share, th.use, th.silence, original, min(th.ceiling, original.Share()))
		plans = append(plans, b)
		effective = max(effective, min(1, th.ceiling, b.Share()))
	}
	return plans, effective
}

// hold makes the promise to give the originals back: first the watchdog, then the spool.
func (th *Throttle) hold() error {
	if err := th.t.guard.hold(); err != nil {
		return err
	}
	e := entry{
		Schema: entrySchema, Domain: th.id, Name: th.name, BootID: th.t.boot,
		Process: th.process, Owner: th.t.self,
	}
	for i, g := range th.groups {
		e.Groups = append(e.Groups, spooledGroup{
			VCPU: g.vcpu, Dir: g.dir, V2: g.v2,
			QuotaUS: th.originals[i].Quota.Microseconds(), PeriodUS: th.originals[i].Period.Microseconds(),
		})
	}
	if err := th.t.spool.locked(func() error { return th.t.spool.put(e) }); err != nil {
		th.t.guard.release()
		return err
	}
	th.entry, th.held = e, true
	return nil
}

// Use returns what the vCPUs did since the Use before, or since Begin.
func (th *Throttle) Use() (Usage, error) {
	th.mu.Lock()
	defer th.mu.Unlock()
	now, err := th.sample()
	if isGone(err) {
		err = ErrNotRunning
	}
	if err != nil {
		return Usage{}, fmt.Errorf("throttle %s: %w", th.id, err)
	}
	u := usage(th.last, now)
	th.last = now
	return u, nil
}

func (th *Throttle) sample() (sample, error) {
	s := sample{at: time.Now()}
	for _, g := range th.groups {
		u, err := g.use()
		if err != nil {
			return s, err
		}
		s.use = append(s.use, u)
	}
	return s, nil
}

// End gives the originals back, exactly. It may be called again, does nothing once it succeeded, and
// is no error when the domain's process ended. After an error call it again; the domain stays in the
// spool and under guard until it succeeds, or this process ends.
func (th *Throttle) End() error {
	th.mu.Lock()
	defer th.mu.Unlock()
	if th.ended {
		return nil
	}
	th.stopForgiving()
	if th.held {
		if err := th.t.spool.locked(th.restore); err != nil {
			// A spool that is gone must not keep the guest from its speed, nor is there anything in it to remember.
			_, again := th.entry.restore(th.t.kernel, th.t.boot)
			if again == nil {
				th.stopBeat()
			}
			if again != nil || !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("unthrottle %s: %w", th.id, errors.Join(err, again))
			}
		}
		th.held = false
		th.t.guard.release()
	}
	th.stopBeat()
	th.ended, th.share = true, 1
	th.t.mu.Lock()
	defer th.t.mu.Unlock()
	delete(th.t.active, th.id)
	return nil
}

// restore goes by what is in memory: a spool that can't be read must not keep a living process from its
// promise. Under the spool's lock.
func (th *Throttle) restore() error {
	if _, err := th.entry.restore(th.t.kernel, th.t.boot); err != nil {
		return err
	}
	return th.t.spool.remove(th.id)
}
