package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/scheduler/auto"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

// planVerbs are the commands about plans that are kept: those of automatic moves, and of rebalances.
func planVerbs() []*cli.Command {
	return []*cli.Command{
		{
			Name: "list", Aliases: []string{"ls"}, Usage: "plans that are kept: those that wait, and those of the last 24 hours",
			Description: "At level manual (drover policy show) the plans of the scheduler only recommend: drover rebalance --plan ID\n" +
				"carries one out. At level partial they wait for drover rebalance approve.",
			Flags:  []cli.Flag{watchFlag(), toggle("all", "those that ended before too", "a")},
			Action: takes(0, 0, "", listing(listPlans)),
		},
		{
			Name: "show", Usage: "one plan that is kept: its moves, and what became of it", ArgsUsage: "PLAN",
			Description: "A plan is named by its ID or a part of it; its run has the same.",
			Flags:       []cli.Flag{watchFlag()}, Action: takes(1, 1, "PLAN", listing(showStoredPlan)),
		},
	}
}

// pastPlans is how many plans of the past are looked through.
const pastPlans = 1000

// storedPlans are all plans that are kept, oldest first.
func (s *session) storedPlans(ctx context.Context) ([]fleet.Plan, error) {
	rows, err := s.Plans().List(ctx)
	if err != nil {
		return nil, err
	}
	past, err := s.PastPlans(ctx, pastPlans)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		past = append(past, r.Value)
	}
	slices.SortFunc(past, func(a, b fleet.Plan) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(past, func(a, b fleet.Plan) bool { return a.ID == b.ID }), nil
}

func listPlans(ctx context.Context, s *session) (any, func() out.Table, error) {
	all, err := s.storedPlans(ctx)
	if err != nil {
		return nil, nil, err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	now, shown := time.Now(), []fleet.Plan{}
	for _, p := range all {
		if s.cli.Bool("all") || p.Ended == nil || now.Sub(*p.Ended) < recent {
			shown = append(shown, p)
		}
	}
	return shown, func() out.Table {
		s.notePause(snap.Pause)
		t := out.Table{Head: []string{"ID", "BY", "CREATED", "MOVES", "STATE", "WHY"}, None: "no plans"}
		for _, p := range shown {
			t.Add(p.ID, p.By, stamp(p.Created), fmt.Sprint(len(p.Moves)), planState(p, snap), out.Shorten(joinNotes(p.Reason, p.Why), 100))
		}
		return t
	}, nil
}

// planState is where a plan stands, in a word or two.
func planState(p fleet.Plan, snap *fleet.Snapshot) string {
	level := snap.Policy.Automation.Level
	switch {
	case p.Ended != nil:
		return string(p.Ending)
	case p.Run != "":
		return "running"
	case p.Withdrawn != nil:
		return "withdrawn"
	case p.Approved != nil:
		return "approved"
	case level == "" || level == policy.LevelManual:
		return "recommended"
	}
	return "waits for approval"
}

func findPlan(all []fleet.Plan, word string) (fleet.Plan, error) {
	var found []fleet.Plan
	for _, p := range all {
		if p.ID == word {
			return p, nil
		}
		if isPart(p.ID, word) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return fleet.Plan{}, fmt.Errorf("no plan %q (drover plan list --all shows them)", word)
	case 1:
		return found[0], nil
	}
	return fleet.Plan{}, fmt.Errorf("%q means %d plans: give the whole ID", word, len(found))
}

func showStoredPlan(ctx context.Context, s *session) (any, func() out.Table, error) {
	all, err := s.storedPlans(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, err := findPlan(all, s.word())
	if err != nil {
		return nil, nil, err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	return p, func() out.Table { return storedPlanTable(p, planState(p, snap)) }, nil
}

func storedPlanTable(p fleet.Plan, state string) out.Table {
	var t out.Table
	t.Add("Plan:", p.ID)
	t.Add("State:", joinNotes(state, p.Why))
	t.Add("Made:", joinNotes(fmt.Sprintf("%s by %s", stamp(p.Created), p.By), p.Reason))
	for _, a := range []struct {
		name string
		act  *fleet.Act
	}{{"Approved:", p.Approved}, {"Withdrawn:", p.Withdrawn}} {
		if a.act != nil {
			t.Add(a.name, joinNotes(fmt.Sprintf("%s by %s", stamp(a.act.At), a.act.By), a.act.Reason))
		}
	}
	switch {
	case p.Ended != nil:
		t.Add("Ended:", stamp(*p.Ended))
	default:
		t.Add("Expires:", stamp(p.Expires))
	}
	if p.Run != "" {
		t.Add("Run:", p.Run+" (drover run show "+p.Run+")")
	}
	for _, m := range p.Moves {
		t.Add("Move:", planMoveText(m))
	}
	return t
}

func planMoveText(m fleet.PlanMove) string {
	return joinNotes(fmt.Sprintf("%s from %s to %s, %s, about %s", m.Domain, m.From, m.To, m.Memory,
		out.Span(time.Duration(m.Seconds*float64(time.Second)))), m.Reason)
}

// replayView is what another policy would have made of a plan.
type replayView struct {
	Plan string `json:"plan"`
	// Moves are those of the replay; Added and Dropped compare them with the plan's.
	Moves   []fleet.PlanMove `json:"moves"`
	Added   []fleet.PlanMove `json:"added"`
	Dropped []fleet.PlanMove `json:"dropped"`
}

// replayPlan makes a kept plan again from what it was made from, by the policy of a file or by that of then.
func replayPlan(ctx context.Context, s *session) error {
	all, err := s.storedPlans(ctx)
	if err != nil {
		return err
	}
	plan, err := findPlan(all, s.cli.String("replay"))
	if err != nil {
		return err
	}
	text, err := s.Input(ctx, plan.ID)
	if err != nil {
		return err
	}
	frozen, err := auto.Thaw(text)
	if err != nil {
		return err
	}
	doc := frozen.Fleet.Policy.Document
	if name := s.cli.String("policy"); name != "" {
		text, err := readInput(s.cli.App.Reader, name)
		if err != nil {
			return err
		}
		f, err := policy.Parse(text)
		if err != nil {
			return s.refuse(name, err, cliargs.ExitUsage)
		}
		doc = f.Document
	}
	moves, err := s.replayed(frozen, doc)
	if err != nil {
		return err
	}
	v := replayView{Plan: plan.ID, Moves: moves, Added: without(moves, plan.Moves), Dropped: without(plan.Moves, moves)}
	return s.answer(v, func() out.Table {
		t := out.Table{Head: []string{"", "VM", "FROM", "TO", "WHY"}, None: "no move is worth it, then or now"}
		add := func(sign string, list []fleet.PlanMove) {
			for _, m := range list {
				t.Add(sign, m.Domain, m.From, m.To, m.Reason)
			}
		}
		add("same", without(v.Moves, v.Added))
		add("added", v.Added)
		add("dropped", v.Dropped)
		return t
	})
}

// replayed are the moves that a policy leads to: as the scheduler would decide, or, for a person's plan, with the
// options given.
func (s *session) replayed(f *auto.Frozen, doc policy.Document) ([]fleet.PlanMove, error) {
	if f.Memory != nil {
		p, err := f.Replay(doc)
		return nonNil(p.Moves), err
	}
	snap := *f.Fleet
	snap.Policy.Document = doc
	live, err := s.planLive(&snap, f.At)
	if err != nil {
		return nil, err
	}
	return nonNil(live.moves()), nil
}

func nonNil(list []fleet.PlanMove) []fleet.PlanMove { return append([]fleet.PlanMove{}, list...) }

// without are the moves of a that b has not, by VM and hosts.
func without(a, b []fleet.PlanMove) []fleet.PlanMove {
	out := []fleet.PlanMove{}
	for _, m := range a {
		same := func(o fleet.PlanMove) bool { return o.UUID == m.UUID && o.From == m.From && o.To == m.To }
		if !slices.ContainsFunc(b, same) {
			out = append(out, m)
		}
	}
	return out
}

const approveHelp = `At level partial (drover policy show) the scheduler's plans wait for this. The run begins at once, or when a
window opens or the fleet is resumed; each move is judged again just before. At level manual plans only
recommend: drover rebalance --plan PLAN carries one out as your own.`

func approveCommand() *cli.Command {
	return &cli.Command{
		Name: "approve", Usage: "let the scheduler carry a plan of its own out", ArgsUsage: "PLAN", Description: approveHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "why, for others to read"},
		},
		Action: takes(1, 1, "PLAN", quick(func(ctx context.Context, s *session) error { return decidePlan(ctx, s, true) })),
	}
}

func rejectCommand() *cli.Command {
	return &cli.Command{
		Name: "reject", Usage: "say no to a plan of the scheduler's", ArgsUsage: "PLAN",
		Description: "It makes no other one for as long as this one would have waited.",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "why, for others to read"}},
		Action:      takes(1, 1, "PLAN", quick(func(ctx context.Context, s *session) error { return decidePlan(ctx, s, false) })),
	}
}

