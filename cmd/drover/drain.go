package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/scheduler"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/store"
)

const drainHelp = `Closes hosts for VMs and moves every running VM off them, in an order in which each fits, to hosts that
are not drained themselves. Before anything is changed all hosts concerned are asked: if a VM can't
move, the drain is refused with the reasons and what to do about each, unless --on-blocked says
otherwise. VMs that are started on the hosts meanwhile are moved too; those that are shut off stay. No
guest is ever shut down, unless --shutdown-blocked says so.

What fails is tried elsewhere, then named, and the rest goes on. The hosts stay closed afterwards:
drover host restore opens them and brings the VMs back. The scheduler carries the drain out; this
command only asks for it, and may be interrupted.

Exit status: 0 the hosts are empty (without --wait: it has begun), 1 refused, 3 some VMs stay.`

const restoreHostHelp = `Opens hosts again that were drained, and brings back the VMs that the drains moved away, if they are
still where these put them: what was moved by hand since stays. A VM that its host has no room for, in
memory or CPU, stays too, and is named.`

func drainCommand() *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "move all VMs off hosts, and keep them empty", ArgsUsage: "HOST...", Description: drainHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "deadline", Usage: "when the hosts must be empty: a `TIME` from now such as 2h, or 15:00, or 2026-01-31T15:00:00Z; it goes on after it, and says early that it will be late", DefaultText: "none"},
			toggle("dry-run", "only show what is in the way, the moves, and when it would end", "n"),
			&cli.IntFlag{Name: "max-parallel", Usage: "at most `N` VMs leave one host at once", DefaultText: "the scheduler's limit"},
			&cli.StringFlag{Name: "on-blocked", Value: string(fleet.BlockedFail), Usage: "what to do about VMs that can't move: `WHAT` fail (do not start), skip (leave them), or wait (until the deadline, if there is one)"},
			toggle("shutdown-blocked", "shut guests down, from inside, whose VMs can't move: each is named before, and asked once all others have gone"),
			&cli.StringSliceFlag{Name: "skip", Usage: "leave this `VM` where it is; may stand again"},
			&cli.StringFlag{Name: "reason", Usage: "why, for others to read"},
			toggle("wait", "show the progress and return at the end", "w"),
		},
		Action: takes(1, -1, "HOST", long(drainHosts)),
	}
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "open drained hosts, and bring their VMs back", ArgsUsage: "HOST...", Description: restoreHostHelp,
		Flags: []cli.Flag{
			toggle("dry-run", "only show what would come back", "n"),
			&cli.IntFlag{Name: "max-parallel", Usage: "at most `N` VMs leave one host at once", DefaultText: "the scheduler's limit"},
			&cli.StringSliceFlag{Name: "only", Usage: "bring back only this `VM`; may stand again"},
			toggle("none", "open the hosts and bring nothing back"),
			&cli.StringFlag{Name: "reason", Usage: "why, for others to read"},
			toggle("wait", "show the progress and return at the end", "w"),
		},
		Action: takes(1, -1, "HOST", long(restoreHosts)),
	}
}

