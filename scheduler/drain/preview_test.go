package drain

import (
	"fmt"
	"testing"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

// A preview finds other targets for what is refused, and names what nobody takes. It begins nothing.
func TestPreview(t *testing.T) {
	w := newWorld("h1:8 a:1 b:1 c:1", "h2:8", "h3:8")
	w.pin("c", true)
	refuse := hypervisor.Blocker{Code: hypervisor.BlockCPU, Detail: "lacks avx2"}
	var rounds []int
	got := Preview(Input{
		Run: fleet.StoredRun{Run: drainOf("h1")}, Fleet: w.snapshot(), Now: t0, Outgoing: 1, Incoming: 2, Foresee: w.foresee,
	}, func(questions []Question) [][]hypervisor.Blocker {
		rounds = append(rounds, len(questions))
		out := make([][]hypervisor.Blocker, len(questions))
		for i, q := range questions {
			if q.To == "h2" || q.Domain.Facts.Name == "b" {
				out[i] = []hypervisor.Blocker{refuse}
			}
		}
		return out
	})
	text := ""
	for _, m := range got.Moves {
		text += fmt.Sprintf("%s %s %s; ", m.VM, m.To, m.State)
	}
	if got.Moves[0].To != "h3" || got.Moves[0].State != fleet.MovePlanned || blockedNames(got) != "b cpu-incompatible, c pinned" {
		t.Errorf("moves %s blocked %q; want a to h3, b and c blocked", text, blockedNames(got))
	}
	if got.Outlook == nil || got.Outlook.Left != 1 {
		t.Errorf("outlook %+v, want one left", got.Outlook)
	}
	if len(rounds) > previewRounds || rounds[0] != 2 {
		t.Errorf("questions by round: %v", rounds)
	}
}

// BenchmarkStep is a step of a running drain, and its plan, in a fleet of 1,000 hosts and 20,000 VMs.
func BenchmarkStep(b *testing.B) {
	var specs []string
	for h := range 1000 {
		spec := fmt.Sprintf("h%d:128", h)
		for v := range 20 {
			spec += fmt.Sprintf(" vm%d-%d:%d", h, v, 1+v%4)
		}
		specs = append(specs, spec)
	}
	w := newWorld(specs...)
	w.request(drainOf("h1", "h2"))
	input := func() Input {
		return Input{Run: w.runs["r1"], Fleet: w.snapshot(), Now: w.now, Outgoing: 1, Incoming: 2, Foresee: w.foresee}
	}
	b.Run("plan", func(b *testing.B) {
		in := input()
		for b.Loop() {
			Step(in)
		}
	})
	for range 3 {
		w.step("r1", 1<<30)
	}
	b.Run("step", func(b *testing.B) {
		in := input()
		for b.Loop() {
			Step(in)
		}
	})
}
