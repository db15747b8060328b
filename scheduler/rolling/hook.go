package rolling

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

const (
	// probeEvery is the pause between two tries of a probe.
	probeEvery = 10 * time.Second
	// lostGrace is how much longer than its time limit a hook is asked for whose end nobody has told.
	lostGrace = time.Minute
)

// passed is how many of the hooks a host is through with.
func passed(h *fleet.RolledHost) int {
	n := 0
	for _, run := range h.Hooks {
		if !run.Probe && run.Result != nil && !run.Result.Failed() {
			n++
		}
	}
	return n
}

// hooks runs the hooks one after the other.
func (s *step) hooks(h *fleet.RolledHost) {
	n := passed(h)
	if n >= len(s.roll.Hooks) {
		s.worked(h)
		return
	}
	hook := s.roll.Hooks[n]
	last := len(h.Hooks) - 1
	if last < 0 || h.Hooks[last].Result != nil || h.Hooks[last].Name != hook.Name {
		if host := s.Fleet.Hosts[h.Host]; host != nil && (!holds(host, fleet.RunHolder+h.Drain) || runsAny(host)) {
			// Somebody opened it meanwhile, as to bring its VMs back after a hook failed, or started one there: they have to
			// leave first.
			h.Drain = ""
			s.to(h, fleet.RollWaiting)
			return
		}
		if s.r.Cancel == nil {
			s.attempt(h, hook, false)
		}
		return
	}
	r := s.result(h, hook, &h.Hooks[last])
	if r == nil {
		return
	}
	if r.Lost && hook.Away && !r.Unasked {
		r.Exit, r.Error, r.Lost = 0, "", false
		r.Output = strings.TrimSpace(r.Output + "\nits agent went away, as the hook may have it do")
	}
	h.Hooks[last].Result = r
	if r.Failed() {
		s.fail(h, fmt.Sprintf("hook %s: %s", hook.Name, failure(*r)))
	}
}

// runsAny reports whether a VM runs on the host, as far as it says.
func runsAny(h *fleet.Host) bool {
	return slices.ContainsFunc(h.Domains(), func(d fleet.Domain) bool { return d.Running() })
}

// attempt notes that a hook is to be run: it is asked for when that is written.
func (s *step) attempt(h *fleet.RolledHost, hook fleet.Hook, probe bool) {
	// The agent that must be gone later is the one that lives now: it may have been started anew since the drain,
	// as by whoever mended what made a hook fail. Hooks behind the one that takes the host down see the next one.
	begins := hook.Away || passed(h) == 0 && !slices.ContainsFunc(s.roll.Hooks, func(h fleet.Hook) bool { return h.Away })
	if host := s.Fleet.Hosts[h.Host]; begins && !probe && host != nil && host.Session != nil {
		h.Instance = host.Session.Instance
	}
	h.Hooks = append(h.Hooks, fleet.HookRun{
		Name: hook.Name, Probe: probe, Began: s.Now, Attempt: childID(s.r.ID, h.Host, fmt.Sprintf("hook/%s/%d", hook.Name, len(h.Hooks)), s.Now),
	})
}

// result is what became of an attempt that is noted; nil while that is not known. It is asked for if this
// leader has not done so.
func (s *step) result(h *fleet.RolledHost, hook fleet.Hook, run *fleet.HookRun) *precopy.HookResult {
	limit := time.Duration(hook.Timeout + hook.Grace)
	result, begun := s.Hooks[run.Attempt]
	lost := begun && result != nil && result.Lost && (!hook.Away || result.Unasked) && s.Now.Sub(run.Began) < limit+lostGrace
	if (!begun || lost) && s.r.Cancel != nil {
		return nil
	}
	if !begun || lost {
		s.request(Request{Hook: &HookOrder{Host: h.Host, On: hook.On, Call: precopy.HookCall{
			Name: hook.Name, Attempt: run.Attempt, Timeout: time.Duration(hook.Timeout), Grace: time.Duration(hook.Grace),
			Env: map[string]string{
				"DROVER_HOST": h.Host, "DROVER_RUN": s.r.ID, "DROVER_ATTEMPT": run.Attempt, "DROVER_HOOK": hook.Name,
				"DROVER_PURPOSE": s.r.Purpose, "DROVER_REQUESTED_BY": s.r.RequestedBy,
			},
		}}})
		return nil
	}
	if result == nil {
		return nil
	}
	out := *result
	return &out
}

// probe asks whether the host is healthy, again and again; "" once it says so.
func (s *step) probe(h *fleet.RolledHost) string {
	hook := *s.roll.Healthy.Probe
	last := len(h.Hooks) - 1
	if last < 0 || !h.Hooks[last].Probe || h.Since != nil && h.Hooks[last].Began.Before(*h.Since) {
		if s.r.Cancel == nil {
			s.attempt(h, hook, true)
		}
		return "probe " + hook.Name + " is asked"
	}
	run := &h.Hooks[last]
	if run.Result == nil {
		run.Result = s.result(h, hook, run)
	}
	switch {
	case run.Result == nil:
		return "probe " + hook.Name + " is asked"
	case !run.Result.Failed():
		return ""
	case s.Now.Sub(run.Began) >= probeEvery && s.r.Cancel == nil:
		why := failure(*run.Result)
		h.Hooks = h.Hooks[:last] // only the last one is kept
		s.attempt(h, hook, true)
		return "probe " + hook.Name + ": " + why
	}
	return "probe " + hook.Name + ": " + failure(*run.Result)
}

// failure says in a few words how a hook failed.
func failure(r precopy.HookResult) string {
	text := r.Error
	if text == "" {
		text = fmt.Sprintf("exit status %d", r.Exit)
	}
	lines := strings.Split(strings.TrimSpace(r.Output), "\n")
	if last := lines[len(lines)-1]; last != "" {
		text += " (" + strings.ToValidUTF8(last[:min(len(last), 200)], "") + ")"
	}
	return text
}
