package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store"
)

const applyHelp = `Makes the document in FILE the policy (- reads it from stdin). Nothing is applied unless all of it is
valid; all faults are named at once. A document that says at which revision it was read (drover policy
show -o yaml does), or --revision, is refused when the policy changed since; so is one without a class
that a VM was given by drover vm set.`

func applyCommand() *cli.Command {
	return &cli.Command{
		Name: "apply", Usage: "make a document the policy", ArgsUsage: "FILE|-", Description: applyHelp,
		Flags: []cli.Flag{
			toggle("dry-run", "only show what would change, and for which VMs", "n"),
			&cli.Int64Flag{Name: "revision", DefaultText: "what the document says", Usage: "refuse unless the policy is at this `REVISION`; 0 for none yet"},
		},
		Action: takes(1, 1, "FILE", quick(applyPolicy)),
	}
}

// errOutdated: the policy is not at the revision that a new document was made from.
var errOutdated = errors.New("the policy changed since")

// proposal is a new document with what it would change.
type proposal struct {
	// Revision is what the policy is at: before, or once applied after the change.
	Revision int64           `json:"revision"`
	Applied  bool            `json:"applied"`
	Changes  []policy.Change `json:"changes"`
	VMs      []vmShift       `json:"vms"`

	next policy.Document
	same bool
}

// vmShift is a VM whose migrations would promise something else.
type vmShift struct {
	VM   string              `json:"vm"`
	UUID hypervisor.DomainID `json:"uuid"`
	Host string              `json:"host"`
	From string              `json:"from"` // class
	To   string              `json:"to"`
}

// String is "web-1 (kvm1): default -> gold".
func (v vmShift) String() string {
	if v.From == v.To {
		return fmt.Sprintf("%s (%s): %s, changed", v.VM, v.Host, v.To)
	}
	return fmt.Sprintf("%s (%s): %s -> %s", v.VM, v.Host, v.From, v.To)
}

func applyPolicy(ctx context.Context, s *session) error {
	name := s.word()
	text, err := readInput(s.cli.App.Reader, name)
	if err != nil {
		return err
	}
	f, err := policy.Parse(text)
	if err != nil {
		return s.refuse(name, err, cliargs.ExitUsage)
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	want := f.Revision
	if s.cli.IsSet("revision") {
		want = new(s.cli.Int64("revision"))
	}
	p, err := propose(snap, f.Document, want)
	if errors.Is(err, errOutdated) {
		return fmt.Errorf("%s: %w: begin from the newest (drover policy show -o yaml), or give --revision %d to replace that", name, err, snap.Policy.Revision)
	}
	if err != nil {
		return s.refuse(name, err, cliargs.ExitFailed)
	}
	if !s.cli.Bool("dry-run") {
		if p, err = s.apply(ctx, p); err != nil {
			return err
		}
	}
	return s.answerProposal(p)
}

// readInput reads a file, or stdin for "-", up to somewhat more than a document may have.
func readInput(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("policy: read %s: %w", name, err)
	}
	return text, nil
}

// refuse names each fault on a line of its own.
func (s *session) refuse(name string, err error, exit int) error {
	var faults policy.Faults
	if !errors.As(err, &faults) {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, f := range faults {
		s.note("%s: %s", name, f)
	}
	return cli.Exit(fmt.Sprintf("%s has %s: nothing was applied", name, plural(len(faults), "fault")), exit)
}

// propose says what the document would change. revision is what the policy must be at; nil for
// whatever. The error is errOutdated, or [policy.Faults] for VMs that would be without a class.
func propose(snap *fleet.Snapshot, next policy.Document, revision *int64) (proposal, error) {
	now := snap.Policy
	if revision != nil && *revision != now.Revision {
		return proposal{}, fmt.Errorf("%w: it is at revision %d, not %d", errOutdated, now.Revision, *revision)
	}
	p := proposal{Revision: now.Revision, Changes: []policy.Change{}, VMs: []vmShift{}, next: next}
	if diff := policy.Diff(now.Document, next); len(diff) > 0 {
		p.Changes = diff
	}
	p.same = len(p.Changes) == 0 && now.Fault == ""
	after := *snap
	after.Policy = policy.Stored{Document: next}
	var faults policy.Faults
	called := map[hypervisor.DomainID]bool{}
	for _, d := range policyVMs(snap) {
		called[d.Facts.ID] = true
		old, _ := snap.PolicyOf(d)
		promised, err := after.PolicyOf(d)
		switch {
		case errors.Is(err, policy.ErrNoClass):
			faults = append(faults, policy.Fault{Path: "classes", Text: fmt.Sprintf("%s has class %s, which is not there (drover vm set %s --class NAME)",
				d.Facts.Name, snap.VMs[d.Facts.ID].Class, d.Facts.Name)})
		case err == nil && (old.Policy != promised.Policy || old.Pinned != promised.Pinned || old.Cooldown != promised.Cooldown):
			p.VMs = append(p.VMs, vmShift{d.Facts.Name, d.Facts.ID, d.Host.Name, cmp.Or(old.Class, "not known"), promised.Class})
		}
	}
	for id, r := range snap.VMs {
		if !called[id] && r.Class != "" && !next.Has(r.Class) && now.Has(r.Class) {
			faults = append(faults, policy.Fault{Path: "classes", Text: fmt.Sprintf("VM %s, of no host that reports now, has class %s, which is not there", id, r.Class)})
		}
	}
	if len(faults) > 0 {
		return p, faults
	}
	return p, nil
}

// apply writes the proposal, unless there is nothing to change. store.ErrConflict when the policy changed
// since the proposal was made.
func (s *session) apply(ctx context.Context, p proposal) (proposal, error) {
	if p.same {
		return p, nil
	}
	row, err := store.Policy[policy.Document](s.Store).Replace(ctx, nil, store.PolicyID, p.Revision, p.next)
	if err != nil {
		return p, err
	}
	var texts []string
	for _, c := range p.Changes {
		texts = append(texts, c.String())
	}
	s.record(ctx, "policy-applied", "policy", out.Shorten(strings.Join(texts, "; "), 500))
	p.Revision, p.Applied = row.Revision, true
	return p, nil
}

// shown is how many VMs are listed for people.
const shown = 20

func (s *session) answerProposal(p proposal) error {
	if s.format != out.AsTable {
		return s.answer(p, nil)
	}
	w := s.cli.App.Writer
	for _, c := range p.Changes {
		fmt.Fprintln(w, out.Clean(c.String()))
	}
	for i, v := range p.VMs {
		if i == shown {
			fmt.Fprintf(w, "and %s more (-o json names all)\n", plural(len(p.VMs)-shown, "VM"))
			break
		}
		fmt.Fprintln(w, "VM", out.Clean(v.String()))
	}
	switch {
	case p.same:
		s.note("nothing to change: the policy says this already (revision %d)", p.Revision)
	case p.Applied:
		s.note("applied, revision %d; it counts from the next request on", p.Revision)
	default:
		s.note("nothing was applied; the policy is at revision %d", p.Revision)
	}
	return nil
}
