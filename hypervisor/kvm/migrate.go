package kvm

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// Migrate moves a domain to another host, peer to peer: this host's libvirtd drives, and goes on if
// this process dies. It blocks until libvirt answers. When ctx ends first it returns
// ClassUnknownOutcome and aborts nothing: the migration goes on, its statistics and limits can still
// be used, and it counts as a straggler until libvirt answers.
//
// spec.Proceed is called after all that takes time, on another goroutine. An error of it comes wrapped
// as ClassUnavailable. Once ctx has ended it is not called any more, and nothing is begun.
//
// An error of any class but ClassUnknownOutcome means that the guest was seen to be where it was
// before, in the state it was in.
func (h *Host) Migrate(ctx context.Context, spec hypervisor.MigrateSpec) error {
	lv, qemu := h.versions()
	o, err := plan(spec, lv, qemu)
	if err != nil {
		return err
	}
	watch := h.outgoing.watch(spec.Domain)
	defer h.outgoing.unwatch(watch)
	before, err := h.vantage(ctx, spec.Domain, slowLimit)
	if err != nil {
		return notStarted(err)
	}
	if before.State == hypervisor.StateAbsent {
		return refuse("migrate", spec.Domain, hypervisor.ClassNoDomain, "no such domain here")
	}
	s, err := h.outgoing.begin(spec.Domain)
	if err != nil {
		return err
	}
	c, err := h.stream(ctx, s, spec.Domain, o)
	if err != nil {
		h.outgoing.end(spec.Domain)
		return err
	}
	begun, err := h.send(ctx, c, spec, o)
	if err == nil {
		return nil
	}
	var lost *hypervisor.Error
	if errors.As(err, &lost) && ctx.Err() != nil && errors.Is(lost.Err, ctx.Err()) {
		return err
	}
	if !begun.Load() {
		return notStarted(err)
	}
	return h.settle(ctx, watch, before, err)
}

// Recover asks libvirt to go on with a migration whose post-copy broke, and blocks like Migrate until
// it is over or broke again. Nothing is touched if libvirt refuses, and it may be called as often as one
// likes: ClassInvalid says that there is nothing broken, or that QEMU has not noticed yet. spec is that
// of the migration; its limits and Proceed are not used.
func (h *Host) Recover(ctx context.Context, spec hypervisor.MigrateSpec) error {
	lv, qemu := h.versions()
	o, err := recovery(spec, lv, qemu)
	if err != nil {
		return err
	}
	s, err := h.outgoing.begin(spec.Domain)
	if err != nil {
		return err
	}
	c, err := h.dial(ctx)
	if err != nil {
		h.outgoing.end(spec.Domain)
		return err
	}
	h.outgoing.connected(s, c)
	spec.Proceed = nil
	_, err = h.send(ctx, c, spec, o)
	return err
}

// dial opens a migration's own connection.
func (h *Host) dial(ctx context.Context) (*conn, error) {
	c, err := dialBoxed(ctx, h.t, h.cfg.connect, h.cfg.URI)
	if err != nil {
		return nil, notStarted(err)
	}
	return c, nil
}

// stream opens the migration's own connection and sets the limits that must stand before the call.
func (h *Host) stream(ctx context.Context, s *stream, id hypervisor.DomainID, o order) (*conn, error) {
	c, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.hold() // for the call below, which gives it back
	r := request{op: "migrate: set limits", domain: id, limit: slowLimit, slots: s.slots}
	_, err = onConn(ctx, h.t, c, r, func(lv *libvirt.Connect) (struct{}, error) {
		return withDomain(lv, id, func(d *libvirt.Domain) (struct{}, error) {
			if err := d.MigrateSetMaxDowntime(o.downtime, 0); err != nil {
				return struct{}{}, err
			}
			if o.speed == 0 {
				return struct{}{}, nil
			}
			return struct{}{}, d.MigrateSetMaxSpeed(o.speed, 0)
		})
	})
	if err != nil {
		c.retire()
		return nil, notStarted(err)
	}
	h.outgoing.connected(s, c)
	return c, nil
}

