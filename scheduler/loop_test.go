package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler/feasible"
)

// What a leader remembers of hosts: since when they are away and down, and no answer from before.
func TestRememberAbsences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLoop(Config{})
		s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB), host("h3", 8*hypervisor.GiB))
		for _, h := range s.Hosts {
			h.LoadSeen = time.Time{}
		}
		add(s, "m1", "a", "h1", "", precopy.Requested)
		add(s, "m2", "z", "h9", "h1", precopy.Copying)
		for _, target := range []string{"h2", "h3"} {
			l.memory.Preflights[Key{"m1", target}] = Result{At: time.Now()}
		}
		s.Hosts["h2"].Session = nil
		s.Hosts["h3"].Load.Problem = "libvirt away"
		began := time.Now()
		l.remember(s)
		time.Sleep(time.Minute)
		got := l.remember(s)
		want := Memory{
			Preflights: map[Key]Result{},
			AwaySince:  map[string]time.Time{"h2": began, "h9": began},
			DownSince:  map[string]time.Time{"h2": began, "h3": began, "h9": began},
			Clocks:     map[string]time.Duration{},
			Learned:    map[string]bool{},
			Profiles:   map[hypervisor.DomainID]forecast.Profile{},
			Hooks:      map[string]*precopy.HookResult{},
		}
		got.Traffic, got.Streams = nil, nil // the loop's own
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("memory (-want +got):\n%s", diff)
		}
		s.Hosts["h3"].Load.Problem = ""
		if _, still := l.remember(s).DownSince["h3"]; still {
			t.Error("h3 is up again, and still remembered as down")
		}
	})
}

// mute is an agent that does not answer while it is on.
type mute struct{ on bool }

func (m *mute) Ask(ctx context.Context, _ string, q precopy.Question) (precopy.Answer, error) {
	if m.on {
		<-ctx.Done()
		return precopy.Answer{}, ctx.Err()
	}
	return precopy.Answer{Inspection: &hypervisor.Inspection{}}, nil
}

type noProfiles struct{ Profiles }

func (noProfiles) Profile(context.Context, hypervisor.DomainID) (forecast.Profile, error) {
	return forecast.Profile{}, nil
}

// How long a host has not answered counts from the first question on, and ends with an answer.
func TestSilenceCountsFromTheFirstQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agents := &mute{on: true}
		l := NewLoop(Config{Asker: agents, Profiles: noProfiles{}, Log: slog.New(slog.DiscardHandler)})
		s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB))
		key := Key{"m1", "h2"}
		dom, _ := domain(s.Hosts["h1"], s.Hosts["h1"].Facts.Domains[0].ID)
		ask := func() Result {
			var asks sync.WaitGroup
			l.ask(t.Context(), &asks, Ask{Key: key, Request: feasible.Request{Domain: dom}})
			asks.Wait()
			return l.memory.Preflights[key]
		}
		began := time.Now()
		for range 3 {
			if r := ask(); r.Silent != "h1" || !r.Since.Equal(began) || len(r.Blockers) != 1 {
				t.Errorf("%+v after %s, want h1 silent since the beginning", r, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		agents.on = false
		if r := ask(); r.Silent != "" || !r.Since.IsZero() {
			t.Errorf("%+v, want nobody silent any more", r)
		}
		agents.on = true
		again := time.Now()
		if r := ask(); !r.Since.Equal(again) {
			t.Errorf("silent since %s, want since %s", r.Since, again)
		}
	})
}
