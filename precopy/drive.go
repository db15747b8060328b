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
	// the agent before may have been on its way. After that it is taken back.
	beginGrace = 5 * time.Second
	// freshFor is how old the written "preparing" may be when libvirt is called; the lease that it
	// was written under lives longer.
	freshFor = 2 * time.Second
	// disksLimit is how long the target may take to make the files for a storage copy.
	disksLimit = 30 * time.Second
	// inspectLimit and flagLimit bound calls to libvirt before the start.
	inspectLimit = 30 * time.Second
	flagLimit    = 15 * time.Second
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
	back   bool          // its final record came by the watch; guarded by Worker.mu

	tuner    tune.Tuner
	owed     bool // the tuner's downtime limit could not be set yet
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
		d.endUnstarted(ctx, Failed, ending{code: "bad-order", reason: "the order has no parameters"})
		return none, false
	}
	if d.abandonedBefore(ctx) || d.expired(ctx) {
		return none, false
	}
	if !d.step(ctx, stepUp{
		from: Queued,
		change: func(m *Migration) {
			m.Phase, m.Reason, m.ReasonCode, m.Agent = Claimed, "claimed by the source's agent", "", d.w.Instance
		},
		written: func(m Migration) bool { return m.Phase == Claimed && m.Agent == d.w.Instance },
	}) {
		return none, false
	}
	ictx, cancel := context.WithTimeout(ctx, inspectLimit)
	seen, err := d.w.Migrator.Inspect(ictx, d.domain)
	cancel()
	if ctx.Err() != nil {
		return none, false // the agent is stopping; its next run gives the claim up
	}
	if err != nil {
		d.endUnstarted(ctx, Failed, ending{code: "source-libvirt", reason: "the source's libvirt could not be asked", cause: err})
		return none, false
	}
	if why := cannotLeave(seen, m.Migration); why != nil {
		d.endUnstarted(ctx, Failed, ending{code: string(why.Code), reason: why.Detail})
		return none, false
	}
	disks, ok := d.makeDisks(ctx, seen)
	if !ok {
		return none, false
	}
	return d.lastStep(ctx, seen, disks)
}

// expired ends a migration whose order is too old to be carried out.
func (d *drive) expired(ctx context.Context) bool {
	m := d.rec.current()
	late := time.Since(m.Order.NotAfter)
	if late <= 0 {
		return false
	}
	d.endUnstarted(ctx, Failed, ending{code: "order-expired", reason: fmt.Sprintf(
		"the order was too old by %s when this host came to it", late.Round(time.Second))})
	return true
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
	d.tuner = d.w.tuner(m.Policy, startOf(m.Migration, seen.Facts.Memory))
	spec := hypervisor.MigrateSpec{
		Domain: d.domain, PeerURI: m.Order.PeerURI, MigrateURI: m.Order.MigrateURI,
		TLS: m.Policy.Encrypt, TLSDestination: m.Order.TLSName,
		Bandwidth: m.Order.Bandwidth, Downtime: d.tuner.Limit(),
		Persistent: seen.Facts.Persistent, CopyDisks: disks,
		Strategy: d.tuner.Strategy(),
	}
	now := time.Now()
	up := stepUp{
		from: Claimed,
		change: func(m *Migration) {
			m.Phase, m.Reason, m.Started = Preparing, "handing over to libvirt", &now
			m.Autostart, m.Persistent = seen.Facts.Autostart, seen.Facts.Persistent
			m.Attempts = append(m.Attempts[:len(m.Attempts):len(m.Attempts)], Attempt{
				Number: len(m.Attempts) + 1, Strategy: spec.Strategy.Name(), Started: now,
				DowntimeMS: spec.Downtime.Milliseconds(), Agent: d.w.Instance,
			})
		},
		written: func(m Migration) bool {
			return m.Phase == Preparing && m.Agent == d.w.Instance && m.Started != nil && m.Started.Equal(now)
		},
	}
	if !d.step(ctx, up) {
		return spec, false
	}
	return spec, !seen.Facts.Autostart || d.takeFlagOff(ctx, now, up)
}

// takeFlagOff clears the autostart flag: from here on a crash of the host must not start a second
// copy at its next boot. If libvirt took its time over it, lease and record are looked at again.
func (d *drive) takeFlagOff(ctx context.Context, began time.Time, up stepUp) bool {
	actx, cancel := context.WithTimeout(ctx, flagLimit)
	defer cancel()
	err := d.w.Migrator.SetAutostart(actx, d.domain, false)
	if ctx.Err() != nil {
		return false // the agent is stopping; its next run finds that nothing was begun
	}
	if err != nil {
		d.finish(ctx, Failed, "autostart", "the autostart flag could not be taken off", err)
		return false
	}
	if time.Since(began) < freshFor {
		return true
	}
	return d.step(ctx, stepUp{from: Preparing, change: func(*Migration) {}, written: func(Migration) bool { return false }})
}

