package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
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
