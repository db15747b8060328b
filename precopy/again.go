package precopy

import (
	"context"
	"errors"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/precopy/tune"
)

// restarting is the stable word for an attempt that was ended for the sake of another.
const restarting = string(tune.Restarting)

// begin hands the migration to libvirt and follows it to the end of the call.
func (d *drive) begin(ctx context.Context, spec hypervisor.MigrateSpec) error {
	spec.Proceed = func() error { return d.proceed(ctx) }
	result := make(chan error, 1)
	d.w.wg.Go(func() { result <- d.w.Migrator.Migrate(ctx, spec) })
	return d.watch(ctx, result)
}

// again prepares another attempt after one that was ended for its sake, with the strategy that the tuner
// wants; false when there is to be none, and the outcome of the migration is that of the last attempt.
//
// It is written before libvirt is called, as the first one is. An agent that dies in between leaves a
// record whose last attempt either was given up or shows no job: the next one finds the guest on the source
// in both cases, and ends it.
func (d *drive) again(ctx context.Context, cause error) (hypervisor.MigrateSpec, bool) {
	none, m, next := hypervisor.MigrateSpec{}, d.rec.current(), d.next
	if next == nil || cause == nil || ctx.Err() != nil || d.split() || d.switched || m.Cancel != nil || m.Phase.Final() {
		return none, false
	}
	d.next = nil
	sctx, cancel := context.WithTimeout(ctx, flagLimit)
	defer cancel()
	// The call returned, and libvirt itself says that nothing is under way.
	src, err := d.w.Migrator.Sight(sctx, d.domain)
	if err != nil || src.State != hypervisor.StateRunning || src.Job != hypervisor.JobNone {
		return none, false
	}
	learned, sent := d.tuner.Learned(), d.last.Processed()
	if err := d.rec.flush(ctx); err != nil {
		return none, false
	}
	// The store may have been away, and others may have had a word meanwhile.
	if m = d.rec.current(); m.Cancel != nil || m.Phase != Copying || m.Agent != d.w.Instance || m.Started == nil {
		return none, false
	}
	start := startOf(m.Migration, d.last.MemTotal)
	start.Strategy, start.Attempts = next.Strategy, len(m.Attempts)
	start.Lost = d.tuner.Lost()
	start.Prior = forecast.Prior{Growth: learned.Growth, Receipts: start.Prior.Receipts, First: next.First, Switchover: start.Prior.Switchover, Ended: start.Prior.Ended}
	if next.Tried {
		start.Prior.Ratio = next.Ratio
	}
	if start.Budget > 0 {
		start.Budget = max(start.Budget-time.Since(*m.Started), time.Second)
	}
	d.tuner = d.w.tuner(m.Policy, start)
	d.tuner.Allow(d.allowed(), d.alone())
	d.limit, d.last, d.toldLost, d.begun = d.tuner.Limit(), hypervisor.JobStats{}, 0, make(chan struct{})
	spec, now := d.spec(), time.Now()
	d.cap, d.pace, d.bar = spec.Bandwidth, pace{}, Progress{}
	spec.Persistent = m.Persistent
	err = d.rec.begin(ctx, func(m *Migration) {
		m.changeAttempt(func(a *Attempt) { a.Ended, a.Result, a.Bytes = &now, restarting, sent })
		m.Phase, m.Reason, m.ReasonCode = Preparing, "handing over to libvirt, with another strategy", ""
		m.Attempts = append(m.Attempts[:len(m.Attempts):len(m.Attempts)], Attempt{
			Number: len(m.Attempts) + 1, Strategy: encoding(spec.Strategy), Stream: &spec.Strategy, Started: now,
			DowntimeMS: spec.Downtime.Milliseconds(), Agent: d.w.Instance,
		})
	})
	if err != nil {
		d.log.Warn("not begun again", "err", errors.Join(err, cause))
		return none, false
	}
	d.brake = newBrake(ctx, d.w.Throttle, m.Migration, d.log)
	d.confirmed = now
	d.log.Info("beginning again", "strategy", next.Strategy.Name(), "attempt", len(m.Attempts)+1)
	return spec, true
}

// throughout adds to the outcome of the last attempt what those before it took.
func (o *Outcome) throughout(m Migration) {
	if len(m.Attempts) < 2 || m.Started == nil {
		return
	}
	for _, a := range m.Attempts[:len(m.Attempts)-1] {
		o.Bytes += a.Bytes
	}
	last := o.Seconds
	o.Seconds = time.Since(*m.Started).Seconds()
	if o.Seconds > 0 {
		o.Slowdown *= min(last/o.Seconds, 1)
	}
}
