package sim

import (
	"context"
	"fmt"
	"time"

	"drover/hypervisor"
)

// Host is one simulated host, as its libvirt shows it.
type Host struct {
	f   *Fleet
	cfg HostConfig

	// All below is guarded by f.mu.
	copies      map[hypervisor.DomainID]*instance
	subscribers []chan hypervisor.Event
	down        bool                                  // the machine is off
	broken      bool                                  // the agent's connection is
	cut         chan struct{}                         // closed when the connection breaks
	hung        map[hypervisor.DomainID]chan struct{} // closed when the monitor answers again
	refuseOn    bool                                  // autostart can't be set
}

// Name is the host's name in the fleet.
func (h *Host) Name() string { return h.cfg.Name }

// PeerURI is what a MigrateSpec names this host by.
func (h *Host) PeerURI() string { return "sim://" + h.cfg.Name }

// Events returns a new subscription: what happens on this host from now on. It is never closed.
func (h *Host) Events() <-chan hypervisor.Event {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	c := make(chan hypervisor.Event, 64)
	h.subscribers = append(h.subscribers, c)
	return c
}

// Migrate moves a domain and blocks until that is over. When ctx ends, or the connection breaks, it
// returns ClassUnknownOutcome and the migration goes on.
func (h *Host) Migrate(ctx context.Context, spec hypervisor.MigrateSpec) error {
	const op = "migrate"
	if spec.Proceed != nil {
		if err := spec.Proceed(); err != nil {
			return err
		}
	}
	in, err := h.enter(ctx, op, spec.Domain)
	if err != nil {
		return err
	}
	j, ferr := h.begin(in, spec)
	if ferr != nil {
		h.f.mu.Unlock()
		return ferr
	}
	cut, r := h.cut, j.result
	h.f.mu.Unlock()
	return r.wait(ctx, op, spec.Domain, cut)
}

// Abort asks for the job's end; nil proves nothing. Without a job the class is ClassInvalid.
func (h *Host) Abort(ctx context.Context, id hypervisor.DomainID) error {
	in, err := h.enter(ctx, "abort", id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	if in.job != hypervisor.JobOutgoing {
		return noJob("abort", id)
	}
	in.touched(h, "abort")
	if in.split() {
		return fault("abort", id, hypervisor.ClassInvalid, "cannot abort migration in post-copy mode")
	}
	in.guest.job.abort(fault("migrate", id, hypervisor.ClassAborted, "operation aborted: migration job: canceled by client"))
	return nil
}

// JobStats reads the domain's running job.
func (h *Host) JobStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, error) {
	in, err := h.enter(ctx, "job stats", id)
	if err != nil {
		return hypervisor.JobStats{}, err
	}
	defer h.f.mu.Unlock()
	if in.job == hypervisor.JobOutgoing {
		return in.guest.job.stats(), nil
	}
	return hypervisor.JobStats{Kind: in.job, At: time.Now()}, nil
}

// CompletedStats reads the statistics of the last migration that succeeded, and keeps them; false
// when there are none, or a job is under way.
func (h *Host) CompletedStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, bool, error) {
	in, err := h.enter(ctx, "completed stats", id)
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return hypervisor.JobStats{}, false, nil
	}
	if err != nil {
		return hypervisor.JobStats{}, false, err
	}
	defer h.f.mu.Unlock()
	if in.completed == nil || in.job != hypervisor.JobNone {
		return hypervisor.JobStats{}, false, nil
	}
	return *in.completed, true, nil
}

// Sight is what libvirt has of the domain now; StateAbsent is an answer.
func (h *Host) Sight(ctx context.Context, id hypervisor.DomainID) (hypervisor.Sighting, error) {
	in, err := h.enter(ctx, "sight", id)
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return hypervisor.Sighting{Domain: id, State: hypervisor.StateAbsent, Job: hypervisor.JobNone, At: time.Now()}, nil
	}
	if err != nil {
		return hypervisor.Sighting{}, err
	}
	defer h.f.mu.Unlock()
	return in.sighting(), nil
}