func drainHosts(ctx context.Context, s *session) error {
	run, err := s.newRun(fleet.RunDrain)
	if err != nil {
		return err
	}
	run.OnBlocked = fleet.OnBlocked(s.cli.String("on-blocked"))
	if !slices.Contains([]fleet.OnBlocked{fleet.BlockedFail, fleet.BlockedSkip, fleet.BlockedWait}, run.OnBlocked) {
		return cliargs.Usagef(s.cli, "--on-blocked %q: want fail, skip or wait", run.OnBlocked)
	}
	if run.ShutDown = s.cli.Bool("shutdown-blocked"); run.ShutDown && run.OnBlocked == fleet.BlockedWait {
		return cliargs.Usagef(s.cli, "--shutdown-blocked and --on-blocked wait exclude each other")
	}
	preview, err := s.previewDrain(ctx, &run)
	if err != nil {
		return err
	}
	stay := slices.DeleteFunc(slices.Clone(preview.Blocked), func(b fleet.RunBlocked) bool { return isShut(preview, b) })
	refused := len(stay) > 0 && run.OnBlocked == fleet.BlockedFail && !run.ShutDown
	if s.cli.Bool("dry-run") || refused {
		if err := s.showPreview(preview); err != nil {
			return err
		}
	}
	switch {
	case refused:
		return cli.Exit(fmt.Sprintf("%s of %d can't move; nothing was changed (--on-blocked skip leaves them, wait waits for them)",
			plural(len(preview.Blocked), "VM"), len(preview.Moves)), cliargs.ExitFailed)
	case s.cli.Bool("dry-run") && len(stay) > 0:
		return cli.Exit(plural(len(stay), "VM")+" would stay", cliargs.ExitPartial)
	case s.cli.Bool("dry-run"):
		return nil
	}
	for _, b := range preview.Blocked {
		if isShut(preview, b) {
			s.note("the guest of %s on %s will be shut down once all others have gone: %s", b.VM, b.Host, out.Clean(blockedText(b)))
		}
	}
	return s.begin(ctx, run)
}

// isShut reports whether a VM that can't move is to be shut down.
func isShut(r fleet.Run, b fleet.RunBlocked) bool {
	return slices.ContainsFunc(r.Moves, func(m fleet.RunMove) bool { return m.UUID == b.UUID && m.State == fleet.MoveShutting })
}

func blockedText(b fleet.RunBlocked) string {
	return blockerText(hypervisor.Blocker{Code: b.Code, Detail: b.Detail, Remedy: b.Remedy})
}

// newRun is what the command line says of a run.
func (s *session) newRun(kind fleet.RunKind) (fleet.Run, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return fleet.Run{}, fmt.Errorf("new run: %w", err)
	}
	var hosts []string
	if kind != fleet.RunMaintenance {
		hosts = s.cli.Args().Slice()
	}
	slices.Sort(hosts)
	run := fleet.Run{
		Schema: 1, ID: id.String(), Kind: kind, Phase: fleet.RunRequested, Hosts: slices.Compact(hosts), RequestedBy: s.actor,
		Purpose: s.cli.String("reason"), Created: time.Now().UTC(), MaxParallel: s.cli.Int("max-parallel"), Moves: []fleet.RunMove{},
	}
	if run.MaxParallel < 1 && s.cli.IsSet("max-parallel") {
		return run, cliargs.Usagef(s.cli, "--max-parallel %d: want 1 or more", run.MaxParallel)
	}
	if word := s.cli.String("deadline"); word != "" {
		at, err := parseDeadline(word, time.Now())
		if err != nil {
			return run, cliargs.Usagef(s.cli, "%w", err)
		}
		run.Deadline = &at
	}
	return run, nil
}

// parseDeadline reads a span from now, the next time that clocks here show an hour and minute, or a moment.
func parseDeadline(word string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(word); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	if at, err := time.Parse(time.RFC3339, word); err == nil {
		if !at.After(now) {
			return at, fmt.Errorf("deadline %s is past", word)
		}
		return at.UTC(), nil
	}
	clock, err := time.Parse("15:04", word)
	if err != nil {
		return now, fmt.Errorf("deadline %q: want a time from now such as 2h, or 15:00, or 2026-01-31T15:00:00Z", word)
	}
	y, m, d := now.Date()
	at := time.Date(y, m, d, clock.Hour(), clock.Minute(), 0, 0, now.Location())
	if !at.After(now) {
		at = time.Date(y, m, d+1, clock.Hour(), clock.Minute(), 0, 0, now.Location())
	}
	return at.UTC(), nil
}

