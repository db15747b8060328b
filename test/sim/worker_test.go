package sim_test

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	pages "drover/hypervisor/sim"
	"drover/hypervisor/throttle"
	"drover/precopy"
	"drover/test/sim"
	"drover/test/sim/guest"
	"drover/test/sim/load"
)

// TestWorker: what this package's agents make of an order over regions is what the real worker makes of the same
// order over pages, within the errors that doc.go publishes. The guest uses its vCPU all the time.
func TestWorker(t *testing.T) {
	const mib = hypervisor.MiB
	var seconds, bytes, pauses []float64
	for _, c := range []struct {
		name    string
		mbit    float64
		used    hypervisor.Bytes
		pattern pages.Pattern
	}{
		{"idle", 1000, 512 * mib, pages.Pattern{}},
		{"slow", 1000, 1024 * mib, pages.Pattern{Kind: pages.Pages, Rate: 2000, WorkingSet: 128 * mib}},
		{"near the link", 1000, 1024 * mib, pages.Pattern{Kind: pages.Pages, Rate: 20000, WorkingSet: 256 * mib}},
		{"beyond the link", 1000, 1024 * mib, pages.Pattern{Kind: pages.Pages, Rate: 45000, WorkingSet: 256 * mib}},
		{"hopeless", 400, 768 * mib, pages.Pattern{Kind: pages.Pages, Rate: 150000, WorkingSet: 512 * mib}},
		{"sweep", 400, 640 * mib, pages.Pattern{Kind: pages.Sweep, Rate: 7000, WorkingSet: 256 * mib}},
		{"bursts", 400, 512 * mib, pages.Pattern{Kind: pages.Bursts, Rate: 16000, WorkingSet: 192 * mib, On: 2 * time.Second, Off: 2 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			link := hypervisor.BytesPerSecond(c.mbit * 1e6 / 8)
			region := guest.Idle()
			if c.pattern.Kind != pages.Idle {
				region = guest.Region{
					Size: c.pattern.WorkingSet, Rate: hypervisor.BytesPerSecond(c.pattern.Rate * float64(guest.PageSize)),
					Sweep: c.pattern.Kind == pages.Sweep, On: c.pattern.On, Off: c.pattern.Off,
				}
			}
			w := sim.New(sim.Config{Timing: sim.Timing{Connect: 30 * time.Millisecond, Setup: 20 * time.Millisecond, Overhead: 25 * time.Millisecond}})
			for _, name := range []string{"a", "b"} {
				if _, err := w.AddHost(sim.HostConfig{Name: name, Cores: 8, Memory: 16 * hypervisor.GiB, Link: link}); err != nil {
					t.Fatal(err)
				}
			}
			memory := guest.Memory{Total: c.used + 256*mib, Used: c.used, Regions: []guest.Region{region}}
			if _, err := w.AddGuest("a", sim.GuestConfig{Name: "vm", VCPUs: 1, Memory: memory, Load: load.Steady{Level: 1}}); err != nil {
				t.Fatal(err)
			}
			w.Run(time.Minute)
			if _, err := w.Migrate("vm", "b"); err != nil {
				t.Fatal(err)
			}
			w.Until(time.Hour, w.Idle)
			got := w.Migrations()[0].Migration
			if got.Order == nil || got.Outcome == nil {
				t.Fatalf("%s: %s", got.Phase, got.Reason)
			}
			var want precopy.Migration
			synctest.Test(t, func(t *testing.T) {
				want = worked(t, got, pages.DomainConfig{Memory: memory.Total, Used: c.used, Pattern: c.pattern}, link)
			})
			s, b := got.Outcome.Seconds/want.Outcome.Seconds-1, float64(got.Outcome.Bytes)/float64(want.Outcome.Bytes)-1
			p := float64(got.Outcome.PauseMS - want.Outcome.PauseMS)
			t.Logf("%s (%s) by the worker in %.2f s, %s, %d ms, slowed by %.1f %%; here %+.1f %%, %+.1f %%, %+.0f ms, %.1f %%", want.Phase, want.ReasonCode,
				want.Outcome.Seconds, want.Outcome.Bytes, want.Outcome.PauseMS, 100*want.Outcome.Slowdown, 100*s, 100*b, p, 100*got.Outcome.Slowdown)
			if got.Phase != want.Phase || got.ReasonCode != want.ReasonCode {
				t.Errorf("%s (%s), by the worker %s (%s)", got.Phase, got.ReasonCode, want.Phase, want.ReasonCode)
			}
			seconds, bytes, pauses = append(seconds, math.Abs(s)), append(bytes, math.Abs(b)), append(pauses, math.Abs(p))
		})
	}
	for _, f := range []struct {
		what          string
		offs          []float64
		median, worst float64
	}{{"seconds", seconds, 0.005, 0.1}, {"bytes", bytes, 0.005, 0.1}, {"pause", pauses, 5, 60}} {
		slices.Sort(f.offs)
		median, worst := f.offs[len(f.offs)/2], f.offs[len(f.offs)-1]
		if median > f.median || worst > f.worst {
			t.Errorf("%s: off by %.3f in the median and %.3f at worst", f.what, median, worst)
		}
	}
}