var errManual = errors.New("the level of automation is manual, at which plans only recommend: drover rebalance --plan PLAN carries it out")

// decidePlan writes a person's word on a plan that waits for it.
func decidePlan(ctx context.Context, s *session, yes bool) error {
	all, err := s.storedPlans(ctx)
	if err != nil {
		return err
	}
	plan, err := findPlan(all, s.word())
	if err != nil {
		return err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	if l := snap.Policy.Automation.Level; yes && plan.Ended == nil && (l == "" || l == policy.LevelManual) {
		return errManual
	}
	act := &fleet.Act{By: s.actor, At: time.Now().UTC(), Reason: s.cli.String("reason")}
	_, err = s.Plans().Update(ctx, nil, plan.ID, func(p *fleet.Plan) error {
		switch {
		case p.Ended != nil:
			return fmt.Errorf("plan %s is over: %s", p.ID, p.Ending)
		case p.Run != "":
			return fmt.Errorf("plan %s is being carried out: drover run cancel %s stops it", p.ID, p.Run)
		case p.Withdrawn != nil:
			return fmt.Errorf("plan %s was rejected by %s", p.ID, p.Withdrawn.By)
		case yes && !act.At.Before(p.Expires):
			return fmt.Errorf("plan %s has expired", p.ID)
		case yes:
			p.Approved = act
		default:
			p.Withdrawn = act
		}
		return nil
	})
	if plan.Ended != nil {
		return fmt.Errorf("plan %s is over: %s", plan.ID, plan.Ending)
	}
	if err != nil {
		return err
	}
	if !yes {
		s.record(ctx, "plan-rejected", plan.ID, act.Reason)
		s.note("plan %s is rejected; no other one is made before %s", plan.ID, stamp(plan.Expires))
		return nil
	}
	s.record(ctx, "plan-approved", plan.ID, act.Reason)
	s.notePause(snap.Pause)
	s.note("plan %s is approved: %s; follow it: drover run watch %s", plan.ID, plural(len(plan.Moves), "move"), plan.ID)
	return nil
}

// usagePlan refuses options that do not go together.
func usagePlan(c *cli.Context) error {
	from, replay := c.String("from") != "", c.String("replay") != ""
	switch {
	case from && replay:
		return cliargs.Usagef(c, "--from and --replay exclude each other")
	case c.String("policy") != "" && !replay:
		return cliargs.Usagef(c, "--policy goes with --replay")
	}
	return nil
}
