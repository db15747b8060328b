package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"drover/cmd/internal/hooks"
	"drover/cmd/internal/serve"
	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
	"drover/store"
)

const (
	// leaderTTL is how long after a leader's death another one may take over.
	leaderTTL = 10 * time.Second
	// retryAfter is the pause after a term that ended by an error.
	retryAfter = time.Second
)

// terms stands for election for as long as the process runs, and leads while elected.
type terms struct {
	store    *store.Store
	identity string
	log      *slog.Logger
	metrics  *scheduler.Metrics
	hooks    *hooks.Dir // of this control host; they outlive a term

	mu    sync.Mutex
	since time.Time // of the present term; zero while another leads
	trial error     // why the last term ended, until the next try
	view  *store.View
}

// run returns nil when ctx ends; whatever ends a term before is retried.
func (t *terms) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := t.term(ctx)
		if ctx.Err() != nil {
			break
		}
		t.set(time.Time{}, nil, err)
		if errors.Is(err, precopy.ErrFenced) {
			t.log.Warn("another scheduler leads now")
			continue
		}
		t.log.Warn("not leading", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// term waits to be elected and leads until ctx ends or the leadership is lost.
func (t *terms) term(ctx context.Context) error {
	t.set(time.Time{}, nil, nil) // standing by
	leadership, err := t.store.Campaign(ctx, t.identity, leaderTTL)
	if err != nil {
		return err
	}
	defer t.resign(ctx, leadership)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view, err := t.store.OpenView(ctx)
	if err != nil {
		return err
	}
	defer view.Close()
	fence := leadership.Fence()
	t.set(time.Now(), view, nil)
	t.log.Info("leading", "identity", t.identity, "fence", fence.Create)
	watcher := make(chan struct{})
	defer func() { cancel(); <-watcher }()
	go func() {
		// The lease may lapse while a write hangs: nothing of this term may start after that.
		defer close(watcher)
		select {
		case <-leadership.Done():
		case <-ctx.Done():
		}
		cancel()
	}()
	err = scheduler.NewLoop(scheduler.Config{
		Identity: t.identity, Fence: fence.Create, State: settled{view}, Orders: orders{t.store, fence},
		Runs: runs{t.store, fence}, Plans: plans{t.store, fence}, Profiles: profiles{t.store, fence}, Asker: t.store, Hooks: t.hooks, Log: t.log, Metrics: t.metrics,
	}).Run(ctx)
	select {
	case <-leadership.Done():
		return precopy.ErrFenced
	default:
		return err
	}
}

// resign gives the leadership up at once, so that the next leader need not wait for the lease.
func (t *terms) resign(ctx context.Context, l *store.Leadership) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := l.Resign(ctx); err != nil {
		t.log.Debug("leadership not resigned, its lease will lapse", "err", err)
	}
}

func (t *terms) set(since time.Time, view *store.View, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since, t.view, t.trial = since, view, err
}

