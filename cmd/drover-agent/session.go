package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
)

// leaseTTL is how long the host counts as alive without a word from its agent.
const leaseTTL = 15 * time.Second

// sessionHolder holds the living session, nil between two. Safe for concurrent use.
type sessionHolder struct {
	mu sync.Mutex
	s  *store.AgentSession
}

func (h *sessionHolder) get() *store.AgentSession {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.s
}

func (h *sessionHolder) set(s *store.AgentSession) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.s = s
}

// holdSession keeps a session in the store until ctx ends: it registers, answers questions while the
// lease lives, and registers again when it lapsed. Another machine under this host's name is an
// error that ends the agent.
func (a *agent) holdSession(ctx context.Context) error {
	pause := time.Second
	for ctx.Err() == nil {
		s, err := a.register(ctx)
		switch {
		case err == nil:
			pause = time.Second
			a.serveSession(ctx, s)
			continue
		case errors.Is(err, store.ErrNameTaken):
			return err
		case ctx.Err() == nil:
			a.log.Warn("not registered, trying again", "err", err, "in", pause)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
	return nil
}

func (a *agent) register(ctx context.Context) (*store.AgentSession, error) {
	facts, err := a.host.Facts(ctx)
	if err != nil {
		return nil, fmt.Errorf("libvirt: %w", err)
	}
	return a.store.Register(ctx, fleet.Session{
		Schema: precopy.Schema, Host: a.conf.Name, LibvirtUUID: facts.LibvirtUUID,
		Instance: a.instance, Version: facts.AgentVersion, Started: time.Now(),
	}, leaseTTL)
}

// serveSession answers questions until the lease or ctx ends. At a graceful end the lease is given
// back, so that everybody knows at once.
func (a *agent) serveSession(ctx context.Context, s *store.AgentSession) {
	a.sessions.set(s)
	a.reporter.Republish()
	a.log.Info("registered", "host", a.conf.Name)
	sctx, cancel := context.WithCancel(ctx)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if err := a.store.ServeAsks(sctx, a.conf.Name, s.Fence(), a.answer); err != nil && sctx.Err() == nil {
			a.log.Warn("questions are not answered", "err", err)
		}
	}()
	select {
	case <-ctx.Done():
	case <-s.Done():
		a.log.Warn("lease lost: nothing new starts; running migrations go on")
	}
	cancel()
	<-answered
	a.sessions.set(nil)
	cctx, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer done()
	if err := s.Close(cctx); err != nil && ctx.Err() != nil {
		a.log.Info("lease not given back, it runs out by itself", "err", err)
	}
}

var errNoSession = errors.New("no session with the store")

// PublishFacts implements hypervisor.Sink on whatever session lives.
func (a *agent) PublishFacts(ctx context.Context, f hypervisor.HostFacts) error {
	s := a.sessions.get()
	if s == nil {
		return errNoSession
	}
	return s.PublishFacts(ctx, f)
}

// PublishLoad implements hypervisor.Sink. A load that was taken before the session began would say less than
// the session vouches for: the session has asked for another one.
func (a *agent) PublishLoad(ctx context.Context, l hypervisor.HostLoad) error {
	s := a.sessions.get()
	if s == nil {
		return errNoSession
	}
	if l.At.Before(s.Began()) {
		return nil
	}
	return s.PublishLoad(ctx, l)
}
