package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"drover/cmd/internal/hooks"
	"drover/scheduler/calendar"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/scheduler/rolling"
)

// rollFile is a rolling maintenance as people write it.
type rollFile struct {
	Hosts       []string          `json:"hosts"`
	Order       string            `json:"order,omitempty"` // auto or listed
	Parallel    int               `json:"parallel,omitempty"`
	MaxParallel int               `json:"max_parallel,omitempty"`
	Canary      bool              `json:"canary,omitempty"`
	Approve     bool              `json:"approve,omitempty"`
	Guests      string            `json:"guests,omitempty"` // leave or return
	Headroom    *int              `json:"headroom,omitempty"`
	OnBlocked   string            `json:"on_blocked,omitempty"` // fail or wait
	Reason      string            `json:"reason,omitempty"`
	Hooks       []rollHook        `json:"hooks,omitempty"`
	Healthy     rollHealthy       `json:"healthy,omitzero"`
	Windows     []calendar.Window `json:"windows,omitempty"`
	Blackouts   []calendar.Window `json:"blackouts,omitempty"`
}

// rollHook is a hook as people write it.
type rollHook struct {
	Name    string          `json:"name"`
	On      string          `json:"runs_on,omitempty"` // control or agent
	Timeout policy.Duration `json:"timeout,omitempty"`
	Grace   policy.Duration `json:"grace,omitempty"`
	Takes   policy.Duration `json:"takes,omitempty"`
	Away    bool            `json:"away,omitempty"`
}

// rollHealthy is what a host must be after its hooks.
type rollHealthy struct {
	Within    policy.Duration `json:"within,omitempty"`
	Takes     policy.Duration `json:"takes,omitempty"`
	Restarted bool            `json:"restarted,omitempty"`
	Libvirt   string          `json:"libvirt,omitempty"`
	Probe     *rollHook       `json:"probe,omitempty"`
}

const (
	defaultHookTimeout = policy.Duration(10 * time.Minute)
	defaultHookGrace   = policy.Duration(10 * time.Second)
	defaultHealthy     = policy.Duration(15 * time.Minute)
	maxHookTimeout     = policy.Duration(24 * time.Hour)
)

// readRollFile reads a file; names that are not known are errors.
func readRollFile(path string) (rollFile, error) {
	var f rollFile
	text, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		return f, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: json: "))
	}
	return f, nil
}

// override puts the options above what the file says.
func (f *rollFile) override(c *cli.Context) error {
	if c.IsSet("hosts") {
		f.Hosts = nil
		for _, name := range strings.Split(c.String("hosts"), ",") {
			if name = strings.TrimSpace(name); name != "" {
				f.Hosts = append(f.Hosts, name)
			}
		}
	}
	for name, to := range map[string]*int{"parallel": &f.Parallel, "max-parallel": &f.MaxParallel} {
		if c.IsSet(name) {
			if *to = c.Int(name); *to < 1 {
				return fmt.Errorf("--%s %d: want 1 or more", name, *to)
			}
		}
	}
	if c.IsSet("headroom") {
		n := c.Int("headroom")
		f.Headroom = &n
	}
	f.Canary, f.Approve = f.Canary || c.Bool("canary"), f.Approve || c.Bool("approve")
	if c.Bool("listed") {
		f.Order = "listed"
	}
	if c.Bool("return") {
		f.Guests = "return"
	}
	for name, to := range map[string]*string{"on-blocked": &f.OnBlocked, "reason": &f.Reason} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	if words := c.StringSlice("hook"); len(words) > 0 {
		f.Hooks = nil
		for _, w := range words {
			name, on, _ := strings.Cut(w, "@")
			f.Hooks = append(f.Hooks, rollHook{Name: name, On: on})
		}
	}
	if c.IsSet("hook-timeout") {
		d, err := policy.ParseDuration(c.String("hook-timeout"))
		if err != nil {
			return fmt.Errorf("--hook-timeout %w", err)
		}
		for i := range f.Hooks {
			f.Hooks[i].Timeout = d
		}
	}
	if c.IsSet("healthy-within") {
		d, err := policy.ParseDuration(c.String("healthy-within"))
		if err != nil {
			return fmt.Errorf("--healthy-within %w", err)
		}
		f.Healthy.Within = d
	}
	return nil
}