func startOf(m Migration, memory hypervisor.Bytes) tune.Start {
	return tune.Start{
		MaxPause: m.Policy.MaxPause(), Ceiling: m.Policy.MaxPauseCeiling(),
		Budget: time.Duration(m.Policy.BudgetSeconds * float64(time.Second)),
		Memory: memory, Bandwidth: m.Order.Bandwidth,
	}
}

// tunerOf is the controller for a policy: drover's own, unless a comparison asks for a fixed one.
func tunerOf(p Policy, s tune.Start) tune.Tuner {
	if t, ok := tune.Fixed(p.Tuning, s); ok {
		return t
	}
	return tune.New(s)
}

// stepUp is one step towards the libvirt call.
type stepUp struct {
	from   Phase
	change func(*Migration)
	// written recognises this very step in the store, whose answer was lost.
	written func(Migration) bool
}

// step writes a step towards the libvirt call. A cancel request that came first ends the migration
// here, and so does an order that has grown too old while the store, or the lease, was away. A record
// that somebody else has taken is left alone, and false returned.
func (d *drive) step(ctx context.Context, up stepUp) bool {
	for tries := 0; ctx.Err() == nil; tries++ {
		if tries > 0 && up.written(d.rec.current().Migration) {
			return true
		}
		if !d.stillOurs(ctx, up.from) {
			return false
		}
		if tries > 0 && (d.abandonedBefore(ctx) || up.from != Preparing && d.expired(ctx)) {
			return false
		}
		err := d.rec.begin(ctx, up.change)
		switch {
		case err == nil:
			return true
		case errors.Is(err, ErrConflict):
			if !d.reread(ctx) {
				return false
			}
			continue // a cancel request, most likely
		case errors.Is(err, ErrFenced):
			d.log.Warn("waiting: the agent's lease is lost")
		default:
			d.log.Warn("store away before the start, waiting", "err", err)
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	return false
}

// stillOurs reports whether the record stands where this agent brought it, as far as is known here.
// If not, what there is to do about it has been done.
func (d *drive) stillOurs(ctx context.Context, from Phase) bool {
	m := d.rec.current()
	mine := m.Agent == d.w.Instance
	switch {
	case m.Phase == from && (mine || from == Queued):
		return true
	case m.Phase.Final() && m.Started != nil && mine:
		d.settledElsewhere(ctx)
	case m.Phase.Final() && m.Phase != Done:
		// Whoever ended it may have asked for the disks' removal before this agent had them made.
		d.w.discardDisks(ctx, m.Migration)
	case m.Phase == Unknown && mine:
		// The leader gave this agent up. It has called nothing, and that can be shown.
		d.adopt(ctx)
	default:
		d.log.Warn("order not carried out: somebody else has the record", "phase", m.Phase, "agent", m.Agent)
	}
	return false
}

// reread takes over the store's record after a conflict; false when it is gone.
func (d *drive) reread(ctx context.Context) bool {
	var fresh Stored
	err := retry(ctx, func() error {
		var err error
		if fresh, err = d.w.Queue.Get(ctx, d.rec.current().ID); errors.Is(err, ErrConflict) {
			return nil // gone
		}
		return err
	})
	if err != nil || fresh.ID == "" {
		return false
	}
	d.rec.told(fresh)
	return true
}

// abandonedBefore ends a migration whose cancel came before libvirt was called.
func (d *drive) abandonedBefore(ctx context.Context) bool {
	m := d.rec.current()
	if m.Cancel == nil || m.Phase.Final() {
		return m.Phase.Final()
	}
	e := ending{code: "cancelled", reason: "cancelled by " + m.Cancel.By + " before it began"}
	if m.Phase == Preparing {
		d.end(ctx, Aborted, e) // the autostart flag may have been cleared
		return true
	}
	d.endUnstarted(ctx, Aborted, e)
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
	actx, cancel := context.WithTimeout(ctx, disksLimit)
	a, err := d.w.Queue.Ask(actx, m.Target, q)
	cancel()
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil && len(a.Blockers) > 0 {
		err = errors.New(a.Blockers[0].String())
	}
	if ctx.Err() != nil {
		return nil, false
	}
	if err != nil {
		d.endUnstarted(ctx, Failed, ending{code: "target-storage", reason: "the target could not make the disks", cause: err})
		return nil, false
	}
	return names, true
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