// notStarted corrects the class of an error from before the migrate call: whatever became of the
// limits, the outcome of the migration is known, because it was never begun.
func notStarted(err error) error {
	var e *hypervisor.Error
	if errors.As(err, &e) && e.Class == hypervisor.ClassUnknownOutcome {
		changed := *e
		changed.Class = hypervisor.ClassUnavailable
		return &changed
	}
	return err
}

// send makes the migrate call. The domain's place and connection are given back when libvirt has
// answered, however long after the caller left that is. begun tells whether the call was ever made.
func (h *Host) send(ctx context.Context, c *conn, spec hypervisor.MigrateSpec, o order) (begun *atomic.Bool, err error) {
	begun = &atomic.Bool{}
	id := spec.Domain
	r := request{
		op: "migrate", domain: id, slots: newSlots(1),
		// A migration that goes on is no domain that hangs: it must not bar the domain's other calls.
		despite: true, quiet: true,
		release: func() {
			h.outgoing.end(id)
			c.retire()
		},
	}
	_, err = ask(ctx, h.t, r, func() (struct{}, error) {
		return withDomain(c.lv, id, func(d *libvirt.Domain) (struct{}, error) {
			if err := lastWord(ctx, spec); err != nil {
				return struct{}{}, err
			}
			begun.Store(true)
			return struct{}{}, d.MigrateToURI3(o.peer, &o.params, o.flags)
		})
	})
	return begun, err
}

// lastWord asks whether the migration is still wanted. Connecting may have taken long: meanwhile the
// caller may have left, or lost its right to the domain.
func lastWord(ctx context.Context, spec hypervisor.MigrateSpec) error {
	if err := ctx.Err(); err != nil {
		return gaveUp("migrate", spec.Domain, err)
	}
	if spec.Proceed == nil {
		return nil
	}
	if err := spec.Proceed(); err != nil {
		return &hypervisor.Error{
			Op: "migrate", Domain: spec.Domain, Class: hypervisor.ClassUnavailable,
			Message: "not begun: " + err.Error(), Err: err,
		}
	}
	return nil
}

// eventGrace is how long an event may trail the answer to a call on another connection.
const eventGrace = 250 * time.Millisecond

// settle looks at the source after a failed migration and corrects the error's class: libvirt
// answers with the same number for a peer that never answered and for one whose last answer, that
// the guest runs there, was lost.
func (h *Host) settle(ctx context.Context, w *watch, before vantage, err error) error {
	var e *hypervisor.Error
	if !errors.As(err, &e) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quickLimit)
	defer cancel()
	verdict := *e
	after, serr := h.vantage(ctx, before.Domain, quickLimit)
	if serr != nil {
		verdict.Class = hypervisor.ClassUnknownOutcome
		return &verdict
	}
	time.Sleep(eventGrace)
	// Whatever event was under way has come before the answer to this, or the connection is broken.
	_, verr := onHost(ctx, h, "settle", (*libvirt.Connect).GetLibVersion)
	undisturbed := h.outgoing.unwatch(w) && verr == nil
	verdict.Class = verdictOn(before, after, undisturbed, e.Class)
	return &verdict
}

