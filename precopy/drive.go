package precopy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"drover/hypervisor"
	"drover/precopy/tune"
)

const (
	pollFast      = 100 * time.Millisecond // in the first seconds, and near the end
	pollSlow      = 250 * time.Millisecond
	progressEvery = time.Second // half of what the protocol allows the store to bear
	abortEvery    = 200 * time.Millisecond
	// beginGrace is how long after a restart a job may still be about to appear: the libvirt call of
	// the agent before may have been on its way.
	beginGrace = 2 * time.Second
	// evidenceEvery is the pause between two looks at both hosts while they do not agree.
	evidenceEvery = 2 * time.Second
)

// drive takes one migration from claim, or from wherever it stands, to its outcome. Its methods run
// on one goroutine, but for told and the writing of the record.
type drive struct {
	w      *Worker
	domain hypervisor.DomainID
	log    *slog.Logger
	rec    *record
	events chan hypervisor.Event
	news   chan struct{} // the record changed in the store

	tuner    *tune.Controller
	switched bool // the vCPUs were stopped for the switchover, at least once
	last     hypervisor.JobStats
	progress chan Progress
	bar      Progress // the last one sent, which the next never falls behind
}

func newDrive(w *Worker, rec Stored) *drive {
	return &drive{
		w: w, domain: rec.UUID,
		log:      w.Log.With("migration", rec.ID, "domain", rec.Domain, "target", rec.Target),
		rec:      newRecord(w.Queue, rec),
		events:   make(chan hypervisor.Event, 16),
		news:     make(chan struct{}, 1),
		progress: make(chan Progress, 1),
	}
}

// told is called by the worker when the store has a newer record.
func (d *drive) told(rec Stored) {
	d.rec.told(rec)
	select {
	case d.news <- struct{}{}:
	default:
	}
}

func (d *drive) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.rec.writeLoop(ctx)
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		d.sendProgress(ctx)
	}()
	defer func() {
		cancel()
		<-done
		<-sent
	}()
	if d.rec.current().Phase == Queued {
		d.carryOut(ctx)
		return
	}
	d.adopt(ctx)
}

// carryOut goes from the claim to the outcome.
func (d *drive) carryOut(ctx context.Context) {
	spec, ok := d.prepare(ctx)
	if !ok {
		return
	}
	result := make(chan error, 1)
	d.w.wg.Go(func() { result <- d.w.Migrator.Migrate(ctx, spec) })
	if err := d.watch(ctx, result); err == nil {
		d.succeeded(ctx)
	} else if ctx.Err() == nil {
		d.failed(ctx, err)
	}
}

// prepare claims the order and does all that comes before the libvirt call, whose parameters it
// returns; false when the migration has ended, or is not ours.
func (d *drive) prepare(ctx context.Context) (hypervisor.MigrateSpec, bool) {
	m := d.rec.current()
	none := hypervisor.MigrateSpec{}
	if m.Order == nil {
		d.finish(ctx, Failed, "bad-order", "the order has no parameters", nil)
		return none, false
	}
	if d.abandonedBefore(ctx) {
		return none, false
	}
	if now := time.Now(); now.After(m.Order.NotAfter) {
		d.finish(ctx, Failed, "order-expired", fmt.Sprintf("the order was too old by %s when this host came to it",
			now.Sub(m.Order.NotAfter).Round(time.Second)), nil)
		return none, false
	}
	if !d.step(ctx, func(m *Migration) {
		m.Phase, m.Reason, m.ReasonCode = Claimed, "claimed by the source's agent", ""
	}) {
		return none, false
	}
	seen, err := d.w.Migrator.Inspect(ctx, d.domain)
	if err != nil {
		d.finish(ctx, Failed, "source-libvirt", "the source's libvirt could not be asked", err)
		return none, false
	}
	if why := cannotLeave(seen, m.Migration); why != nil {
		d.finish(ctx, Failed, string(why.Code), why.Detail, nil)
		return none, false
	}
	disks, ok := d.makeDisks(ctx, seen)
	if !ok {
		return none, false
	}
	return d.lastStep(ctx, seen, disks)
}

// cannotLeave looks once more, right before the start, for what admission has checked already.
func cannotLeave(seen hypervisor.Inspection, m Migration) *hypervisor.Blocker {
	for _, b := range seen.Facts.Blockers {
		if b.Code == hypervisor.BlockLocalDisk && m.CopyStorage {
			continue
		}
		return &b
	}
	if seen.Sighting.Job != hypervisor.JobNone {
		return &hypervisor.Blocker{Code: hypervisor.BlockJob, Detail: "another job runs on the VM: " + string(seen.Sighting.Job)}
	}
	if !seen.Sighting.Active() {
		return &hypervisor.Blocker{Code: hypervisor.BlockNotRunning, Detail: "the VM is not running here: " + string(seen.Sighting.State)}
	}
	return nil
}

