package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/precopy/model"
	"drover/scheduler/fleet"
	"drover/store"
)

// fakeFleet is hosts without libvirt: agents on the real store, whose domains are entries of a table
// and whose migrations follow the script that the domain's name stands for:
//
//	web…    done within a fraction of a second
//	slow…   copies until it is cancelled
//	late…   copies until it is cancelled, and is done all the same
//	halt…   copies until it is cancelled, and the guest stops at that moment
//	bad…    fails in mid-copy
//	hot…    rewrites its memory too fast, and is given up
//	stuck…  the agent's target refuses it in preflight
//	hung…   its QEMU does not answer
//	gpu…    has a device of its host
//	big…    has 24 GiB, of the 31 GiB that a host has to give
//	fill…   has 12 GiB
type fakeFleet struct {
	mu      sync.Mutex
	domains map[string][]hypervisor.DomainFacts // by host
	cpu     map[string]hypervisor.Cores         // by domain's name; half a core for those not in it
	every   time.Duration                       // a report; 300 ms if not set
}

// load is what a domain uses, of the CPU.
func (f *fakeFleet) load(name string) hypervisor.Cores {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cpu, ok := f.cpu[name]; ok {
		return cpu
	}
	return 0.5
}

// fakeAgent is one host's agent.
type fakeAgent struct {
	fleet   *fakeFleet
	name    string
	store   *store.Store
	session *store.AgentSession
	wg      sync.WaitGroup
	mine    map[string]bool // migrations taken up
}

func (f *fakeFleet) on(host string) []hypervisor.DomainFacts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]hypervisor.DomainFacts{}, f.domains[host]...)
}

func (f *fakeFleet) move(m precopy.Migration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var stay []hypervisor.DomainFacts
	for _, d := range f.domains[m.Source] {
		if d.ID == m.UUID {
			f.domains[m.Target] = append(f.domains[m.Target], d)
		} else {
			stay = append(stay, d)
		}
	}
	f.domains[m.Source] = stay
}

// off is the guest shutting down: its host reports it no more.
func (f *fakeFleet) off(host string, id hypervisor.DomainID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.domains[host] = slices.DeleteFunc(f.domains[host], func(d hypervisor.DomainFacts) bool { return d.ID == id })
}

func startFakeAgent(ctx context.Context, f *fakeFleet, s *store.Store, name string) (*fakeAgent, error) {
	session, err := s.Register(ctx, fleet.Session{
		Host: name, LibvirtUUID: "libvirt-" + name, Instance: name, Version: "test", Started: time.Now(),
	}, 5*time.Second)
	if err != nil {
		return nil, err
	}
	a := &fakeAgent{fleet: f, name: name, store: s, session: session, mine: map[string]bool{}}
	if err := a.publish(ctx); err != nil {
		return nil, err
	}
	a.wg.Go(func() { _ = s.ServeAsks(ctx, name, session.Fence(), a.answer) })
	a.wg.Go(func() { a.report(ctx) })
	a.wg.Go(func() { a.work(ctx) })
	return a, nil
}

// stop ends the agent as a graceful stop does; its context must have ended.
func (a *fakeAgent) stop() {
	a.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = a.session.Close(ctx)
}

func (a *fakeAgent) publish(ctx context.Context) error {
	domains := a.fleet.on(a.name)
	load := hypervisor.HostLoad{At: time.Now(), CPU: hypervisor.Cores(len(domains)), Memory: 4 * hypervisor.GiB}
	for _, d := range domains {
		problem := ""
		if strings.HasPrefix(d.Name, "hung") {
			problem = "it does not answer"
		}
		load.Domains = append(load.Domains, hypervisor.DomainLoad{
			Problem: problem,
			ID:      d.ID, State: hypervisor.StateRunning, CPU: a.fleet.load(d.Name), Memory: d.Memory, Rx: 1 << 20, Tx: 1 << 20,
			Dirty: &hypervisor.DirtySample{Rate: 2 << 20, Window: time.Second, At: load.At},
		})
	}
	return errors.Join(a.session.PublishFacts(ctx, hypervisor.HostFacts{
		Name: a.name, LibvirtUUID: "libvirt-" + a.name, AgentVersion: "test", ProtocolMin: 1, ProtocolMax: 1,
		LibvirtVersion: 11_003_000, QEMUVersion: 10_000_002, Arch: "x86_64", CPUModel: "EPYC",
		Capacity: hypervisor.Capacity{
			Cores: 8, Memory: 32 * hypervisor.GiB, Reserved: hypervisor.GiB, Bandwidth: 1_250_000_000,
		},
		PeerURI: "qemu+tls://" + a.name + "/system", Domains: domains,
	}), a.session.PublishLoad(ctx, load))
}