// into checks what was asked for and puts it into the run. All faults are named at once.
func (f rollFile) into(r *fleet.Run) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	oneOf := func(what, have string, words ...string) bool {
		if have != "" && !slices.Contains(words, have) {
			fault("%s %q: want %s", what, have, strings.Join(words, " or "))
		}
		return have == words[1]
	}
	r.Hosts, r.Purpose, r.MaxParallel = f.Hosts, f.Reason, f.MaxParallel
	if len(r.Hosts) == 0 {
		fault("which hosts? give FILE with hosts, or --hosts")
	}
	for i, name := range r.Hosts {
		if slices.Contains(r.Hosts[:i], name) {
			fault("hosts: %s stands twice", name)
		}
	}
	r.OnBlocked = fleet.BlockedFail
	if oneOf("on_blocked", f.OnBlocked, "fail", "wait") {
		r.OnBlocked = fleet.BlockedWait
	}
	roll := &fleet.Roll{
		Parallel: max(f.Parallel, 1), Canary: f.Canary || f.Approve, Approve: f.Approve, Headroom: 1,
		Spec: calendar.Spec{Windows: f.Windows, Blackouts: f.Blackouts},
	}
	roll.Listed = oneOf("order", f.Order, "auto", "listed")
	roll.Return = oneOf("guests", f.Guests, "leave", "return")
	if f.Parallel < 0 || f.MaxParallel < 0 {
		fault("parallel and max_parallel: want 1 or more")
	}
	if f.Headroom != nil {
		if roll.Headroom = *f.Headroom; roll.Headroom < 0 || roll.Headroom > 1 {
			fault("headroom %d: want 1 or 0", roll.Headroom)
		}
	}
	for _, h := range f.Hooks {
		hook, err := h.hook()
		if err != nil {
			faults = append(faults, err)
		}
		roll.Hooks = append(roll.Hooks, hook)
	}
	h := f.Healthy
	if h != (rollHealthy{}) || len(f.Hooks) > 0 {
		roll.Healthy = fleet.Healthy{Within: h.Within, Takes: h.Takes, Restarted: h.Restarted, Libvirt: h.Libvirt}
		if h.Within == 0 {
			roll.Healthy.Within = defaultHealthy
		}
	}
	if h.Libvirt != "" {
		if _, err := rolling.Version(h.Libvirt); err != nil {
			fault("healthy.libvirt: %w", err)
		}
	}
	if h.Probe != nil {
		probe, err := h.Probe.hook()
		if err != nil {
			fault("healthy.probe: %w", err)
		}
		roll.Healthy.Probe = &probe
	}
	if _, err := calendar.New(roll.Spec); err != nil {
		faults = append(faults, err)
	}
	r.Roll = roll
	return errors.Join(faults...)
}

func (h rollHook) hook() (fleet.Hook, error) {
	out := fleet.Hook{Name: h.Name, On: fleet.HookPlace(h.On), Timeout: h.Timeout, Grace: h.Grace, Takes: h.Takes, Away: h.Away}
	if out.On == "" {
		out.On = fleet.OnControl
	}
	if out.Timeout == 0 {
		out.Timeout = defaultHookTimeout
	}
	if out.Grace == 0 {
		out.Grace = defaultHookGrace
	}
	switch {
	case hooks.CheckName(h.Name) != nil:
		return out, hooks.CheckName(h.Name)
	case out.On != fleet.OnControl && out.On != fleet.OnAgent:
		return out, fmt.Errorf("hook %s on %q: want control or agent", h.Name, h.On)
	case out.Timeout < policy.Duration(time.Second) || out.Timeout > maxHookTimeout:
		return out, fmt.Errorf("hook %s: timeout %s: want 1s to %s", h.Name, out.Timeout, maxHookTimeout)
	case h.Away && out.On != fleet.OnAgent:
		return out, fmt.Errorf("hook %s: away is for hooks on the agent: for others say healthy.restarted", h.Name)
	}
	return out, nil
}