// previewDrain reads the fleet and asks all hosts concerned what a drain would come to. It finds out which VMs
// --skip names.
func (s *session) previewDrain(ctx context.Context, run *fleet.Run) (fleet.Run, error) {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return *run, err
	}
	profiles := map[hypervisor.DomainID]forecast.Profile{}
	for _, name := range run.Hosts {
		h, err := findHost(snap, name)
		if err != nil {
			return *run, err
		}
		if other := snap.DrainOf(name); other != nil {
			return *run, fmt.Errorf("%s is being drained already, by run %s, asked for by %s: drover run watch %s", name, other.ID, other.RequestedBy, other.ID)
		}
		for _, d := range h.Domains() {
			if profiles[d.Facts.ID], err = s.Profile(rctx, d.Facts.ID); err != nil {
				return *run, err
			}
		}
	}
	for _, word := range s.cli.StringSlice("skip") {
		d, err := findVM(snap, word)
		if err != nil {
			return *run, err
		}
		run.Skip = append(run.Skip, d.Facts.ID)
	}
	preview := drain.Preview(s.stepInput(snap, *run, profiles), func(questions []drain.Question) [][]hypervisor.Blocker {
		return askAll(ctx, s, questions)
	})
	if preview.Phase == fleet.RunRefused {
		return preview, fmt.Errorf("%s; nothing was changed", preview.Reason)
	}
	return preview, ctx.Err()
}

func (s *session) stepInput(snap *fleet.Snapshot, run fleet.Run, profiles map[hypervisor.DomainID]forecast.Profile) drain.Input {
	limits, now := scheduler.DefaultLimits(), time.Now()
	network, _ := snap.Policy.Network.At(now)
	return drain.Input{
		Run: fleet.StoredRun{Run: run}, Fleet: snap, Now: now, Outgoing: limits.Outgoing, Incoming: limits.Incoming,
		Ahead: budget.Lively(network), Foresee: scheduler.Foresee(snap, profiles, now),
	}
}

// askAll puts the questions of a preview to the agents, some at once.
func askAll(ctx context.Context, s *session, questions []drain.Question) [][]hypervisor.Blocker {
	return scheduler.AskEach(questions, func(q drain.Question) []hypervisor.Blocker {
		b, _ := scheduler.AskHosts(ctx, s.Store, feasible.Request{Domain: q.Domain}, q.To)
		return b
	})
}

// showPreview prints what a run would come to: what is in the way first.
func (s *session) showPreview(r fleet.Run) error {
	return s.answer(r, func() out.Table {
		t := out.Table{Head: []string{"VM", "FROM", "TO", "AFTER", "FORECAST OR REASON"}, None: "nothing is to be moved"}
		// What is in the way only for now is no reason to leave the VM out: it is planned all the same.
		hindered := map[hypervisor.DomainID]string{}
		for _, b := range r.Blocked {
			if slices.ContainsFunc(r.Moves, func(m fleet.RunMove) bool { return m.UUID == b.UUID && m.State == fleet.MovePlanned }) {
				hindered[b.UUID] = "for now: " + blockedText(b)
				continue
			}
			what := "BLOCKED"
			if isShut(r, b) {
				what = "SHUT DOWN"
			}
			t.Add(b.VM, b.Host, what, "", blockedText(b))
		}
		for _, m := range r.Moves {
			if m.State == fleet.MovePlanned {
				text := fmt.Sprintf("about %s, %s", out.Span(time.Duration(m.Seconds*float64(time.Second))), m.Bytes)
				t.Add(m.VM, m.From, m.To, afterText(r, m), joinNotes(text, hindered[m.UUID]))
			}
		}
		if o := r.Outlook; o != nil && o.Left > 0 {
			s.note("done by %s, as far as the forecasts are right%s", stamp(o.End), lateText(r))
			for i, p := range o.Options { // there is no run yet
				o.Options[i].Command = strings.Replace(p.Command, "drover run set "+r.ID, "drover host drain "+strings.Join(r.Hosts, " "), 1)
			}
			s.showOptions(r)
		}
		return t
	})
}