// lastStep writes "preparing" under the living lease, right before the libvirt call.
func (d *drive) lastStep(ctx context.Context, seen hypervisor.Inspection, disks []string) (hypervisor.MigrateSpec, bool) {
	m := d.rec.current()
	d.tuner = d.w.tuner(startOf(m.Migration, seen.Facts.Memory))
	spec := hypervisor.MigrateSpec{
		Domain: d.domain, PeerURI: m.Order.PeerURI, MigrateURI: m.Order.MigrateURI,
		TLS: m.Policy.Encrypt, TLSDestination: m.Order.TLSName,
		Bandwidth: m.Order.Bandwidth, Downtime: d.tuner.Limit(),
		Persistent: seen.Facts.Persistent, CopyDisks: disks,
	}
	now := time.Now()
	ok := d.step(ctx, func(m *Migration) {
		m.Phase, m.Reason, m.Started = Preparing, "handing over to libvirt", &now
		m.Autostart = seen.Facts.Autostart
		if n := len(m.Attempts); n > 0 && m.Attempts[n-1].Started.Equal(now) {
			return // the answer to the first try of this very write was lost
		}
		m.Attempts = append(m.Attempts[:len(m.Attempts):len(m.Attempts)], Attempt{
			Number: len(m.Attempts) + 1, Strategy: spec.Strategy.Name(), Started: now,
			DowntimeMS: spec.Downtime.Milliseconds(), Agent: d.w.Instance,
		})
	})
	if !ok {
		return spec, false
	}
	if seen.Facts.Autostart {
		// From here on a crash of the host must not start a second copy at its next boot.
		if err := d.w.Migrator.SetAutostart(ctx, d.domain, false); err != nil {
			d.finish(ctx, Failed, "autostart", "the autostart flag could not be taken off", err)
			return spec, false
		}
	}
	return spec, true
}

func startOf(m Migration, memory hypervisor.Bytes) tune.Start {
	return tune.Start{
		MaxPause: m.Policy.MaxPause(), Ceiling: m.Policy.MaxPauseCeiling(),
		Budget: time.Duration(m.Policy.BudgetSeconds * float64(time.Second)),
		Memory: memory, Bandwidth: m.Order.Bandwidth,
	}
}

// step writes a step towards the libvirt call. A cancel request that came first ends the migration
// here; a lost lease leaves it to whoever holds the lease next.
func (d *drive) step(ctx context.Context, change func(*Migration)) bool {
	for ctx.Err() == nil {
		err := d.rec.begin(ctx, change)
		switch {
		case err == nil:
			return true
		case errors.Is(err, ErrConflict):
			if !d.reread(ctx) || d.abandonedBefore(ctx) {
				return false
			}
			continue
		case errors.Is(err, ErrFenced):
			d.log.Warn("order not carried out: the agent's lease is lost")
			return false
		}
		// The store is away, or its answer was lost: if the step was written, the next try meets
		// its own record as a conflict and reads it.
		d.log.Warn("store away before the start, waiting", "err", err)
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	return false
}

// reread takes over the store's record after a conflict; false when it is over or gone.
func (d *drive) reread(ctx context.Context) bool {
	fresh, err := d.w.Queue.Get(ctx, d.rec.current().ID)
	if err != nil {
		d.log.Warn("record could not be read again", "err", err)
		return false
	}
	d.rec.told(fresh)
	return !fresh.Phase.Final()
}

// abandonedBefore ends a migration whose cancel came before libvirt was called.
func (d *drive) abandonedBefore(ctx context.Context) bool {
	m := d.rec.current()
	if m.Cancel == nil || m.Phase.Final() {
		return m.Phase.Final()
	}
	d.finish(ctx, Aborted, "cancelled", "cancelled by "+m.Cancel.By+" before it began", nil)
	return true
}

// makeDisks has the target make the files for a storage copy, and returns which disks to copy.
func (d *drive) makeDisks(ctx context.Context, seen hypervisor.Inspection) ([]string, bool) {
	m := d.rec.current()
	if !m.CopyStorage {
		return nil, true
	}
	var disks []hypervisor.Disk
	var names []string
	for _, disk := range seen.Facts.Disks {
		if !disk.Shared && !disk.ReadOnly && disk.Source != "" {
			disks, names = append(disks, disk), append(names, disk.Target)
		}
	}
	if len(disks) == 0 {
		return nil, true
	}
	q := Question{Kind: AskCreateDisks, Domain: d.domain, Migration: m.ID, Disks: disks}
	a, err := d.w.Queue.Ask(ctx, m.Target, q)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil && len(a.Blockers) > 0 {
		err = errors.New(a.Blockers[0].String())
	}
	if err != nil {
		d.discardDisks(ctx)
		d.finish(ctx, Failed, "target-storage", "the target could not make the disks", err)
		return nil, false
	}
	return names, true
}

// discardDisks has the target remove what was made there for this migration, after it failed.
func (d *drive) discardDisks(ctx context.Context) {
	m := d.rec.current()
	if !m.CopyStorage {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, err := d.w.Queue.Ask(ctx, m.Target, Question{Kind: AskDiscardDisks, Domain: d.domain, Migration: m.ID})
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		d.log.Error("the disks made on the target could not be removed", "err", err)
		d.rec.change(func(m *Migration) {
			m.Notes = appendNew(m.Notes, "disk files made on "+m.Target+" for this migration may be left there")
		})
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// appendNew appends to a copy, unless it is there already: changes may be applied more than once.
func appendNew(notes []string, n string) []string {
	for _, have := range notes {
		if have == n {
			return notes
		}
	}
	return append(notes[:len(notes):len(notes)], n)
}
