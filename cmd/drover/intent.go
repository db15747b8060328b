package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/precopy"
	"drover/precopy/tune"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// maxPause is QEMU's own bound on the downtime limit.
const maxPause = 2000 * time.Second

// wish is what the flags of one migration say about its policy; zero fields leave it to the VM's class.
type wish struct {
	class    string
	pause    time.Duration
	deadline time.Duration
	slowdown *policy.Percent
	tuning   string // one of [tune.FixedNames], or empty
}

// wishOf reads the flags of drover migrate.
func wishOf(c *cli.Context) (wish, error) {
	w := wish{class: c.String("class"), pause: c.Duration("max-pause"), deadline: c.Duration("deadline"), tuning: c.String("tuning")}
	if c.IsSet("max-pause") && (w.pause < time.Millisecond || w.pause > maxPause) {
		return w, cliargs.Usagef(c, "--max-pause %v: want 1ms to %v", w.pause, maxPause)
	}
	if c.IsSet("deadline") && w.deadline < time.Second {
		return w, cliargs.Usagef(c, "--deadline %v: want at least 1s", w.deadline)
	}
	if c.IsSet("max-slowdown") {
		p, err := policy.ParsePercent(c.String("max-slowdown"))
		if err == nil {
			err = policy.Document{Default: policy.Class{MaxSlowdown: &p}}.Validate()
		}
		if err != nil {
			return w, cliargs.Usagef(c, "--max-slowdown %q: want 0%% to 95%%, such as 30%%", c.String("max-slowdown"))
		}
		w.slowdown = &p
	}
	if names := tune.FixedNames(); c.IsSet("tuning") && !slices.Contains(names, w.tuning) {
		return w, cliargs.Usagef(c, "--tuning %q: want one of %s", w.tuning, strings.Join(names, ", "))
	}
	if d := c.Duration("timeout"); c.IsSet("timeout") && d <= 0 {
		return w, cliargs.Usagef(c, "--timeout %v: want more than 0", d)
	}
	return w, nil
}

// promise is what a migration of the VM is to be held to, and the decision that it stands on. A stated
// pause is its own ceiling: who names a bound does not want it exceeded.
func (w wish) promise(snap *fleet.Snapshot, d fleet.Domain) (precopy.Policy, policy.Decision, error) {
	decided, err := snap.PolicyOf(d)
	if w.class != "" && snap.Policy.Fault == "" {
		decided, err = policy.Named(&snap.Policy.Document, w.class)
	}
	if err != nil {
		return precopy.Policy{}, decided, err
	}
	p := decided.Policy
	p.Tuning = w.tuning
	if w.pause > 0 {
		p.MaxPauseMS = w.pause.Milliseconds()
		p.MaxPauseCeilingMS = p.MaxPauseMS
	}
	if w.deadline > 0 {
		p.BudgetSeconds = w.deadline.Seconds()
	}
	if w.slowdown != nil {
		p.MaxSlowdown = w.slowdown.Fraction()
	}
	return p, decided, nil
}

// showPromise says on stderr what a migration of the VM would be held to.
func (s *session) showPromise(ctx context.Context, w wish) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	d, err := findVM(snap, s.word())
	if err != nil {
		return err
	}
	p, decided, err := w.promise(snap, d)
	if err != nil {
		return err
	}
	s.note("%s: %s", classText(decided), promiseText(p))
	return nil
}

// classText is "class gold (rule 2: name web-*)".
func classText(d policy.Decision) string { return fmt.Sprintf("class %s (%s)", d.Class, d.Source) }

// policyView is a VM's policy as the answer shows it.
type policyView struct {
	Class  string `json:"class"`
	Source string `json:"source"`
	Pinned bool   `json:"pinned"`
	// Promise is what a migration without flags of its own is held to, as in its record.
	Promise precopy.Policy `json:"promise"`
	Values  []policy.Value `json:"values"`
	// Error says why the policy is not known; the rest is empty then.
	Error string `json:"error,omitempty"`
}

func viewPolicy(snap *fleet.Snapshot, d fleet.Domain) policyView {
	decided, err := snap.PolicyOf(d)
	if err != nil {
		return policyView{Values: []policy.Value{}, Error: err.Error()}
	}
	return policyView{
		Class: decided.Class, Source: decided.Source, Pinned: decided.Pinned, Promise: decided.Policy, Values: decided.Values,
	}
}

func (v policyView) text() string {
	if v.Error != "" {
		return v.Error
	}
	return fmt.Sprintf("class %s (%s): %s", v.Class, v.Source, promiseText(v.Promise))
}
