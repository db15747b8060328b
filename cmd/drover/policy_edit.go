package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const editHelp = `Opens the policy in $VISUAL or $EDITOR (else vi). Nothing is applied until the document is valid and
the editor has ended well; with faults it opens again and names them on top. Text that was not applied is kept,
and the message says where.`

// remark begins lines that drover writes on top of the document and takes off again.
const remark = "#!"

func editCommand() *cli.Command {
	return &cli.Command{
		Name: "edit", Usage: "change the policy in an editor", Description: editHelp,
		Action: takes(0, 0, "", long(editPolicy)),
	}
}

// errUnchanged: the editor gave back what it was given.
var errUnchanged = errors.New("the text was not changed")

// editing is one document under the editor.
type editing struct {
	s    *session
	file string
	base *fleet.Snapshot // what the document began from
	text []byte          // without remarks
	// given is the text before anybody worked on it.
	given []byte
	// raced says that the remarks are about what others changed: to delete them is an answer, too.
	raced bool
}

func editPolicy(ctx context.Context, s *session) error {
	// Ctrl-C is a key of many editors, and the signal comes here too: it must not end what follows.
	ctx = context.WithoutCancel(ctx)
	snap, err := s.bounded(ctx)
	if err != nil {
		return err
	}
	e := &editing{s: s, base: snap}
	if e.given, err = documentText(asFile(snap.Policy)); err != nil {
		return err
	}
	e.text = e.given
	f, err := os.CreateTemp("", "drover-policy-*.yaml")
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	e.file = f.Name()
	if err := f.Close(); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	remarks := []string{"Edit, save, and end the editor; drover policy --help says what may stand here."}
	if snap.Policy.Fault != "" {
		remarks = append(remarks, "The stored policy can't be read: "+snap.Policy.Fault, "What you save takes its place.")
	}
	p, err := e.run(ctx, remarks)
	if err != nil && e.touched() {
		return fmt.Errorf("nothing was applied; your text is kept in %s: %w", e.file, err)
	}
	if rerr := os.Remove(e.file); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		s.note("drover: %v", rerr)
	}
	switch {
	case errors.Is(err, errUnchanged):
		s.note("nothing was applied: %v", err)
		return nil
	case err != nil:
		return fmt.Errorf("nothing was applied: %w", err)
	}
	return s.answerProposal(p)
}

// touched reports whether the file holds text that is a person's work.
func (e *editing) touched() bool {
	text, err := os.ReadFile(e.file)
	text = withoutRemarks(text)
	return err == nil && !bytes.Equal(text, e.given) && len(bytes.TrimSpace(text)) > 0
}

// bounded reads the fleet within --timeout.
func (s *session) bounded(ctx context.Context) (*fleet.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	return s.snapshot(ctx)
}

// run opens the editor until the document is applied. errUnchanged when nothing was ever changed.
func (e *editing) run(ctx context.Context, remarks []string) (proposal, error) {
	for first := true; ; first = false {
		given := append(remarkLines(remarks), e.text...)
		text, err := e.open(given)
		switch {
		case err != nil:
			return proposal{}, err
		case !e.changed(text, given) && first:
			return proposal{}, errUnchanged
		case !e.changed(text, given):
			return proposal{}, errors.New(strings.Join(remarks, "; "))
		}
		e.text, e.raced = withoutRemarks(text), false
		if len(bytes.TrimSpace(e.text)) == 0 {
			return proposal{}, errors.New("it is empty")
		}
		p, faults, err := e.try(ctx)
		if err != nil || faults == nil {
			return p, err
		}
		remarks = faults
	}
}

// changed reports whether a person did anything about the text. Without that it would open for ever.
func (e *editing) changed(text, given []byte) bool {
	if e.raced {
		return !bytes.Equal(text, given)
	}
	return !bytes.Equal(withoutRemarks(text), e.text)
}

// try applies the text. What a person can mend in the editor comes back as remarks.
func (e *editing) try(ctx context.Context) (proposal, []string, error) {
	f, err := policy.Parse(e.text)
	if err != nil {
		return proposal{}, faultRemarks(err), nil
	}
	snap, err := e.s.bounded(ctx)
	if err != nil {
		return proposal{}, nil, err
	}
	p, err := propose(snap, f.Document, cmp.Or(f.Revision, &e.base.Policy.Revision))
	switch {
	case errors.Is(err, errOutdated):
		return proposal{}, e.rebase(snap), nil
	case err != nil:
		return proposal{}, faultRemarks(err), nil
	}
	wctx, cancel := context.WithTimeout(ctx, storeTimeout(e.s.cli))
	defer cancel()
	p, err = e.s.apply(wctx, p)
	if errors.Is(err, precopy.ErrConflict) {
		if snap, err = e.s.bounded(ctx); err != nil {
			return proposal{}, nil, err
		}
		return proposal{}, e.rebase(snap), nil
	}
	return p, nil, err
}

func faultRemarks(err error) []string {
	return append([]string{"Not applied, for these faults:"}, strings.Split(err.Error(), "\n")...)
}

var revisionLine = regexp.MustCompile(`(?m)^revision:.*\n?`)

// rebase lets the text stand against the policy as it is by now, and remarks what others changed.
func (e *editing) rebase(now *fleet.Snapshot) []string {
	out := []string{fmt.Sprintf("Not applied: others changed the policy meanwhile (revision %d, now %d):", e.base.Policy.Revision, now.Policy.Revision)}
	for _, c := range policy.Diff(e.base.Policy.Document, now.Policy.Document) {
		out = append(out, "  "+c.String())
	}
	e.base, e.raced = now, true
	e.text = append(fmt.Appendf(nil, "revision: %d\n", now.Policy.Revision), revisionLine.ReplaceAll(e.text, nil)...)
	return append(out, "The text below takes that back. Fit it in, or delete these lines to have it so.")
}

// open runs the editor on the text and returns what became of it.
func (e *editing) open(text []byte) ([]byte, error) {
	if err := os.WriteFile(e.file, text, 0o600); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	editor := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	// Through the shell, as the variable may hold options too.
	cmd := exec.Command("sh", "-c", editor+` "$1"`, "sh", e.file)
	app := e.s.cli.App
	cmd.Stdin, cmd.Stdout, cmd.Stderr = app.Reader, app.Writer, app.ErrWriter
	if err := cmd.Run(); err != nil {
		// Not wrapped: the editor's exit status would become that of this command.
		return nil, fmt.Errorf("editor %q: %v", editor, err)
	}
	out, err := os.ReadFile(e.file)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return out, nil
}

func remarkLines(remarks []string) []byte {
	var b bytes.Buffer
	for _, r := range remarks {
		fmt.Fprintf(&b, "%s %s\n", remark, strings.ReplaceAll(r, "\n", " "))
	}
	return b.Bytes()
}

func withoutRemarks(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte(remark)) {
			out = append(out, line...)
		}
	}
	return out
}