func afterText(r fleet.Run, m fleet.RunMove) string {
	var names []string
	for _, a := range m.After {
		names = append(names, r.Moves[a].VM)
	}
	return strings.Join(names, " ")
}

// begin writes the run's record.
func (s *session) begin(ctx context.Context, run fleet.Run) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	row, err := s.Runs().Replace(rctx, nil, run.ID, 0, run)
	if err != nil {
		return err
	}
	s.record(rctx, "run-requested", run.ID, joinNotes(string(run.Kind)+" "+strings.Join(run.Hosts, " "), run.Purpose))
	return s.begun(ctx, row)
}

// begun waits until the scheduler has taken a run up, and follows it if so asked.
func (s *session) begun(ctx context.Context, row store.Row[fleet.Run]) error {
	row, err := s.takenUp(ctx, row)
	if err != nil {
		return err
	}
	r := row.Value
	if r.Phase == fleet.RunRefused {
		show := s.showPreview
		if r.Roll != nil {
			show = s.showCalendar
		}
		if err := show(r); err != nil {
			return err
		}
		return cli.Exit(r.Reason, cliargs.ExitFailed)
	}
	if s.cli.Bool("wait") {
		return s.followRun(ctx, row)
	}
	if s.format != out.AsTable {
		return s.answer(r, nil)
	}
	if r.Roll != nil {
		s.note("maintenance of %s has begun; follow it: drover run watch %s", plural(len(r.Hosts), "host"), r.ID)
		_, err = fmt.Fprintln(s.cli.App.Writer, r.ID)
		return err
	}
	s.note("%s of %s has begun: %s to move; follow it: drover run watch %s", r.Kind, runHosts(r), plural(len(r.Moves), "VM"), r.ID)
	_, err = fmt.Fprintln(s.cli.App.Writer, r.ID)
	return err
}

func restoreHosts(ctx context.Context, s *session) error {
	run, err := s.newRun(fleet.RunRestore)
	if err != nil {
		return err
	}
	run.OnBlocked, run.None = fleet.BlockedSkip, s.cli.Bool("none")
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return err
	}
	for _, name := range run.Hosts {
		h, err := findHost(snap, name)
		if err != nil {
			return err
		}
		for _, c := range h.Record.Cordons {
			if !strings.HasPrefix(c.Holder, fleet.RunHolder) && !run.None {
				return fmt.Errorf("%s is cordoned by %s too: drover host uncordon %s, or restore --none", name, cordonText(c), name)
			}
		}
	}
	if run.Only, err = s.onlyOf(snap, run.Hosts); err != nil {
		return err
	}
	if s.cli.Bool("dry-run") {
		profiles := map[hypervisor.DomainID]forecast.Profile{}
		for _, o := range drain.Origins(snap, run.Hosts) {
			if profiles[o.Domain.Facts.ID], err = s.Profile(rctx, o.Domain.Facts.ID); err != nil {
				return err
			}
		}
		preview, _ := drain.Step(s.stepInput(snap, run, profiles))
		if preview.Phase == fleet.RunRefused {
			return fmt.Errorf("%s", preview.Reason)
		}
		return s.showPreview(preview)
	}
	return s.begin(ctx, run)
}

// onlyOf are the VMs that --only names.
func (s *session) onlyOf(snap *fleet.Snapshot, hosts []string) ([]hypervisor.DomainID, error) {
	origins := drain.Origins(snap, hosts)
	var out []hypervisor.DomainID
	for _, word := range s.cli.StringSlice("only") {
		d, err := findVM(snap, word)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(origins, func(o drain.Origin) bool { return o.Domain.Facts.ID == d.Facts.ID }) {
			return nil, fmt.Errorf("%s was not taken off %s by a drain, or was moved since: drover migrate %s --to HOST moves it", word, strings.Join(hosts, ", "), word)
		}
		out = append(out, d.Facts.ID)
	}
	return out, nil
}