// verdictOn is the class of a failed migration, given what was seen of its source before and after,
// and whether no event told of its vCPUs being stopped in between.
//
// A guest whose vCPUs were never stopped proves that the target can't have started it. The state
// alone does not: a guest that QEMU itself resumed at roll-back reads like one that a person
// resumed. After a roll-back only libvirt's own firm refusal counts, since the resume may have come
// from a lost answer of a target that runs.
func verdictOn(before, after vantage, undisturbed bool, class hypervisor.Class) hypervisor.Class {
	neverStopped := undisturbed && after.State == before.State && after.raw == before.raw
	resumed := !neverStopped && after.State == hypervisor.StateRunning && before.State == hypervisor.StateRunning
	firm := class != hypervisor.ClassUnknownOutcome && class != hypervisor.ClassDenied && class != hypervisor.ClassNoDomain
	switch {
	case after.Reason == hypervisor.ReasonPostcopy || after.Reason == hypervisor.ReasonPostcopyFailed:
		return hypervisor.ClassUnknownOutcome // the target runs it
	case after.Job == hypervisor.JobOutgoing && class == hypervisor.ClassInvalid:
		return class // refused because another migration of this domain runs
	case after.Job != hypervisor.JobNone:
		return hypervisor.ClassUnknownOutcome
	case neverStopped && (class == hypervisor.ClassUnknownOutcome || class == hypervisor.ClassNoDomain):
		return hypervisor.ClassFailed
	case neverStopped, resumed && firm:
		return class
	}
	return hypervisor.ClassUnknownOutcome
}

// Abort asks libvirt to end the domain's job. Success proves nothing: at the last moment the
// migration may still complete, and only Migrate's result or a Sight of both hosts tells. With no
// job to abort the class is ClassInvalid.
func (h *Host) Abort(ctx context.Context, id hypervisor.DomainID) error {
	r := request{op: "abort", domain: id, limit: abortLimit, slots: h.abortSlots, despite: true}
	_, err := onDomain(ctx, h, r, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.AbortJob()
	})
	return err
}

// SetDowntime changes the downtime limit of a running migration; QEMU heeds it within about 100 ms.
func (h *Host) SetDowntime(ctx context.Context, id hypervisor.DomainID, limit time.Duration) error {
	if limit <= 0 || limit > maxDowntime {
		return refuse("set downtime", id, hypervisor.ClassArgument, "limit %s: want more than 0 and at most %s", limit, maxDowntime)
	}
	_, err := onTuned(ctx, h, request{op: "set downtime", domain: id}, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.MigrateSetMaxDowntime(wholeMilliseconds(limit), 0)
	})
	return err
}

// SetBandwidth changes the bandwidth limit of a running migration's memory stream, in whole MiB/s
// rounded down, at least 1. Disk mirrors keep the limit that they began with.
func (h *Host) SetBandwidth(ctx context.Context, id hypervisor.DomainID, limit hypervisor.BytesPerSecond) error {
	if limit <= 0 || hypervisor.Bytes(limit)/hypervisor.MiB > maxBandwidth {
		return refuse("set bandwidth", id, hypervisor.ClassArgument, "limit %d B/s: want more than 0", limit)
	}
	_, err := onTuned(ctx, h, request{op: "set bandwidth", domain: id}, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.MigrateSetMaxSpeed(mebibytes(limit), 0)
	})
	return err
}

// StartPostCopy switches a migration that was started with Strategy.PostCopy over to the target at
// QEMU's next iteration check; it may be repeated. From then on the guest can't be rolled back, and an
// Abort that comes before libvirt has noticed would destroy it.
func (h *Host) StartPostCopy(ctx context.Context, id hypervisor.DomainID) error {
	_, err := onTuned(ctx, h, request{op: "start post-copy", domain: id}, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.MigrateStartPostCopy(0)
	})
	return err
}

// onTuned runs a call about a migration on that migration's own connection, so that other domains
// that hang can't keep it from being steered; on the control connection for an adopted one.
func onTuned[T any](ctx context.Context, h *Host, r request, fn func(*libvirt.Domain) (T, error)) (T, error) {
	r.limit = quickLimit
	c, own := h.outgoing.tuning(r.domain)
	if c == nil {
		return onDomain(ctx, h, r, fn)
	}
	r.slots = own
	return onConn(ctx, h.t, c, r, func(lv *libvirt.Connect) (T, error) {
		return withDomain(lv, r.domain, fn)
	})
}
