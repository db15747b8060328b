package kvm

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"drover/hypervisor"
)

// slots bound the requests in flight on one connection. A straggler keeps its slot.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

// request is one call to libvirt.
type request struct {
	op     string
	domain hypervisor.DomainID // empty for calls about the host
	limit  time.Duration       // 0 is none
	slots  slots
	// despite lets the call through to a domain that already has a straggler: only abort, which is
	// the way out.
	despite bool
	// quiet keeps a straggler from barring its domain for further calls.
	quiet bool
	// release, if any, is called exactly once: when the call has ended, or can't begin.
	release func()
}

// tracker counts the calls whose callers have given up, for the whole Host and by domain.
type tracker struct {
	log *slog.Logger

	mu         sync.Mutex
	stragglers int
	stuck      map[hypervisor.DomainID]int
}

func newTracker(log *slog.Logger) *tracker {
	return &tracker{log: log, stuck: map[hypervisor.DomainID]int{}}
}

// count returns how many calls libvirt still owes an answer for that nobody waits for.
func (t *tracker) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stragglers
}

// isStuck reports whether a call about the domain is a straggler.
func (t *tracker) isStuck(id hypervisor.DomainID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return id != "" && t.stuck[id] > 0
}

func (t *tracker) add(r request, n int) {
	t.stragglers += n
	if r.domain == "" || r.quiet {
		return
	}
	if t.stuck[r.domain] += n; t.stuck[r.domain] <= 0 {
		delete(t.stuck, r.domain)
	}
}

// ending is how a call is settled between the caller, who may give up, and the goroutine that runs
// it: whoever comes first decides whether it was ever a straggler.
type ending struct {
	abandoned bool
	finished  bool
}

// abandon marks the call as a straggler, unless it has finished; it reports whether it did.
func (t *tracker) abandon(e *ending, r request) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.finished {
		return false
	}
	e.abandoned = true
	t.add(r, 1)
	return true
}

// finish settles the call from the side of the one who ran it, and reports whether nobody waits.
func (t *tracker) finish(e *ending, r request) (abandoned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.finished = true
	if e.abandoned {
		t.add(r, -1)
	}
	return e.abandoned
}

type answer[T any] struct {
	value T
	err   error
}

// ask runs fn on a goroutine of its own and waits for it until the context ends or the limit passes.
// fn must release all that it acquires, since its value is dropped when nobody waits any more.
func ask[T any](ctx context.Context, t *tracker, r request, fn func() (T, error)) (T, error) {
	return askOrDrop(ctx, t, r, fn, nil)
}

// askOrDrop is ask for a value that must be disposed of when it comes too late.
func askOrDrop[T any](ctx context.Context, t *tracker, r request, fn func() (T, error), drop func(T)) (T, error) {
	if r.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.limit)
		defer cancel()
	}
	if err := begin(ctx, t, r); err != nil {
		if r.release != nil {
			r.release()
		}
		var zero T
		return zero, err
	}
	done := make(chan answer[T], 1)
	var end ending
	go func() {
		a := guarded(t.log, r, fn)
		if r.release != nil {
			r.release()
		}
		<-r.slots
		if t.finish(&end, r) && drop != nil && a.err == nil {
			drop(a.value)
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.value, wrap(r.op, r.domain, a.err)
	case <-ctx.Done():
	}
	if t.abandon(&end, r) {
		var zero T
		return zero, gaveUp(r.op, r.domain, ctx.Err())
	}
	a := <-done
	return a.value, wrap(r.op, r.domain, a.err)
}

// begin takes a slot for the call, or says why there is none.
func begin(ctx context.Context, t *tracker, r request) error {
	if !r.despite && t.isStuck(r.domain) {
		return refuse(r.op, r.domain, hypervisor.ClassBusy, "an earlier call about this domain still waits for libvirt")
	}
	select {
	case r.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return refuse(r.op, r.domain, hypervisor.ClassBusy, "all %d requests that libvirt may work on at a time are taken", cap(r.slots))
	}
}

// guarded runs fn and turns a panic into an error: the binding indexes out of range when another
// tool left per-vCPU dirty rates on a domain of more than five vCPUs, and one strange domain must not
// end the agent that tunes all others.
func guarded[T any](log *slog.Logger, r request, fn func() (T, error)) (a answer[T]) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("libvirt binding panicked", "op", r.op, "domain", r.domain, "panic", p, "stack", string(debug.Stack()))
			a.err = &hypervisor.Error{
				Op: r.op, Domain: r.domain, Class: hypervisor.ClassUnknownOutcome, Message: fmt.Sprintf("binding panicked: %v", p),
			}
		}
	}()
	a.value, a.err = fn()
	return a
}