// ready says whether this scheduler does its part: it leads with a fresh picture, or stands by with
// the store in reach.
func (t *terms) ready() error {
	t.mu.Lock()
	view, trial := t.view, t.trial
	t.mu.Unlock()
	switch {
	case trial != nil:
		return trial
	case view != nil && view.Stale():
		return fmt.Errorf("the store has been silent for %s", view.Age().Round(time.Second))
	case view != nil:
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := t.store.Leader(ctx)
	return err
}

// page is what the status page shows.
func (t *terms) page() serve.Page {
	t.mu.Lock()
	since, view, trial := t.since, t.view, t.trial
	t.mu.Unlock()
	p := serve.Page{Title: "drover scheduler " + t.identity, Rows: []serve.Row{{Name: "version", Value: version()}}}
	switch {
	case trial != nil:
		p.Rows = append(p.Rows, serve.Row{Name: "role", Value: "not leading: " + trial.Error()})
	case since.IsZero():
		p.Rows = append(p.Rows, serve.Row{Name: "role", Value: "standing by"})
	default:
		p.Rows = append(p.Rows, serve.Row{Name: "role", Value: "leading since " + since.UTC().Format(time.RFC3339)})
	}
	if view != nil {
		p.Rows = append(p.Rows, fleetRows(view.Snapshot())...)
	}
	return p
}

func fleetRows(s *fleet.Snapshot) []serve.Row {
	if s == nil {
		return nil
	}
	x := indexOf(s)
	var rows []serve.Row
	for _, name := range s.HostNames() {
		v, figures := viewHost(x, s.Hosts[name]), ""
		if v.VMs != nil {
			figures = fmt.Sprintf("%s, CPU %s, memory %s", plural(*v.VMs, "VM"), cpuOf(v.CPU, v.Capacity.Cores), memoryOf(v.Memory, v.Capacity.Memory))
		}
		rows = append(rows, serve.Row{Name: name, Value: joinNotes(v.State, v.Note, figures)})
	}
	for _, m := range x.unfinished {
		rows = append(rows, serve.Row{Name: "migration of " + m.Domain, Value: fmt.Sprintf("%s -> %s, %s: %s", m.Source, m.Target, m.Phase, m.Reason)})
	}
	return rows
}

// settled is the view with moves that are done counted before the next reports say so.
type settled struct{ *store.View }

// Snapshot implements scheduler.State.
func (v settled) Snapshot() *fleet.Snapshot { return fleet.Settle(v.View.Snapshot()) }

// orders writes as the leader: every write carries the term's fence.
type orders struct {
	store *store.Store
	fence store.Fence
}

// Update implements scheduler.Orders.
func (o orders) Update(ctx context.Context, w scheduler.Write) (precopy.Stored, error) {
	if w.Share != nil {
		return o.store.OrderWithShare(ctx, o.fence, w.Old, w.New, w.HostRevision, *w.Share)
	}
	if w.Host != "" {
		return o.store.OrderMigration(ctx, o.fence, w.Old, w.New, w.HostRevision)
	}
	return o.store.UpdateMigration(ctx, precopy.ActorLeader, &o.fence, w.Old, w.New)
}

// Share implements scheduler.Orders.
func (o orders) Share(ctx context.Context, writes []budget.Write) (int, int64, error) {
	list := make([]store.ShareWrite, len(writes))
	for i, w := range writes {
		list[i] = store.ShareWrite(w)
	}
	return o.store.WriteShares(ctx, o.fence, list)
}

// BindHost implements scheduler.Orders.
func (o orders) BindHost(ctx context.Context, name, libvirtUUID string) error {
	return o.store.BindHost(ctx, o.fence, name, libvirtUUID)
}

// Retire implements scheduler.Orders.
func (o orders) Retire(ctx context.Context, m precopy.Stored) error {
	return o.store.Retire(ctx, o.fence, m)
}

// Prune implements scheduler.Orders.
func (o orders) Prune(ctx context.Context) error {
	return o.store.Prune(ctx, o.fence, store.DefaultRetention())
}

// runs carries runs on as the leader.
type runs struct {
	store *store.Store
	fence store.Fence
}

// Update implements scheduler.Runs.
func (r runs) Update(ctx context.Context, w scheduler.RunWrite) error {
	_, err := r.store.Runs().Replace(ctx, &r.fence, w.Old.ID, w.Old.Revision, w.New)
	if err == nil && (w.New.Phase.Final() || w.New.Phase == fleet.RunStopped && w.Old.Phase != fleet.RunStopped) {
		err = r.store.Record(ctx, store.Event{
			Actor: "leader", Kind: "run-" + string(w.New.Phase), Subject: w.New.ID, Text: joinNotes(string(w.New.Kind)+" "+strings.Join(w.New.Hosts, " "), w.New.Reason),
		})
	}
	return err
}

// Cordon implements scheduler.Runs.
func (r runs) Cordon(ctx context.Context, c drain.Cordon) error {
	_, err := r.store.UpdateHost(ctx, &r.fence, c.Host, func(h *fleet.HostRecord) error {
		i := slices.IndexFunc(h.Cordons, func(o fleet.Cordon) bool { return o.Holder == c.Cordon.Holder })
		switch {
		case c.Off == (i < 0):
			return precopy.ErrConflict // done already
		case c.Off:
			h.Cordons = slices.Delete(h.Cordons, i, i+1)
		default:
			h.Cordons = append(h.Cordons, c.Cordon)
		}
		return nil
	})
	return err
}

// Create implements scheduler.Runs.
func (r runs) Create(ctx context.Context, m precopy.Migration) error {
	_, err := r.store.CreateMigration(ctx, m, r.fence)
	if errors.Is(err, store.ErrActive) {
		return fmt.Errorf("%w: %w", precopy.ErrConflict, err)
	}
	return err
}

// ShutDown implements scheduler.Runs. The audit comes first: no guest is shut down silently.
func (r runs) ShutDown(ctx context.Context, s drain.ShutDown) error {
	err := r.store.Record(ctx, store.Event{
		Actor: "leader", Kind: "vm-shut-down", Subject: string(s.UUID), Text: fmt.Sprintf("the guest of %s on %s is asked to shut down, by run %s", s.VM, s.Host, s.Run),
	})
	if err != nil {
		return err
	}
	a, err := r.store.Ask(ctx, s.Host, precopy.Question{Kind: precopy.AskShutDown, Domain: s.UUID})
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return fmt.Errorf("shut down %s: %w", s.VM, err)
	}
	return nil
}

// Start implements scheduler.Runs.
func (r runs) Start(ctx context.Context, run fleet.Run) error {
	_, err := r.store.Runs().Replace(ctx, &r.fence, run.ID, 0, run)
	return err
}

// Remove implements scheduler.Runs.
func (r runs) Remove(ctx context.Context, run fleet.StoredRun) error {
	return r.store.Runs().Remove(ctx, &r.fence, run.ID, run.Revision)
}

// profiles learns as the leader.
type profiles struct {
	store *store.Store
	fence store.Fence
}

// Profile implements scheduler.Profiles.
func (p profiles) Profile(ctx context.Context, id hypervisor.DomainID) (forecast.Profile, error) {
	return p.store.Profile(ctx, id)
}

// Learn implements scheduler.Profiles.
func (p profiles) Learn(ctx context.Context, l scheduler.Lesson) error {
	_, err := p.store.Learn(ctx, p.fence, l.Domain, l.Receipts)
	return err
}

// Tend implements scheduler.Profiles.
func (p profiles) Tend(ctx context.Context, reported map[hypervisor.DomainID]bool) error {
	return p.store.TendProfiles(ctx, p.fence, reported)
}
