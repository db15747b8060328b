package precopy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/tune"
)

const (
	pollFast  = 100 * time.Millisecond // in the first seconds, and near the end
	pollSlow  = 250 * time.Millisecond
	pollLeast = 50 * time.Millisecond // between two looks, when a round begins
	// switchQuiet is how long nothing is asked once the guest was stopped for the switchover: libvirt and QEMU answer
	// each question in the place of the steps that let the guest run again.
	switchQuiet   = time.Second
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
	// unreadLimit is how long a slowed guest stays slowed while its migration can't be read, and how long libvirt is given
	// for an answer meanwhile.
	unreadLimit = 3 * time.Second
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

	// confirmed is when the store was last asked about a step that it then took under the living
	// lease: what was true of the record and the lease then may be acted upon for freshFor.
	confirmed time.Time
	seen      time.Time     // when this agent took the record up
	begun     chan struct{} // closed right before libvirt is called: a job seen earlier is not ours

	hold    hold  // its share of the links
	serial  int64 // of the share that is in force
	mirrors int   // disks that are copied at once
	pace    pace
	need    hypervisor.BytesPerSecond // as the tuner says
	near    bool

	tuner    tune.Tuner
	next     *forecast.Option // with which to begin again, once the present attempt has ended
	brake    *brake
	queue    SendQueue     // nil where nobody keeps it short
	short    bool          // as it said last
	unkept   bool          // it failed
	limit    time.Duration // the downtime limit that libvirt was told
	cap      hypervisor.BytesPerSecond
	toldLost float64   // seconds of guest work, as the record was told
	read     time.Time // when the job was read last
	switched bool      // the vCPUs were stopped for the switchover, at least once
	quiet    time.Time // until when the job is not read, as the guest stands still
	last     hypervisor.JobStats
	progress chan Progress
	bar      Progress // the last one sent, which the next never falls behind

	wish  *wish         // for post-copy
	asked time.Time     // when the hypervisor was last asked for post-copy
	pause time.Duration // before the last try to go on with a broken post-copy
}

func newDrive(w *Worker, rec Stored) *drive {
	d := &drive{
		w: w, domain: rec.UUID,
		log:      w.Log.With("migration", rec.ID, "domain", rec.Domain, "target", rec.Target),
		rec:      newRecord(w.Queue, rec),
		events:   make(chan hypervisor.Event, 16),
		news:     make(chan struct{}, 1),
		progress: make(chan Progress, 1),
		begun:    make(chan struct{}),
		seen:     time.Now(),
	}
	// Fixed policies stand for managers that know nothing of it.
	if w.SendQueue != nil && rec.Policy.Tuning == "" {
		d.queue = w.SendQueue(rec.UUID, rec.Phase != Queued)
	}
	return d
}

// told is called by the worker when the store has a newer record.
func (d *drive) told(rec Stored) {
	d.rec.told(rec)
	d.wake()
}

// wake has the drive look at what is new.
func (d *drive) wake() {
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
		d.brake.release()
		if d.queue != nil {
			d.queue.Release()
		}
		cancel()
		<-done
		<-sent
	}()
	switch p := d.rec.current().Phase; {
	case p == Queued:
		d.carryOut(ctx)
	case p.Final():
		d.settledElsewhere(ctx)
	default:
		d.adopt(ctx)
	}
}

// leftOpen reports, after the drive of a record that stood as first, whether the record is open and
// still this agent's to end.
func (d *drive) leftOpen(first Stored) bool {
	m := d.rec.current()
	if m.Phase.Final() || m.Phase == Queued || d.rec.isGone() {
		return false
	}
	return m.Phase == Unknown || m.Agent == d.w.Instance || first.Phase != Queued
}

// carryOut goes from the claim to the outcome.
func (d *drive) carryOut(ctx context.Context) {
	spec, ok := d.prepare(ctx)
	if !ok {
		return
	}
	err := d.begin(ctx, spec)
	if spec, ok := d.again(ctx, err); ok {
		err = d.begin(ctx, spec)
	}
	switch {
	case err == nil:
		d.succeeded(ctx)
	case ctx.Err() != nil:
	case d.split():
		d.failed(ctx, err)
	case errors.Is(err, errNotBegun):
		d.notBegun(ctx, err)
	case hypervisor.IsClass(err, hypervisor.ClassInvalid):
		d.refused(ctx, err)
	default:
		d.failed(ctx, err)
	}
}

// spec is the migration as libvirt is asked for it. The tuner decides how the stream is sent.
func (d *drive) spec() hypervisor.MigrateSpec {
	m := d.rec.current()
	return hypervisor.MigrateSpec{
		Domain: d.domain, PeerURI: m.Order.PeerURI, MigrateURI: m.Order.MigrateURI,
		TLS: m.Policy.Encrypt, TLSDestination: m.Order.TLSName,
		Bandwidth: d.perStream(d.allowed()), Downtime: d.limit, Persistent: m.Persistent, Strategy: d.tuner.Strategy(),
	}
}

func startOf(m Migration, memory hypervisor.Bytes) tune.Start {
	s := tune.Start{
		MaxPause: m.Policy.MaxPause(), Ceiling: m.Policy.MaxPauseCeiling(),
		Budget:      time.Duration(m.Policy.BudgetSeconds * float64(time.Second)),
		MaxSlowdown: m.Policy.MaxSlowdown,
		// A broken link would lose disks and memory at once.
		PostCopy: m.Policy.PostCopy && !m.CopyStorage,
		Memory:   memory, Bandwidth: m.Order.Bandwidth, Strategy: m.Order.Strategy,
	}
	if p := m.Order.Prior; p != nil {
		s.Prior = *p
	}
	if m.CopyStorage {
		s.Prior.Others = nil // to begin again would copy the disks again
	}
	return s
}

// TunerFor is the controller that drives a migration whose guest has so much memory: from its beginning, or from
// where its last attempt stands. It asks for no other attempt, which only a worker can begin.
func TunerFor(m Migration, memory hypervisor.Bytes) tune.Tuner {
	s := startOf(m, memory)
	s.Prior.Others = nil
	if m.attempt().Number > 0 {
		goOn(&s, m)
	}
	return tunerOf(m.Policy, s)
}

// goOn has a controller begin with what a migration whose last attempt is under way has come to.
func goOn(s *tune.Start, m Migration) {
	a := m.attempt()
	if a.Number > 1 && s.Budget > 0 && m.Started != nil {
		s.Budget = max(s.Budget-a.Started.Sub(*m.Started), time.Second) // its clock began with the attempt
	}
	s.Limit = time.Duration(cmp.Or(a.LimitMS, a.DowntimeMS)) * time.Millisecond
	s.Lost = time.Duration(a.LostSeconds * float64(time.Second))
	if a.Stream != nil { // not what was ordered, when it is another attempt than the first
		s.Strategy = *a.Stream
	}
	s.Attempts = a.Number // another one only the agent that made the call can begin
}

// tunerOf is the controller for a policy: drover's own, unless a comparison asks for a fixed one.
func tunerOf(p Policy, s tune.Start) tune.Tuner {
	if t, ok := tune.Fixed(p.Tuning, s); ok {
		return t
	}
	return tune.New(s)
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
