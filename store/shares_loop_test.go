package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/fleet"
)

// term is a leader's loop on a store. It dies at its n-th write of a share or an order: before it, or after
// it was applied.
type term struct {
	*Store
	fence Fence
	dies  func() error
}

var errDead = errors.New("the leader is dead")

func (t term) Update(ctx context.Context, w scheduler.Write) (precopy.Stored, error) {
	if err := t.dies(); err != nil {
		return precopy.Stored{}, err
	}
	if w.Share != nil {
		return t.OrderWithShare(ctx, t.fence, w.Old, w.New, w.HostRevision, *w.Share)
	}
	return t.UpdateMigration(ctx, precopy.ActorLeader, &t.fence, w.Old, w.New)
}

func (t term) Share(ctx context.Context, writes []budget.Write) (int, int64, error) {
	var list []ShareWrite
	for _, w := range writes {
		list = append(list, ShareWrite(w))
	}
	if err := t.dies(); err != nil {
		// In the middle of it, with some of them written.
		_, _, _ = t.WriteShares(ctx, t.fence, list[:len(list)/2])
		return 0, 0, err
	}
	return t.WriteShares(ctx, t.fence, list)
}

func (t term) BindHost(ctx context.Context, name, machine string) error {
	return t.Store.BindHost(ctx, t.fence, name, machine)
}
func (t term) Retire(context.Context, precopy.Stored) error { return nil }
func (t term) Prune(context.Context) error                  { return nil }

// noRuns and noProfiles are a fleet without any.
type noRuns struct{}

func (noRuns) Update(context.Context, scheduler.RunWrite) error { return nil }
func (noRuns) ShutDown(context.Context, drain.ShutDown) error   { return nil }
func (noRuns) Start(context.Context, fleet.Run) error           { return nil }
func (noRuns) Cordon(context.Context, drain.Cordon) error       { return nil }
func (noRuns) Create(context.Context, precopy.Migration) error  { return nil }
func (noRuns) Remove(context.Context, fleet.StoredRun) error    { return nil }

type noProfiles struct{}

func (noProfiles) Profile(context.Context, hypervisor.DomainID) (forecast.Profile, error) {
	return forecast.Profile{}, nil
}
func (noProfiles) Learn(context.Context, scheduler.Lesson) error            { return nil }
func (noProfiles) Tend(context.Context, map[hypervisor.DomainID]bool) error { return nil }

// ready answers every question so that nothing stands against a move.
type ready struct{}

func (ready) Ask(_ context.Context, host string, q precopy.Question) (precopy.Answer, error) {
	a := precopy.Answer{Schema: precopy.Schema, Host: host, SampledAt: time.Now()}
	if q.Kind == precopy.AskInspect {
		a.Inspection = &hypervisor.Inspection{
			Facts: domainOf(q.Domain), Sighting: hypervisor.Sighting{Domain: q.Domain, State: hypervisor.StateRunning, Job: hypervisor.JobNone},
		}
	}
	return a, nil
}

func domainOf(id hypervisor.DomainID) hypervisor.DomainFacts {
	return hypervisor.DomainFacts{ID: id, Name: "vm-" + string(id), VCPUs: 1, Memory: hypervisor.GiB, Arch: "x86_64", VirtType: "kvm", Persistent: true}
}

// shareHost is an agent as far as shares go: what its libvirt has in force, by migration.
type shareHost struct {
	name    string
	mu      sync.Mutex
	inForce map[string]hypervisor.BytesPerSecond
	to      map[string]string
}

func (h *shareHost) run(ctx context.Context, s *Store, domains []hypervisor.DomainFacts, link hypervisor.BytesPerSecond) {
	session, err := s.Register(ctx, testSession(h.name, "machine-"+h.name, h.name), 10*time.Second)
	if err != nil {
		return
	}
	load := hypervisor.HostLoad{At: time.Now()}
	for _, d := range domains {
		load.Domains = append(load.Domains, hypervisor.DomainLoad{ID: d.ID, State: hypervisor.StateRunning})
	}
	_ = session.PublishFacts(ctx, hypervisor.HostFacts{
		Name: h.name, LibvirtUUID: "machine-" + h.name, ProtocolMin: 1, ProtocolMax: 1, Arch: "x86_64", VirtTypes: []string{"kvm"}, PeerURI: "qemu://" + h.name,
		Capacity: hypervisor.Capacity{Cores: 64, Memory: 256 * hypervisor.GiB, Bandwidth: link}, Domains: domains,
		LibvirtVersion: 11_003_000, QEMUVersion: 10_000_002, Capabilities: []string{"tls"},
	})
	_ = session.PublishLoad(ctx, load)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
				load.At = time.Now()
				_ = session.PublishLoad(ctx, load)
			}
		}
	}()
	go func() {
		for b := range s.WatchMigrations(ctx) {
			for _, m := range b.Records {
				if m.Source == h.name && m.Phase == precopy.Queued {
					go h.drive(ctx, s, session, m)
				}
			}
		}
	}()
}

