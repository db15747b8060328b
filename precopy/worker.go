package precopy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"drover/hypervisor"
	"drover/precopy/tune"
)

// MaxOutgoing is how many migrations may leave one host at once, whatever was ordered: each holds
// one of libvirtd's 20 workers, and an abort needs one too.
const MaxOutgoing = 8

// Config is what a Worker is made of. Everything but Shares, Hooks, Throttle, SendQueue, Observe and Events is needed.
type Config struct {
	Host     string // this host's name
	Instance string // this run of the agent
	Migrator Migrator
	Queue    Queue
	Spool    *Spool
	Log      *slog.Logger
	// Events hasten what polling would find; nil is allowed.
	Events <-chan hypervisor.Event
	// Shares follows the shares of all migrations until its context ends; nil where nobody divides links.
	Shares func(context.Context) <-chan ShareUpdate
	// Hooks runs the hooks of VMs; nil allows none.
	Hooks HookRunner
	// Throttle slows guests; nil where they can't be.
	Throttle Throttler
	// SendQueue keeps the queue of a leaving domain short, whose migration has begun already or is yet to begin; nil
	// where that can't be had.
	SendQueue func(id hypervisor.DomainID, begun bool) SendQueue
	// Observe is told of each migration that ended here, for metrics and a fresh report.
	Observe func(Migration)
}

// Worker claims the orders whose source is its host, drives each in a goroutine of its own, and
// adopts those it finds under way. Run may be called once.
type Worker struct {
	Config
	tuner func(Policy, tune.Start) tune.Tuner

	mu      sync.Mutex
	drives  map[string]*drive
	waiting map[string]Stored // orders beyond MaxOutgoing
	shares  map[string]Share  // of migrations that leave this host
	// arriving are the migrations under way to this host.
	arriving map[string]bool
	// over are migrations that ended here and whose final record did not come back by the watch yet:
	// an older state of theirs, late on its way, must not be adopted.
	over map[string]bool
	wg   sync.WaitGroup
}

// NewWorker returns a worker that does nothing until Run.
func NewWorker(c Config) *Worker {
	if c.Observe == nil {
		c.Observe = func(Migration) {}
	}
	return &Worker{Config: c, tuner: tunerOf, drives: map[string]*drive{}, waiting: map[string]Stored{}, over: map[string]bool{}, shares: map[string]Share{}, arriving: map[string]bool{}}
}

// Run works until ctx ends. It then leaves running migrations to libvirt, which completes them, and
// waits only for its own goroutines: the next start adopts what still runs.
func (w *Worker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer w.wg.Wait()
	defer cancel()
	w.flushSpool(ctx)
	updates := w.Queue.Watch(ctx)
	var shares <-chan ShareUpdate
	if w.Shares != nil {
		shares = w.Shares(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			if u.Reset {
				w.nothingArrives()
			}
			for _, rec := range u.Records {
				w.take(ctx, rec)
			}
		case u, ok := <-shares:
			if !ok {
				shares = nil
				continue
			}
			w.takeShares(u)
		case e := <-w.Events:
			w.dispatch(e)
		}
	}
}

// Active returns how many migrations are being driven.
func (w *Worker) Active() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.drives)
}

// Streaming reports whether a stream comes to this host or leaves it.
func (w *Worker) Streaming() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.drives) > 0 || len(w.arriving) > 0
}

func (w *Worker) nothingArrives() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.arriving)
}

// arrives keeps count of what is under way to this host.
func (w *Worker) arrives(rec Stored) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rec.Target == w.Host && rec.Phase.Holds() {
		w.arriving[rec.ID] = true
	} else {
		delete(w.arriving, rec.ID)
	}
}

// take looks at one record as the store has it now.
func (w *Worker) take(ctx context.Context, rec Stored) {
	w.arrives(rec)
	if w.afterHere(rec.Migration) {
		w.wg.Go(func() { w.after(ctx, rec) })
	}
	switch {
	case rec.Source == w.Host:
		w.takeOutgoing(ctx, rec)
	case rec.Target == w.Host && rec.Phase == Done && rec.Autostart && !rec.AutostartSet:
		w.wg.Go(func() { w.setAutostart(ctx, rec) })
	}
}

