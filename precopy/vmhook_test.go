package precopy

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// hooked is a host's hooks: what is called, and what becomes of it.
type hooked struct {
	mu     sync.Mutex
	calls  []HookCall
	takes  time.Duration
	result HookResult
}

// Run implements HookRunner as the agent's hooks do: no call outlives its time limit and grace.
func (h *hooked) Run(ctx context.Context, c HookCall) HookResult {
	h.mu.Lock()
	h.calls = append(h.calls, c)
	h.mu.Unlock()
	r := h.result
	if h.takes > c.Timeout {
		r = HookResult{Exit: -1, TimedOut: true, Error: "it took longer than it may"}
	}
	took := min(h.takes, c.Timeout+c.Grace)
	r.Seconds = took.Seconds()
	select {
	case <-ctx.Done():
		return HookResult{Exit: -1, Lost: true, Error: "not waited for"}
	case <-time.After(took):
	}
	return r
}

func (h *hooked) outcomes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, c := range h.calls {
		out = append(out, c.Env["DROVER_WHEN"]+" "+c.Env["DROVER_OUTCOME"])
	}
	return slices.Compact(out)
}

func TestVMHooks(t *testing.T) {
	tests := []struct {
		name     string
		takes    time.Duration
		exit     int
		required bool
		cancel   time.Duration
		phase    Phase
		code     string
		src, dst []string
		before   int // exit status in the record
	}{
		{"both run", time.Second, 0, false, 0, Done, "", []string{"before "}, []string{"after done"}, 0},
		{"the first fails, and it goes on", time.Second, 3, false, 0, Done, "", []string{"before "}, []string{"after done"}, 3},
		{"the first fails, and it may not go on", time.Second, 3, true, 0, Failed, "hook-failed", []string{"before ", "after failed"}, nil, 3},
		{"the first hangs", time.Hour, 0, false, 0, Done, "", []string{"before "}, []string{"after done"}, -1},
		{"cancelled meanwhile", 8 * time.Second, 0, false, 2 * time.Second, Aborted, "cancelled", []string{"before ", "after aborted"}, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := DefaultPolicy()
			p.BudgetSeconds, p.BeforeHook, p.AfterHook, p.HookSeconds, p.HookRequired = 600, "lb-out", "lb-in", 10, tt.required
			inWorld(t, setting{policy: &p}, func(w *world) {
				src := &hooked{takes: tt.takes, result: HookResult{Exit: tt.exit}}
				dst := &hooked{takes: time.Second}
				w.src.hooks, w.dst.hooks = src, dst
				w.dst.start(kill{})
				w.src.start(kill{})
				if tt.cancel > 0 {
					time.Sleep(tt.cancel)
					if err := w.store.edit(w.id, ActorCLI, func(m *Migration) { m.Cancel = &Cancel{By: "alice", At: time.Now()} }); err != nil {
						w.t.Fatal(err)
					}
				}
				began := time.Now()
				rec := w.awaitFinal(time.Minute)
				if took := time.Since(began); took > 40*time.Second {
					w.t.Errorf("it took %s", took)
				}
				time.Sleep(time.Minute)
				rec = w.store.get(w.id)
				if rec.Phase != tt.phase || rec.ReasonCode != tt.code {
					w.t.Errorf("%s %q (%s), want %s %q", rec.Phase, rec.ReasonCode, rec.Reason, tt.phase, tt.code)
				}
				if got := src.outcomes(); !slices.Equal(got, tt.src) {
					w.t.Errorf("hooks on the source: %q, want %q", got, tt.src)
				}
				if got := dst.outcomes(); !slices.Equal(got, tt.dst) {
					w.t.Errorf("hooks on the target: %q, want %q", got, tt.dst)
				}
				if tt.cancel == 0 && (rec.BeforeHook == nil || rec.BeforeHook.Exit != tt.before || rec.BeforeHook.Seconds <= 0) {
					w.t.Errorf("before: %+v, want exit status %d and a time", rec.BeforeHook, tt.before)
				}
				if rec.AfterHook == nil {
					w.t.Error("what became of the hook after it is not in the record")
				}
				for _, c := range src.calls {
					if c.Env["DROVER_VM"] != rec.Domain || c.Env["DROVER_TARGET"] != rec.Target || c.Env["DROVER_HOST"] != rec.Source || c.Timeout != 10*time.Second {
						w.t.Errorf("%+v", c)
					}
				}
			})
		})
	}
}

// A policy that names hooks on a host that has none is noted, and stops nothing.
func TestNoVMHooks(t *testing.T) {
	p := DefaultPolicy()
	p.BudgetSeconds, p.BeforeHook, p.AfterHook = 600, "lb-out", "lb-in"
	inWorld(t, setting{policy: &p}, func(w *world) {
		w.dst.start(kill{})
		w.src.start(kill{})
		rec := w.awaitFinal(time.Minute)
		w.report(w.problems(false))
		if rec.Phase != Done || rec.BeforeHook == nil || !rec.BeforeHook.Failed() {
			w.t.Errorf("%s, before: %+v", rec.Phase, rec.BeforeHook)
		}
	})
}
