package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store/memstore"
)

// serve runs ServeAsks for a session and returns what it ended with.
func serve(ctx context.Context, s *Store, a *AgentSession, h func(context.Context, precopy.Question) precopy.Answer) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.ServeAsks(ctx, a.Host(), a.Fence(), h) }()
	return done
}

func sight(_ context.Context, q precopy.Question) precopy.Answer {
	return precopy.Answer{SampledAt: time.Now(), Sighting: &hypervisor.Sighting{Domain: q.Domain, State: hypervisor.StateRunning}}
}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asker, _ := w.client()
		agent, _ := w.client()
		q := precopy.Question{Kind: precopy.AskSight, Domain: "d1"}
		if _, err := asker.Ask(t.Context(), "h1", q); !errors.Is(err, ErrNoAgent) || !errors.Is(err, precopy.ErrNotAsked) {
			t.Errorf("ask without an agent: %v, want ErrNoAgent", err)
		}
		a := register(t, agent, "h1", "machine-1", "i1")
		ctx, cancel := context.WithCancel(t.Context())
		done := serve(ctx, agent, a, sight)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				domain := hypervisor.DomainID(fmt.Sprintf("d%d", i))
				got, err := asker.Ask(t.Context(), "h1", precopy.Question{Kind: precopy.AskSight, Domain: domain})
				if err != nil {
					t.Error(err)
					return
				}
				if got.Sighting == nil || got.Sighting.Domain != domain || got.Host != "h1" {
					t.Errorf("answer to %s: %+v", domain, got)
				}
			})
		}
		wg.Wait()
		must(t, asker.Close())
		left, _, err := agent.kv.List(t.Context(), live)
		must(t, err)
		for _, e := range left {
			if e.Key != reportKey("h1", partSession) && e.Key != a.Fence().Key {
				t.Errorf("left behind: %s", e.Key)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ServeAsks ended with %v", err)
		}
		must(t, a.Close(t.Context()))
	})
}

// TestAskAgentDies: whoever waits for an agent that is no more does not wait to the end.
func TestAskAgentDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asker, _ := w.client()
		agent, _ := w.client()
		a := register(t, agent, "h1", "machine-1", "i1")
		go func() {
			time.Sleep(10 * time.Second)
			_ = a.Close(context.Background())
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := asker.Ask(ctx, "h1", precopy.Question{})
		if took := time.Since(start); !errors.Is(err, ErrNoAgent) || took > 15*time.Second {
			t.Errorf("got %v after %s, want ErrNoAgent soon after 10 s", err, took)
		}
	})
}

func TestAskTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asker, _ := w.client()
		agent, c := w.client()
		a := register(t, agent, "h1", "machine-1", "i1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := asker.Ask(ctx, "h1", precopy.Question{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		left, _, err := c.List(t.Context(), asksPrefix)
		must(t, err)
		if len(left) != 0 {
			t.Errorf("the question is left behind: %v", left)
		}
		must(t, a.Close(t.Context()))
	})
}

// TestAnswerWaitsForTheStore cuts the answering agent off from the store while it looks: its answer is delivered
// once that is back, and nobody has to ask again.
func TestAnswerWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asker, _ := w.client()
		agent, c := w.client()
		a := register(t, agent, "h1", "machine-1", "i1")
		ctx, cancel := context.WithCancel(t.Context())
		done := serve(ctx, agent, a, func(ctx context.Context, q precopy.Question) precopy.Answer {
			c.Partition(true)
			time.AfterFunc(5*time.Second, func() { c.Partition(false) })
			return sight(ctx, q)
		})
		asking, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		start := time.Now()
		got, err := asker.Ask(asking, "h1", precopy.Question{Kind: precopy.AskSight, Domain: "d1"})
		if took := time.Since(start); err != nil || got.Sighting == nil || took > 7*time.Second {
			t.Errorf("%+v, %v after %s; want the answer soon after 5 s", got, err, took)
		}
		cancel()
		<-done
		must(t, a.Close(t.Context()))
	})
}

// TestAskLostAnswers loses answers of the store on both sides: every question is answered all the same,
// and rightly.
func TestAskLostAnswers(t *testing.T) {
	faults := []memstore.Fault{0, memstore.LostAnswer, memstore.LostRequest, memstore.LateRequest}
	for _, f := range faults {
		for _, g := range faults {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				asker, ac := w.client()
				agent, gc := w.client()
				a := register(t, agent, "h1", "machine-1", "i1")
				ctx, cancel := context.WithCancel(t.Context())
				done := serve(ctx, agent, a, sight)
				ac.FailTxns(f)
				gc.FailTxns(g)
				got, err := asker.Ask(t.Context(), "h1", precopy.Question{Domain: "d1"})
				if err != nil || got.Sighting == nil || got.Sighting.Domain != "d1" {
					t.Errorf("faults %d and %d: %+v, %v", f, g, got, err)
				}
				cancel()
				<-done
				must(t, a.Close(t.Context()))
			})
		}
	}
}

// TestServeAsksFenced: a superseded agent answers nothing and stops.
func TestServeAsksFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asker, _ := w.client()
		agent, _ := w.client()
		old := register(t, agent, "h1", "machine-1", "i1")
		release := make(chan struct{})
		oldDone := serve(t.Context(), agent, old, func(ctx context.Context, q precopy.Question) precopy.Answer {
			<-release
			return precopy.Answer{Error: "from the old agent"}
		})
		answer := make(chan precopy.Answer)
		go func() {
			got, err := asker.Ask(t.Context(), "h1", precopy.Question{Domain: "d1"})
			if err != nil {
				t.Error(err)
			}
			answer <- got
		}()
		synctest.Wait()
		next := register(t, agent, "h1", "machine-1", "i2")
		close(release)
		if err := <-oldDone; !errors.Is(err, ErrFenced) {
			t.Errorf("old ServeAsks ended with %v, want ErrFenced", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := serve(ctx, agent, next, sight)
		if got := <-answer; got.Error != "" || got.Sighting == nil {
			t.Errorf("got %+v, want the new agent's answer", got)
		}
		cancel()
		<-done
		must(t, old.Close(t.Context()))
		must(t, next.Close(t.Context()))
	})
}
