package precopy

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var actors = []Actor{ActorCLI, ActorLeader, ActorSource}

// edges returns the phases that any actor may take a migration to, and who.
func edges(from Phase) map[Phase][]Actor {
	out := map[Phase][]Actor{}
	for _, to := range Phases() {
		for _, a := range actors {
			if from != to && CheckTransition(from, to, a) == nil {
				out[to] = append(out[to], a)
			}
		}
	}
	return out
}

func TestEveryPhaseIsReachedAndEnds(t *testing.T) {
	reached, queue := map[Phase]bool{Requested: true}, []Phase{Requested}
	for len(queue) > 0 {
		for to := range edges(queue[0]) {
			if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
		queue = queue[1:]
	}
	for _, p := range Phases() {
		if !reached[p] {
			t.Errorf("%s is never reached", p)
		}
		out := edges(p)
		if p.Final() && len(out) > 0 {
			t.Errorf("%s is final and may become %v", p, out)
		}
		if !p.Final() && !slices.ContainsFunc(Phases(), func(f Phase) bool { return f.Final() && len(out[f]) > 0 }) {
			t.Errorf("%s can't be ended", p)
		}
		for _, a := range actors {
			if err := CheckTransition(p, p, a); err != nil {
				t.Errorf("%s may not stay: %v", p, err)
			}
		}
	}
}

// TestWriters says who alone may do what.
func TestWriters(t *testing.T) {
	for _, from := range Phases() {
		for to, who := range edges(from) {
			switch {
			case to == Queued, to == Refused:
				if !slices.Equal(who, []Actor{ActorLeader}) {
					t.Errorf("%s to %s by %v, want the leader alone", from, to, who)
				}
			case to == Claimed, to == Preparing, to == Copying, to == Switching, to == Postcopy:
				if !slices.Equal(who, []Actor{ActorSource}) {
					t.Errorf("%s to %s by %v, want the source's agent alone", from, to, who)
				}
			}
			if from.Started() && from != Unknown && slices.Contains(who, ActorCLI) {
				t.Errorf("a person may take %s to %s: only what is unknown is resolved by hand", from, to)
			}
			if from.Started() && slices.Contains(who, ActorLeader) && to != Unknown {
				t.Errorf("the leader may take %s to %s: it can only know that it does not know", from, to)
			}
			if !from.Started() && to == Done {
				t.Errorf("%s becomes done without libvirt", from)
			}
		}
	}
}

func TestPhaseSets(t *testing.T) {
	for _, p := range Phases() {
		if p.Final() && (p.Started() || p.Holds()) {
			t.Errorf("%s is final and still started or holding", p)
		}
		if p.Started() && !p.Holds() {
			t.Errorf("%s is started and holds nothing", p)
		}
	}
	if err := CheckTransition("lost", Done, ActorSource); err == nil {
		t.Error("an unknown phase becomes done")
	}
}

// TestWalks takes random walks by random actors: once final, always the same.
func TestWalks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at, ended := Requested, Phase("")
		for range 30 {
			to := rapid.SampledFrom(Phases()).Draw(t, "to")
			if CheckTransition(at, to, rapid.SampledFrom(actors).Draw(t, "actor")) != nil {
				continue
			}
			if ended != "" && to != ended {
				t.Fatalf("%s after %s", to, ended)
			}
			if at = to; at.Final() {
				ended = at
			}
		}
	})
}
