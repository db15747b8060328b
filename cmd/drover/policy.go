package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/auto"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const policyHelp = `The policy says what migrations promise, by classes. No document is needed: then every VM may pause
for 150 ms, up to 900 ms when there is no other way, may be slowed by 30 %, and is sent encrypted.

   schema: 1
   default: {max_slowdown: 20%}          # what classes leave open
   classes:
     gold: {max_pause: 80ms, max_pause_ceiling: 80ms, max_slowdown: 0%}
     batch: {max_pause: 2s, max_pause_ceiling: 10s, budget: 30m, priority: -10}
     appliance: {pinned: true}           # never moves
   rules:                                # the first that matches gives the class
   - {match: {name: "web-*", labels: {env: prod}}, class: gold}
   - {match: {host: "batch*"}, class: batch}
   groups:                               # for automatic moves
   - {name: database, vms: ["db-*"], kind: anti_affinity, strength: required}
   automation:                           # moves that nobody asked for; without it they are recommended only
     level: partial                      # manual recommends, partial waits for a person's word, full moves
     windows: [{name: nightly, cron: "30 1 * * MON-FRI", duration: 4h, zone: Europe/Berlin}]
     blackouts: [{name: backup, cron: "0 3 * * *", duration: 45m}]

Fields of a class: max_pause, max_pause_ceiling, max_slowdown, budget (how long a migration may take;
0 reckons it from size and link), post_copy (never, allowed), encrypt, priority (higher requests are
ordered first), cooldown (rest before the next automatic move), automatic (false: moves only when
somebody asks), pinned, before_hook and after_hook (commands in hooks-dir of the agents: on the source
before a migration, and where the VM is after it), hook_timeout (of each), hook_failure (go-on or
refuse: what becomes of a migration whose first hook fails). Of automation: level, mark (of a host's
CPU, above which its VMs begin to wait), hold (for how long before that counts), horizon, min_gain
(core-minutes in it that a move must avoid), slot (over which load is averaged), plan_expiry,
max_moves, max_gib (of memory that a plan moves), at_once, windows, blackouts; drover policy show says
what each is. What a VM has by itself (drover vm set) counts above the rules; flags of drover migrate
count for that migration. A change counts from the next request on; a migration under way keeps what
it was asked for with.`

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "what migrations promise: show, check, edit, apply", Description: policyHelp,
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "the classes and rules; as YAML or JSON the document itself",
				Description: "The document has its revision; apply refuses it once somebody else changed the policy.",
				Action:      takes(0, 0, "", quick(showPolicy)),
			},
			{
				Name: "check", Usage: "which class a VM has and why, and where each value comes from", ArgsUsage: "VM",
				Action: takes(1, 1, "VM", quick(checkPolicy)),
			},
			applyCommand(),
			editCommand(),
		},
	}
}

// asFile is the stored document as it leaves the store.
func asFile(s policy.Stored) policy.File {
	f := policy.File{Revision: &s.Revision, Document: s.Document}
	f.Schema = max(f.Schema, policy.Schema)
	return f
}

func showPolicy(ctx context.Context, s *session) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	if snap.Policy.Fault != "" {
		return fmt.Errorf("the policy can't be read (%s): no VM moves until another one is applied, with drover policy apply", snap.Policy.Fault)
	}
	if s.format != out.AsTable {
		return s.answer(asFile(snap.Policy), nil)
	}
	return writeTables(s.cli.App.Writer, policyTables(snap)...)
}

// reckoned is the budget that nobody set: it is reckoned for each migration, from size and link.
const reckoned = "reckoned"

// writeTables writes tables with an empty line between, those without rows not at all.
func writeTables(w io.Writer, tables ...out.Table) error {
	first := true
	for _, t := range tables {
		if len(t.Rows) == 0 {
			continue
		}
		if !first {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		first = false
		if err := t.Write(w); err != nil {
			return err
		}
	}
	return nil
}

func policyTables(snap *fleet.Snapshot) []out.Table {
	doc, vms := snap.Policy.Document, map[string]int{}
	for _, d := range policyVMs(snap) {
		if p, err := snap.PolicyOf(d); err == nil {
			vms[p.Class]++
		}
	}
	classes := out.Table{Head: []string{"CLASS", "MAX-PAUSE", "CEILING", "SLOWDOWN", "BUDGET", "POST-COPY", "ENCRYPT", "PRIORITY", "COOLDOWN", "PINNED", "VMS"}}
	for _, name := range doc.Names() {
		c, _ := doc.Effective(name)
		budget := reckoned
		if *c.Budget > 0 {
			budget = c.Budget.String()
		}
		classes.Add(name, c.MaxPause.String(), c.MaxPauseCeiling.String(), c.MaxSlowdown.String(), budget, string(*c.PostCopy),
			yesNo(*c.Encrypt), fmt.Sprint(*c.Priority), c.Cooldown.String(), yesNo(*c.Pinned), fmt.Sprint(vms[name]))
	}
	rules := out.Table{Head: []string{"RULE", "MATCH", "CLASS"}}
	for i, r := range doc.Rules {
		rules.Add(fmt.Sprint(i+1), r.Match.String(), r.Class)
	}
	groups := out.Table{Head: []string{"GROUP", "KIND, STRENGTH: VMS"}}
	for _, g := range doc.Groups {
		groups.Add(g.Name, g.String())
	}
	return []out.Table{classes, rules, groups, automationTable(doc.Automation)}
}

// automationTable is what is wanted of automatic moves, the default where nothing is said.
func automationTable(a policy.Automation) out.Table {
	t := out.Table{Head: []string{"AUTOMATION", "VALUE"}}
	s, _ := auto.SettingsOf(a) // a calendar that can't be read is seen below
	t.Add("level", string(s.Level))
	t.Add("mark", policy.Percent(100*s.Rule.Mark).String())
	for _, d := range []struct {
		name string
		is   time.Duration
	}{{"hold", s.Rule.Hold}, {"horizon", s.Rule.Horizon}, {"slot", s.Slot}, {"plan_expiry", s.PlanLife}} {
		t.Add(d.name, policy.Duration(d.is).String())
	}
	moves, gib := "no bound", "no bound"
	if s.Rule.Moves > 0 {
		moves = fmt.Sprint(s.Rule.Moves)
	}
	if s.Rule.Bytes > 0 {
		gib = fmt.Sprint(int64(s.Rule.Bytes / hypervisor.GiB))
	}
	t.Add("min_gain", fmt.Sprintf("%g core-minutes", s.Rule.Least))
	t.Add("max_moves", moves)
	t.Add("max_gib", gib)
	t.Add("at_once", fmt.Sprint(s.AtOnce))
	for _, w := range a.Windows {
		t.Add("window "+w.Name, policy.WindowText(w))
	}
	for _, w := range a.Blackouts {
		t.Add("blackout "+w.Name, policy.WindowText(w))
	}
	return t
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// policyVMs are the VMs of the fleet, each once.
func policyVMs(snap *fleet.Snapshot) []fleet.Domain {
	x := indexOf(snap)
	var all []fleet.Domain
	for _, d := range snap.Domains() {
		if !x.half(d) {
			all = append(all, d)
		}
	}
	return all
}

func checkPolicy(ctx context.Context, s *session) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	d, err := findVM(snap, s.word())
	if err != nil {
		return err
	}
	decided, err := snap.PolicyOf(d)
	if err != nil {
		return err
	}
	if s.format != out.AsTable {
		return s.answer(viewPolicy(snap, d), nil)
	}
	var head out.Table
	head.Add("VM:", fmt.Sprintf("%s on %s", d.Facts.Name, d.Host.Name))
	head.Add("Class:", fmt.Sprintf("%s (%s)", decided.Class, decided.Source))
	head.Add("Promise:", promiseText(decided.Policy))
	values := out.Table{Head: []string{"FIELD", "VALUE", "FROM"}}
	for _, v := range decided.Values {
		if v.Field == "budget" && decided.Policy.BudgetSeconds == 0 {
			v.Value = reckoned
		}
		values.Add(v.Field, v.Value, v.From)
	}
	return writeTables(s.cli.App.Writer, head, values)
}

// documentText is the document as an editor shows it.
func documentText(f policy.File) ([]byte, error) {
	text, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return text, nil
}