func (in *instance) sighting() hypervisor.Sighting {
	return hypervisor.Sighting{Domain: in.guest.ID, State: in.state, Reason: in.reason, Job: in.job, At: time.Now()}
}

// Inspect is what the source says of a domain that is about to leave.
func (h *Host) Inspect(ctx context.Context, id hypervisor.DomainID) (hypervisor.Inspection, error) {
	in, err := h.enter(ctx, "inspect", id)
	if err != nil {
		return hypervisor.Inspection{}, err
	}
	defer h.f.mu.Unlock()
	return hypervisor.Inspection{Facts: in.facts(), Sighting: in.sighting(), CPU: "<cpu/>", Emulator: "sim"}, nil
}

// CheckTarget says what would keep the domain from running here.
func (h *Host) CheckTarget(ctx context.Context, q hypervisor.TargetQuestion) ([]hypervisor.Blocker, error) {
	want := q.Inspection.Facts
	in, err := h.enter(ctx, "check target", want.ID)
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		h.f.mu.Lock()
		err = nil
	}
	if err != nil {
		return nil, err
	}
	defer h.f.mu.Unlock()
	var found []hypervisor.Blocker
	if in != nil && in.active() {
		found = append(found, hypervisor.Blocker{Code: hypervisor.BlockPresent, Detail: "it is active on " + h.cfg.Name})
	}
	if free := h.free(); free < want.Memory {
		found = append(found, hypervisor.Blocker{
			Code: hypervisor.BlockMemory, Detail: fmt.Sprintf("it needs %s, %s has %s", want.Memory, h.cfg.Name, free),
		})
	}
	return found, nil
}

// SetDowntime changes the downtime limit of a running migration.
func (h *Host) SetDowntime(ctx context.Context, id hypervisor.DomainID, limit time.Duration) error {
	const op = "set downtime"
	if limit < time.Millisecond {
		return fault(op, id, hypervisor.ClassArgument, "limit %s: want at least 1ms", limit)
	}
	return h.tune(ctx, op, id, func(j *job) { j.downtime = limit.Truncate(time.Millisecond) })
}

// SetBandwidth changes the cap of a running migration: whole MiB/s, rounded down, at least 1.
func (h *Host) SetBandwidth(ctx context.Context, id hypervisor.DomainID, limit hypervisor.BytesPerSecond) error {
	const op = "set bandwidth"
	if limit <= 0 {
		return fault(op, id, hypervisor.ClassArgument, "limit %d B/s: want more than 0", limit)
	}
	return h.tune(ctx, op, id, func(j *job) { j.limit = wholeMiB(limit) })
}

