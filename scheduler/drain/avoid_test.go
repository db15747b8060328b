package drain

import (
	"testing"

	"drover/scheduler/fleet"
)

// Hosts to be avoided take VMs only if no others can, and the last of them sooner than the first.
func TestAvoid(t *testing.T) {
	tests := []struct {
		name  string
		hosts []string
		avoid []string
		want  map[string]string
	}{
		{"others can", []string{"h1:8 a:2 b:2", "h2:32", "h3:8"}, []string{"h2"}, map[string]string{"h2": "", "h3": "a b"}},
		{"one fits on none of the others", []string{"h1:8 a:2 b:6", "h2:32", "h3:4", "h4:32"}, []string{"h2", "h4"}, map[string]string{"h2": ""}},
		{"nor on the last", []string{"h1:8 a:6", "h2:32", "h3:4", "h4:4"}, []string{"h2", "h4"}, map[string]string{"h2": "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, r := newWorld(tt.hosts...), drainOf("h1")
			r.Avoid = tt.avoid
			w.request(r)
			if got := w.play(t, "r1"); got.Phase != fleet.RunDone {
				t.Fatalf("%s (%s)", got.Phase, got.Reason)
			}
			for h, want := range tt.want {
				if got := w.names(h); got != want {
					t.Errorf("on %s: %q, want %q", h, got, want)
				}
			}
		})
	}
}

// A drain that is to leave headroom begins only if it would be left.
func TestHeadroom(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts []string
		phase fleet.RunPhase
	}{
		{"there is some", []string{"h1:8 a:2", "h2:8 b:2", "h3:8 c:2"}, fleet.RunDone},
		{"there is none", []string{"h1:8 a:4", "h2:8 b:4", "h3:8 c:4"}, fleet.RunRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, r := newWorld(tt.hosts...), drainOf("h1")
			r.Headroom = 1
			w.request(r)
			got := w.play(t, "r1")
			if got.Phase != tt.phase || tt.phase == fleet.RunRefused && blockedNames(got) != "a headroom" {
				t.Errorf("%s (%s), blocked: %s; want %s", got.Phase, got.Reason, blockedNames(got), tt.phase)
			}
			r.ID, r.Headroom = "r2", 0
			w.request(r)
			if got := w.play(t, "r2"); got.Phase != fleet.RunDone {
				t.Errorf("without headroom: %s (%s)", got.Phase, got.Reason)
			}
		})
	}
}
