package kvm

import (
	"context"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

const (
	queueLength      = 1024 // between libvirt's event loop and the dispatcher
	subscriberLength = 256
)

// fanout carries events from libvirt's event loop, which must never wait, to any number of readers.
// Whoever falls behind loses events and is told so by one EventReset.
type fanout struct {
	queue chan hypervisor.Event

	mu       sync.Mutex
	overflow bool // of the queue
	closed   bool
	readers  []*reader
}

type reader struct {
	out  chan hypervisor.Event
	lost bool // owes the reader an EventReset
}

func newFanout() *fanout {
	return &fanout{queue: make(chan hypervisor.Event, queueLength)}
}

// push never blocks; it runs on libvirt's event loop.
func (f *fanout) push(e hypervisor.Event) {
	select {
	case f.queue <- e:
	default:
		f.mu.Lock()
		f.overflow = true
		f.mu.Unlock()
	}
}

func (f *fanout) subscribe() <-chan hypervisor.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &reader{out: make(chan hypervisor.Event, subscriberLength)}
	if f.closed {
		close(r.out)
		return r.out
	}
	f.readers = append(f.readers, r)
	return r.out
}

// run dispatches until ctx ends and then ends all readers' channels. observe sees every event first.
func (f *fanout) run(ctx context.Context, observe func(hypervisor.Event)) {
	for {
		select {
		case <-ctx.Done():
			f.end()
			return
		case e := <-f.queue:
			if f.takeOverflow() {
				reset := hypervisor.Event{Kind: hypervisor.EventReset, At: e.At}
				observe(reset)
				f.deliver(reset)
			}
			observe(e)
			f.deliver(e)
		}
	}
}

func (f *fanout) takeOverflow() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.overflow
	f.overflow = false
	return was
}

func (f *fanout) deliver(e hypervisor.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.readers {
		if r.lost {
			select {
			case r.out <- hypervisor.Event{Kind: hypervisor.EventReset, At: e.At}:
				r.lost = false
			default:
				continue
			}
		}
		select {
		case r.out <- e:
		default:
			r.lost = true
		}
	}
}

func (f *fanout) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, r := range f.readers {
		close(r.out)
	}
	f.readers = nil
}

// register asks libvirt for the events of all domains on a fresh connection.
func (f *fanout) register(c *conn) error {
	id, err := c.lv.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
		if kind, migration, ok := lifecycle(e); ok {
			f.pushDomain(d, hypervisor.Event{Kind: kind, Migration: migration})
		}
	})
	if err != nil {
		return err
	}
	c.events = append(c.events, id)
	id, err = c.lv.DomainEventMigrationIterationRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventMigrationIteration) {
		f.pushDomain(d, hypervisor.Event{Kind: hypervisor.EventRound, Migration: true, Round: e.Iteration})
	})
	if err != nil {
		return err
	}
	c.events = append(c.events, id)
	return f.registerDevices(c)
}

// registerDevices listens for what changes a domain's definition while it runs: the cached facts
// are read anew then. For the readers this is a definition like any other.
func (f *fanout) registerDevices(c *conn) error {
	added, err := c.lv.DomainEventDeviceAddedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceAdded) {
		f.pushDomain(d, hypervisor.Event{Kind: hypervisor.EventDefined})
	})
	if err != nil {
		return err
	}
	c.events = append(c.events, added)
	removed, err := c.lv.DomainEventDeviceRemovedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceRemoved) {
		f.pushDomain(d, hypervisor.Event{Kind: hypervisor.EventDefined})
	})
	if err != nil {
		return err
	}
	c.events = append(c.events, removed)
	job, err := c.lv.DomainEventBlockJob2Register(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventBlockJob) {
		f.pushDomain(d, hypervisor.Event{Kind: hypervisor.EventDefined})
	})
	if err != nil {
		return err
	}
	c.events = append(c.events, job)
	return nil
}

// pushDomain stamps and queues an event. The domain is borrowed from the callback and only read.
func (f *fanout) pushDomain(d *libvirt.Domain, e hypervisor.Event) {
	uuid, err := d.GetUUIDString()
	if err != nil {
		return
	}
	e.Domain, e.At = hypervisor.DomainID(uuid), time.Now()
	f.push(e)
}

// lifecycle translates libvirt's lifecycle events; ok is false for those that nobody acts on.
func lifecycle(e *libvirt.DomainEventLifecycle) (kind hypervisor.EventKind, migration, ok bool) {
	switch e.Event {
	case libvirt.DOMAIN_EVENT_STARTED:
		return hypervisor.EventStarted, e.Detail == int(libvirt.DOMAIN_EVENT_STARTED_MIGRATED), true
	case libvirt.DOMAIN_EVENT_SUSPENDED:
		switch libvirt.DomainEventSuspendedDetailType(e.Detail) {
		case libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED, libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY,
			libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED:
			migration = true
		}
		return hypervisor.EventSuspended, migration, true
	case libvirt.DOMAIN_EVENT_RESUMED:
		switch libvirt.DomainEventResumedDetailType(e.Detail) {
		case libvirt.DOMAIN_EVENT_RESUMED_MIGRATED, libvirt.DOMAIN_EVENT_RESUMED_POSTCOPY,
			libvirt.DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED:
			migration = true
		}
		return hypervisor.EventResumed, migration, true
	case libvirt.DOMAIN_EVENT_STOPPED:
		return hypervisor.EventStopped, e.Detail == int(libvirt.DOMAIN_EVENT_STOPPED_MIGRATED), true
	case libvirt.DOMAIN_EVENT_DEFINED:
		return hypervisor.EventDefined, false, true
	case libvirt.DOMAIN_EVENT_UNDEFINED:
		return hypervisor.EventUndefined, false, true
	}
	return "", false, false
}

// Events returns a new channel of what libvirt tells about the host's domains. It is closed by
// Close. A reader that falls more than 256 events behind loses some and gets an EventReset instead;
// the channel lives as long as the Host, so subscribe once and keep reading.
func (h *Host) Events() <-chan hypervisor.Event { return h.events.subscribe() }

// observe keeps the Host's own view current before anyone else sees the event.
func (h *Host) observe(e hypervisor.Event) {
	switch e.Kind {
	case hypervisor.EventReset:
		h.facts.forgetAll()
		h.outgoing.doubt()
	case hypervisor.EventRound:
		h.outgoing.seen(e.Domain)
	case hypervisor.EventStopped, hypervisor.EventUndefined:
		h.outgoing.gone(e.Domain)
		h.facts.forget(e.Domain)
	case hypervisor.EventSuspended:
		h.outgoing.suspended(e.Domain)
	case hypervisor.EventResumed:
	default:
		h.facts.forget(e.Domain)
	}
}