func (a *fakeAgent) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(cmp.Or(a.fleet.every, 300*time.Millisecond)):
			_ = a.publish(ctx) // the store may be away; the next report follows
		}
	}
}

func (a *fakeAgent) answer(_ context.Context, q precopy.Question) precopy.Answer {
	out := precopy.Answer{Schema: precopy.Schema, Nonce: q.Nonce, Host: a.name, SampledAt: time.Now()}
	switch q.Kind {
	case precopy.AskInspect:
		for _, d := range a.fleet.on(a.name) {
			if d.ID == q.Domain {
				out.Inspection = &hypervisor.Inspection{Facts: d, Sighting: hypervisor.Sighting{
					Domain: d.ID, State: hypervisor.StateRunning, Job: hypervisor.JobNone,
				}}
			}
		}
	case precopy.AskShutDown:
		a.fleet.off(a.name, q.Domain)
	case precopy.AskHook:
		// Any hook called "…-ok" is there, and does nothing.
		out.Hook = &precopy.HookResult{Seconds: 0.1}
		if !strings.HasSuffix(q.Hook.Name, "-ok") {
			out.Hook = &precopy.HookResult{Exit: -1, Error: "not an allowed hook: there is no " + q.Hook.Name}
		}
	case precopy.AskPeerCheck:
		out.PeerReport = a.peerReport(q.Peers)
	case precopy.AskCheckTarget:
		if strings.HasPrefix(q.Target.Inspection.Facts.Name, "stuck") {
			out.Blockers = []hypervisor.Blocker{{
				Code: hypervisor.BlockCPU, Detail: a.name + " lacks avx512f", Remedy: "give the VM a common CPU model",
			}}
		}
	}
	return out
}

// peerReport finds that streams to a host called "walled…" do not get through.
func (a *fakeAgent) peerReport(peers []hypervisor.Peer) *hypervisor.PeerReport {
	r := &hypervisor.PeerReport{Clock: time.Now(), Ports: [2]int{49152, 49215}}
	for _, p := range peers {
		f := hypervisor.Finding{Host: a.name, Peer: p.Host, Check: hypervisor.CheckStream, Level: hypervisor.CheckOK, Detail: "open"}
		if strings.HasPrefix(p.Host, "walled") {
			f.Level, f.Detail = hypervisor.CheckStop, "no answer"
		}
		r.Findings = append(r.Findings, f)
	}
	return r
}

func (a *fakeAgent) work(ctx context.Context) {
	for batch := range a.store.WatchMigrations(ctx) {
		for _, m := range batch.Records {
			if m.Source == a.name && m.Phase == precopy.Queued && !a.mine[m.ID] {
				a.mine[m.ID] = true
				a.wg.Go(func() { a.drive(ctx, m) })
			}
		}
	}
}

// step writes a change of the record, on top of what others wrote.
func (a *fakeAgent) step(ctx context.Context, m precopy.Stored, change func(*precopy.Migration)) (precopy.Stored, bool) {
	for ctx.Err() == nil {
		next := m.Migration
		change(&next)
		stored, err := a.store.UpdateMigration(ctx, precopy.ActorSource, nil, m, next)
		if err == nil {
			return stored, true
		}
		time.Sleep(50 * time.Millisecond)
		if again, err := a.store.GetMigration(ctx, m.ID); err == nil {
			m = again
		}
		if m.Phase.Final() {
			return m, false
		}
	}
	return m, false
}