func (w *Worker) takeOutgoing(ctx context.Context, rec Stored) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.drives[rec.ID]; d != nil {
		d.back = d.back || rec.Phase.Final()
		d.told(rec)
		return
	}
	delete(w.waiting, rec.ID)
	if rec.Phase.Final() && (w.over[rec.ID] || !rec.Untidied()) {
		delete(w.over, rec.ID)
		return
	}
	if rec.Phase == Requested || w.over[rec.ID] {
		return
	}
	if len(w.drives) >= MaxOutgoing && rec.Phase == Queued && rec.Cancel == nil {
		w.Log.Warn("order waits: too many outgoing migrations", "migration", rec.ID, "limit", MaxOutgoing)
		w.waiting[rec.ID] = rec
		return
	}
	w.start(ctx, rec)
}

// start drives a migration on a goroutine of its own; w.mu is held.
func (w *Worker) start(ctx context.Context, rec Stored) {
	d := newDrive(w, rec)
	if s, known := w.shares[rec.ID]; known {
		d.hold.take(s)
	}
	w.drives[rec.ID] = d
	w.wg.Go(func() {
		d.run(ctx)
		w.mu.Lock()
		delete(w.drives, rec.ID)
		last := d.rec.current()
		if last.Phase.Final() && !d.back {
			w.over[rec.ID] = true
		}
		if ctx.Err() == nil && d.leftOpen(rec) {
			// What became of the record came to the drive that was just ending: nobody else looks at it.
			w.start(ctx, last)
		} else {
			w.startWaiting(ctx)
		}
		w.mu.Unlock()
		if last.Phase.Final() {
			w.Observe(last.Migration)
		}
	})
}

// startWaiting starts the oldest order that waits for a place; w.mu is held.
func (w *Worker) startWaiting(ctx context.Context) {
	if len(w.waiting) == 0 || ctx.Err() != nil {
		return
	}
	id := slices.Min(slices.Collect(maps.Keys(w.waiting)))
	next := w.waiting[id]
	delete(w.waiting, id)
	w.start(ctx, next)
}

// dispatch hands an event to the drives that it concerns, without waiting for any of them.
func (w *Worker) dispatch(e hypervisor.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.drives {
		if e.Domain == "" || e.Domain == d.domain {
			select {
			case d.events <- e:
			default: // polling will find it
			}
		}
	}
}

