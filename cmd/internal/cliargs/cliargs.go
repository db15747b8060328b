// Package cliargs makes the command lines of drover's programs behave: flags may stand before or
// after arguments and before or after the subcommand, a wrong word or flag gives one clear line and
// exit status 2, and every error is printed once, on stderr.
//
// urfave/cli v2 alone stops looking for flags at the first argument and hands later ones to the
// command as arguments: "drain kvm1 --wait" would silently not wait.
package cliargs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// Exit statuses of all programs.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitPartial = 3
)

// UsageError is a command line that can't be carried out as written. It exits with [ExitUsage].
type UsageError struct {
	Command string // "drover host list"
	Err     error
}

// Error implements error.
func (e *UsageError) Error() string {
	return fmt.Sprintf("%v (see %s --help)", e.Err, e.Command)
}

// Unwrap returns what is wrong.
func (e *UsageError) Unwrap() error { return e.Err }

// ExitCode implements cli.ExitCoder.
func (e *UsageError) ExitCode() int { return ExitUsage }

// Usagef returns a UsageError for the command of c.
func Usagef(c *cli.Context, format string, args ...any) error {
	return &UsageError{Command: c.Command.HelpName, Err: fmt.Errorf(format, args...)}
}

// Run prepares app, runs it with args (args[0] is the program) and returns the exit status. An error
// is printed on app.ErrWriter as one line "PROGRAM: text", unless it has no text.
func Run(ctx context.Context, app *cli.App, args []string) int {
	prepare(app)
	arranged, err := Arrange(app, args, nil)
	if err == nil {
		err = app.RunContext(ctx, arranged)
	}
	return report(app.ErrWriter, app.Name, err)
}

func report(w io.Writer, program string, err error) int {
	if err == nil {
		return ExitDone
	}
	if text := oneLine(err.Error()); text != "" {
		fmt.Fprintf(w, "%s: %s\n", program, text)
	}
	var coder cli.ExitCoder
	if errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return ExitFailed
}

func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// prepare sets what every command needs: errors come back instead of being printed and ending the
// program, and a group of commands without a verb says which there are.
func prepare(app *cli.App) {
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.OnUsageError = onUsageError
	app.HelpName = app.Name
	footer := ""
	if len(app.Flags) > 0 && len(app.Commands) > 0 {
		footer = "\nGLOBAL OPTIONS: see " + app.Name + " --help\n"
	}
	var walk func(c *cli.Command, path string)
	walk = func(c *cli.Command, path string) {
		path += " " + c.Name
		c.OnUsageError = onUsageError
		// Otherwise the first argument "help" (a VM's name, perhaps) would be taken for a command.
		c.HideHelpCommand = true
		c.CustomHelpTemplate = cli.SubcommandHelpTemplate + footer
		if c.Action == nil && len(c.Subcommands) > 0 {
			c.Action = missingVerb(path, c.Subcommands)
		}
		for _, s := range c.Subcommands {
			walk(s, path)
		}
	}
	for _, c := range app.Commands {
		walk(c, app.Name)
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	return &UsageError{Command: strings.TrimSpace(c.Command.HelpName), Err: err}
}

func missingVerb(path string, subs []*cli.Command) cli.ActionFunc {
	return func(*cli.Context) error {
		var names []string
		for _, s := range subs {
			if !s.Hidden {
				names = append(names, s.Name)
			}
		}
		return &UsageError{Command: path, Err: fmt.Errorf("%s needs one of: %s", path, strings.Join(names, ", "))}
	}
}