func (a *fakeAgent) drive(ctx context.Context, m precopy.Stored) {
	now := time.Now()
	for _, phase := range []precopy.Phase{precopy.Claimed, precopy.Preparing, precopy.Copying} {
		var ok bool
		if m, ok = a.step(ctx, m, func(m *precopy.Migration) { m.Phase, m.Started, m.Reason = phase, &now, "" }); !ok {
			return
		}
	}
	kind, _, _ := strings.Cut(m.Domain, "-")
	for i := 1; ctx.Err() == nil; i++ {
		_ = a.session.Progress(ctx, precopy.Progress{
			ID: m.ID, At: time.Now(), Elapsed: time.Since(now), Total: 512 * hypervisor.MiB,
			Processed: hypervisor.Bytes(i) * 64 * hypervisor.MiB, Remaining: hypervisor.Bytes(max(8-i, 1)) * 64 * hypervisor.MiB,
			Rate: 64 << 20, DirtyRate: 2 << 20, Round: 1 + i/4, ETA: time.Second, Why: "sending the guest's memory",
		})
		time.Sleep(100 * time.Millisecond)
		if again, err := a.store.GetMigration(ctx, m.ID); err == nil {
			m = again
		}
		switch {
		case kind == "bad" && i > 3:
			a.end(ctx, m, precopy.Failed, "target-failed", "QEMU on the target ended")
			return
		case kind == "hot" && i > 3:
			a.end(ctx, m, precopy.Aborted, "not-converging", "the guest rewrites memory faster than it can be sent")
			return
		case kind == "halt" && m.Cancel != nil:
			a.end(ctx, m, precopy.Failed, "guest-stopped", "the guest stopped during the copy")
			return
		case kind == "slow" && m.Cancel != nil:
			a.end(ctx, m, precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By)
			return
		case kind == "web" && i > 18, // longer than from one line of progress to the next
			kind == "late" && m.Cancel != nil && i > 5:
			a.end(ctx, m, precopy.Done, "", "")
			return
		}
	}
}

func (a *fakeAgent) end(ctx context.Context, m precopy.Stored, phase precopy.Phase, code, reason string) {
	if phase == precopy.Done {
		a.fleet.move(m.Migration)
	}
	a.step(ctx, m, func(m *precopy.Migration) {
		now := time.Now().UTC()
		m.Phase, m.ReasonCode, m.Reason, m.Finished = phase, code, reason, &now
		if phase == precopy.Done {
			m.Outcome = &precopy.Outcome{
				Seconds: 1.5, Bytes: 600 * hypervisor.MiB, PauseMS: 42, PauseKnown: true, Rounds: 3, Strategy: "plain",
			}
		} else {
			m.Outcome = &precopy.Outcome{Seconds: 1, Rounds: 9, Strategy: "plain"}
		}
		m.Outcome.Receipt = a.receipt(*m, now)
	})
}

// receipt is what the script of the domain's name has it show.
func (a *fakeAgent) receipt(m precopy.Migration, now time.Time) *forecast.Receipt {
	r := forecast.Receipt{
		At: now, Strategy: "plain", Memory: 512 * hypervisor.MiB, FirstPass: 400 * hypervisor.MiB, Ratio: 1,
		Bandwidth: m.Order.Bandwidth, Achieved: m.Order.Bandwidth, Growth: model.Growth{Set: 64 * hypervisor.MiB, Rate: 2 << 20},
		Seconds: m.Outcome.Seconds, Bytes: m.Outcome.Bytes, PauseMS: m.Outcome.PauseMS, Rounds: m.Outcome.Rounds,
	}
	if strings.HasPrefix(m.Domain, "hot") {
		r.Growth = model.Growth{Set: 400 * hypervisor.MiB, Rate: 10 << 30}
	}
	return &r
}

// fakeID makes the same UUID for a domain each time.
func fakeID(n int) hypervisor.DomainID {
	return hypervisor.DomainID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}
