package hypervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

// Sampler is where a Reporter's figures come from: one host's hypervisor.
type Sampler interface {
	Facts(ctx context.Context) (HostFacts, error)
	// Load may return a part of the sample together with an error.
	Load(ctx context.Context) (HostLoad, error)
}

// Sink is where a Reporter's figures go: the store, under the agent's lease.
type Sink interface {
	PublishFacts(ctx context.Context, f HostFacts) error
	PublishLoad(ctx context.Context, l HostLoad) error
}

// ReporterConfig is what NewReporter needs. Sampler and Sink are required.
type ReporterConfig struct {
	Sampler Sampler
	Sink    Sink
	// Period is the time between loads; 0 is 5 s.
	Period time.Duration
	// FactsAge is the longest time between facts, however unchanged; 0 is a minute.
	FactsAge time.Duration
	Log      *slog.Logger // slog.Default when nil
}

// Reporter tells the fleet what one host is and does: a load every period, the facts when they have
// changed. Its methods are safe for concurrent use; Run must run once.
type Reporter struct {
	cfg  ReporterConfig
	poke chan struct{}

	mu        sync.Mutex
	published []byte // facts as the sink last took them; nil when it has none
	at        time.Time

	// Only Run's goroutine uses these: what is told once, when it begins and when it ends.
	facts, load, sink trouble
}

// leastGap is the shortest time between two passes, however often Poke is called: rates over less
// mean nothing, and one event seldom comes alone.
const leastGap = time.Second

// settle is how long a report that was asked for waits: a guest that has just started here has cold caches and
// shall have the host for itself, and what belongs to one event has happened by then.
const settle = 300 * time.Millisecond

// NewReporter returns a Reporter that begins with Run.
func NewReporter(cfg ReporterConfig) *Reporter {
	if cfg.Period <= 0 {
		cfg.Period = 5 * time.Second
	}
	if cfg.FactsAge <= 0 {
		cfg.FactsAge = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Reporter{
		cfg: cfg, poke: make(chan struct{}, 1),
		facts: trouble{what: "facts not sampled"}, load: trouble{what: "load not whole"},
		sink: trouble{what: "report not published"},
	}
}

// Poke asks for a report soon rather than at the end of the period, such as when a migration has
// ended. Calls close together give one report.
func (r *Reporter) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Republish asks for a report soon with the facts in it, changed or not: for a sink that lost what it
// had, as a new lease has.
func (r *Reporter) Republish() {
	r.mu.Lock()
	r.published = nil
	r.mu.Unlock()
	r.Poke()
}

// Run reports until ctx ends, and then returns nil. No failure ends it: a sampler's is reported in
// the load's Problem, and a sink's is tried again in the next period.
func (r *Reporter) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Period)
	defer tick.Stop()
	for {
		// Whatever was asked for until now, this pass answers.
		select {
		case <-r.poke:
		default:
		}
		r.pass(ctx)
		last := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.poke:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(max(leastGap-time.Since(last), settle)):
			}
			tick.Reset(r.cfg.Period)
		}
	}
}

// pass makes one report. Facts go first, so that no load speaks of a domain nobody knows.
func (r *Reporter) pass(ctx context.Context) {
	facts, err := r.cfg.Sampler.Facts(ctx)
	r.facts.note(ctx, r.cfg.Log, err)
	var failed error
	if err == nil {
		failed = r.publishFacts(ctx, facts)
	}
	load, lerr := r.cfg.Sampler.Load(ctx)
	r.load.note(ctx, r.cfg.Log, lerr)
	if load.At.IsZero() {
		load.At = time.Now()
	}
	switch {
	case load.Problem != "":
	case lerr != nil:
		load.Problem = lerr.Error()
	case err != nil:
		load.Problem = err.Error()
	}
	if ctx.Err() != nil {
		return
	}
	// A sink that hangs must cost no more than one period.
	within, cancel := context.WithTimeout(ctx, r.cfg.Period)
	defer cancel()
	if perr := r.cfg.Sink.PublishLoad(within, load); perr != nil {
		failed = perr
	}
	r.sink.note(ctx, r.cfg.Log, failed)
}

// publishFacts hands the facts on when they have changed or the last are old.
func (r *Reporter) publishFacts(ctx context.Context, facts HostFacts) error {
	text, err := json.Marshal(facts)
	if err != nil {
		return err
	}
	now := time.Now()
	r.mu.Lock()
	fresh := r.published != nil && bytes.Equal(text, r.published) && now.Sub(r.at) < r.cfg.FactsAge
	r.mu.Unlock()
	if fresh {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, r.cfg.Period)
	defer cancel()
	// Set before the call: a Republish that comes during it asks for another one after it.
	r.remember(text, now)
	if err := r.cfg.Sink.PublishFacts(within, facts); err != nil {
		r.remember(nil, now)
		return err
	}
	return nil
}

func (r *Reporter) remember(text []byte, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published, r.at = text, at
}

// trouble logs a failure when it begins and when it is over, not each time.
type trouble struct {
	what string
	on   bool
}

func (t *trouble) note(ctx context.Context, log *slog.Logger, err error) {
	switch {
	case ctx.Err() != nil: // the end of Run is nobody's failure
	case err != nil && !t.on:
		log.Warn(t.what, "err", err)
	case err == nil && t.on:
		log.Info(t.what + ": over")
	}
	t.on = err != nil
}