// setAutostart restores on this target the autostart flag that the source had.
func (w *Worker) setAutostart(ctx context.Context, rec Stored) {
	var note string
	err := retry(ctx, func() error {
		if err := w.Migrator.SetAutostart(ctx, rec.UUID, true); err != nil {
			switch hypervisor.ClassOf(err) {
			case hypervisor.ClassNoDomain:
				return nil // it has moved on or was undefined: nothing to mark here
			case hypervisor.ClassInvalid, hypervisor.ClassUnsupported, hypervisor.ClassArgument:
				// It can't have the flag, such as a guest that was made transient since.
				note = "autostart could not be set on " + w.Host + ": " + err.Error()
			default:
				return err
			}
		}
		m := rec.Migration
		m.AutostartSet = true
		if note != "" {
			m.Notes = appendNew(m.Notes, note)
		}
		_, err := w.Queue.Update(ctx, rec, m)
		if errors.Is(err, ErrConflict) {
			return nil // the changed record comes by the watch
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		w.Log.Error("autostart not set on the target", "domain", rec.UUID, "migration", rec.ID, "err", err)
	}
}

// flushSpool finishes what an earlier run of the agent could not: each outcome on disk is told to the
// store, and this host tidied up. Neither a store that is away nor a guest whose monitor hangs keeps
// the worker from its other migrations.
func (w *Worker) flushSpool(ctx context.Context) {
	entries, err := w.Spool.List()
	if err != nil {
		w.Log.Error("spool: a file is unreadable and was left alone", "err", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		w.over[e.ID] = true
		w.wg.Go(func() {
			said, until := "", time.Now().Add(askedFor)
			_ = retry(ctx, func() error {
				err := w.flushOne(ctx, e, until)
				if err != nil && ctx.Err() == nil && err.Error() != said {
					said = err.Error()
					w.Log.Warn("spool: an outcome is not done with yet", "migration", e.ID, "phase", e.Phase, "err", err)
				}
				return err
			})
		})
	}
}

// flushOne tries once; until is how long hosts may fail to say where the guest is.
func (w *Worker) flushOne(ctx context.Context, e Spooled, until time.Time) error {
	rec, err := w.Queue.Get(ctx, e.ID)
	if errors.Is(err, ErrConflict) {
		w.Log.Warn("spool: the store no longer has the migration, its outcome is dropped", "migration", e.ID, "phase", e.Phase)
		return w.Spool.Remove(e.ID)
	}
	if err != nil {
		return err
	}
	if rec.Past {
		// Resolved without this agent, and other migrations of the guest have followed: the record
		// stands as it is, what is left here goes all the same.
		if !e.Leave && rec.Phase == e.Phase {
			if _, err := w.tidy(ctx, rec.Migration, e.Phase, until); err != nil {
				return err
			}
		}
		return w.Spool.Remove(e.ID)
	}
	if rec, err = w.catchUp(ctx, rec, e.Phase); err != nil {
		return err
	}
	// Somebody has said meanwhile that it ended otherwise: then nothing is tidied up by what was seen
	// here, but by the record.
	otherwise := rec.Phase.Final() && rec.Phase != e.Phase
	m := rec.Migration
	e.apply(&m)
	if err := CheckTransition(rec.Phase, m.Phase, ActorSource); err != nil {
		w.Log.Error("spool: an outcome does not fit the record and is dropped", "migration", e.ID, "phase", e.Phase, "record", rec.Phase)
		return w.Spool.Remove(e.ID)
	}
	if !reflect.DeepEqual(m, rec.Migration) {
		if rec, err = w.Queue.Update(ctx, rec, m); err != nil {
			return err
		}
	}
	if otherwise {
		if err := w.Spool.Remove(e.ID); err != nil {
			return err
		}
		w.mu.Lock()
		delete(w.over, e.ID)
		w.mu.Unlock()
		w.takeOutgoing(ctx, rec)
		return nil
	}
	if e.Leave {
		return w.Spool.Remove(e.ID)
	}
	notes, err := w.tidy(ctx, rec.Migration, e.Phase, until)
	if err != nil {
		return err
	}
	if len(notes) > 0 {
		m = rec.Migration
		for _, n := range notes {
			m.Notes = appendNew(m.Notes, n)
		}
		if _, err := w.Queue.Update(ctx, rec, m); err != nil {
			return err
		}
	}
	return w.Spool.Remove(e.ID)
}

// catchUp brings a record that stands before the libvirt call to where the outcome can follow. A store
// that was brought back from a backup has such a record for a migration that has ended since.
func (w *Worker) catchUp(ctx context.Context, rec Stored, end Phase) (Stored, error) {
	for _, p := range []Phase{Claimed, Preparing} {
		if rec.Phase.Final() || CheckTransition(rec.Phase, end, ActorSource) == nil {
			break
		}
		if CheckTransition(rec.Phase, p, ActorSource) != nil {
			continue
		}
		m := rec.Migration
		m.Phase = p
		var err error
		if rec, err = w.Queue.Update(ctx, rec, m); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

// apply puts the spooled outcome into a record. A record that was resolved in the meantime keeps its
// phase, and gains the statistics when they speak of the same end.
func (e Spooled) apply(m *Migration) {
	if m.Phase.Final() {
		if m.Phase == e.Phase && m.Outcome == nil {
			m.Outcome = e.Outcome
		}
		for _, n := range e.Notes {
			m.Notes = appendNew(m.Notes, n)
		}
		if m.Phase != e.Phase {
			m.Notes = appendNew(m.Notes, "the agent saw: "+string(e.Phase)+" ("+e.Reason+")")
		}
		return
	}
	m.Phase, m.Reason, m.ReasonCode, m.Error, m.Outcome = e.Phase, e.Reason, e.ReasonCode, e.Error, e.Outcome
	m.Notes = append(m.Notes[:len(m.Notes):len(m.Notes)], e.Notes...)
	t, err := time.Parse(time.RFC3339Nano, e.Finished)
	if err != nil {
		return
	}
	m.Finished = &t
	if n := len(m.Attempts); n > 0 && m.Attempts[n-1].Ended == nil {
		m.Attempts = append([]Attempt(nil), m.Attempts...)
		m.Attempts[n-1].Ended, m.Attempts[n-1].Result = &t, string(m.Phase)
	}
}

// retry calls f until it succeeds or ctx ends, with a growing pause of 50 ms to 2 s. ErrFenced is
// tried again too: the agent's session renews itself.
func retry(ctx context.Context, f func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}