// Slow leaves the vCPUs of a domain the share (above 0, up to 1) of the time that they would run, as
// their CPU bandwidth would. Nothing of it comes to the target.
func (h *Host) Slow(ctx context.Context, id hypervisor.DomainID, share float64) error {
	const op = "slow"
	if !(share > 0 && share <= 1) {
		return fault(op, id, hypervisor.ClassArgument, "share %v: want above 0 up to 1", share)
	}
	in, err := h.enter(ctx, op, id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	in.slowed = 1 - share
	return nil
}

func (h *Host) tune(ctx context.Context, op string, id hypervisor.DomainID, set func(*job)) error {
	in, err := h.enter(ctx, op, id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	if in.job == hypervisor.JobOutgoing {
		set(in.guest.job)
	}
	return nil // libvirt keeps it for the next migration then, which brings its own
}

// SetAutostart says whether the domain is started with the host.
func (h *Host) SetAutostart(ctx context.Context, id hypervisor.DomainID, on bool) error {
	in, err := h.enter(ctx, "set autostart", id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	if !in.persistent || h.refuseOn {
		return fault("set autostart", id, hypervisor.ClassInvalid, "cannot set autostart for transient domain")
	}
	if on {
		in.touched(h, "autostart")
	}
	in.autostart = on
	return nil
}

// Autostart reports the domain's flag, false when the host has no definition of it. It is for
// checking, and answers whatever faults are on.
func (h *Host) Autostart(id hypervisor.DomainID) bool {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	in := h.copies[id]
	return in != nil && in.autostart
}

// Defined reports whether the host has the domain, running or only defined, whatever faults are on.
func (h *Host) Defined(id hypervisor.DomainID) bool {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	return h.copies[id] != nil
}

// Resume starts the vCPUs of a paused domain. Doing so while the guest runs elsewhere doubles it, as
// it would for real, and is noted in [Fleet.Wrongs].
func (h *Host) Resume(ctx context.Context, id hypervisor.DomainID) error {
	in, err := h.enter(ctx, "resume", id)
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	in.touched(h, "resume")
	switch {
	case in.state == hypervisor.StateRunning:
		return nil
	case in.state != hypervisor.StatePaused || in.job != hypervisor.JobNone:
		return fault("resume", id, hypervisor.ClassInvalid, "domain is not paused, or a job holds it")
	}
	if on := h.f.running(id); len(on) > 0 {
		h.f.wrongs = append(h.f.wrongs, fmt.Sprintf("%s was resumed on %s while it runs on %s", id, h.cfg.Name, on))
	}
	in.to(hypervisor.StateRunning, hypervisor.ReasonOther)
	h.emit(hypervisor.Event{Domain: id, Kind: hypervisor.EventResumed})
	return nil
}

// Undefine removes the definition of an inactive domain; nil when there is none, ClassInvalid when
// it is active.
func (h *Host) Undefine(ctx context.Context, id hypervisor.DomainID) error {
	in, err := h.enter(ctx, "undefine", id)
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.f.mu.Unlock()
	in.touched(h, "undefine")
	if in.active() {
		return fault("undefine", id, hypervisor.ClassInvalid, "the domain is active")
	}
	delete(h.copies, id)
	if !h.f.known(id) {
		h.f.wrongs = append(h.f.wrongs, fmt.Sprintf("%s was undefined on %s, which had the last definition", id, h.cfg.Name))
	}
	h.emit(hypervisor.Event{Domain: id, Kind: hypervisor.EventUndefined})
	return nil
}

// enter waits as long as a call takes, and returns with f.mu held and the host's copy, or with an
// error and f.mu free.
func (h *Host) enter(ctx context.Context, op string, id hypervisor.DomainID) (*instance, error) {
	select {
	case <-time.After(h.f.cfg.CallTime):
	case <-ctx.Done():
		return nil, gaveUp(op, id, ctx.Err())
	}
	for {
		h.f.mu.Lock()
		if h.down || h.broken {
			h.f.mu.Unlock()
			return nil, fault(op, id, hypervisor.ClassUnavailable, "no connection to libvirt on %s", h.cfg.Name)
		}
		if h.hung[id] == nil {
			break
		}
		answers := h.hung[id]
		h.f.mu.Unlock()
		select {
		case <-answers:
		case <-ctx.Done():
			return nil, gaveUp(op, id, ctx.Err())
		}
	}
	in := h.copies[id]
	if in == nil {
		h.f.mu.Unlock()
		return nil, fault(op, id, hypervisor.ClassNoDomain, "domain not found")
	}
	return in, nil
}

// codes are the numbers of libvirt's errors of the classes that sim uses.
var codes = map[hypervisor.Class]int{
	hypervisor.ClassNoDomain: 42, hypervisor.ClassInvalid: 55, hypervisor.ClassAborted: 78,
	hypervisor.ClassFailed: 9, hypervisor.ClassArgument: 8, hypervisor.ClassUnavailable: 38,
	hypervisor.ClassUnknownOutcome: 38,
}

func fault(op string, id hypervisor.DomainID, class hypervisor.Class, format string, args ...any) *hypervisor.Error {
	return &hypervisor.Error{Op: op, Domain: id, Class: class, Code: codes[class], Message: fmt.Sprintf(format, args...)}
}

func noJob(op string, id hypervisor.DomainID) *hypervisor.Error {
	return fault(op, id, hypervisor.ClassInvalid, "requested operation is not valid: no job is active on the domain")
}

func gaveUp(op string, id hypervisor.DomainID, cause error) *hypervisor.Error {
	e := fault(op, id, hypervisor.ClassUnknownOutcome, "the caller stopped waiting for libvirt's answer")
	e.Code, e.Err = 0, cause
	return e
}