// drive carries one order out: it takes up its share late, and ends after a while.
func (h *shareHost) drive(ctx context.Context, s *Store, session *AgentSession, m precopy.Stored) {
	set := func(to hypervisor.BytesPerSecond) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.inForce[m.ID], h.to[m.ID] = to, m.Target
	}
	for _, p := range []precopy.Phase{precopy.Claimed, precopy.Preparing, precopy.Copying} {
		next := m.Migration
		next.Phase = p
		stored, err := s.UpdateMigration(ctx, precopy.ActorSource, nil, m, next)
		if err != nil {
			return
		}
		m = stored
		if p == precopy.Preparing {
			set(m.Order.Share)
		}
	}
	serial := int64(1)
	for range 60 {
		time.Sleep(300 * time.Millisecond)
		share, err := s.GetShare(ctx, m.ID)
		if err == nil && share != nil && share.Serial != serial {
			time.Sleep(70 * time.Millisecond)
			set(share.Bandwidth)
			serial = share.Serial
		}
		h.mu.Lock()
		now := h.inForce[m.ID]
		h.mu.Unlock()
		_ = session.Progress(ctx, precopy.Progress{ID: m.ID, At: time.Now(), Serial: serial, Cap: now, Achieved: now, ETA: 5 * time.Second, Need: m.Order.Need})
	}
	set(0)
	for ctx.Err() == nil {
		now, err := s.GetMigration(ctx, m.ID)
		if err == nil {
			if _, err = s.UpdateMigration(ctx, precopy.ActorSource, nil, now, step(now, precopy.Done)); err == nil {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// The leader dies at every single write of orders and shares in turn, and another takes over. What agents have in
// force never exceeds a link, and everything ends.
func TestLeaderDiesAtEachShare(t *testing.T) {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	link := 100 * mib
	for _, every := range []int{1, 2, 3, 5} {
		t.Run(fmt.Sprintf("at each %d", every), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				ctx, cancel := context.WithCancel(t.Context())
				defer func() { cancel(); time.Sleep(30 * time.Second) }()
				hosts := map[string]*shareHost{}
				s, _ := w.client()
				var guests []hypervisor.DomainFacts
				for i := range 6 {
					guests = append(guests, domainOf(hypervisor.DomainID(fmt.Sprintf("d%d", i))))
				}
				for _, name := range []string{"h1", "h2", "h3"} {
					h := &shareHost{name: name, inForce: map[string]hypervisor.BytesPerSecond{}, to: map[string]string{}}
					hosts[name] = h
					own := guests
					if name != "h1" {
						own = nil
					}
					h.run(ctx, s, own, link)
				}
				must(t, putNetwork(ctx, s, 3, 3))
				for i, g := range guests {
					m := request(i+1, g.ID)
					m.Domain, m.Target = g.Name, []string{"h2", "h3"}[i%2]
					_, err := s.CreateMigration(ctx, m)
					must(t, err)
				}
				deaths := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					for ctx.Err() == nil {
						deaths += lead1(ctx, t, w, every)
					}
				}()
				most := hypervisor.BytesPerSecond(0)
				began := time.Now()
				for {
					time.Sleep(20 * time.Millisecond)
					used := map[string]hypervisor.BytesPerSecond{}
					for _, h := range hosts {
						h.mu.Lock()
						for id, n := range h.inForce {
							used[h.name+" out"] += n
							used[h.to[id]+" in"] += n
						}
						h.mu.Unlock()
					}
					for name, n := range used {
						if most = max(most, n); n > 90*mib {
							t.Fatalf("%s carries %s after %s", name, n, time.Since(began))
						}
					}
					over := 0
					all, err := s.ListMigrations(ctx)
					must(t, err)
					for _, m := range all {
						if m.Phase == precopy.Done {
							over++
						}
					}
					if over == len(guests) {
						break
					}
					if time.Since(began) > 20*time.Minute {
						t.Fatalf("%d of %d ended; %d leaders died", over, len(guests), deaths)
					}
				}
				if most < 60*mib {
					t.Errorf("no link ever carried more than %s of 90 MiB/s", most)
				}
				cancel()
				<-done
				if deaths == 0 {
					t.Error("no leader died")
				}
				t.Logf("%d leaders died, links carried %s at most, %s in all", deaths, most, time.Since(began).Round(time.Second))
			})
		})
	}
}

// lead1 leads until it dies, and returns whether it did.
func lead1(ctx context.Context, t *testing.T, w *world, every int) int {
	s, _ := w.client()
	l, err := s.Campaign(ctx, "leader", 5*time.Second)
	if err != nil {
		return 0
	}
	view, err := s.OpenView(ctx)
	if err != nil {
		return 0
	}
	defer view.Close()
	tctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	writes, dead := 0, false
	dies := func() error {
		mu.Lock()
		defer mu.Unlock()
		if writes++; writes >= every+1 { // the first is done, so that something gets on
			dead = true
			cancel()
			return errDead
		}
		return nil
	}
	_ = scheduler.NewLoop(scheduler.Config{
		Identity: "leader", Fence: l.Fence().Create, State: view, Orders: term{s, l.Fence(), dies},
		Runs: noRuns{}, Profiles: noProfiles{}, Asker: ready{}, Log: slog.New(slog.DiscardHandler),
	}).Run(tctx)
	rctx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	_ = l.Resign(rctx)
	if dead {
		return 1
	}
	return 0
}

// putNetwork makes a policy about the number of streams.
func putNetwork(ctx context.Context, s *Store, out, in int) error {
	_, err := Policy[map[string]any](s).Upsert(ctx, nil, PolicyID, func(m *map[string]any) error {
		*m = map[string]any{"schema": 1, "network": map[string]any{"limits": map[string]any{"streams_out": out, "streams_in": in}}}
		return nil
	})
	return err
}