// worked is the migration as the real worker carries it out over pages, under the same order.
func worked(t *testing.T, m precopy.Migration, c pages.DomainConfig, link hypervisor.BytesPerSecond) precopy.Migration {
	t.Helper()
	f := pages.New(pages.Config{Seed: 1})
	defer f.Close()
	var hosts []*pages.Host
	for _, name := range []string{"a", "b"} {
		h, err := f.AddHost(pages.HostConfig{Name: name, Cores: 8, Memory: 16 * hypervisor.GiB, Link: link})
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	c.ID, c.Name, c.VCPUs, c.CPU = m.UUID, "vm", 1, 1
	if err := f.AddDomain("a", c); err != nil {
		t.Fatal(err)
	}
	m.Phase, m.Outcome, m.Attempts, m.Agent, m.Started, m.Finished = precopy.Queued, nil, nil, "", nil, nil
	m.Reason, m.ReasonCode, m.Persistent = "", "", false
	o := *m.Order
	o.PeerURI, o.IssuedAt, o.NotAfter, o.ClockOffset = hosts[1].PeerURI(), time.Time{}, time.Now().Add(time.Hour), 0
	if o.Prior != nil {
		p := *o.Prior
		p.Others = nil // this package's agents begin no second attempt
		o.Prior = &p
	}
	m.Order = &o
	spool, err := precopy.OpenSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	q := &queue{rec: precopy.Stored{Migration: m, Revision: 1}, target: hosts[1]}
	worker := precopy.NewWorker(precopy.Config{
		Host: "a", Instance: "a-1", Migrator: hosts[0], Queue: q, Spool: spool, Log: slog.New(slog.DiscardHandler), Events: hosts[0].Events(),
		Throttle: func(_ context.Context, id hypervisor.DomainID, _ string) (precopy.Throttle, error) {
			return &brake{hosts[0], id}, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = worker.Run(ctx) }()
	for began := time.Now(); !q.current().Phase.Final() && time.Since(began) < time.Hour; {
		time.Sleep(time.Second)
	}
	cancel()
	<-done
	return q.current().Migration
}

// queue is the store with one record.
type queue struct {
	mu     sync.Mutex
	rec    precopy.Stored
	target *pages.Host
}

func (q *queue) current() precopy.Stored {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.rec
}

func (q *queue) Watch(context.Context) <-chan precopy.Update {
	ch := make(chan precopy.Update, 1)
	ch <- precopy.Update{Reset: true, Records: []precopy.Stored{q.current()}}
	return ch
}

func (q *queue) Get(context.Context, string) (precopy.Stored, error) { return q.current(), nil }

func (q *queue) Begin(ctx context.Context, old precopy.Stored, m precopy.Migration) (precopy.Stored, error) {
	return q.Update(ctx, old, m)
}

func (q *queue) Update(_ context.Context, old precopy.Stored, m precopy.Migration) (precopy.Stored, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.rec.Revision != old.Revision {
		return old, precopy.ErrConflict
	}
	q.rec = precopy.Stored{Migration: m, Revision: old.Revision + 1}
	return q.rec, nil
}

func (q *queue) Progress(context.Context, precopy.Progress) error { return nil }

func (q *queue) Listing(context.Context, hypervisor.DomainID) (listing, others []string, err error) {
	return nil, nil, nil
}

func (q *queue) Ask(ctx context.Context, _ string, question precopy.Question) (precopy.Answer, error) {
	s, err := q.target.Sight(ctx, question.Domain)
	return precopy.Answer{Nonce: question.Nonce, Sighting: &s}, err
}

// brake slows a guest whose one vCPU is busy all the time.
type brake struct {
	host *pages.Host
	id   hypervisor.DomainID
}

func (b *brake) Set(share float64, use hypervisor.Cores, silence time.Duration) (float64, error) {
	if share < 1 {
		share = max(share, b.Least(use, silence))
	}
	return share, b.host.Slow(context.Background(), b.id, share)
}

func (b *brake) Busiest() (hypervisor.Cores, error) { return 1, nil }
func (b *brake) Least(use hypervisor.Cores, silence time.Duration) float64 {
	return throttle.Least(silence, use, 1)
}

func (b *brake) End() error {
	_ = b.host.Slow(context.Background(), b.id, 1) // the guest may have left
	return nil
}
